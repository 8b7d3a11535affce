"""The benchmarks' measurements of processes."""

import subprocess
import sys

from benchmarks.process import cpu_seconds

# It uses CPU in a thread that ends, and says so.
WORK = """
import threading, time
def work():
    while time.thread_time() < 0.2: pass
thread = threading.Thread(target=work); thread.start(); thread.join()
print("done", flush=True); input()
"""


def test_the_cpu_time_of_an_ended_thread_is_counted() -> None:
    with subprocess.Popen([sys.executable, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        cpu = cpu_seconds(process.pid)
        process.kill()

    assert 0.2 <= cpu < 2
