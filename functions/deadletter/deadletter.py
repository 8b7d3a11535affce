"""Handles the dead-letter queue, which gets the messages that SQS has given up on. The turn of each message becomes
FAILURE(worker_lost), unless the turn is already final."""

import os
import time
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from turnqueue.queue import Malformed, decode
from turnqueue.store import Refused, TurnStore
from turnqueue.telemetry import count, error_name, logger, observed
from turnqueue.usage import UsageStore

store = TurnStore(os.environ["TURNS_TABLE"], attempts=3, usage=UsageStore(os.environ["GUARDS_TABLE"], attempts=1))


@observed
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """SQS delivers a message again if its turn could not be closed. A malformed message stays in the queue for an
    operator."""
    return {
        "batchItemFailures": [
            {"itemIdentifier": record["messageId"]} for record in event["Records"] if not close(record)
        ]
    }


def close(record: dict[str, Any]) -> bool:
    """End the turn of a dead letter as FAILURE. Returns whether the turn is now final or gone."""
    try:
        key = decode(record["body"])
    except Malformed:
        logger.error("dead letter is malformed", extra={"message_id": record["messageId"]})
        count("MessageMalformed")
        return False
    try:
        store.fail(key, "worker_lost", time.time())
    except Refused as refused:
        # If the turn is unfinished, a worker still holds the turn and may answer it. So SQS delivers the dead letter
        # again later.
        return refused.current is None or refused.current.final
    except (BotoCoreError, ClientError) as error:
        logger.error("dead letter not closed", extra={"task_id": key.task_id, "error": error_name(error)})
        return False
    count("TaskDeadLettered")
    return True
