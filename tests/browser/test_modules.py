"""Modules of the console without the page: the states of a turn, and the tasks that are stored for the figures."""

import pytest
from playwright.sync_api import Page

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
        grow: (turn) => turn.grow("words", { type: "delta" }),
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
TRANSITIONS = ("uploaded", "failed", "resend", "accepted", "see", "finish", "lost", "cancel", "grow")
LEADS_TO = {
    "preparing": {"uploaded": "sending", "failed": "unsent"},
    "sending": {"accepted": "accepted", "failed": "unsent"},
    "unsent": {"resend": "preparing"},
    "accepted": {"see": "accepted", "finish": "final", "lost": "lost", "cancel": "accepted", "grow": "accepted"},
    "lost": {"see": "accepted", "finish": "final", "lost": "lost", "cancel": "lost", "grow": "lost"},
    # What was read before the end and comes late changes nothing.
    "final": {"see": "final", "finish": "final", "grow": "final"},
}


@pytest.mark.parametrize("state", LEADS_TO)
@pytest.mark.parametrize("transition", TRANSITIONS)
def test_each_transition_leads_to_one_state_or_is_refused(modules: Page, state: str, transition: str) -> None:
    assert modules.evaluate(REACH, {"state": state, "transition": transition}) == LEADS_TO[state].get(transition)


KEEP = """
async ([begun, end]) => {
    const { Tasks } = await import("/tasks.js");
    const tasks = new Tasks(crypto.randomUUID());
    const at = (hours) => new Date(Date.now() + hours * 3600_000).toISOString();
    const task = { task_id: "s.1", status: "STARTED", attempt: 1, created_at: at(begun), deadline_at: at(end) };
    tasks.note([task]);
    return tasks.unfinishedSessions;
}
"""


@pytest.mark.parametrize(("hours", "kept"), [((-1, 11), ["s"]), ((-12, -0.01), [])], ids=["runs", "is over"])
def test_an_unfinished_task_is_kept_until_its_deadline(
    modules: Page, hours: tuple[float, float], kept: list[str]
) -> None:
    assert modules.evaluate(KEEP, hours) == kept
