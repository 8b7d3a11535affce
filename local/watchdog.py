"""Ends the process groups named on standard input when it closes, because then the process that started them has died.

A line `+123` names a group, `-123` takes it back. It is a separate process, so that it also works after `kill -9` of
its parent. PR_SET_PDEATHSIG would do so on Linux only, and it ends a child already when the thread that started it
ends.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        (groups.add if line[0] == "+" else groups.discard)(group)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
