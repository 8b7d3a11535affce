"""The share of a CPU that Lambda gives to an environment of some memory, by a control group of this machine."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.on_lambda import MB_OF_A_CPU

_PERIOD_US = 20_000


def _own_group() -> Path | None:
    """That of this process for the CPU, if groups can be made in it: by root, with control groups of version 1."""
    found = re.search(r"^\d+:(?:\w+,)*cpu(?:,\w+)*:/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    group = Path("/sys/fs/cgroup/cpu", found[1]) if found else None
    return group if group and (group / "cpu.cfs_quota_us").exists() and os.access(group, os.W_OK) else None


_GROUP = _own_group()

POSSIBLE = _GROUP is not None
"""Whether this process may limit others."""


@contextlib.contextmanager
def limited(pid: int, memory: int) -> Iterator[None]:
    """Give the process the CPU of `memory` MB, if that is possible here. Afterwards it has all again."""
    if _GROUP is None:
        yield
        return
    group = _GROUP / f"turnqueue-benchmark-{pid}"
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(round(_PERIOD_US * memory / MB_OF_A_CPU)))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            (_GROUP / "cgroup.procs").write_text(str(pid))
        group.rmdir()
