"""Settings of all tests: the environment for imports of the product, the tests that share a process, and a summary at
the end."""

import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# moto only affects botocore sessions that are made later, and turnqueue.aws makes one at its import.
import moto.core.models  # noqa: F401
import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from local.issuer import Issuer
from tests import summary

# Powertools reads these variables at the import of turnqueue.telemetry.
os.environ.update(
    POWERTOOLS_SERVICE_NAME="turnqueue", POWERTOOLS_METRICS_NAMESPACE="Turnqueue", POWERTOOLS_LOG_LEVEL="INFO"
)
# Drawn here, because all processes of a run inherit them.
for seed in ("FAULT_SEED", "RACES_SEED"):
    os.environ[seed] = os.environ.get(seed) or str(random.randrange(10**6))

TESTS = Path(__file__).parent
BY_NAME_ONLY = ("chaos", "patience", "servers")
"""Folders whose tests take many minutes: they run only if the command line names them."""
TOGETHER = ("e2e", "build", "browser", "local", "races")
"""Folders whose tests share a stack, or another expensive resource. Each folder runs in one process, also with `-n`."""
_SECONDS_TO_START = 300
"""Seconds for the first test of a folder. Two stacks may start at the same time on two busy cores, and build one after
the other."""


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    """An issuer of tokens, as a stack of this machine has one."""
    issuer = Issuer()
    yield issuer
    issuer.close()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.parent != TESTS or collection_path.name not in BY_NAME_ONLY:
        return None
    asked = [Path(config.invocation_params.dir, str(argument).partition("::")[0]).resolve() for argument in config.args]
    return None if any(path.is_relative_to(collection_path) for path in asked) else True


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    for item in items:
        if _folder(item.nodeid) in TOGETHER and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_SECONDS_TO_START))


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """The order of a run on several processors. Each process gets a whole folder, or a file, or a test."""

    def _split_scope(self, nodeid: str) -> str:
        folder = _folder(nodeid)
        if folder in TOGETHER:
            return folder
        return nodeid.partition("::")[0] if folder == "hostile" else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


def _folder(nodeid: str) -> str:
    """ "e2e" of "tests/e2e/test_chat.py::test_one" """
    return nodeid.partition("::")[0].removeprefix("tests/").partition("/")[0]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # this is a process of `-n`
        session.config.workeroutput["summary"] = summary.exported()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    summary.add(getattr(node, "workeroutput", {}).get("summary", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in summary.lines():
        terminalreporter.write_line(line)
