"""The console as people use it."""

import base64
import json
import random
import re

import pytest
from playwright.sync_api import BrowserContext, FilePayload, Route, expect

from tests.browser.conftest import Open
from tests.browser.console import Console
from tests.browser.pictures import noise
from tests.e2e.conftest import Deployment

pytestmark = pytest.mark.usefixtures("directives")


def slow(seconds: float, words: int = 20) -> str:
    return f"[[drip={seconds / words} tokens={words}]] slowly"


def test_a_message_is_answered_listed_and_drawn(console: Console) -> None:
    expect(console.page.get_by_role("heading", name="Ask something")).to_be_visible()
    turn = console.send("my dog is called Rex")
    console.expect_answer(turn, 'You said "my dog is called Rex"')
    expect(console.conversations).to_have_count(1)
    expect(console.page.get_by_role("link", name="my dog is called Rex")).to_have_attribute("aria-current", "page")
    expect(console.page.get_by_role("heading", level=1)).to_have_text("my dog is called Rex")

    timeline = console.timelines.first
    line = timeline.get_by_role("img", name=re.compile(r"Done after .*: .* in queue, first words after"))
    expect(line).to_be_visible()
    expect(timeline.locator(".fill.queued, .fill.thinking, .fill.writing")).to_have_count(3)
    timeline.locator("summary").click()
    expect(timeline.get_by_text("First words", exact=True)).to_be_visible()
    for figure in ("Tasks by state: 0 queued, 0 running, 1 done", "Time in queue, ", "Time to answer, .*: half within"):
        expect(console.page.get_by_role("img", name=re.compile(figure))).to_be_visible()

    second = console.send("what is my dog called?")
    console.expect_answer(second, "my dog is called Rex")
    expect(console.timelines).to_have_count(2)


def test_the_answer_is_seen_growing(console: Console) -> None:
    turn = console.send(slow(4))
    expect(turn.locator(".answer")).to_have_attribute("aria-busy", "true")
    console.expect_state(turn, "Answering")
    expect(turn.get_by_role("progressbar", name="Progress of the answer")).to_be_visible()
    early = turn.locator(".text").inner_text()
    expect(turn.locator(".text")).not_to_have_text(early)
    expect(console.timelines.first.get_by_role("img", name=re.compile("Answering after"))).to_be_visible()
    console.expect_answer(turn, "word20")
    assert turn.locator(".text").inner_text().startswith(early)
    expect(turn.locator(".answer")).to_have_attribute("aria-busy", "false")
    expect(turn.get_by_role("progressbar")).to_be_hidden()
    expect(console.page.get_by_role("status")).to_contain_text("Answer: [stand-in model]")


def test_a_reload_elsewhere_watches_what_was_begun(console: Console) -> None:
    console.send(slow(30))
    console.page.get_by_role("button", name="New conversation").click()
    expect(console.turns).to_have_count(0)
    expect(console.conversations.first).to_contain_text("slowly")
    console.page.reload()
    expect(console.conversations.first).to_have_class("busy")
    expect(console.page.get_by_role("img", name=re.compile("1 running"))).to_be_visible()
    console.conversations.first.get_by_role("link").click()
    console.last.get_by_role("button", name="Cancel").click()
    console.expect_state(console.last, "Cancelled")
    expect(console.conversations.first).not_to_have_class("busy")


def test_a_running_answer_is_cancelled_and_keeps_what_was_said(console: Console) -> None:
    turn = console.send(slow(30, 60))
    console.expect_state(turn, "Answering")
    turn.get_by_role("button", name="Cancel").click()
    console.expect_state(turn, "Cancelled")
    expect(turn.locator(".text")).to_contain_text("[stand-in model]")
    expect(turn.locator(".trouble")).to_be_hidden()
    expect(turn.get_by_role("button", name="Cancel")).to_be_hidden()
    expect(console.page.get_by_role("img", name=re.compile("1 cancelled"))).to_be_visible()


def test_a_failure_is_a_sentence_and_can_be_sent_again(console: Console) -> None:
    turn = console.send(f"[[refuse times=1]] something {random.random()}")
    console.expect_state(turn, "Failed")
    expect(turn.locator(".trouble")).to_have_text("The model declined to answer this message.")
    expect(console.page.get_by_role("status")).to_contain_text("The model declined to answer this message.")
    turn.get_by_role("button", name="Send again").dblclick()
    console.expect_answer(console.turns.nth(1), "something")
    expect(console.turns.nth(1).locator(".state")).to_contain_text("sent again")
    expect(turn.get_by_role("button", name="Send again")).to_be_hidden()
    expect(console.turns).to_have_count(2)
    console.page.reload()
    console.expect_answer(console.turns.nth(1), "something")
    expect(console.turns.first.get_by_role("button", name="Send again")).to_be_hidden()


def test_another_attempt_is_shown(console: Console) -> None:
    turn = console.send(f"[[status=500 times=1]] {random.random()}")
    console.expect_state(turn, "Waiting to try again")
    console.expect_state(turn, "Done")
    expect(turn.locator(".state")).to_contain_text("attempt 2")
    expect(console.timelines.first.locator(".steps")).to_contain_text("attempt 2")


def test_a_refused_message_is_not_lost(console: Console) -> None:
    turn = console.send("hello", role="general")
    console.expect_state(turn, "Done")
    console.page.evaluate("document.querySelector('#role').selectedOptions[0].value = 'nobody'")
    refused = console.send("to nobody")
    console.expect_state(refused, "Not sent")
    expect(refused.locator(".trouble")).to_have_text(re.compile("^Role: must be one of: booking, general"))
    refused.get_by_role("button", name="Edit").click()
    expect(console.message).to_have_value("to nobody")
    expect(console.message).to_be_focused()
    expect(console.turns).to_have_count(1)
    answered = console.send("to somebody", role="booking")
    console.expect_answer(answered, "to somebody")


def test_two_tabs_stay_in_step(open_console: Open) -> None:
    here = open_console()
    console_turn = here.send("from here")
    here.expect_state(console_turn, "Done")
    there = open_console(here.session_id)
    expect(there.turns).to_have_count(1)

    here.send(slow(30, 60))
    expect(there.turns).to_have_count(2)
    there.expect_state(there.last, "Answering")
    there.last.get_by_role("button", name="Cancel").click()
    there.expect_state(there.last, "Cancelled")
    here.expect_state(here.last, "Cancelled")

    there.send("from there")
    expect(here.turns).to_have_count(3)
    here.expect_answer(here.last, "from there")
    expect(here.turns).to_have_count(3)

    here.page.get_by_role("button", name="New conversation").click()
    here.send("another one")
    expect(there.conversations).to_have_count(2)
    expect(there.turns).to_have_count(3)


def test_what_is_written_before_the_page_is_ready_is_kept(context: BrowserContext, console_url: str) -> None:
    late: list[Route] = []
    context.route("**/composer.js", lambda route: late.append(route))
    page = context.new_page()
    page.goto(console_url, wait_until="commit")
    console = Console(page)
    console.message.fill("quick fingers")
    expect(console.page.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    while not late:
        page.wait_for_timeout(10)  # lets the browser go on
    late.pop().continue_()

    page.get_by_role("button", name="Send", exact=True).click()
    console.expect_answer(console.last, "quick fingers")


def test_offline_and_back(console: Console, context: BrowserContext, deployment: Deployment) -> None:
    answering = console.send(slow(3))
    console.expect_state(answering, "Answering")
    context.set_offline(True)
    expect(console.page.get_by_role("alert")).to_contain_text("You are offline.")
    expect(console.page.locator("#connection-text")).to_have_text("Offline")
    unsent = console.send("sent while offline")
    console.expect_state(unsent, "Sending")
    context.set_offline(False)
    console.expect_answer(answering, "word20")
    console.expect_answer(unsent, "sent while offline")
    expect(console.page.get_by_role("alert")).to_be_hidden()
    with deployment.api("alice") as alice:
        kept = alice.http.get(f"/chat/session/{console.session_id}").json()["turns"]
    assert [turn["message"] for turn in kept] == [slow(3), "sent while offline"]


def test_a_message_that_was_not_acknowledged_is_sent_after_a_reload(
    console: Console, context: BrowserContext, deployment: Deployment
) -> None:
    context.route("**/chat?*", lambda route: route.abort())
    turn = console.send("on its way")
    console.expect_state(turn, "Sending")
    context.unroute("**/chat?*")
    console.page.reload()
    console.expect_answer(console.last, "on its way")
    expect(console.turns).to_have_count(1)


HOSTILE = '<img src=x onerror="window.hurt = 1"><script>window.hurt = 1</script><b>bold</b> javascript:alert(1)'


def test_a_hostile_answer_is_text(console: Console) -> None:
    """tests/browser/test_markdown.py has more of them. In a card nothing is Markdown."""
    turn = console.send(f"[[echo={HOSTILE}]]")
    console.expect_state(turn, "Done")
    expect(turn.locator(".text")).to_have_text(HOSTILE)
    service = "<img src=x onerror='window.hurt=1'> **[x](https://x)**"
    answer = {
        "message": "<i>x</i>",
        "draft": {"service": service, "date": None, "time": None, "name": None},
        "data": {"complete": False, "missing": ["<script>window.hurt=1</script>"]},
    }
    booked = console.send(f"[[echo={json.dumps(answer)}]]", role="booking")
    console.expect_state(booked, "Done")
    expect(booked.locator(".text")).to_have_text("<i>x</i>")
    expect(booked.locator(".card").first).to_contain_text(service)
    console.page.reload()
    expect(console.turns).to_have_count(2)
    made = ".turn :is(img, script, b, i, a), #conversation-list img"
    expect(console.page.locator(made)).to_have_count(0)
    assert console.page.evaluate("window.hurt") is None


def test_the_draft_and_what_is_new_in_it(console: Console) -> None:
    first = console.send("I need a haircut", role="booking")
    expect(first.locator(".card").first).to_contain_text("haircut")
    expect(first.locator(".card .unknown")).to_have_count(3)
    second = console.send("tomorrow at 3pm, my name is Ada")
    expect(second.locator(".fresh")).to_have_text(["tomorrownew", "15:00new", "Adanew"])
    expect(second.get_by_role("heading", name="Data")).to_be_visible()


def test_images_go_with_a_message_however_large(console: Console) -> None:
    files: list[FilePayload] = [
        {"name": f"{side}.png", "mimeType": "image/png", "buffer": noise(side)} for side in (8, 600)
    ]
    console.page.locator("#files").set_input_files(files)
    expect(console.page.get_by_role("list", name="Attached images").get_by_role("img")).to_have_count(2)
    console.page.get_by_role("button", name="Remove 8.png").click()
    turn = console.send("what is this?")
    console.expect_answer(turn, "1 image")
    image = console.last.get_by_role("img", name="Attached image 1")
    expect(image).to_have_js_property("naturalWidth", 600)
    console.page.reload()
    expect(console.last).to_contain_text("Attached image 1 (uploaded)")


def test_an_image_is_sent_smaller_where_it_cannot_be_uploaded(console: Console) -> None:
    console.page.route("**/chat/media", lambda route: route.fulfill(status=422, json={"code": "invalid_request"}))
    file: FilePayload = {"name": "x.png", "mimeType": "image/png", "buffer": noise(600)}
    console.page.locator("#files").set_input_files(file)
    turn = console.send("what is this?")
    console.expect_answer(turn, "1 image")
    console.page.reload()
    image = console.last.get_by_role("img", name="Attached image 1")
    expect(image).to_have_js_property("complete", True)
    assert image.evaluate("image => image.naturalWidth") > 100


def test_by_keyboard_alone(console: Console) -> None:
    keyboard = console.page.keyboard
    keyboard.press("Tab")
    expect(console.page.get_by_role("link", name="Skip to the message field")).to_be_focused()
    keyboard.press("Enter")
    expect(console.message).to_be_focused()
    keyboard.type("first line")
    keyboard.press("Shift+Enter")
    keyboard.type(slow(30, 60))
    keyboard.press("Enter")
    expect(console.last.locator(".bubble")).to_have_text(f"first line\n{slow(30, 60)}")
    console.expect_state(console.last, "Answering")
    for _ in range(3):
        keyboard.press("Shift+Tab")
        if console.last.get_by_role("button", name="Cancel").evaluate("it => it === document.activeElement"):
            break
    expect(console.last.get_by_role("button", name="Cancel")).to_be_focused()
    keyboard.press("Enter")
    console.expect_state(console.last, "Cancelled")
    expect(console.message).to_be_focused()

    settings = console.page.get_by_role("button", name="Settings")
    settings.focus()
    keyboard.press("Enter")
    dialog = console.page.get_by_role("dialog", name="Settings")
    expect(dialog).to_be_visible()
    keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(settings).to_be_focused()


def _base64(document: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def test_each_owner_sees_what_is_theirs(console: Console) -> None:
    console.expect_answer(console.send("mine"), "mine")
    console.settings(owner="bob")
    expect(console.page.locator("#connection-text")).to_contain_text("bob")
    expect(console.conversations).to_have_count(0)
    expect(console.turns).to_have_count(0)
    expect(console.page.get_by_role("alert")).to_have_text(re.compile("This conversation does not exist"))
    console.settings(owner="alice")
    expect(console.turns).to_have_count(1)
    expect(console.conversations).to_have_count(1)


def test_a_token_that_is_refused_is_said(console: Console, deployment: Deployment) -> None:
    console.settings()
    expect(console.page.get_by_role("dialog").get_by_role("alert")).to_have_text("Enter a token.")
    console.page.keyboard.press("Escape")
    console.settings(token="nonsense")
    console.send("who am I?")
    # API Gateway of AWS may, and the emulated one does, send its 401 without CORS headers: no page can see it.
    expect(console.page.locator("#connection-text")).to_contain_text("token refused")
    expect(console.page.get_by_role("alert")).to_contain_text("The API refused your token")
    expect(console.last.locator(".trouble")).to_contain_text("The API refused your token")

    console.settings(token=f"e30.{_base64({'sub': 'alice', 'exp': 1})}.x")
    late = console.send("am I late?")
    console.expect_state(late, "Not sent")
    expect(late.locator(".trouble")).to_contain_text("The API refused your token")

    console.settings(token=deployment.tokens["alice"])
    console.expect_answer(console.send("now?"), "now?")
    expect(console.page.locator("#connection-text")).to_contain_text("alice at")


def test_an_answer_that_cannot_be_watched_is_looked_at_again(console: Console, context: BrowserContext) -> None:
    cors = {"Access-Control-Allow-Origin": "*"}
    context.route(
        "**/chat/task/**", lambda route: route.fulfill(status=401, json={"message": "Unauthorized"}, headers=cors)
    )
    turn = console.send("hello")
    expect(turn.locator(".trouble")).to_contain_text("The API refused your token")
    expect(turn.locator(".trouble")).to_contain_text("Your message is safe")
    expect(console.page.locator("#connection-text")).to_contain_text("token refused")
    context.unroute("**/chat/task/**")
    turn.get_by_role("button", name="Check now").click()
    console.expect_answer(turn, "hello")
    expect(turn.locator(".trouble")).to_be_hidden()


def test_a_task_is_watched_to_its_end_however_long_it_is_out_of_sight(
    console: Console, context: BrowserContext
) -> None:
    looks: list[Route] = []

    def refuse(route: Route) -> None:
        looks.append(route)
        route.fulfill(status=403, json={"message": "Forbidden"}, headers={"Access-Control-Allow-Origin": "*"})

    console.page.clock.install()
    context.route("**/chat/task/**", refuse)
    turn = console.send("hello")
    expect(turn.locator(".trouble")).to_be_visible()
    for _ in range(120):  # half an hour
        seen = len(looks)
        console.page.clock.run_for(15_000)
        while len(looks) == seen:
            console.page.clock.run_for(100)  # lets the browser go on
    context.unroute("**/chat/task/**")
    console.page.clock.run_for(15_000)
    console.page.clock.resume()
    console.expect_answer(turn, "hello")


LONG = "verylongword" * 20


def test_on_a_phone_one_part_at_a_time_and_no_word_is_too_long(console: Console) -> None:
    page = console.page
    page.set_viewport_size({"width": 320, "height": 640})
    console.expect_answer(console.send(f"hello {LONG}"), "hello")
    answer = {
        "message": LONG,
        "draft": {"service": LONG, "date": None, "time": None, "name": LONG},
        "data": {"complete": False, "missing": [LONG]},
    }
    booked = console.send(f"[[echo={json.dumps(answer)}]]", role="booking")
    console.expect_answer(booked, LONG)
    booked.get_by_role("button", name="Details").click()
    page.locator("#files").set_input_files({"name": f"{LONG}.png", "mimeType": "image/png", "buffer": b"no image"})
    expect(page.locator("#composer-error")).to_contain_text(LONG)
    console.message.fill(LONG)
    for pane in ("Conversations", "Tasks", "Chat"):
        page.get_by_role("navigation", name="Parts of the page").get_by_role("button", name=pane).click()
        too_wide = page.evaluate(
            """() => [...document.querySelectorAll("*")]
                .filter((it) => it.getBoundingClientRect().right > innerWidth + 0.5)
                .map((it) => `${it.tagName} #${it.id} .${it.getAttribute("class")}`)"""
        )
        assert too_wide == [], pane
    expect(console.message).to_be_visible()
    page.get_by_role("button", name="Tasks").click()
    expect(console.message).to_be_hidden()
    expect(console.timelines.first).to_be_visible()
    page.get_by_role("navigation", name="Parts of the page").get_by_role("button", name="Conversations").click()
    console.conversations.first.get_by_role("link").click()
    expect(console.message).to_be_visible()


def test_a_conversation_is_taken_off_the_list(console: Console) -> None:
    console.expect_state(console.send("hello"), "Done")
    console.conversations.first.hover()
    console.page.get_by_role("button", name="Remove “hello” from this list").click()
    expect(console.conversations).to_have_count(0)
    expect(console.turns).to_have_count(0)
    console.page.go_back()
    expect(console.turns).to_have_count(1)
