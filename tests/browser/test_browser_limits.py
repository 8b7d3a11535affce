"""Limits of the browser: blocked cookies, full storage, odd addresses."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route, expect

from local.console import serve_console
from tests.browser.chromium import OPTIONS, find_chromium
from tests.browser.conftest import Open
from tests.browser.console import Console
from tests.browser.pictures import noise
from tests.e2e.conftest import Deployment

pytestmark = pytest.mark.usefixtures("directives")

NOTICE = "This browser does not let this page store data"
BLOCKED = {"profile": {"default_content_setting_values": {"cookies": 2}}}


@pytest.fixture
def blocked(browser: Browser, console_url: str, tmp_path: Path) -> Iterator[Console]:
    """The console in a Chromium that blocks cookies: even to name a storage throws."""
    profile = tmp_path / "Default"
    profile.mkdir()
    (profile / "Preferences").write_text(json.dumps(BLOCKED))
    chromium = browser.browser_type
    context = chromium.launch_persistent_context(tmp_path, executable_path=find_chromium(), args=OPTIONS)
    troubles: list[str] = []
    context.on("weberror", lambda error: troubles.append(str(error.error)))
    console = Console(context.new_page())
    console.page.goto(console_url)
    with pytest.raises(Exception, match="Access is denied"):
        console.page.evaluate("localStorage")
    yield console
    context.close()
    assert troubles == []


def test_with_cookies_blocked_the_page_works(blocked: Console) -> None:
    expect(blocked.page.locator("#connection-text")).to_contain_text("alice at")
    blocked.page.locator("#files").set_input_files({"name": "x.png", "mimeType": "image/png", "buffer": noise(600)})
    blocked.expect_answer(blocked.send("hello"), "1 image")
    expect(blocked.page.get_by_role("alert").first).to_contain_text(NOTICE)
    expect(blocked.conversations).to_have_count(1)
    blocked.settings(owner="bob")
    expect(blocked.page.locator("#connection-text")).to_contain_text("bob at")


def test_a_page_that_can_keep_nothing_asks_before_it_loses_a_message(blocked: Console) -> None:
    waiting: list[Route] = []
    blocked.page.route("**/chat?*", lambda route: waiting.append(route))
    blocked.expect_state(blocked.send("hello"), "Sending")
    asked: list[str] = []

    def stay(dialog: object) -> None:
        asked.append(dialog.type)  # type: ignore[attr-defined]
        dialog.dismiss()  # type: ignore[attr-defined]

    blocked.page.on("dialog", stay)
    blocked.page.evaluate("location.reload()")
    while not waiting:
        blocked.page.wait_for_timeout(10)
    waiting.pop().continue_()
    blocked.expect_answer(blocked.last, "hello")
    assert asked == ["beforeunload"]


FILL = """
() => {
    for (const storage of [localStorage, sessionStorage]) {
        for (let size = 1 << 22; size >= 1; size >>= 1) {
            for (let n = 0; ; n++) {
                try { storage.setItem(`filler ${size} ${n}`, "x".repeat(size)); } catch { break; }
            }
        }
    }
}
"""


def test_with_storage_full_messages_are_written_and_sent(console: Console) -> None:
    expect(console.page.locator("#connection-text")).to_contain_text("alice at")
    console.page.evaluate(FILL)
    console.expect_answer(console.send("hello"), "hello")
    expect(console.page.get_by_role("alert").first).to_contain_text(NOTICE)
    console.expect_answer(console.send("again"), "again")


@pytest.mark.parametrize("fragment", ["%E0%A4%A", "../x", "x" * 65])
def test_an_address_that_names_no_conversation_opens_a_new_one(open_console: Open, fragment: str) -> None:
    console = open_console(fragment)
    expect(console.page.get_by_role("heading", name="Ask something")).to_be_visible()
    console.expect_answer(console.send("hello"), "hello")
    assert console.session_id != fragment


def test_damaged_storage_is_not_believed(console: Console) -> None:
    console.expect_answer(console.send("hello"), "hello")
    console.page.evaluate(
        """() => {
            for (const storage of [localStorage, sessionStorage]) {
                for (const key of Object.keys(storage)) storage.setItem(key, "{");
            }
            localStorage.setItem("turnqueue:connection", JSON.stringify({ apiUrl: "not a URL" }));
        }"""
    )
    console.page.reload()
    expect(console.page.get_by_role("dialog", name="Settings")).to_be_visible()
    console.page.get_by_label("alice").check()
    console.page.get_by_role("button", name="Save").click()
    expect(console.turns).to_have_count(1)
    expect(console.conversations).to_have_count(1)


def test_a_page_that_is_opened_before_the_stack_runs_waits_for_it(browser: Browser, deployment: Deployment) -> None:
    url = ""
    server = serve_console(lambda: url, lambda: deployment.tokens)
    context = browser.new_context()
    console = Console(context.new_page())
    with console.page.expect_response("**/config.json") as told:
        console.page.goto(server.url)
    assert told.value.status == 503
    url = deployment.url
    console.expect_answer(console.send("hello"), "hello")
    context.close()
    server.close()


def test_an_api_that_the_page_cannot_call_is_refused_in_the_settings(console: Console) -> None:
    for url in ("localhost:8000", "ftp://example.com", "http://example.com", "nonsense"):
        console.page.get_by_role("button", name="Settings").first.click()
        console.page.get_by_label("Another API or token").check()
        console.page.get_by_label("API URL").fill(url)
        console.page.get_by_label("Token", exact=True).fill("x")
        console.page.get_by_role("button", name="Save").click()
        expect(console.page.get_by_role("dialog").get_by_role("alert")).to_contain_text("must begin with https://")
        console.page.keyboard.press("Escape")
