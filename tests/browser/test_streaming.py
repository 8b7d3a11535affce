"""Text appears as the model writes it, and no cut, kill or second attempt damages the answer."""

import random
import re
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Locator, expect

from tests.browser.conftest import Open
from tests.browser.console import Console
from tests.e2e.conftest import Deployment

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


def shown(turn: Locator) -> str:
    return turn.locator(".text").inner_text().strip()


def grown(turn: Locator, before: str) -> str:
    """The text, once it is longer than it was."""
    text = turn.locator(".text")
    expect(text).not_to_have_text(before, use_inner_text=True)
    return shown(turn)


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


def test_words_come_in_many_pieces_and_each_begins_with_the_one_before(
    console: Console, deployment: Deployment
) -> None:
    turn = console.send(slowly("one two three four five six seven eight nine ten " * 3, 6))
    seen = [grown(turn, "")]
    while turn.locator(".state .chip").inner_text() != "Done":
        text = shown(turn)
        assert text.startswith(seen[-1])
        if text != seen[-1]:
            seen.append(text)
        console.page.wait_for_timeout(20)  # lets the browser go on
    assert len(seen) > 6, "a look each second would show six"
    (kept,) = recorded(deployment, console.session_id)
    assert copied(console, turn) == kept["result"]["message"]


def test_the_network_is_cut_again_and_again_in_mid_answer(
    console: Console, context: BrowserContext, deployment: Deployment
) -> None:
    turn = console.send(slowly(WRITTEN, 8))
    text = ""
    for _ in range(4):
        text = grown(turn, text)
        context.set_offline(True)
        console.page.wait_for_timeout(700)  # while the answer goes on
        assert shown(turn) == text or shown(turn).startswith(text[:20])
        context.set_offline(False)
    console.expect_state(turn, "Done")
    (kept,) = recorded(deployment, console.session_id)
    assert kept["result"]["message"] == WRITTEN
    assert copied(console, turn) == WRITTEN
    expect(turn.locator("pre")).to_have_text("while message := queue.receive():\n    handle(message)")


def test_the_tab_is_killed_at_each_piece_and_the_next_one_goes_on(open_console: Open, deployment: Deployment) -> None:
    console = open_console()
    turn = console.send(slowly(WRITTEN, 10))
    session_id = console.session_id
    text, tabs = grown(turn, ""), 1
    while True:
        console.page.close()  # without a chance to save anything
        console = open_console(session_id)
        tabs += 1
        expect(console.last.locator(".text")).to_contain_text(re.compile(r"\S"))
        words = text.split()
        assert shown(console.last).split()[: len(words) - 1] == words[:-1], "nothing that was seen is gone"
        if console.last.locator(".state .chip").inner_text() == "Done":
            break
        text = grown(console.last, shown(console.last))
    assert tabs >= 5
    expect(console.turns).to_have_count(1)
    (kept,) = recorded(deployment, session_id)
    assert kept["result"]["message"] == WRITTEN
    assert copied(console, console.last) == WRITTEN


def test_two_tabs_show_the_same_answer_to_the_byte(open_console: Open) -> None:
    here = open_console()
    turn = here.send(slowly(WRITTEN, 5))
    grown(turn, "")
    there = open_console(here.session_id)
    grown(there.last, "")
    for console in (here, there):
        console.expect_state(console.last, "Done")
        assert copied(console, console.last) == WRITTEN


def test_words_that_are_taken_back_are_marked(console: Console, deployment: Deployment) -> None:
    turn = console.send(f"[[cut=20 times=1]] {slowly(WRITTEN, 10)}")
    grown(turn, "")
    note = turn.get_by_text("failed, so its text was removed")
    expect(note).to_be_visible()
    expect(console.page.get_by_role("status")).to_contain_text("The answer begins again.")
    console.expect_state(turn, "Done")
    expect(note).to_be_hidden()
    expect(turn.locator(".state")).to_contain_text("attempt 2")
    (kept,) = recorded(deployment, console.session_id)
    assert copied(console, turn) == kept["result"]["message"]


def test_the_reader_s_place_and_selection_stay_while_words_come(console: Console) -> None:
    paragraphs = "\n\n".join(f"Paragraph {n} has some words to read." for n in range(40))
    console.page.set_viewport_size({"width": 800, "height": 500})
    turn = console.send(slowly(paragraphs, 12))
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
