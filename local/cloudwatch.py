"""Brings the functions' log lines and metrics to the account's CloudWatch, as Lambda does on AWS. Each line becomes an
event of the function's log group. A line in the Embedded Metric Format also becomes metrics."""

import json
import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local.account import Account
from local.functions import Function

_log = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.5
_EVENTS_AT_ONCE = 500  # well below the limits of PutLogEvents: 10,000 events and 1 MB
_DATA_AT_ONCE = 200  # well below the limits of PutMetricData: 1,000 values and 1 MB
STREAM = "local"


class CloudWatch:
    """Reads the log files of `functions` in the folder `logs`, from construction until close."""

    def __init__(self, account: Account, functions: Iterable[Function], logs: Path) -> None:
        self._logs, self._metrics = account.client("logs"), account.client("cloudwatch")
        self._files = {logs / f"{function.label}.log": function.log_group for function in functions}
        self._read = dict.fromkeys(self._files, 0)
        self._closing = threading.Event()
        for group in self._files.values():
            self._logs.create_log_stream(logGroupName=group, logStreamName=STREAM)
        self._thread = threading.Thread(target=self._run, name="cloudwatch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(_PAUSE_SECONDS):
            for file, group in self._files.items():
                lines = self._new_lines(file)
                for start in range(0, len(lines), _EVENTS_AT_ONCE):
                    try:
                        self._ship(group, lines[start : start + _EVENTS_AT_ONCE])
                    except (BotoCoreError, ClientError) as error:
                        _log.warning("log lines of %s are lost: %s", group, error)

    def _new_lines(self, file: Path) -> list[str]:
        """The lines of the file that were completed since the last call."""
        if not file.exists():
            return []
        with file.open("rb") as log:
            log.seek(self._read[file])
            complete, newline, _ = log.read().rpartition(b"\n")
        self._read[file] += len(complete) + len(newline)
        return complete.decode(errors="replace").splitlines() if newline else []

    def _ship(self, group: str, lines: list[str]) -> None:
        now = int(time.time() * 1000)
        events = [{"timestamp": now, "message": line} for line in lines if line]
        if events:
            self._logs.put_log_events(logGroupName=group, logStreamName=STREAM, logEvents=events)
        data: dict[str, list[dict[str, Any]]] = {}
        for line in lines:
            for namespace, datum in metrics(document_of(line)):
                data.setdefault(namespace, []).append(datum)
        for namespace, found in data.items():
            for start in range(0, len(found), _DATA_AT_ONCE):
                self._metrics.put_metric_data(Namespace=namespace, MetricData=found[start : start + _DATA_AT_ONCE])


def document_of(line: str) -> dict[str, Any]:
    """The JSON object in a line of a log. Empty for other lines: a traceback, or the last text of a killed process."""
    try:
        document = json.loads(line)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def metrics(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The metrics of a line in the Embedded Metric Format, each with its namespace, in the form of PutMetricData. Empty
    for a line without metrics."""
    if "_aws" not in document:
        return []
    at = document["_aws"]["Timestamp"] / 1000
    found = []
    for directive in document["_aws"]["CloudWatchMetrics"]:
        for names in directive["Dimensions"]:
            dimensions = [{"Name": name, "Value": str(document[name])} for name in names]
            for definition in directive["Metrics"]:
                values = document[definition["Name"]]
                datum = {"MetricName": definition["Name"], "Dimensions": dimensions, "Timestamp": at}
                datum["Values"] = values if isinstance(values, list) else [values]
                datum["Unit"] = definition.get("Unit", "None")
                found.append((directive["Namespace"], datum))
    return found
