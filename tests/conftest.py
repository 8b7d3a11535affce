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
TOGETHER = ("e2e", "build", "browser", "local", "races", "scale")
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
        folder, _, rest = str(item.path.relative_to(TESTS)).partition("/")
        if folder in TOGETHER:
            item.add_marker(pytest.mark.xdist_group(folder))
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(_SECONDS_TO_START))
        elif folder == "hostile":  # seconds: each file sends thousands of requests to an account
            item.add_marker(pytest.mark.xdist_group(rest))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # this is a process of `-n`
        session.config.workeroutput["summary"] = summary.exported()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    summary.add(getattr(node, "workeroutput", {}).get("summary", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in summary.lines():
        terminalreporter.write_line(line)
