"""The CPU time of a process, as Linux tells it."""

import time


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of all its threads, ended ones too: its clock is named by its id, see
    clock_getcpuclockid(3)."""
    return time.clock_gettime(~pid << 3 | 2)
