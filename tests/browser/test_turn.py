"""The states of a turn in the console, and the transitions between them."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from local.console import serve_console

REACH = """
async ({ state, transition }) => {
    const { Turn } = await import("/turn.js");
    const task = (status) => ({ task_id: "s.1", status, attempt: 1 });
    const doing = {
        uploaded: (turn) => turn.uploaded([]),
        failed: (turn) => turn.failed(new Error("x")),
        resend: (turn) => turn.resend(),
        accepted: (turn) => turn.accepted("s.1", 0),
        see: (turn) => turn.see(task("STARTED")),
        finish: (turn) => turn.see(task("SUCCESS")),
        lost: (turn) => turn.lost(new Error("x")),
        cancel: (turn) => turn.cancel(),
    };
    const ways = {
        preparing: [],
        sending: ["uploaded"],
        unsent: ["failed"],
        accepted: ["uploaded", "accepted"],
        lost: ["uploaded", "accepted", "lost"],
        final: ["uploaded", "accepted", "finish"],
    };
    const turn = Turn.written({ key: "k", request: { message: "x" }, files: [new File([], "x")] });
    for (const step of ways[state]) doing[step](turn);
    if (turn.state !== state) throw new Error(`${turn.state} is not ${state}`);
    let told = 0;
    turn.addEventListener("change", () => told++);
    try {
        doing[transition](turn);
    } catch {
        return turn.state === state && told === 0 ? null : "half done";
    }
    return turn.state;
}
"""
TRANSITIONS = ("uploaded", "failed", "resend", "accepted", "see", "finish", "lost", "cancel")
LEADS_TO = {
    "preparing": {"uploaded": "sending", "failed": "unsent"},
    "sending": {"accepted": "accepted", "failed": "unsent"},
    "unsent": {"resend": "preparing"},
    "accepted": {"see": "accepted", "finish": "final", "lost": "lost", "cancel": "accepted"},
    "lost": {"see": "accepted", "finish": "final", "lost": "lost", "cancel": "lost"},
    # What was read before the end and comes late changes nothing.
    "final": {"see": "final", "finish": "final"},
}


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    server = serve_console(lambda: "http://127.0.0.1:1", lambda: {})
    page = browser.new_page()
    page.goto(f"{server.url}/icon.svg")
    yield page
    page.close()
    server.close()


@pytest.mark.parametrize("state", LEADS_TO)
@pytest.mark.parametrize("transition", TRANSITIONS)
def test_each_transition_leads_to_one_state_or_is_refused(page: Page, state: str, transition: str) -> None:
    assert page.evaluate(REACH, {"state": state, "transition": transition}) == LEADS_TO[state].get(transition)
