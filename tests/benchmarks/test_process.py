"""What the benchmarks read of processes."""

import os
import signal
import subprocess
import sys

from benchmarks.process import cpu_seconds, family, peak_mib

# It uses CPU in a thread that ends, and memory that it gives back, and says so.
WORK = """
import threading, time
def work():
    while time.thread_time() < 0.2: pass
thread = threading.Thread(target=work); thread.start(); thread.join()
big = b"x" * 100_000_000; del big
print("done", flush=True); input()
"""


def test_cpu_and_memory_that_a_process_has_used_and_given_up_are_counted() -> None:
    with subprocess.Popen([sys.executable, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        cpu, peak = cpu_seconds(process.pid), peak_mib(process.pid)
        process.kill()

    assert 0.2 <= cpu < 2
    assert 100 < peak < 200


def test_the_family_of_a_process_is_its_children_and_theirs() -> None:
    nested = "sh -c 'sleep 30 & echo $!; wait' & echo $!; wait"
    with subprocess.Popen(["sh", "-c", nested], stdout=subprocess.PIPE) as process:
        assert process.stdout
        told = {int(process.stdout.readline()), int(process.stdout.readline())}
        found = family(process.pid)
        for pid in {process.pid, *told}:
            os.kill(pid, signal.SIGKILL)

    assert found[0] == process.pid
    assert set(found[1:]) == told
