"""A message stays in the conversation in which it was written, and no action of the user loses it."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, FilePayload, Page, Route, expect

from tests.browser.conftest import Open
from tests.browser.console import Console
from tests.browser.pictures import noise
from tests.e2e.conftest import Deployment

pytestmark = pytest.mark.usefixtures("directives")

UPLOADED: FilePayload = {"name": "noise.png", "mimeType": "image/png", "buffer": noise(600)}  # too large for a data URL
UPLOADS = "**/chat/media"


@contextmanager
def held(context: BrowserContext, url: str) -> Iterator[Callable[[], None]]:
    """Requests to `url` wait inside the context. Yields a function that waits for the first of them."""
    waiting: list[Route] = []
    released = False

    def hold(route: Route) -> None:
        if released:
            route.continue_()
        else:
            waiting.append(route)

    def until_one() -> None:
        while not waiting:
            context.pages[0].wait_for_timeout(10)  # lets the browser go on

    context.route(url, hold)
    yield until_one
    released = True
    for route in waiting:
        route.continue_()


def attach(console: Console, file: FilePayload | Path = UPLOADED) -> None:
    console.page.locator("#files").set_input_files(file)
    expect(console.page.locator('#attached li[aria-busy="false"]')).to_have_count(1)


def kept(deployment: Deployment, session_id: str) -> list[tuple[str, str, int]]:
    """The conversation as the API has it: the message, its role, and the number of its images."""
    with deployment.api("alice") as alice:
        turns = alice.http.get(f"/chat/session/{session_id}").json()["turns"]
    return [(turn["message"], turn["role"], len(turn["media"])) for turn in turns]


def test_a_message_stays_in_its_conversation_while_its_images_are_uploaded(
    console: Console, context: BrowserContext, deployment: Deployment
) -> None:
    console.expect_answer(console.send("first", role="general"), "first")
    here = console.session_id
    attach(console)
    with held(context, UPLOADS) as until_uploading:
        console.page.get_by_label("Role").select_option("booking")
        console.message.fill("look at this")
        console.message.press("Enter")
        console.expect_state(console.last, "Uploading")
        expect(console.last.get_by_role("img", name="Attached image 1")).to_have_js_property("naturalWidth", 600)
        until_uploading()
        console.page.get_by_role("button", name="New conversation").click()
        expect(console.turns).to_have_count(0)
        console.page.get_by_label("Role").select_option("general")
    console.expect_answer(console.send("elsewhere"), "elsewhere")
    console.conversations.filter(has_text="first").get_by_role("link").click()
    console.expect_state(console.last, "Done")
    assert kept(deployment, here) == [("first", "general", 0), ("look at this", "booking", 1)]


def test_messages_are_sent_in_their_order_though_the_first_has_images(
    console: Console, context: BrowserContext, deployment: Deployment
) -> None:
    attach(console)
    with held(context, UPLOADS) as until_uploading:
        console.send("with an image", role="general")
        second = console.send("and without one")
        until_uploading()
        console.expect_state(second, "Sending")
    console.expect_state(console.last, "Done")
    assert [message for message, *_ in kept(deployment, console.session_id)] == ["with an image", "and without one"]


def test_a_reload_during_an_upload_loses_nothing(
    console: Console, context: BrowserContext, deployment: Deployment
) -> None:
    attach(console)
    with held(context, UPLOADS) as until_uploading:
        console.send("what is this?", role="general")
        until_uploading()
        console.page.reload()
        expect(console.last.locator(".bubble")).to_have_text("what is this?")
        expect(console.last.get_by_role("img", name="Attached image 1")).to_have_js_property("naturalWidth", 600)
    console.expect_answer(console.last, "1 image")
    expect(console.turns).to_have_count(1)
    assert kept(deployment, console.session_id) == [("what is this?", "general", 1)]


def test_a_message_with_images_is_sent_once_though_its_acknowledgement_is_lost_and_the_page_reloaded(
    console: Console, context: BrowserContext, deployment: Deployment
) -> None:
    accepted: list[int] = []

    def lose(route: Route) -> None:
        accepted.append(route.fetch().status)
        route.abort()

    context.route("**/chat?*", lose)
    attach(console)
    console.send("once only", role="general")
    while not accepted:
        console.page.wait_for_timeout(10)
    context.unroute("**/chat?*")
    console.page.reload()
    console.expect_answer(console.last, "once only")
    expect(console.turns).to_have_count(1)
    assert accepted == [202]
    assert kept(deployment, console.session_id) == [("once only", "general", 1)]


def test_a_message_whose_images_the_browser_did_not_keep_says_so(console: Console, context: BrowserContext) -> None:
    attach(console)
    with held(context, UPLOADS) as until_uploading:
        console.send("what is this?")
        until_uploading()
        console.page.evaluate("indexedDB.deleteDatabase('turnqueue')")
        console.page.reload()
        console.expect_state(console.last, "Not sent")
        expect(console.last.locator(".trouble")).to_contain_text("did not keep the images of this message")


def test_another_tab_does_not_send_what_this_one_uploads(
    open_console: Open, context: BrowserContext, deployment: Deployment
) -> None:
    here = open_console()
    here.expect_answer(here.send("first", role="general"), "first")
    attach(here)
    with held(context, UPLOADS) as until_uploading:
        here.send("look at this")
        until_uploading()
        there = open_console(here.session_id)
        expect(there.turns).to_have_count(2)
    for console in (here, there):
        console.expect_answer(console.last, "look at this")
        expect(console.turns).to_have_count(2)
    assert kept(deployment, here.session_id) == [("first", "general", 0), ("look at this", "general", 1)]


def test_a_message_of_a_conversation_that_is_taken_off_the_list_is_sent(
    console: Console, context: BrowserContext, deployment: Deployment
) -> None:
    attach(console)
    with held(context, UPLOADS) as until_uploading:
        console.send("on its way", role="general")
        until_uploading()
        here = console.session_id
        console.conversations.first.hover()
        console.page.get_by_role("button", name="Remove “on its way” from this list").click()
        expect(console.turns).to_have_count(0)
    expect(console.conversations).to_have_count(1)  # something has happened in it
    console.conversations.first.get_by_role("link").click()
    console.expect_answer(console.last, "on its way")
    assert kept(deployment, here) == [("on its way", "general", 1)]


def test_a_failed_upload_leaves_alone_what_is_being_written(console: Console, tmp_path: Path) -> None:
    file = tmp_path / "gone.png"
    file.write_bytes(noise(8))
    attach(console, file)
    file.unlink()
    console.message.fill("look at this")
    console.message.press("Enter")
    console.message.press_sequentially("and another thing")
    console.expect_state(console.last, "Not sent")
    expect(console.last.locator(".trouble")).to_contain_text("“gone.png” is not an image")
    expect(console.message).to_have_value("and another thing")
    expect(console.page.locator("#attached li")).to_have_count(0)


def test_what_is_edited_goes_before_what_is_being_written_and_can_be_undone(
    console: Console, context: BrowserContext
) -> None:
    attach(console)
    context.route("**/chat?*", lambda route: route.fulfill(status=422, json={"code": "x", "detail": "No."}))
    refused = console.send("the first")
    console.message.press_sequentially("the second")
    console.expect_state(refused, "Not sent")
    refused.get_by_role("button", name="Edit").click()
    expect(console.message).to_have_value("the first\nthe second")
    expect(console.page.locator("#attached li")).to_have_count(1)
    console.message.press("Control+z")
    expect(console.message).to_have_value("the second")


def test_each_conversation_has_its_own_draft(console: Console) -> None:
    console.expect_state(console.send("one"), "Done")
    console.message.fill("for the first")
    attach(console)
    console.page.get_by_role("button", name="New conversation").click()
    expect(console.message).to_have_value("")
    expect(console.page.locator("#attached li")).to_have_count(0)
    console.message.fill("for the new one")
    console.conversations.first.get_by_role("link").click()
    expect(console.message).to_have_value("for the first")
    expect(console.page.locator("#attached li")).to_have_count(1)
    console.page.reload()
    expect(console.message).to_have_value("for the first")
    console.page.get_by_role("button", name="New conversation").click()
    expect(console.message).to_have_value("for the new one")
    console.message.press("Enter")
    console.expect_answer(console.last, "for the new one")
    console.page.get_by_role("button", name="New conversation").click()
    expect(console.message).to_have_value("")


def listeners(page: Page, event: str) -> int:
    """How many listen to an event of the window."""
    devtools = page.context.new_cdp_session(page)
    window = devtools.send("Runtime.evaluate", {"expression": "window"})["result"]["objectId"]
    found = devtools.send("DOMDebugger.getEventListeners", {"objectId": window})["listeners"]
    devtools.detach()
    return [listener["type"] for listener in found].count(event)


def test_waiting_leaves_no_listener_behind(console: Console, context: BrowserContext) -> None:
    cors = {"Access-Control-Allow-Origin": "*"}
    looks: list[Route] = []

    def refuse(route: Route) -> None:
        looks.append(route)
        route.fulfill(status=401, json={"message": "Unauthorized"}, headers=cors)

    context.route(re.compile("/chat/task/"), refuse)
    turn = console.send("hello")
    expect(turn.locator(".trouble")).to_be_visible()
    before = listeners(console.page, "online")
    for _ in range(2):
        seen = len(looks)
        turn.get_by_role("button", name="Check now").click()
        while len(looks) == seen:
            console.page.wait_for_timeout(10)
    assert listeners(console.page, "online") <= before  # the client's own come and go


def test_conversations_in_which_nothing_is_said_leave_no_listener_behind(console: Console) -> None:
    console.expect_answer(console.send("hello"), "hello")
    new = console.page.get_by_role("button", name="New conversation")
    new.click()
    before = listeners(console.page, "online")
    for _ in range(5):
        new.click()
    assert listeners(console.page, "online") <= before
