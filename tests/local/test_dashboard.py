"""What the picture of the dashboard is made of: statistics, the lines of widgets, the table of failures."""

import json
from pathlib import Path
from typing import Any

import pytest

from local.dashboard.metrics import Metric, Metrics, emitted, log_lines, statistic
from local.dashboard.widgets import failures, lines

TOKENS = Metric.of("Turnqueue", "Tokens", {"service": "turnqueue"})
TEN_SECONDS = [(0.0, 10.0), (10.0, 20.0)]


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics()
    for at, value in ((1, 10.0), (9, 20.0), (15, 40.0)):
        metrics.add(TOKENS, at, value)
    return metrics


@pytest.mark.parametrize(
    ("stat", "expected"),
    [("Sum", 5050), ("Average", 50.5), ("Maximum", 100), ("p50", 50), ("p95", 95), ("p99", 99), ("p100", 100)],
)
def test_a_statistic(stat: str, expected: float) -> None:
    assert statistic([float(value) for value in range(100, 0, -1)], stat) == expected


def test_a_statistic_that_nothing_asks_for() -> None:
    with pytest.raises(ValueError, match="SampleCount"):
        statistic([1], "SampleCount")


def widget(*rows: list[Any], **properties: Any) -> dict[str, Any]:
    return {"period": 60, "stat": "Sum", "metrics": list(rows), **properties}


def row(**options: Any) -> list[Any]:
    return ["Turnqueue", "Tokens", "service", "turnqueue", {"label": "tokens", **options}]


def test_a_sum_is_put_at_the_pace_of_the_period(metrics: Metrics) -> None:
    (line,) = lines(widget(row()), metrics, TEN_SECONDS)
    assert line.values == [180, 240]


def test_another_statistic_is_not(metrics: Metrics) -> None:
    (line,) = lines(widget(row(stat="Maximum")), metrics, TEN_SECONDS)
    assert line.values == [20, 40]


def test_a_sum_over_the_whole_time_is_what_it_is(metrics: Metrics) -> None:
    (line,) = lines(widget(row(), setPeriodToTimeRange=True), metrics, [(0.0, 20.0)])
    assert line.values == [70]


def test_where_nothing_was_measured_there_is_no_value(metrics: Metrics) -> None:
    (line,) = lines(widget(row()), metrics, [(20.0, 30.0)])
    assert line.values == [None]


def test_an_expression_is_calculated_from_the_lines_that_it_names(metrics: Metrics) -> None:
    cost = [{"expression": "(0.5 * all + 1 * all) / 100", "label": "cost", "yAxis": "right"}]
    (line,) = lines(widget(row(id="all", visible=False), cost), metrics, [*TEN_SECONDS, (20.0, 30.0)])
    assert (line.label, line.right) == ("cost", True)
    assert line.values == pytest.approx([2.7, 3.6, None])


def test_what_is_no_arithmetic_is_not_calculated(metrics: Metrics) -> None:
    with pytest.raises(ValueError, match="import"):
        lines(widget(row(id="all"), [{"expression": "__import__('os') + all", "label": "x"}]), metrics, TEN_SECONDS)


def test_metrics_and_failures_are_read_from_the_logs(tmp_path: Path) -> None:
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
            "status": "FAILURE",
            "code": "model_auth",
            "message": "task finished",
            "timestamp": "2026-11-22T10:00:00.000+00:00",
        },
        {
            "status": "FAILURE",
            "code": "cancelled",
            "message": "task finished",
            "timestamp": "2026-11-22T10:00:01.000+00:00",
        },
        {"status": "SUCCESS", "message": "task finished", "timestamp": "2026-11-22T10:00:02.000+00:00"},
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
    assert [(row["event"], row["code"], row["cause"]) for row in failures(log_lines(tmp_path), limit=9)] == [
        ("platform.report", "", "Runtime.ExitError"),
        ("task finished", "model_auth", ""),
    ]
