"""The deployed dashboard and alarms watch metrics that the functions emit or AWS documents, and each alarm rings only
in its case. The emulated account evaluates no alarms, so the tests apply the alarms' rules to the emitted metrics."""

import json
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from development import cfn
from local import alarms
from local.metrics import Metric, Metrics, emitted, log_lines
from local.stack import LocalStack
from tests.e2e.conftest import Api, Deployment, worker_stopped
from tests.unit.template_rules import AWS_METRICS

OURS = "Turnqueue"
STACK = "turnqueue-local"


@pytest.fixture(scope="module")
def stack(deployment: Deployment) -> LocalStack:
    if deployment.stack is None:
        pytest.skip("needs the emulated account: API_URL is set")
    return deployment.stack


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
    found = {alarms.metric_of(alarm) for alarm in deployed_alarms.values()}
    for widget in widgets:
        for row in widget["properties"].get("metrics", []):
            parts = [part for part in row if not isinstance(part, dict)]
            if parts:  # else it is an expression over the others
                found.add(Metric.of(parts[0], parts[1], dict(zip(parts[2::2], parts[3::2], strict=True))))
    return found


# ---- What is emitted: a good time, a bad time, and all that is left


@dataclass
class Run:
    good: Metrics
    bad: Metrics
    everything: Metrics
    lines: list[dict[str, Any]]


class Recorder:
    def __init__(self, stack: LocalStack) -> None:
        self._stack = stack
        self._seen = 0

    def lines(self) -> list[dict[str, Any]]:
        return list(log_lines(self._stack.logs))

    def until(self, counts: dict[str, int]) -> Metrics:
        """What was emitted since the last call, as soon as it holds so many values of these metrics. A line is written
        when an invocation ends, which is after its tasks do."""
        ends = time.monotonic() + 30
        while True:
            lines = [line for line in self.lines() if "_aws" in line]
            lines.sort(key=lambda line: line["_aws"]["Timestamp"])
            metrics = emitted(iter(lines[self._seen :]))
            found = {metric.name: len(metrics.samples(metric)) for metric in metrics.names()}
            if all(found.get(name, 0) >= count for name, count in counts.items()):
                self._seen = len(lines)
                return metrics
            assert time.monotonic() < ends, f"{counts} was to come, {found} came"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def run(stack: LocalStack, alice: Api, scarce: Api) -> Run:
    recorder = Recorder(stack)
    alice.chat("hello")
    recorder.until({"TaskSucceeded": 1})

    for _ in range(3):
        assert alice.chat("hello").status_code == 200
    good = recorder.until({"TaskSucceeded": 3})

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
    recorder.until({"TaskCancelled": 1, "TaskSucceeded": 3, "TaskReplayed": 1, "EnqueueFailed": 1, "CacheHit": 1})
    lines = recorder.lines()
    return Run(good, bad, emitted(iter(lines)), lines)


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
"""There is none in this run. tests/e2e/test_fallback.py and tests/unit/test_circuit_breaker.py look for them."""


def test_what_is_watched_of_ours_is_what_is_emitted(watched: set[Metric], run: Run) -> None:
    ours = {metric for metric in watched if metric.namespace == OURS}
    assert {metric for metric in ours if metric.name not in OF_AN_OUTAGE} == run.everything.names()
    assert {metric.name for metric in ours} >= OF_AN_OUTAGE


def test_what_is_watched_of_aws_is_documented_and_of_this_stack(watched: set[Metric], stack: LocalStack) -> None:
    queues = {stack.outputs[output].rpartition("/")[2] for output in ("QueueUrl", "DeadLetterQueueUrl")}
    functions = {function.name for function in stack.functions.values()}
    ours = {"QueueName": queues, "FunctionName": functions, "ApiId": {stack.outputs["HttpApiId"]}}
    found = {metric for metric in watched if metric.namespace != OURS}
    assert found
    for metric in found:
        dimensions, names = AWS_METRICS[metric.namespace]
        assert metric.name in names
        assert {name for name, _ in metric.dimensions} == dimensions
        assert all(value in ours[name] for name, value in metric.dimensions)


def test_every_alarm_on_the_dashboard_is_there(
    widgets: list[dict[str, Any]], deployed_alarms: dict[str, dict[str, Any]]
) -> None:
    (shown,) = [widget["properties"]["alarms"] for widget in widgets if widget["type"] == "alarm"]
    told = {alarm["AlarmArn"] for name, alarm in deployed_alarms.items() if name != "no-success"}
    assert set(shown) == told


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


def lasting(values: list[float], alarm: dict[str, Any], *, periods: int, now: float) -> Metrics:
    """Metrics in which the alarm's own has these values in each of its last `periods`."""
    metrics = Metrics()
    for number in range(periods):
        for value in values:
            metrics.add(alarms.metric_of(alarm), now - (number + 0.5) * alarm["Period"], value)
    return metrics


def state(alarm: dict[str, Any], values: list[float], *, periods: int | None = None) -> str:
    now = 1_800_000_000.0
    whole = alarm["EvaluationPeriods"] if periods is None else periods
    return alarms.state(alarm, lasting(values, alarm, periods=whole, now=now), now)


OUR_ALARMS = {"dead-letters", "malformed-messages", "failure-rate", "no-success"}

# Of each alarm over a metric of AWS's what that measures in a period of the trouble, and in a good one.
AWS_ALARMS: dict[str, tuple[list[float], list[float]]] = {
    "oldest-message": ([310], [20]),  # s
    "dead-letters-stay": ([1000], [200]),  # s: one that its worker's lease still held
    "worker-errors": ([0, 1], [0, 0]),
    "worker-throttles": ([0, 1], [0, 0]),
    "submit-throttles": ([0, 1], [0, 0]),
    "status-throttles": ([0, 1], [0, 0]),
    "worker-duration": ([2_000, 396_000], [2_000, 390_000]),  # ms
}
# Of the one over a metric of ours that this run does not emit.
BREAKER_ALARM: dict[str, tuple[list[float], list[float]]] = {"model-breaker": ([1], [0])}


def test_every_alarm_has_its_case(deployed_alarms: dict[str, dict[str, Any]]) -> None:
    ours = {name for name, alarm in deployed_alarms.items() if alarm["Namespace"] == OURS}
    assert (ours, set(deployed_alarms) - ours) == (OUR_ALARMS | set(BREAKER_ALARM), set(AWS_ALARMS))


@pytest.mark.parametrize("name", sorted(OUR_ALARMS))
def test_an_alarm_over_ours_rings_for_what_a_bad_time_emits(
    name: str, deployed_alarms: dict[str, dict[str, Any]], run: Run
) -> None:
    alarm = deployed_alarms[name]
    in_bad, in_good = (
        [value for _, value in metrics.samples(alarms.metric_of(alarm))] for metrics in (run.bad, run.good)
    )
    assert (state(alarm, in_bad), state(alarm, in_good)) == ("ALARM", "OK")


@pytest.mark.parametrize("name", AWS_ALARMS | BREAKER_ALARM)
def test_an_alarm_rings_for_its_trouble(name: str, deployed_alarms: dict[str, dict[str, Any]]) -> None:
    bad, good = (AWS_ALARMS | BREAKER_ALARM)[name]
    alarm = deployed_alarms[name]
    assert (state(alarm, bad), state(alarm, good)) == ("ALARM", "OK")


def test_trouble_that_is_over_rings_where_it_must_and_nowhere_else(
    deployed_alarms: dict[str, dict[str, Any]],
) -> None:
    bad = {name: values for name, (values, _) in (AWS_ALARMS | BREAKER_ALARM).items()}
    bad |= {name: [1.0] for name in OUR_ALARMS}
    rang = {name for name, alarm in deployed_alarms.items() if state(alarm, bad[name], periods=1) == "ALARM"}
    assert rang == {"dead-letters", "malformed-messages", "worker-errors"}


def test_silence_rings_only_as_a_part_of_an_outage(deployed_alarms: dict[str, dict[str, Any]]) -> None:
    rang = {name for name, alarm in deployed_alarms.items() if state(alarm, []) == "ALARM"}
    assert rang == {"no-success"}


@pytest.mark.parametrize(
    ("oldest", "success", "outage"),
    [("ALARM", "ALARM", "ALARM"), ("ALARM", "OK", "OK"), ("OK", "ALARM", "OK"), ("OK", "OK", "OK")],
)
def test_an_outage_is_both_that_tasks_wait_and_that_none_succeeds(
    oldest: str, success: str, outage: str, deployed_alarms: dict[str, dict[str, Any]]
) -> None:
    """The emulated CloudFormation has no composite alarm, so its rule is evaluated here."""
    (composite,) = cfn.resources("AWS::CloudWatch::CompositeAlarm").values()
    rule = composite["AlarmRule"]["Fn::Sub"]
    names = {
        logical_id: alarm["AlarmName"]["Fn::Sub"].removeprefix("${AWS::StackName}-")
        for logical_id, alarm in cfn.resources("AWS::CloudWatch::Alarm").items()
    }
    parts = [names[part] for part in re.findall(r'ALARM\("\$\{(\w+)\}"\)', rule)]
    assert re.sub(r'ALARM\("\$\{\w+\}"\)', "x", rule) == "x AND x"
    states = {"oldest-message": oldest, "no-success": success}
    assert set(parts) == set(states) <= set(deployed_alarms)
    assert ("ALARM" if all(states[part] == "ALARM" for part in parts) else "OK") == outage
