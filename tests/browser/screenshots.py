"""Makes pictures of the console in its states, for people: `python -m tests.browser.screenshots` writes them into
screenshots/. It starts a separate stack."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, expect

from local.progress import Progress
from local.stack import LocalStack
from local.tools import ROOT
from tests.browser.chromium import find_chromium, launched
from tests.browser.console import Console
from tests.browser.pictures import noise
from tests.stand_in import StandIn

FOLDER = ROOT / "screenshots"

DESK = {"width": 1360, "height": 860}
PHONE = {"width": 390, "height": 844}

QUEUES = """A queue lets the one who asks and the one who answers work at their own pace.

1. The sender is done as soon as its message is stored. It does not wait for the work.
2. A burst becomes a line, not a failure. The workers take what they can, when they can.
3. If a worker dies, its message comes back and another one takes it.

The price is that the answer comes later than the request, so somebody has to keep it until it is asked for."""
GREETING = "\u0645\u0631\u062d\u0628\u0627"
ARABIC = f"{GREETING} Ada.\n\nThis paragraph is in English.\n\n{GREETING} \u0628\u0643!"
COMPARED = """## Two ways to ask

| | a queue | a call |
| --- | --- | --- |
| the caller | goes on at once | waits for the answer |
| a burst | becomes a line | becomes *failures* |
| a lost worker | its message **comes back** | the caller learns of it by `timeout` |

> Do not use a queue when the caller can do nothing without the answer, and the answer is quick.

- Read more:
  - [Little's law](https://en.wikipedia.org/wiki/Little%27s_law)
  - the documents of your queue"""
TALK = [
    ("What is a queue good for?", QUEUES),
    ("And when would you not use one?", COMPARED),
    (
        "Write me the shortest consumer that you can.",
        "```python\nwhile message := queue.receive():\n    handle(message)\n    queue.delete(message)\n```\n\n"
        "Deleting comes last: what dies before it is done again.",
    ),
    ("Does the order hold?", "Within one conversation, yes. Between two of them there is none to hold."),
    ("Thank you.", "You are welcome."),
]


class Studio:
    def __init__(self, browser: Browser, console_url: str, model_url: str, progress: Progress) -> None:
        self._browser = browser
        self._progress = progress
        self._url = console_url
        self.order = StandIn(model_url).faults

    @contextmanager
    def console(self, viewport: dict[str, int], *, dark: bool = False, state: Any = None) -> Iterator[Console]:
        """The console in a window of its own; `state` is what a browser remembers that was here before."""
        context = self._browser.new_context(
            viewport=viewport,  # type: ignore[arg-type]
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            storage_state=state,
            device_scale_factor=1 if viewport is DESK else 2,
            has_touch=viewport is PHONE,
            is_mobile=viewport is PHONE,
        )
        page = context.new_page()
        page.goto(self._url)
        yield Console(page)
        context.close()

    def take(self, console: Console, name: str) -> None:
        console.page.wait_for_timeout(400)
        console.page.screenshot(path=FOLDER / f"{name}.png")
        self._progress.say(f"  screenshots/{name}.png")

    def say(self, console: Console, message: str, answer: str | None = None, role: str = "general") -> None:
        self.order(**({"echo": answer} if answer else {}))
        turn = console.send(message, role=role)
        console.expect_state(turn, "Done")
        self.order()


def talk(studio: Studio) -> Any:
    """The desk, state after state. Returns what the browser remembers at the end."""
    with studio.console(DESK) as console:
        page = console.page
        expect(page.get_by_role("heading", name="Ask something")).to_be_visible()
        studio.take(console, "empty")

        studio.say(console, "Hello?", "Hello. What can I do for you?")  # the cold start, once
        page.get_by_role("button", name="New conversation").click()
        for message, answer in TALK:
            studio.say(console, message, answer)
        studio.take(console, "long-conversation")

        page.get_by_role("button", name="New conversation").click()
        studio.say(console, "I need a haircut", role="booking")
        studio.say(console, "Tomorrow at 3pm, my name is Ada.", role="booking")
        console.timelines.first.locator("summary").click()
        console.last.get_by_role("button", name="Details").click()
        studio.take(console, "draft")

        page.get_by_role("button", name="New conversation").click()
        studio.order(drip=0.12, echo=QUEUES)
        console.expect_state(console.send("What is a queue good for?", role="general"), "Answering")
        page.wait_for_timeout(3000)
        waiting = console.send("And when would you not use one?")
        expect(waiting).to_contain_text("behind the message before it")
        studio.take(console, "running")
        console.turns.first.get_by_role("button", name="Cancel").click()
        console.expect_state(console.turns.first, "Cancelled")
        console.expect_state(waiting, "Answering")
        waiting.get_by_role("button", name="Cancel").click()
        console.expect_state(waiting, "Cancelled")

        page.get_by_role("button", name="New conversation").click()
        studio.order(refuse=True)
        console.expect_state(console.send("Tell me a secret."), "Failed")
        studio.order(status=500)
        console.expect_state(console.send("What is a queue good for?"), "Waiting to try again")
        page.context.set_offline(True)
        expect(page.get_by_role("alert")).to_contain_text("You are offline")
        console.send("Are you there?")
        studio.take(console, "failure")
        page.context.set_offline(False)
        studio.order()
        console.expect_state(console.last, "Done")

        page.get_by_role("button", name="New conversation").click()
        studio.order(echo=ARABIC)
        page.locator("#files").set_input_files({"name": "x.png", "mimeType": "image/png", "buffer": noise(24)})
        console.expect_state(console.send(f"{GREETING}, Ada!", role="general"), "Done")
        page.locator("#files").set_input_files({"name": "x.png", "mimeType": "image/png", "buffer": noise(24)})
        page.locator("#composer").evaluate("it => it.classList.add('target')")
        studio.take(console, "right-to-left")
        page.locator("#composer").evaluate("it => it.classList.remove('target')")
        studio.order()
        page.get_by_role("button", name="Remove x.png").click()

        page.get_by_role("button", name="Settings").first.click()
        page.get_by_label("Another API or token").check()
        studio.take(console, "settings")
        return page.context.storage_state()


def elsewhere(studio: Studio, state: Any) -> None:
    """The same in the dark, and on a phone."""
    for name, viewport, dark in (("dark", DESK, True), ("phone", PHONE, False), ("phone-dark", PHONE, True)):
        with studio.console(viewport, dark=dark, state=state) as console:
            page = console.page
            panes = page.get_by_role("navigation", name="Parts of the page")
            if viewport is PHONE:
                studio.take(console, f"{name}-empty")
                panes.get_by_role("button", name="Conversations").click()
                studio.take(console, f"{name}-conversations")
            console.conversations.filter(has_text="I need a haircut").get_by_role("link").click()
            expect(console.turns).to_have_count(2)
            studio.take(console, f"{name}-draft")
            if viewport is PHONE:
                panes.get_by_role("button", name="Tasks").click()
                studio.take(console, f"{name}-tasks")
                panes.get_by_role("button", name="Conversations").click()
            console.conversations.filter(has_text="What is a queue").last.get_by_role("link").click()
            expect(console.turns).to_have_count(len(TALK))
            studio.take(console, f"{name}-long-conversation")


def main() -> None:
    executable = find_chromium()
    if executable is None:
        sys.exit("There is no Chromium here. Debian has it as `apt-get install chromium`.")
    FOLDER.mkdir(exist_ok=True)
    progress = Progress()
    with LocalStack(progress=progress) as stack, launched(executable) as browser:
        studio = Studio(browser, stack.console.url, stack.model_url, progress)
        elsewhere(studio, talk(studio))


if __name__ == "__main__":
    main()
