"""A fake AWS account in this process (moto): tables and queues from template.yaml, and the real handlers in it."""

import copy
import importlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import boto3
import pytest
from moto import mock_aws

from local import model_server
from tests import cfn

REGION = "us-east-1"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_LAMBDA_FUNCTION_NAME": "turnqueue-test",
    "POWERTOOLS_SERVICE_NAME": "turnqueue",
    "POWERTOOLS_METRICS_NAMESPACE": "Turnqueue",
    "POWERTOOLS_LOG_LEVEL": "INFO",
    "TURNS_TABLE": "TurnsTable",
    "GUARDS_TABLE": "GuardsTable",
    "QUEUE_URL": f"https://sqs.{REGION}.amazonaws.com/123456789012/TurnQueue.fifo",
    "FEATURE_ASYNC_CHAT_ENABLED": "false",
    "MODEL_NAME": "gpt-stand-in",
    "MODEL_KEY_SECRET_ARN": "model-key",
}
for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
    os.environ.pop(name, None)
os.environ.update(ENVIRONMENT)


@dataclass
class Context:
    """The part of a Lambda context that the handlers use."""

    seconds: float = 180.0
    aws_request_id: str = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds * 1000)


class Account:
    """The account, and what a client and Lambda's event source do to it."""

    def __init__(self, functions: dict[str, ModuleType]) -> None:
        self.dynamodb = boto3.client("dynamodb", region_name=REGION)
        self.sqs = boto3.client("sqs", region_name=REGION)
        self.secrets = boto3.client("secretsmanager", region_name=REGION)
        self.functions = functions
        for name, table in cfn.resources("AWS::DynamoDB::Table").items():
            wanted = ("BillingMode", "KeySchema", "AttributeDefinitions")
            self.dynamodb.create_table(TableName=name, **{key: table[key] for key in wanted})
        arns: dict[str, str] = {}
        for name, queue in reversed(cfn.resources("AWS::SQS::Queue").items()):  # the dead-letter queue first
            attributes = {key: value for key, value in queue.items() if key != "RedrivePolicy"}
            text = {
                key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in attributes.items()
            }
            if "RedrivePolicy" in queue:
                target = queue["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"].partition(".")[0]
                redrive = {**queue["RedrivePolicy"], "deadLetterTargetArn": arns[target]}
                text["RedrivePolicy"] = json.dumps(redrive)
            url = self.sqs.create_queue(QueueName=f"{name}.fifo", Attributes=text)["QueueUrl"]
            arns[name] = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"][
                "QueueArn"
            ]
        self.secrets.create_secret(Name="model-key", SecretString="sk-test")

    def post(
        self,
        body: Any,
        *,
        owner: str = "alice",
        headers: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
        route: str = "POST /chat/",
        seconds: float = 29.0,
    ) -> dict[str, Any]:
        event = api_event("submit", owner=owner, query=query)
        event["routeKey"] = route
        event["headers"].pop("idempotency-key")
        event["headers"] |= {name.lower(): value for name, value in (headers or {}).items()}
        event["body"] = body if isinstance(body, str) else json.dumps(body)
        return read(self.functions["submit"].handler(event, Context(seconds)))

    def submit(self, message: str = "hello", **request: Any) -> dict[str, Any]:
        """Submit asynchronously. Returns the body of the 202."""
        owner = request.pop("owner", "alice")
        response = self.post({"message": message, **request}, owner=owner, query={"async_mode": "true"})
        assert response["statusCode"] == 202, response
        body: dict[str, Any] = response["json"]
        return body

    def get(self, task_id: str, *, owner: str = "alice", query: dict[str, str] | None = None) -> dict[str, Any]:
        event = api_event("status", owner=owner, query=query, path={"task_id": task_id})
        return read(self.functions["status"].handler(event, Context(29.0)))

    def cancel(self, task_id: str, *, owner: str = "alice") -> dict[str, Any]:
        event = api_event("cancel", owner=owner, path={"task_id": task_id})
        return read(self.functions["status"].handler(event, Context(29.0)))

    def session(self, session_id: str, *, owner: str = "alice", query: dict[str, str] | None = None) -> dict[str, Any]:
        event = api_event("session", owner=owner, query=query, path={"session_id": session_id})
        return read(self.functions["status"].handler(event, Context(29.0)))

    def receive(self, queue: str = "TurnQueue") -> list[dict[str, Any]]:
        """What Lambda would hand to the function now: up to 10 records of the queue."""
        received = self.sqs.receive_message(
            QueueUrl=self._url(queue), MaxNumberOfMessages=10, AttributeNames=["All"], WaitTimeSeconds=0
        )
        return [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": message["Attributes"],
            }
            for message in received.get("Messages", [])
        ]

    def work(self, records: list[dict[str, Any]] | None = None, seconds: float = 180.0) -> list[str]:
        """Run the worker on what lies in the queue (or on `records`). Returns the message ids that it failed."""
        records = self.receive() if records is None else records
        response = self.functions["worker"].handler({"Records": records}, Context(seconds))
        return [failure["itemIdentifier"] for failure in response["batchItemFailures"]]

    def item(self, task_id: str, owner: str = "alice") -> dict[str, Any]:
        session_id, _, turn = task_id.rpartition(".")
        key = {"session": {"S": f"{owner}#{session_id}"}, "turn": {"S": turn}}
        item: dict[str, Any] = self.dynamodb.get_item(TableName="TurnsTable", Key=key)["Item"]
        return item

    def waiting(self, queue: str = "TurnQueue") -> tuple[int, int]:
        """How many messages are visible, and how many in flight."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self._url(queue), AttributeNames=names)["Attributes"]
        return int(found[names[0]]), int(found[names[1]])

    def _url(self, queue: str) -> str:
        url: str = self.sqs.get_queue_url(QueueName=f"{queue}.fifo")["QueueUrl"]
        return url


def api_event(
    name: str,
    *,
    owner: str = "alice",
    query: dict[str, str] | None = None,
    path: dict[str, str] | None = None,
) -> dict[str, Any]:
    """An event of API Gateway from events/, with another owner, query or path."""
    event = copy.deepcopy(json.loads((cfn.ROOT / "events" / f"{name}.json").read_text()))
    event["requestContext"]["authorizer"]["jwt"]["claims"]["sub"] = owner
    event["queryStringParameters"] = query or {}
    event["pathParameters"] = path or {}
    assert isinstance(event, dict)
    return event


def read(response: dict[str, Any]) -> dict[str, Any]:
    """A handler's response with its body parsed under "json"."""
    return {**response, "json": json.loads(response["body"])}


@pytest.fixture(scope="session")
def model_url() -> Iterator[str]:
    with model_server.serve() as url:
        yield url


@pytest.fixture(scope="session")
def functions(model_url: str) -> dict[str, ModuleType]:
    os.environ["MODEL_BASE_URL"] = model_url
    return {name: importlib.import_module(name) for name in ("submit", "status", "worker", "deadletter")}


@pytest.fixture
def account(functions: dict[str, ModuleType]) -> Iterator[Account]:
    with mock_aws():
        functions["worker"].secrets.clear_cache()
        yield Account(functions)


class Clock:
    """time.time(), set forward at will."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._offset = 0.0
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + self._offset)

    def forward(self, seconds: float) -> None:
        self._offset += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)
