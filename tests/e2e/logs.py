"""The log lines of a stack's functions, and the metrics in them."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from local import cloudwatch


class Metric(NamedTuple):
    namespace: str
    name: str
    dimensions: frozenset[tuple[str, str]]


def log_lines(logs: Path) -> list[dict[str, Any]]:
    """The JSON lines in the logs of the functions, below the folder of a local stack."""
    texts = (log.read_text() for log in sorted(logs.glob("*Function.log")))
    return [document for text in texts for line in text.splitlines() if (document := cloudwatch.document_of(line))]


def emitted(lines: Iterable[dict[str, Any]]) -> dict[Metric, list[float]]:
    """The values of the metrics of these lines, as CloudWatch reads them."""
    values: defaultdict[Metric, list[float]] = defaultdict(list)
    for line in lines:
        for namespace, datum in cloudwatch.metrics(line):
            dimensions = frozenset((each["Name"], each["Value"]) for each in datum["Dimensions"])
            values[Metric(namespace, datum["MetricName"], dimensions)] += datum["Values"]
    return values
