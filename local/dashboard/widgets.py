"""The contents of a dashboard's widgets: lines and numbers from metrics, and the table of failures from log lines."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from local.dashboard.metrics import Metric, Metrics

# The colours that CloudWatch gives to lines without one, in its order.
_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f")


@dataclass
class Line:
    """A metric or an expression of a widget. It has a value for each point, None where there is none."""

    label: str
    colour: str
    values: list[float | None]
    visible: bool
    right: bool  # on the right axis
    id: str


def lines(properties: dict[str, Any], metrics: Metrics, points: Sequence[tuple[float, float]]) -> list[Line]:
    """The lines of a widget at `points` (from, to). Sums are scaled to the widget's period, so that a line titled "a
    minute" shows the sum of a minute however short the points are."""
    found: list[Line] = []
    for number, row in enumerate(properties["metrics"]):
        *named, options = row if isinstance(row[-1], dict) else [*row, {}]
        if "expression" in options:
            values = _calculated(options["expression"], found)
        else:
            metric = Metric.of(named[0], named[1], dict(zip(named[2::2], named[3::2], strict=True)))
            stat = options.get("stat") or properties["stat"]
            values = [metrics.statistic(metric, stat, *point) for point in points]
            if stat == "Sum" and not properties.get("setPeriodToTimeRange"):
                values = [
                    _paced(value, properties["period"], point) for value, point in zip(values, points, strict=True)
                ]
        colour = options.get("color", _COLOURS[number % len(_COLOURS)])
        right = options.get("yAxis") == "right"
        visible = options.get("visible", True)
        label = options.get("label") or named[1]
        found.append(Line(label, colour, values, visible, right, options.get("id", "")))
    return [line for line in found if line.visible]


def _paced(value: float | None, period: float, point: tuple[float, float]) -> float | None:
    return None if value is None else value * period / (point[1] - point[0])


def _calculated(expression: str, known: Iterable[Line]) -> list[float | None]:
    """Computes arithmetic expressions over lines, which the expression names by their ids. The template needs no other
    metric math."""
    named = {line.id: line.values for line in known if line.id and re.search(rf"\b{line.id}\b", expression)}
    if not re.fullmatch(r"[\w\s.+*/()-]+", expression):
        raise ValueError(expression)
    code = compile(expression, "expression", "eval")
    results: list[float | None] = []
    for values in zip(*named.values(), strict=True):
        given = dict(zip(named, values, strict=True))
        results.append(None if None in values else float(eval(code, {"__builtins__": {}}, given)))
    return results


COLUMNS = ("@timestamp", "event", "task_id", "code", "attempt", "cause")
"""The columns of the table of failures: the fields of its query."""


def failures(lines: Iterable[dict[str, Any]], limit: int) -> list[dict[str, str]]:
    """The newest `limit` rows that the query of the template finds in the log lines, newest first."""
    rows = []
    for line in lines:
        failed = line.get("status") == "FAILURE" and line.get("code") != "cancelled"
        if failed or line.get("level") == "ERROR" or line.get("type") == "platform.report":
            row = {**line, "event": line.get("message") or line.get("type")}
            row["cause"] = line.get("error") or line.get("record", {}).get("errorType")
            row["@timestamp"] = _moment(line.get("timestamp") or line["time"])
            rows.append({name: "" if row.get(name) is None else str(row[name]) for name in COLUMNS})
    return sorted(rows, key=lambda row: row["@timestamp"], reverse=True)[:limit]


def _moment(text: str) -> str:
    """The time of a log line in the form of Logs Insights."""
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
