"""Ends process groups when its standard input closes, which means that their parent process has died.

A line `+123` adds a group, and `-123` removes it. The watchdog is a separate process, so that it also works after `kill
-9` of its parent. PR_SET_PDEATHSIG is no alternative: it works only on Linux, and ends a child when the thread that
started the child ends.
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
