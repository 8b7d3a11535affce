"""Simulates trouble at the model, on a local stack as deployed. It takes minutes, so only `pytest tests/patience` runs
it."""

from collections.abc import Iterator

import pytest

from tests.chaos.conftest import running
from tests.e2e.conftest import Api
from tests.patience.trials import Stack, report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(900))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in report():
        terminalreporter.line(line)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("patience")) as (local, model):
        api = Api(local.api_url, local.token("alice"))
        with api.http:
            yield Stack(local, model, api)


@pytest.fixture(autouse=True)
def calm(stack: Stack) -> Iterator[None]:
    """Each trial begins with new workers, which know nothing of earlier trouble, and with closed circuit breakers."""
    stack.calm()
    yield
