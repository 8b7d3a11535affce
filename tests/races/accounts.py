"""The emulated account of the races: MiniStack with the template's tables and queue."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from development import cfn
from local.account import Account
from local.emulator import Emulator
from local.loopback import free_port
from local.processes import Processes
from local.tools import find_tools
from tests.races import moves
from tests.races.events import Record

type Item = dict[str, Any]


class Races:
    """Tables and queues from template.yaml at one endpoint, and the environment variables for functions that use
    them."""

    def __init__(self, endpoint: str, model_url: str) -> None:
        account = Account(endpoint)
        self._dynamodb, self._sqs = account.client("dynamodb"), account.client("sqs")
        for name, table in cfn.resources("AWS::DynamoDB::Table").items():
            wanted = {key: table[key] for key in ("BillingMode", "KeySchema", "AttributeDefinitions")}
            self._dynamodb.create_table(TableName=name, **wanted)
        self._queue = self._sqs.create_queue(
            QueueName="TurnQueue.fifo",
            Attributes={
                name: str(value).lower() if isinstance(value, bool) else str(value)
                for name, value in cfn.resources("AWS::SQS::Queue")["TurnQueue"].items()
                if name != "RedrivePolicy"  # the tests themselves deliver dead letters
            },
        )["QueueUrl"]
        account.client("secretsmanager").create_secret(Name="model-key", SecretString="sk-test")
        own = {
            "AWS_LAMBDA_FUNCTION_NAME": "turnqueue-races",
            "POWERTOOLS_SERVICE_NAME": "turnqueue",
            "QUEUE_URL": self._queue,
            "MODEL_BASE_URL": model_url,
            "MODEL_NAME": "stand-in",
            "MODEL_KEY_SECRET_ARN": "model-key",
        }
        self.environment = account.variables() | cfn.environment() | own

    def item(self, session: str, turn: str) -> Item | None:
        """A turn as it is in the table now."""
        key = {"session": {"S": session}, "turn": {"S": turn}}
        found: Item | None = self._dynamodb.get_item(TableName="TurnsTable", Key=key, ConsistentRead=True).get("Item")
        return found

    def items_of(self, owner: str) -> list[Item]:
        """All turns of an owner, in all sessions."""
        pages = self._dynamodb.get_paginator("scan").paginate(
            TableName="TurnsTable",
            FilterExpression="begins_with(#session, :owner)",
            ExpressionAttributeNames={"#session": "session"},
            ExpressionAttributeValues={":owner": {"S": f"{owner}#"}},
            ConsistentRead=True,
        )
        return [item for page in pages for item in page["Items"]]

    def receive(self) -> list[Record]:
        """The event that Lambda would give to the worker now: up to 10 records, which are then in flight."""
        received = self._sqs.receive_message(
            QueueUrl=self._queue, MaxNumberOfMessages=10, MessageSystemAttributeNames=["All"], WaitTimeSeconds=0
        )
        return [moves.record(message) for message in received.get("Messages", [])]

    def drain(self) -> list[Record]:
        """Takes all visible messages out of the queue."""
        taken = []
        while records := self.receive():
            taken += records
            for record in records:
                self._sqs.delete_message(QueueUrl=self._queue, ReceiptHandle=record["receiptHandle"])
        return taken


@contextlib.contextmanager
def endpoint(processes: Processes, folder: Path) -> Iterator[str]:
    """Runs MiniStack; yields its URL."""
    emulator = Emulator(
        processes, find_tools().emulator_python, port=free_port(0), folder=folder, log=folder / "emulator.log"
    )
    yield emulator.account.endpoint_url
    emulator.stop()
