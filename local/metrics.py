"""Metrics in the form of CloudWatch: samples by namespace, name and dimensions, and statistics of them over time."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Metric(NamedTuple):
    namespace: str
    name: str
    dimensions: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, namespace: str, name: str, dimensions: Mapping[str, str]) -> "Metric":
        return cls(namespace, name, frozenset(dimensions.items()))


class Metrics:
    """Samples of metrics, each with a time in seconds since the epoch."""

    def __init__(self) -> None:
        self._samples: dict[Metric, list[tuple[float, float]]] = {}

    def add(self, metric: Metric, at: float, value: float) -> None:
        self._samples.setdefault(metric, []).append((at, value))

    def names(self) -> set[Metric]:
        return set(self._samples)

    def samples(self, metric: Metric) -> list[tuple[float, float]]:
        return list(self._samples.get(metric, ()))

    def values(self, metric: Metric, start: float, end: float) -> list[float]:
        """The samples from the time `start` up to the time `end`, which is not included."""
        return [value for at, value in self.samples(metric) if start <= at < end]

    def statistic(self, metric: Metric, stat: str, start: float, end: float) -> float | None:
        """The statistic `stat`, by CloudWatch's name, of the values between two times. None if there is no value."""
        values = self.values(metric, start, end)
        return statistic(values, stat) if values else None


def statistic(values: Sequence[float], stat: str) -> float:
    """The statistic that CloudWatch calls `stat`. Raises ValueError for a statistic that the dashboard does not use."""
    match stat:
        case "Sum":
            return sum(values)
        case "Average":
            return sum(values) / len(values)
        case "Maximum":
            return max(values)
        case _ if stat.startswith("p"):
            rank = math.ceil(float(stat[1:]) / 100 * len(values))
            return sorted(values)[max(rank, 1) - 1]
    raise ValueError(stat)


def log_lines(logs: Path) -> Iterator[dict[str, Any]]:
    """The lines of the functions' logs that are JSON objects. `logs`: the `logs` of a local stack."""
    for log in sorted(logs.glob("*Function.log")):
        for line in log.read_text().splitlines():
            try:
                document = json.loads(line)
            except ValueError:
                continue  # skip a line that is not JSON, such as a traceback
            if isinstance(document, dict):
                yield document


def emitted(lines: Iterator[dict[str, Any]]) -> Metrics:
    """The metrics of the lines in the Embedded Metric Format, as CloudWatch would read them."""
    metrics = Metrics()
    for line in lines:
        for directive in line.get("_aws", {}).get("CloudWatchMetrics", ()):
            for names in directive["Dimensions"]:
                dimensions = {name: line[name] for name in names}
                for definition in directive["Metrics"]:
                    name = definition["Name"]
                    values = line[name] if isinstance(line[name], list) else [line[name]]
                    for value in values:
                        metric = Metric.of(directive["Namespace"], name, dimensions)
                        metrics.add(metric, line["_aws"]["Timestamp"] / 1000, value)
    return metrics
