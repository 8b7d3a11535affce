"""The metrics of one invocation: every value is in a line that CloudWatch accepts, and a failing metric harms no
request."""

import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from development import cfn
from tests.unit.conftest import Account, Printed
from turnqueue import telemetry
from turnqueue.telemetry import METRICS


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise OSError("what could not be written")

    monkeypatch.setattr(telemetry._metrics, "serialize_metric_set", refuse)


def test_what_is_accepted_is_answered_and_run_without_metrics(account: Account, printed: Printed, broken: None) -> None:
    task_id = account.queued()

    assert account.work() == []

    assert account.outcome(task_id) == ("SUCCESS", None)
    assert [line["error"] for line in printed.logged("metrics not written")] == ["OSError"] * 2
    assert "what could not" not in printed.everything


def test_metrics_that_could_not_be_written_do_not_pile_up(account: Account, broken: None) -> None:
    account.queued()

    assert telemetry._metrics.metric_set == {}


def test_a_log_lines_time_is_rfc_3339(account: Account, printed: Printed) -> None:
    """Lambda takes a line with another time as INFO (Lambda Developer Guide, "Using Lambda advanced logging
    controls"), and drops errors if only these are kept."""
    before = datetime.now(UTC)

    telemetry.logger.error("something happened")

    [line] = printed.logged("something happened")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d\d:\d\d)", line["timestamp"])
    assert before - timedelta(milliseconds=1) <= datetime.fromisoformat(line["timestamp"]) <= datetime.now(UTC)


MOST_VALUES = 100
"""Of one metric in one line: Embedded Metric Format specification, "A target member"."""


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads that take turns at every chance, so that what can go wrong between two of them does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_every_metric_of_the_registry_is_written() -> None:
    """mypy refuses a name that is not in the registry; this finds one that nobody writes."""
    folders = (cfn.ROOT / "functions", cfn.ROOT / "layers/shared/turnqueue")
    code = "".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))
    written = set(re.findall(r"\b(?:count|milliseconds)\(\s*\"(\w+)\"", code))
    assert written == set(METRICS)


def test_no_value_is_lost_between_threads(account: Account, printed: Printed, eager_threads: object) -> None:
    """The worker's turns end in threads. Each name is new here, as each is in an invocation."""
    count: Callable[..., None] = telemetry.count
    with ThreadPoolExecutor(8) as pool:
        for number in range(60):
            list(pool.map(count, [f"Metric{number}"] * 8))
    telemetry.flush()

    assert {name: len(values) for name, values in printed.metrics().items()} == {f"Metric{n}": 8 for n in range(60)}


def test_many_values_are_spread_over_lines(account: Account, printed: Printed) -> None:
    for value in range(250):
        telemetry.count("TaskRetried", value)
    telemetry.flush()

    lines = [document["TaskRetried"] for document in printed.documents]
    assert all(len(line) <= MOST_VALUES for line in lines)
    assert [value for line in lines for value in line] == list(range(250))


def test_a_chat_writes_few_lines_and_a_poll_none(account: Account, printed: Printed) -> None:
    """Every byte of the log is paid for."""
    task_id = account.queued()
    account.work()
    lines = [document.get("message", "metrics") for document in printed.documents]
    assert sorted(lines) == ["task finished", "task submitted"]

    assert account.task(task_id)["status"] == "SUCCESS"
    assert len(printed.documents) == len(lines)
