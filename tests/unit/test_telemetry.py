"""Metrics that cannot be written cost nobody an answer."""

from typing import Any

import pytest

from tests.unit.conftest import Account, Printed
from turnqueue import telemetry


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise OSError("what could not be written")

    monkeypatch.setattr(telemetry._metrics, "flush_metrics", refuse)


def test_what_is_accepted_is_answered_and_run_without_metrics(account: Account, printed: Printed, broken: None) -> None:
    task_id = account.queued()

    assert account.work() == []

    assert account.outcome(task_id) == ("SUCCESS", None)
    assert [line["error"] for line in printed.logged("metrics not written")] == ["OSError"] * 2
    assert "what could not" not in printed.everything


def test_metrics_that_could_not_be_written_do_not_pile_up(account: Account, broken: None) -> None:
    account.queued()

    assert telemetry._metrics.metric_set == {}
