"""Ends the process groups named on standard input once that closes: whoever started them is gone, however it
died.

A line `+123` names a group, `-123` takes it back. A process of its own, so that `kill -9` of its parent is no
way around it, and on any Unix (Linux alone could do without: PR_SET_PDEATHSIG, which ends a child also when
only the thread that started it is gone).
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
