"""Text appears as the model writes it, and no cut, kill or second attempt damages the answer."""

import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Locator, expect

from local.console import serve_console
from local.guard import Guard
from local.loopback import LoopbackServer, Request, Response, forward
from local.stack import LocalStack
from tests.browser.conftest import Open
from tests.browser.console import Console
from tests.e2e.conftest import Api, Deployment
from tests.stand_in import StandIn

pytestmark = pytest.mark.usefixtures("directives")

WRITTEN = """Über Warteschlangen 👋🏽:

- **first** in, `first` out
- then the *next* one

```
while message := queue.receive():
    handle(message)
```

And so on, until the queue is empty and nobody waits any more."""


def slowly(written: str, seconds: float) -> str:
    """A message that is answered by this text, word by word."""
    return f"[[drip={seconds / len(written.split())} echo={written}]] {random.random()}"


class BreakingProxy:
    """A proxy before the API. While it breaks, each new response breaks off three times before it comes whole."""

    def __init__(self, api_url: str) -> None:
        self._address = urlsplit(api_url).netloc
        self._is_breaking = False
        self._times: Counter[tuple[str, str, str | None, bool, bool]] = Counter()
        self._server = LoopbackServer(self._answer, guard=Guard(any_origin=True))
        self.url, self.close = self._server.url, self._server.close

    @property
    def broken(self) -> int:
        return self._times.total()

    @contextmanager
    def breaking(self) -> Iterator[None]:
        self._is_breaking = True
        yield
        self._is_breaking = False

    def _answer(self, request: Request) -> Response:
        response = forward(self._address, request, pass_="")
        path, body = urlsplit(request.target).path, bytes(response.body)  # type: ignore[arg-type]
        if not self._is_breaking or request.method == "OPTIONS" or path == "/health" or len(body) < 2:
            return response
        has_events, is_end = b"event: " in body, b'"SUCCESS"' in body
        what = (request.method, path, request.headers.get("Last-Event-ID"), has_events, is_end)
        match self._times[what]:
            case 0:
                sent = body[: len(body) // 2]
            case 1:
                sent = b""
            case 2:
                sent = body[:-1]
            case _:
                return response
        self._times[what] += 1
        if not sent:
            raise ConnectionResetError  # closes the connection without a response
        return replace(response, body=broken_off(sent))


def broken_off(sent: bytes) -> Iterator[bytes]:
    yield sent
    raise ConnectionResetError


@pytest.fixture(scope="module")
def proxy(deployment: Deployment) -> Iterator[BreakingProxy]:
    proxy = BreakingProxy(deployment.url)
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def console_url(deployment: Deployment, proxy: BreakingProxy) -> Iterator[str]:
    """The console whose requests go through the proxy."""
    server = serve_console(lambda: proxy.url, lambda: deployment.tokens)
    yield f"{server.url}/"
    server.close()


class Answer:
    """WRITTEN, of which the model writes some words each time that the test says so."""

    def __init__(self, console: Console, alice: Api, stack: LocalStack, *, step: int) -> None:
        self._alice, self._model = alice, StandIn(stack.model_url)
        self._message = f"[[step={step} echo={WRITTEN}]] {random.random()}"
        self.rows = -(-len(WRITTEN.split()) // step)
        self.turn = console.send(self._message)
        expect(self.turn).to_have_attribute("data-task", re.compile("."))
        self.task_id = str(self.turn.get_attribute("data-task"))

    def write(self) -> list[str]:
        """Let the model write on. Returns all words so far, when the event log has the new row."""
        before = self._alice.task(self.task_id)["partial"]
        self._model.step(self._message)
        return words(self._alice.until(self.task_id, lambda task: task["partial"] != before)["partial"])

    def end(self) -> None:
        """Let the model end the answer, of which all rows are written."""
        self._model.step(self._message)

    def check(self, console: Console) -> None:
        """Wait for the end. The console shows the answer to the byte, once, and no trouble."""
        console.expect_state(self.turn, "Done")
        expect(console.turns).to_have_count(1)
        assert self._alice.task(self.task_id)["result"]["message"] == WRITTEN
        assert copied(console, self.turn) == WRITTEN
        expect(self.turn.locator("pre")).to_have_text("while message := queue.receive():\n    handle(message)")
        expect(console.page.locator(".trouble:visible, [role=alert]:visible")).to_have_count(0)


def shown(turn: Locator) -> str:
    return turn.locator(".text").inner_text().strip()


def grown(turn: Locator, before: str) -> str:
    """The text, once it is longer than it was."""
    text = turn.locator(".text")
    expect(text).not_to_have_text(before, use_inner_text=True)
    return shown(turn)


def words(text: str) -> list[str]:
    """The words without the marks of Markdown, which the console does not show."""
    return re.findall(r"\w+", text)


def copied(console: Console, turn: Locator) -> str:
    """The answer as the console has it, to the byte."""
    console.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    turn.get_by_role("button", name="Copy", exact=True).click()
    expect(turn.get_by_role("button", name="Copied", exact=True)).to_be_visible()
    text: str = console.page.evaluate("navigator.clipboard.readText()")
    return text


def recorded(deployment: Deployment, session_id: str) -> list[dict[str, Any]]:
    with deployment.api("alice") as alice:
        turns: list[dict[str, Any]] = alice.http.get(f"/chat/session/{session_id}").json()["turns"]
        return turns


def test_the_console_asks_for_a_stream(console: Console) -> None:
    """So the worker writes a row up to four times a second, and not once (tests/unit/test_streaming.py)."""
    with console.page.expect_request("**/chat?*") as sent:
        console.send(f"Hello {random.random()}")
    assert (sent.value.post_data_json or {})["stream"] is True


def test_the_network_is_gone_while_each_row_comes(
    console: Console, context: BrowserContext, alice: Api, stack: LocalStack
) -> None:
    answer, text = Answer(console, alice, stack, step=5), ""
    for _ in range(answer.rows):
        context.set_offline(True)
        written = answer.write()
        assert shown(answer.turn) == text
        context.set_offline(False)
        text = grown(answer.turn, text)
        assert words(text) == written
    context.set_offline(True)
    answer.end()
    alice.finished(answer.task_id)
    context.set_offline(False)
    answer.check(console)


def test_each_response_breaks_off_three_times(
    open_console: Open, proxy: BreakingProxy, alice: Api, stack: LocalStack
) -> None:
    with proxy.breaking():
        console = open_console()
        answer, text = Answer(console, alice, stack, step=11), ""
        for _ in range(answer.rows):
            written = answer.write()
            text = grown(answer.turn, text)
            assert words(text) == written
            expect(answer.turn.locator(".trouble")).to_be_hidden()
        answer.end()
        console.expect_state(answer.turn, "Done")
    assert proxy.broken >= 3 * (answer.rows + 1), "of each row and of the end"
    answer.check(console)


def test_the_tab_is_killed_at_each_row_and_the_next_one_goes_on(
    open_console: Open, alice: Api, stack: LocalStack
) -> None:
    console = open_console()
    answer, text = Answer(console, alice, stack, step=7), ""
    session_id = console.session_id
    for _ in range(answer.rows):
        written = answer.write()
        text = grown(console.last, text)
        assert words(text) == written
        console.page.close()  # without a chance to save anything
        console = open_console(session_id)
        # For a moment the new page shows the text with the marks of Markdown.
        expect(console.last.locator(".text")).to_have_text(text, use_inner_text=True)
    rows = alice.http.get(f"/chat/task/{answer.task_id}/events", params={"after": 0}).json()["events"]
    assert [row["event"] for row in rows] == ["start", *["delta"] * answer.rows], "no row without its kill"
    answer.end()
    answer.turn = console.last
    answer.check(console)


def test_words_that_are_taken_back_are_marked(console: Console, deployment: Deployment) -> None:
    turn = console.send(f"[[cut=20 times=1]] {slowly(WRITTEN, 5)}")
    grown(turn, "")
    note = turn.get_by_text("failed, so its text was removed")
    expect(note).to_be_visible()
    expect(console.page.get_by_role("status")).to_contain_text("A new attempt starts from the beginning.")
    console.expect_state(turn, "Done")
    expect(note).to_be_hidden()
    expect(turn.locator(".state")).to_contain_text("attempt 2")
    (kept,) = recorded(deployment, console.session_id)
    assert copied(console, turn) == kept["result"]["message"]


def test_the_reader_s_place_and_selection_stay_while_words_come(console: Console) -> None:
    paragraphs = "\n\n".join(f"Paragraph {n} has some words to read." for n in range(40))
    console.page.set_viewport_size({"width": 800, "height": 500})
    turn = console.send(slowly(paragraphs, 7))
    expect(turn.locator(".text p").nth(20)).to_be_attached()
    scroll = console.page.locator("#scroll")
    scroll.evaluate("(it) => { it.scrollTop = 120; getSelection().selectAllChildren(it.querySelector('.text p')); }")
    expect(console.page.get_by_role("button", name="Latest message")).to_be_visible()
    console.expect_state(turn, "Done")
    assert scroll.evaluate("(it) => it.scrollTop") == 120
    assert console.page.evaluate("String(getSelection()).trim()") == "Paragraph 0 has some words to read."


def test_without_events_the_words_come_by_looks_at_the_task(console: Console, context: BrowserContext) -> None:
    """As before an older API, or behind a proxy that knows the old routes only."""
    cors = {"Access-Control-Allow-Origin": "*"}
    answer = {"message": "Not Found"}
    context.route("**/chat/task/*/events", lambda route: route.fulfill(status=404, json=answer, headers=cors))
    turn = console.send(slowly(WRITTEN, 5))
    text = grown(turn, "")
    grown(turn, text)
    console.expect_state(turn, "Done")
    assert copied(console, turn) == WRITTEN
