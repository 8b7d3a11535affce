"""Child processes end with their parent, even if it is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from local.processes import Processes
from local.tools import ROOT
from tests.local.conftest import alive, wait_until_gone

PARENT = """
import os, sys, threading
from pathlib import Path
from local.processes import Processes

def main():
    with Processes() as processes:
        for number in range(2):
            command = ["/bin/sh", "-c", "sleep 60 & echo $! $$; wait"]
            process = processes.start(command, env=dict(os.environ), log=None)
            print(process.output.readline().decode().strip(), flush=True)
        print("ready", flush=True)
        threading.Event().wait()

# From a thread that is gone at once: the children must not end with it.
threading.Thread(target=main).start()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_children_and_what_they_started_end_when_the_parent_is_killed(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for line in iter(parent.stdout.readline, "ready\n") for pid in line.split()]
        assert len(pids) == 4
        assert all(alive(pid) for pid in pids)

        parent.send_signal(number)
        parent.wait()

        wait_until_gone(*pids)


def test_close_ends_what_still_runs_with_all_that_it_started(tmp_path: Path) -> None:
    with Processes() as processes:
        process = processes.start(
            ["/bin/sh", "-c", "trap '' TERM; sleep 60 & echo $!; wait"], env=dict(os.environ), log=None
        )
        grandchild = int(process.output.readline())

    assert not process.alive
    wait_until_gone(grandchild)


def test_what_a_process_leaves_behind_ends_with_it(processes: Processes) -> None:
    process = processes.start(["/bin/sh", "-c", "sleep 60 >/dev/null & echo $!"], env={}, log=None)
    left_behind = int(process.output.readline())

    assert process.wait() == 0
    wait_until_gone(left_behind)


def test_stop_asks_first_and_then_makes_it(processes: Processes) -> None:
    polite = processes.start(["/bin/sh", "-c", "trap 'exit 7' TERM; echo; sleep 60 & wait"], env={}, log=None)
    deaf = processes.start(["/bin/sh", "-c", "trap '' TERM; echo; sleep 60 & wait"], env={}, log=None)
    for process in (polite, deaf):
        process.output.readline()

    assert polite.stop() == 7
    started = time.monotonic()
    assert deaf.stop(grace=0.2) == -signal.SIGKILL
    assert time.monotonic() - started < 3


def test_a_child_has_the_environment_it_is_given_and_no_more(processes: Processes, tmp_path: Path) -> None:
    log = tmp_path / "log"

    processes.start(["/usr/bin/env"], env={"A": "1"}, log=log).wait()

    assert log.read_text() == "A=1\n"


def test_a_process_that_announces_is_ready_at_its_first_line(processes: Processes, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = ["/bin/sh", "-c", "echo trouble >&2; echo ready; sleep 60"]

    assert processes.start(command, env=dict(os.environ), log=log, announces=True).first_line() == "ready"
    assert log.read_text() == "trouble\n"


def test_a_process_that_ends_before_it_is_ready_is_an_error(processes: Processes) -> None:
    process = processes.start(["/bin/sh", "-c", "exit 7"], env=dict(os.environ), log=None)

    with pytest.raises(OSError, match="exit code 7 before it was ready"):
        process.first_line()
