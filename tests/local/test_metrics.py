"""Metrics of the local account: their statistics, and how they are read from the logs."""

import json
from pathlib import Path
from typing import Any

import pytest

from local.metrics import Metric, emitted, log_lines, statistic

TOKENS = Metric.of("Turnqueue", "Tokens", {"service": "turnqueue"})


@pytest.mark.parametrize(
    ("stat", "expected"),
    [("Sum", 5050), ("Average", 50.5), ("Maximum", 100), ("p50", 50), ("p95", 95), ("p99", 99), ("p100", 100)],
)
def test_a_statistic(stat: str, expected: float) -> None:
    assert statistic([float(value) for value in range(100, 0, -1)], stat) == expected


def test_a_statistic_that_nothing_asks_for() -> None:
    with pytest.raises(ValueError, match="SampleCount"):
        statistic([1], "SampleCount")


def test_metrics_are_read_from_the_logs_of_functions(tmp_path: Path) -> None:
    documents: list[dict[str, Any]] = [
        {
            "_aws": {
                "Timestamp": 5_000,
                "CloudWatchMetrics": [
                    {"Namespace": "Turnqueue", "Dimensions": [["service"]], "Metrics": [{"Name": "Tokens"}]}
                ],
            },
            "service": "turnqueue",
            "Tokens": [1.0, 2.0],
        },
        {
            "type": "platform.report",
            "time": "2026-11-22T10:00:03.000+00:00",
            "record": {"errorType": "Runtime.ExitError"},
        },
    ]
    text = "\n".join([*map(json.dumps, documents), "Traceback", ""])
    (tmp_path / "WorkerFunction.log").write_text(text)
    (tmp_path / "emulator.log").write_text(text)

    metrics = emitted(log_lines(tmp_path))
    assert metrics.samples(TOKENS) == [(5.0, 1.0), (5.0, 2.0)]
