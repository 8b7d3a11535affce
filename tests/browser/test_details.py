"""The details of each answer, why a task waits, and the labels of the charts."""

import json
import os
import random
import re
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Error, Locator, Route, expect

from local.stack import LocalStack
from tests.browser.console import Console
from tests.e2e.conftest import Deployment
from tests.stand_in import StandIn

pytestmark = pytest.mark.usefixtures("directives")


@pytest.fixture
def console(console: Console) -> Console:
    console.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    return console


def copied(console: Console, button: Locator) -> str:
    button.click()
    expect(console.page.get_by_role("status")).to_have_text("Copied")
    expect(console.page.get_by_role("button", name="Copied").first).to_be_visible()
    text: str = console.page.evaluate("navigator.clipboard.readText()")
    return text


def test_an_answer_can_be_copied_and_tells_its_details(console: Console) -> None:
    turn = console.send("hello", role="general")
    console.expect_state(turn, "Done")
    assert copied(console, turn.get_by_role("button", name="Copy", exact=True)) == turn.locator(".text").inner_text()
    turn.get_by_role("button", name="Details").click()
    facts = turn.locator(".facts dl")
    task_id = turn.get_attribute("data-task")
    expect(facts).to_contain_text(f"Task{task_id}")
    expect(facts).to_contain_text(re.compile(r"Attempts1.*Tokens\d+ in, \d+ out.*Costabout \$0\.0000\d\d"))
    assert copied(console, turn.get_by_role("button", name="Copy the task ID")) == task_id


NASTY = """It's "quoted", $(touch hurt) `touch hurt` $TOKEN \\n
JSON
and שלום 👩‍👩‍👧"""


def test_copy_as_curl_is_a_command_that_sends_the_message_again(console: Console, deployment: Deployment) -> None:
    turn = console.send(NASTY, role="general")
    console.expect_state(turn, "Done")
    turn.get_by_role("button", name="Details").click()
    command = copied(console, turn.get_by_role("button", name="Copy as curl"))
    assert deployment.tokens["alice"] not in command
    environment = os.environ | {"TOKEN": deployment.tokens["alice"]}
    ran = subprocess.run(["sh"], input=command, capture_output=True, text=True, timeout=40, env=environment, check=True)
    assert "[stand-in model]" in json.loads(ran.stdout)["message"], ran.stdout
    with deployment.api("alice") as alice:
        turns = alice.http.get(f"/chat/session/{console.session_id}").json()["turns"]
    assert [(turn["message"], turn["role"]) for turn in turns] == [(NASTY, "general")] * 2


def test_an_answer_can_be_copied_where_the_page_has_no_clipboard(console: Console) -> None:
    """A page that came by plain http has none."""
    console.page.add_init_script("delete Navigator.prototype.clipboard")
    console.page.reload()
    turn = console.send("hello")
    console.expect_state(turn, "Done")
    turn.get_by_role("button", name="Copy", exact=True).click()
    expect(console.page.get_by_role("status")).to_have_text("Copied")
    expect(turn.get_by_role("button", name="Copy", exact=True)).to_be_focused()
    console.message.press("Control+v")
    expect(console.message).to_have_value(turn.locator(".text").inner_text())


def told(context: BrowserContext, **members: Any) -> None:
    """The API tells this of every task that is not final."""

    def change(route: Route) -> None:
        try:
            response = route.fetch()
            task = response.json()
        except Error:  # the page has gone meanwhile: the console asks until then
            return
        if task.get("status") in ("PENDING", "STARTED"):
            task |= {"status": "PENDING", "attempt": 0, **members}
        route.fulfill(response=response, json=task)

    context.route(re.compile("/chat/task/[^/]*$"), change)


def test_a_model_that_turns_calls_away_is_said(console: Console) -> None:
    turn = console.send(f"[[status=503 retry_after=4 times=1]] hello {random.random()}")
    expect(turn.locator(".waiting")).to_have_text(re.compile(r"^The model is not available\. Trying again (at|now)"))
    console.expect_state(turn, "Done")
    expect(turn.locator(".waiting")).to_be_hidden()


LATER = datetime.now(UTC) + timedelta(minutes=40)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        (
            {"waiting_for": "model_unavailable", "next_try_at": LATER.isoformat()},
            r"^The model is not available\. Trying again at \d\d:\d\d.*\.$",
        ),
        (
            {"waiting_for": "model_unavailable", "next_try_at": (LATER - timedelta(hours=1)).isoformat()},
            r"^The model is not available\. Trying again now\.$",
        ),
        ({"waiting_for": "rate_limit", "next_try_at": None}, r"^The model is receiving too many requests\.$"),
        ({"waiting_for": "turn_before", "next_try_at": None}, r"^Waiting for the message before it\.$"),
        ({}, None),
        ({"waiting_for": None, "next_try_at": None}, None),
        ({"waiting_for": "the moon"}, None),
    ],
)
def test_why_a_task_waits_is_said_if_the_api_says_it(
    console: Console, context: BrowserContext, stack: LocalStack, members: dict[str, Any], sentence: str | None
) -> None:
    """The model is silent until the sentence is seen."""
    told(context, **members)
    message = f"[[step=9 tokens=5]] {random.random()}"
    turn = console.send(message)
    if sentence:
        expect(turn.locator(".waiting")).to_have_text(re.compile(sentence))
    else:
        console.expect_state(turn, "Queued")
        expect(turn.locator(".waiting")).to_be_hidden()
    for _ in range(2):  # the words, and the end
        StandIn(stack.model_url).step(message)
    console.expect_state(turn, "Done")
    expect(turn.locator(".waiting")).to_be_hidden()


def test_the_axes_of_the_charts_are_labelled(console: Console) -> None:
    console.expect_state(console.send("hello"), "Done")
    for chart in ("Time in queue", "Time to answer"):
        drawn = console.page.get_by_role("img", name=re.compile(chart))
        for text in (re.compile(r"^\d.* m?s$"), "0", "older tasks", "newest"):
            expect(drawn.locator("text").filter(has_text=text).first).to_be_visible()


def test_an_edge_shows_where_text_scrolls_away_under_the_title(console: Console) -> None:
    title = console.page.get_by_role("heading", level=1)
    console.expect_state(console.send("[[echo=" + "line\n" * 80 + "]]"), "Done")
    console.page.locator("#scroll").evaluate("it => { it.scrollTop = 0; }")
    expect(title).to_have_css("border-bottom-color", "rgba(0, 0, 0, 0)")
    console.page.locator("#scroll").evaluate("it => { it.scrollTop = 100; }")
    expect(title).not_to_have_css("border-bottom-color", "rgba(0, 0, 0, 0)")
