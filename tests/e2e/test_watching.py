"""The deployed dashboard and alarms watch metrics that the functions emit or AWS documents, and each alarm rings only
in its case. The emulated account evaluates no alarms, so the tests apply the alarms' rules to the emitted metrics."""

import json
import re
import statistics
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from development import cfn
from local.stack import LocalStack
from tests.e2e.conftest import Api, until_idle, worker_stopped
from tests.e2e.logs import Metric, emitted, log_lines

OURS = "Turnqueue"
STACK = "turnqueue-local"


# ---- What is watched, as it is deployed


@pytest.fixture(scope="module")
def deployed_alarms(stack: LocalStack) -> dict[str, dict[str, Any]]:
    described = stack.client("cloudwatch").describe_alarms()["MetricAlarms"]
    return {alarm["AlarmName"].removeprefix(f"{STACK}-"): alarm for alarm in described}


@pytest.fixture(scope="module")
def widgets(stack: LocalStack) -> list[dict[str, Any]]:
    cloudwatch = stack.client("cloudwatch")
    body = json.loads(cloudwatch.get_dashboard(DashboardName=stack.outputs["DashboardName"])["DashboardBody"])
    found: list[dict[str, Any]] = body["widgets"]
    return found


@pytest.fixture(scope="module")
def watched(widgets: list[dict[str, Any]], deployed_alarms: dict[str, dict[str, Any]]) -> set[Metric]:
    found = {metric_of(alarm) for alarm in deployed_alarms.values()}
    for widget in widgets:
        for row in widget["properties"].get("metrics", []):
            parts = [part for part in row if not isinstance(part, dict)]
            if parts:  # else it is an expression over the others
                found.add(Metric(parts[0], parts[1], frozenset(zip(parts[2::2], parts[3::2], strict=True))))
    return found


def metric_of(alarm: dict[str, Any]) -> Metric:
    dimensions = frozenset((dimension["Name"], dimension["Value"]) for dimension in alarm["Dimensions"])
    return Metric(alarm["Namespace"], alarm["MetricName"], dimensions)


# ---- What is emitted: a good time, a bad time, and all that is left


@dataclass
class Run:
    good: dict[Metric, list[float]]
    bad: dict[Metric, list[float]]
    everything: dict[Metric, list[float]]
    lines: list[dict[str, Any]]


class Recorder:
    def __init__(self, stack: LocalStack) -> None:
        until_idle(stack)  # earlier tests have written all their lines
        self._stack = stack
        self._seen = len(self._emitting())

    def lines(self) -> list[dict[str, Any]]:
        return log_lines(self._stack.logs)

    def until(self, counts: dict[str, int]) -> dict[Metric, list[float]]:
        """What was emitted since the last call, as soon as it holds so many values of these metrics. A line is written
        when an invocation ends, which is after its tasks do."""
        ends = time.monotonic() + 30
        while True:
            lines = self._emitting()
            metrics = emitted(lines[self._seen :])
            found = {metric.name: len(values) for metric, values in metrics.items()}
            if all(found.get(name, 0) >= count for name, count in counts.items()):
                self._seen = len(lines)
                return metrics
            assert time.monotonic() < ends, f"{counts} was to come, {found} came"
            time.sleep(0.1)

    def _emitting(self) -> list[dict[str, Any]]:
        return sorted((line for line in self.lines() if "_aws" in line), key=lambda line: line["_aws"]["Timestamp"])


@pytest.fixture(scope="module")
def run(stack: LocalStack, alice: Api, scarce: Api) -> Run:
    recorder = Recorder(stack)
    alice.chat("hello")
    recorder.until({"AnswerTime": 1})

    for _ in range(3):
        assert alice.chat("hello").status_code == 200
    good = recorder.until({"AnswerTime": 3})

    for message in ("[[refuse]]", "[[status=400]]"):
        assert alice.chat(message).status_code >= 400
    with worker_stopped(stack):
        lost = alice.submit("hello", session_id="lost")
        bury(stack, json.dumps({"session": "alice#lost", "turn": lost.rpartition(".")[2]}))
        assert alice.finished(lost)["error_code"] == "worker_lost"
    bury(stack, "this is no turn")
    bad = recorder.until({"TaskFailed": 3, "TaskDeadLettered": 1, "MessageMalformed": 1})
    stack.client("sqs").purge_queue(QueueUrl=stack.outputs["DeadLetterQueueUrl"])

    alice.chat("[[latency=2]] slowly", headers={"Prefer": "wait=1"})
    alice.finished(alice.submit(f"[[status=429 times=1]] {uuid.uuid4()}"))
    for _ in range(2):
        alice.chat("once", headers={"Idempotency-Key": "watching"}, query="?async_mode=true")
    cancelled = alice.submit("[[latency=20]] slowly")
    alice.until(cancelled, lambda task: task["status"] == "STARTED")
    alice.http.post(f"/chat/task/{cancelled}/cancel")
    for _ in range(2):  # the second by the answer to the first
        assert alice.chat("what is kept?", headers={"Cache-Control": "max-age=60"}).status_code == 200
    assert 429 in [scarce.chat("hello", query="?async_mode=true").status_code for _ in range(6)]
    with sending_forbidden(stack):
        assert alice.chat("hello").status_code == 503
    stack.host.invoke(stack.functions["WorkerFunction"].name, {"Records": [{}]})
    recorder.until({"TaskCancelled": 1, "AnswerTime": 3, "TaskReplayed": 1, "EnqueueFailed": 1, "CacheHit": 2})
    lines = recorder.lines()
    return Run(good, bad, emitted(lines), lines)


def bury(stack: LocalStack, body: str) -> None:
    """Put a message among the dead letters, as SQS does with what was received too often."""
    once = uuid.uuid4().hex
    queue = stack.outputs["DeadLetterQueueUrl"]
    stack.client("sqs").send_message(QueueUrl=queue, MessageBody=body, MessageGroupId=once, MessageDeduplicationId=once)


@contextmanager
def sending_forbidden(stack: LocalStack) -> Iterator[None]:
    """Submit may not send to the queue meanwhile."""
    iam = stack.client("iam")
    which = {"RoleName": stack.functions["SubmitFunction"].role.rpartition("/")[2], "PolicyName": "submit"}
    policy = iam.get_role_policy(**which)["PolicyDocument"]
    kept = [statement for statement in policy["Statement"] if "sqs:SendMessage" not in statement["Action"]]
    assert len(kept) < len(policy["Statement"])
    iam.put_role_policy(**which, PolicyDocument=json.dumps(policy | {"Statement": kept}))
    try:
        yield
    finally:
        iam.put_role_policy(**which, PolicyDocument=json.dumps(policy))


# ---- No dead widget


OF_AN_OUTAGE = {"FallbackUsed", "BreakerOpened", "TaskDeferred", "TaskPaced"}
"""Metrics that only an outage writes, and this run has no outage. tests/e2e/test_fallback.py and
tests/unit/test_circuit_breaker.py look for them."""


def test_what_is_watched_of_ours_is_what_is_emitted(watched: set[Metric], run: Run) -> None:
    ours = {metric for metric in watched if metric.namespace == OURS}
    assert {metric for metric in ours if metric.name not in OF_AN_OUTAGE} == set(run.everything)
    assert {metric.name for metric in ours} >= OF_AN_OUTAGE


def test_the_table_of_failures_asks_for_fields_that_are_logged(widgets: list[dict[str, Any]], run: Run) -> None:
    (query,) = [widget["properties"]["query"] for widget in widgets if widget["type"] == "log"]
    _, *commands = re.split(r"\s\| (?!SOURCE)", query)
    words = set(re.findall(r"(?<!')\b[a-z_.A-Z]+\b(?!')", re.sub(r"'[^']*'|\bas \w+", "", " ".join(commands))))
    language = {"fields", "coalesce", "filter", "and", "or", "sort", "desc", "limit", "timestamp"}
    logged = {name for line in run.lines for name in line}
    logged |= {f"record.{name}" for line in run.lines for name in line.get("record", {})}
    assert {"task_id", "code", "record.errorType", "level"} <= words
    assert words - language <= logged


# ---- No alarm that cannot ring


def rings(alarm: dict[str, Any], values: list[float]) -> bool:
    """Whether an alarm rings if its metric has these values in each period."""
    if not values:
        return bool(alarm["TreatMissingData"] == "breaching")
    of_values = {"Sum": sum(values), "SampleCount": len(values), "Average": statistics.fmean(values)}
    measured = of_values[alarm["Statistic"]]
    if alarm["ComparisonOperator"] == "LessThanThreshold":
        return bool(measured < alarm["Threshold"])
    assert alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold"
    return bool(measured >= alarm["Threshold"])


def test_each_alarm_over_ours_rings_for_what_a_bad_time_emits(
    deployed_alarms: dict[str, dict[str, Any]], run: Run
) -> None:
    """tests/unit/test_alarms.py tests the rules of all alarms."""
    seen = {
        name: tuple(rings(alarm, each.get(metric_of(alarm), [])) for each in (run.bad, run.good))
        for name, alarm in deployed_alarms.items()
        if alarm["Namespace"] == OURS and alarm["MetricName"] not in OF_AN_OUTAGE
    }

    assert len(seen) > 3
    assert set(seen.values()) == {(True, False)}, seen


def test_an_outage_is_both_that_tasks_wait_and_that_none_succeeds() -> None:
    """The emulated CloudFormation has no composite alarm."""
    (composite,) = cfn.resources("AWS::CloudWatch::CompositeAlarm").values()

    rule = re.fullmatch(r'ALARM\("\$\{(\w+)\}"\) AND ALARM\("\$\{(\w+)\}"\)', composite["AlarmRule"]["Fn::Sub"])

    assert rule and set(rule.groups()) == {"OldestMessageAlarm", "NoSuccessAlarm"}
