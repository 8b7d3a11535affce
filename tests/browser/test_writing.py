"""Ways to enter text: input methods, the clipboard, drag and drop, other scripts, screen keyboards."""

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, CDPSession, Locator, expect

from tests.browser.console import Console
from tests.browser.pictures import noise

pytestmark = pytest.mark.usefixtures("directives")

FAMILY = "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}\N{ZERO WIDTH JOINER}\N{BOY}"
HEBREW = "\u05e9\u05dc\u05d5\u05dd"


@pytest.fixture
def devtools(console: Console) -> CDPSession:
    return console.page.context.new_cdp_session(console.page)


def compose(devtools: CDPSession, text: str) -> None:
    """An input method holds this text, underlined, and has not committed it."""
    at = {"selectionStart": len(text), "selectionEnd": len(text)}
    devtools.send("Input.imeSetComposition", {"text": text, **at})


PRESS = (
    "(field, init) => field.dispatchEvent(new KeyboardEvent('keydown', { bubbles: true, cancelable: true, ...init }))"
)


@pytest.mark.parametrize("enter", [{"isComposing": True}, {"keyCode": 229}], ids=["most browsers", "Safari"])
def test_the_enter_that_confirms_a_word_sends_nothing(
    console: Console, devtools: CDPSession, enter: dict[str, Any]
) -> None:
    console.message.focus()
    compose(devtools, "nihon")
    console.message.evaluate(PRESS, {"key": "Enter", **enter})
    expect(console.message).to_have_value("nihon")
    expect(console.turns).to_have_count(0)
    devtools.send("Input.insertText", {"text": "nihongo"})
    console.message.press("Enter")
    expect(console.last.locator(".bubble")).to_have_text("nihongo")


def test_a_word_that_the_screen_keyboard_has_not_committed_is_sent_once(console: Console, devtools: CDPSession) -> None:
    console.message.press_sequentially("hello ")
    compose(devtools, "wor")
    console.page.evaluate("document.querySelector('#composer').requestSubmit()")  # iOS leaves the focus in the field
    expect(console.last.locator(".bubble")).to_have_text("hello wor")
    expect(console.message).to_have_value("")
    expect(console.message).to_be_focused()
    compose(devtools, "next")
    devtools.send("Input.insertText", {"text": "next"})
    expect(console.message).to_have_value("next")


COPY = """
async (kinds) => {
    const blobs = kinds.map(([type, base64]) =>
        [type, new Blob([Uint8Array.from(atob(base64), (it) => it.charCodeAt(0))], { type })]);
    await navigator.clipboard.write([new ClipboardItem(Object.fromEntries(blobs))]);
}
"""


def paste(console: Console, **kinds: bytes) -> None:
    """Paste from a clipboard with these kinds of data."""
    types = {"text": "text/plain", "html": "text/html", "png": "image/png"}
    console.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    console.page.evaluate(COPY, [[types[kind], base64.b64encode(data).decode()] for kind, data in kinds.items()])
    console.message.press("Control+v")


def test_cells_of_a_spreadsheet_are_pasted_as_text(console: Console) -> None:
    paste(console, text=b"1\t2", html=b"<table><tr><td>1<td>2</table>", png=noise(8))
    expect(console.message).to_have_value("1\t2")
    expect(console.page.locator("#attached li")).to_have_count(0)


def test_an_image_of_the_clipboard_is_attached(console: Console) -> None:
    paste(console, html=b'<img src="https://example.com/x.png">', png=noise(8))
    expect(console.page.locator("#attached li")).to_have_count(1)
    expect(console.message).to_have_value("")


PASTE_FILE = """
(field, name) => {
    const clipboardData = new DataTransfer();
    clipboardData.setData("text/plain", name);
    clipboardData.items.add(new File([], name, { type: "image/png" }));
    return field.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
}
"""


def test_a_file_that_is_pasted_with_its_name_is_a_file(console: Console) -> None:
    assert console.message.evaluate(PASTE_FILE, "cat.png") is False, "the browser goes on to paste the name"


def drop(devtools: CDPSession, target: Locator, *, text: str | None = None, file: Path | None = None) -> None:
    box = target.bounding_box()
    assert box is not None
    items = [] if text is None else [{"mimeType": "text/plain", "data": text}]
    files = [] if file is None else [str(file)]
    data = {"items": items, "files": files, "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        devtools.send("Input.dispatchDragEvent", {"type": kind, **at, "data": data})


def test_text_is_dropped_where_one_can_write_and_files_anywhere(
    console: Console, devtools: CDPSession, tmp_path: Path
) -> None:
    drop(devtools, console.message, text="dropped")
    expect(console.message).to_have_value("dropped")
    picture = tmp_path / "x.png"
    picture.write_bytes(noise(8))
    drop(devtools, console.page.get_by_role("heading", name="Ask something"), file=picture)
    expect(console.page.get_by_role("img", name="x.png")).to_be_visible()
    expect(console.message).to_have_value("dropped")


def test_text_that_is_too_long_is_not_cut(console: Console) -> None:
    text = "x" * 31_999 + FAMILY
    console.message.fill(text)
    expect(console.message).to_have_value(text)
    send = console.page.get_by_role("button", name="Send", exact=True)
    expect(send).to_be_disabled()
    expect(console.page.locator("#composer-error")).to_have_text(
        "A message has at most 32,000 characters. This one has 32,006."
    )
    console.message.fill("x" * 31_999 + "\N{WOMAN}")  # two units of JavaScript, one character of the API
    expect(console.page.locator("#composer-error")).to_be_hidden()
    send.click()
    console.expect_state(console.last, "Done")


def test_code_keeps_its_indentation(console: Console) -> None:
    console.message.fill("\n    if x:\n        pass\n")
    console.message.press("Enter")
    assert console.last.locator(".bubble").text_content() == "    if x:\n        pass"


def test_titles_cut_no_emoji(console: Console) -> None:
    turn = console.send(FAMILY * 80)
    title = FAMILY * 59 + "…"
    expect(console.page.get_by_role("heading", level=1)).to_have_text(title)
    expect(console.conversations.locator(".name")).to_have_text(title)
    expect(turn).to_have_attribute("aria-label", re.compile(f"^{title}: "))


PARAGRAPHS = """
(element) => {
    const [sides, box] = [[], element.getBoundingClientRect()];
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        for (const { index, 0: text } of walker.currentNode.data.matchAll(/.*\\S.*/g)) {
            const range = document.createRange();
            range.setStart(walker.currentNode, index);
            range.setEnd(walker.currentNode, index + text.length);
            const line = range.getBoundingClientRect();
            sides.push(line.left - box.left < box.right - line.right ? "left" : "right");
        }
    }
    return sides;
}
"""


def test_right_to_left_text_runs_from_the_right(console: Console) -> None:
    text = f"{HEBREW}, Ada.\nwords that make this line a good deal longer\n{HEBREW}."
    console.message.fill(HEBREW)
    expect(console.message).to_have_css("direction", "rtl")
    turn = console.send(f"[[echo={text}]]{HEBREW}")
    console.expect_state(turn, "Done")
    assert turn.locator(".text").evaluate(PARAGRAPHS) == ["right", "left", "right"]
    hebrew = console.send(f"{HEBREW} [[echo=x]]")
    for place in (hebrew.locator(".bubble"), console.timelines.first.locator(".name")):
        expect(place).to_have_css("direction", "rtl")
    console.page.get_by_role("button", name="New conversation").click()
    console.send(f"{HEBREW} {HEBREW}")
    expect(console.page.get_by_role("heading", level=1)).to_have_css("direction", "rtl")
    expect(console.conversations.first.locator(".name")).to_have_css("direction", "rtl")


def test_enter_on_a_screen_keyboard_begins_a_line_and_says_so(browser: Browser, console_url: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    console = Console(context.new_page())
    console.page.goto(console_url)
    expect(console.message).to_have_js_property("enterKeyHint", "enter")
    console.message.press_sequentially("one")
    console.message.press("Enter")
    console.message.press_sequentially("two")
    expect(console.message).to_have_value("one\ntwo")
    console.message.press("Control+Enter")  # of a keyboard that is attached to a tablet
    expect(console.last.locator(".bubble")).to_have_text("one\ntwo")
    context.close()


def test_enter_on_a_keyboard_sends_and_says_so(console: Console) -> None:
    expect(console.message).to_have_js_property("enterKeyHint", "send")
    expect(console.message).to_have_accessible_description(re.compile("Enter sends"))


def test_an_example_can_be_undone(console: Console) -> None:
    console.message.press_sequentially("mine")
    console.page.get_by_role("button", name="I need a haircut").click()
    expect(console.message).to_have_value("I need a haircut tomorrow at 3pm.\nmine")
    console.message.press("Control+z")
    expect(console.message).to_have_value("mine")
