"""Reads the CPU time of a process from Linux."""

import time


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process and of all its threads, including ended ones. The process's id gives its clock: see
    clock_getcpuclockid(3)."""
    return time.clock_gettime(~pid << 3 | 2)
