"""What the benchmarks read of processes."""

import subprocess
import sys

from benchmarks.process import cpu_seconds, peak_mib

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
