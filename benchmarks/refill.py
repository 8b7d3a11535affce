"""Workers that take turns themselves: two crowds at a local stack with two workers, beside the commit before that."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import crowd
from benchmarks.checkout import checkout
from benchmarks.report import Section, goal
from local.tools import ROOT

BEFORE = "a557647"
_SECONDS = 900


def run() -> Section:
    section = Section("refill", "Workers that take turns themselves")
    with checkout(BEFORE) as before:
        sides = {"before": before, "now": ROOT}
        measured = {name: _crowds(root) for name, root in sides.items()}
    chats = {name: each["chats"] for name, each in measured.items()}
    sessions = {name: max(each["sessions"]) for name, each in measured.items()}
    ratio = chats["now"] / chats["before"]
    section.say(
        f"A local stack with `WorkerConcurrency` 2, and that of commit {BEFORE}, one run of each, one after the other. "
        "The model is silent for as long as a chat takes, and then answers at once."
    )
    section.table(
        ("", BEFORE, "now", "ratio", "goal"),
        [
            (
                f"{crowd.CHATS} queued chats of {crowd.CHAT_SECONDS} s, each in a session: until the last is answered",
                f"{chats['before']:.1f} s",
                f"{chats['now']:.1f} s",
                f"{ratio:.2f}",
                goal(ratio, 0.35),
            ),
            (
                f"{crowd.SESSIONS * crowd.TURNS_EACH} turns of {crowd.TURN_SECONDS} s in {crowd.SESSIONS} sessions: "
                "from its first submit to its last answer, the slowest session",
                f"{sessions['before']:.1f} s",
                f"{sessions['now']:.1f} s",
                f"{sessions['now'] / sessions['before']:.2f}",
                goal(sessions["now"], 66),
            ),
        ],
    )
    return section


def _crowds(root: Path) -> dict[str, Any]:
    script = root / "benchmarks/crowd.py"
    script.write_text(Path(crowd.__file__).read_text())
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.crowd"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'layers/shared'}"},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(ran.stderr[-3000:])
    crowds: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return crowds
