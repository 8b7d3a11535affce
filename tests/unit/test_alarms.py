"""When each alarm rings, and why then. The template, the numbers behind a threshold and the runbook agree."""

import re
from typing import Any, NamedTuple

import pytest

from attempt import RESERVE_SECONDS
from development import cfn
from intake import READ_SECONDS
from turnqueue.turn import DEADLINE_SECONDS

RUNBOOK = (cfn.ROOT / "docs/operations.md").read_text()
ALARMS = cfn.resources("AWS::CloudWatch::Alarm")

DEAD_LETTER_VISIBILITY = cfn.resources("AWS::SQS::Queue")["DeadLetterQueue"]["VisibilityTimeout"]
WORKER_SECONDS = cfn.resources("AWS::Serverless::Function")["WorkerFunction"]["Timeout"]


class Rings(NamedTuple):
    """`at`: the threshold. The alarm rings if `points` of the last `of` periods of `seconds` reach it. `says`: words of
    the runbook's entry."""

    statistic: str
    at: float
    says: str
    seconds: int = 60
    points: int = 1
    of: int = 1


def often(at: float, says: str, statistic: str = "Sum") -> Rings:
    """For trouble that may pass: one bad minute needs no operator."""
    return Rings(statistic, at, says, points=3, of=5)


WHEN = {
    # Each event is a loss or a crash, so one is enough.
    "DeadLetterAlarm": Rings("Sum", 1, "SQS gave up on a task after 1,000 receives"),
    # Longer than the time between two deliveries of the message to the deadletter function.
    "MalformedMessageAlarm": Rings("Sum", 1, "the alarm rings until you delete it", DEAD_LETTER_VISIBILITY + 120),
    "WorkerErrorAlarm": Rings("Sum", 1, f"A worker crashed or exceeded its {WORKER_SECONDS} s", 300),
    # After five tries to close the letter.
    "StuckDeadLetterAlarm": Rings("Maximum", 5 * DEAD_LETTER_VISIBILITY, "older than 15 minutes", points=5, of=5),
    # A third of the time until a task's deadline.
    "OldestMessageAlarm": Rings(
        "Maximum", DEADLINE_SECONDS / 3, "for 5 to 7 minutes. At least 8 minutes remain", points=3, of=3
    ),
    "FailureRateAlarm": often(1 / 10, "In three of the last five minutes, at least one task in ten failed", "Average"),
    "WorkerThrottleAlarm": often(1, "In three of the last five minutes, Lambda had no concurrency left for a worker"),
    "SubmitThrottleAlarm": often(1, "In three of the last five minutes, Lambda had no concurrency left for `submit`"),
    "StatusThrottleAlarm": often(1, "In three of the last five minutes, Lambda had no concurrency left for `status`"),
    "ModelBreakerAlarm": often(1, "In 3 of the last 5 minutes"),
    # 20 s before the worker gives up on the model.
    "WorkerDurationAlarm": Rings(
        "Maximum",
        (WORKER_SECONDS - RESERVE_SECONDS / 2) * 1000,
        f"of the last three periods of 5 minutes, a worker used at least {WORKER_SECONDS - RESERVE_SECONDS / 2:g} s",
        seconds=300,
        points=2,
        of=3,
    ),
    "Api5xxAlarm": often(1 / 20, "In three of the last five minutes, at least one request in twenty got a 5xx"),
    # It rings while the value is below.
    "NoSuccessAlarm": Rings("SampleCount", 1, "nobody has chatted for 5 minutes", 300),
}


def entry(alarm: dict[str, Any]) -> str:
    """The runbook's entry for an alarm, as one line."""
    name = alarm["AlarmName"]["Fn::Sub"].removeprefix("${AWS::StackName}-")
    found = re.search(rf"^### {name}\n(.*?)(?=^##)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert found, f"docs/operations.md has no entry {name}"
    return " ".join(found[1].split())


def test_every_alarm_has_its_reason() -> None:
    assert set(WHEN) == set(ALARMS)


@pytest.mark.parametrize("name", WHEN)
def test_an_alarm_rings_when_its_runbook_says(name: str) -> None:
    alarm, when = ALARMS[name], WHEN[name]
    queries = [query["MetricStat"] for query in alarm.get("Metrics", []) if "MetricStat" in query]
    measured = queries[0] if queries else {"Stat": alarm["Statistic"], "Period": alarm["Period"]}
    of = alarm["EvaluationPeriods"]

    comparison = "LessThanThreshold" if name == "NoSuccessAlarm" else "GreaterThanOrEqualToThreshold"
    assert alarm["ComparisonOperator"] == comparison
    assert alarm["TreatMissingData"] == ("breaching" if name == "NoSuccessAlarm" else "notBreaching")
    assert alarm["Threshold"] == pytest.approx(when.at)
    assert (of, alarm.get("DatapointsToAlarm", of)) == (when.of, when.points)
    assert (measured["Stat"], measured["Period"]) == (when.statistic, when.seconds)
    assert when.says in entry(alarm)


TEMPLATE = cfn.template()
ROWS = TEMPLATE["Mappings"]["LongestAnswer"]
SHORTEST_DEADLINES = {"3": 15, "5": 30, "10": 60, "14": 60}
"""Minutes, as the template's rules demand."""


@pytest.mark.parametrize("minutes", ROWS)
def test_the_numbers_that_follow_the_longest_answer(minutes: str) -> None:
    row, answer, deadline = ROWS[minutes], int(minutes) * 60, SHORTEST_DEADLINES[minutes] * 60

    assert row["WorkerTimeout"] == min(2 * answer + 40, 900)
    assert row["WorkerTimeout"] - RESERVE_SECONDS - READ_SECONDS - answer > 45, "it hardly takes turns"
    assert row["Visibility"] == row["WorkerTimeout"] + 20
    assert row["SlowWorker"] == (row["WorkerTimeout"] - RESERVE_SECONDS / 2) * 1000
    assert answer < row["Waiting"] <= deadline / 3
    assert row["Visibility"] + 2 * answer < deadline


def test_the_shortest_deadline_of_each_longest_answer_is_a_rule() -> None:
    for minutes, shortest in SHORTEST_DEADLINES.items():
        allowed = TEMPLATE["Parameters"]["DeadlineMinutes"]["AllowedValues"]
        if rule := TEMPLATE["Rules"].get(f"DeadlineOf{minutes}"):
            allowed = rule["Assertions"][0]["Assert"]["Fn::Contains"][0]
        assert min(map(int, allowed)) == shortest
