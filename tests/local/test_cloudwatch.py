"""The functions' log lines and metrics reach the account's CloudWatch, each once."""

import json
import time
import uuid
from pathlib import Path
from typing import Any

from local.account import Account
from local.cloudwatch import STREAM, CloudWatch
from local.functions import Function
from tests.local.conftest import wait_for

EMF: dict[str, Any] = {
    "_aws": {
        "CloudWatchMetrics": [
            {
                "Namespace": "Toy",
                "Dimensions": [["service"]],
                "Metrics": [{"Name": "Answers", "Unit": "Count"}, {"Name": "Time", "Unit": "Milliseconds"}],
            }
        ],
    },
    "Answers": [1.0, 1.0, 1.0],
    "Time": 12.5,
}


def function(group: str, code: Path) -> Function:
    return Function(
        name="toy",
        arn="arn:aws:lambda:us-east-1:000000000000:function:toy",
        role="",
        handler="toy.handler",
        code=code,
        layers=(),
        timeout=10.0,
        memory=128,
        variables={},
        label="Toy",
        log_group=group,
    )


def test_lines_and_metrics_arrive_once_and_a_line_that_is_not_complete_waits(account: Account, tmp_path: Path) -> None:
    logs, metrics = account.client("logs"), account.client("cloudwatch")
    group, service = f"toy-{uuid.uuid4().hex}", f"toy-{uuid.uuid4().hex}"
    logs.create_log_group(logGroupName=group)
    file = tmp_path / "Toy.log"
    line = EMF | {"_aws": EMF["_aws"] | {"Timestamp": int(time.time() * 1000)}, "service": service}

    def lines() -> list[str]:
        return [event["message"] for event in logs.filter_log_events(logGroupName=group)["events"]]

    def statistics(name: str) -> list[dict[str, Any]]:
        points: list[dict[str, Any]] = metrics.get_metric_statistics(
            Namespace="Toy",
            MetricName=name,
            Dimensions=[{"Name": "service", "Value": service}],
            StartTime=int(time.time()) - 600,
            EndTime=int(time.time()) + 600,
            Period=1200,
            Statistics=["SampleCount", "Sum"],
        )["Datapoints"]
        return points

    shipped = CloudWatch(account, [function(group, tmp_path)], tmp_path)
    try:
        with file.open("w") as log:
            log.write('{"message": "one"}\n' + json.dumps(line) + '\n{"message": "tw')
            log.flush()
            wait_for(lambda: bool(statistics("Time")))
            assert lines()[0] == '{"message": "one"}'
            assert not [line for line in lines() if "tw" in line]
            log.write('o"}\n')
            log.flush()
            wait_for(lambda: lines()[-1] == '{"message": "two"}')
    finally:
        shipped.close()

    assert len(lines()) == 3
    assert [(point["SampleCount"], point["Sum"]) for point in statistics("Answers")] == [(3, 3)]
    assert [(point["SampleCount"], point["Sum"]) for point in statistics("Time")] == [(1, 12.5)]
    assert [stream["logStreamName"] for stream in logs.describe_log_streams(logGroupName=group)["logStreams"]] == [
        STREAM
    ]
