"""The event source mapping: receives messages from a queue, gives them to a function in batches, and deletes the
handled messages.

MiniStack's event source takes one batch at a time from a FIFO queue. This event source runs several invocations at the
same time, as on AWS. The queue keeps the order within a message group: while a message of the group is in flight, the
queue delivers no other message of the group. A message that is not deleted is delivered again after its visibility
timeout, or moves to the dead-letter queue by the queue's redrive policy.

The function can also call ReceiveMessage. Stopping the event source does not stop these calls.
"""

import json
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local.environment import Result

logger = logging.getLogger(__name__)

_SECONDS_OF_A_POLL = 1  # seconds that one poll waits for messages; `stop` waits for the running poll
_SECONDS_AFTER_TROUBLE = 0.5
_MOST_AT_ONCE = 10  # the maximum number of messages in one ReceiveMessage
_DEFAULT_CONCURRENCY = 5


@dataclass(frozen=True)
class Mapping:
    """A deployed event source mapping from a queue to a function."""

    queue_arn: str
    queue_url: str
    function: str  # the function's name in Lambda
    batch_size: int = _MOST_AT_ONCE
    max_concurrency: int = _DEFAULT_CONCURRENCY


def take_over_mappings(lambda_client: Any, sqs: Any) -> list[Mapping]:
    """The event source mappings of the account's queues, for EventSource to poll. MiniStack does not poll them
    (guarded_ministack.py). Raises ValueError if a mapping needs a feature that EventSource does not have."""
    mappings = []
    for deployed in lambda_client.list_event_source_mappings()["EventSourceMappings"]:
        arn = deployed["EventSourceArn"]
        if deployed.get("FilterCriteria") or deployed["BatchSize"] > _MOST_AT_ONCE:
            raise ValueError(
                f"the local stack does not support a filter or a BatchSize above {_MOST_AT_ONCE}: event source {arn}"
            )
        if deployed.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
            raise ValueError(f"the event source {arn} needs FunctionResponseTypes: ReportBatchItemFailures")
        mappings.append(
            Mapping(
                queue_arn=arn,
                queue_url=sqs.get_queue_url(QueueName=arn.rpartition(":")[2])["QueueUrl"],
                function=deployed["FunctionArn"].split(":")[6],  # the name without the alias
                batch_size=deployed["BatchSize"],
                max_concurrency=deployed.get("ScalingConfig", {}).get("MaximumConcurrency", _DEFAULT_CONCURRENCY),
            )
        )
    return mappings


class EventSource:
    """Polls the queue between `start` and `stop`, which can be called several times. `invoke` runs the function of a
    given name on an event."""

    def __init__(self, mapping: Mapping, sqs: Any, invoke: Callable[[str, Any], Result]) -> None:
        self.mapping = mapping
        self._sqs = sqs
        self._invoke = invoke
        self._free = threading.Semaphore(mapping.max_concurrency)
        self._stopping = threading.Event()
        self._poller: threading.Thread | None = None

    def start(self) -> None:
        """Start to receive messages. Does nothing if the event source runs already."""
        if self._poller is None:
            self._stopping.clear()
            self._poller = threading.Thread(target=self._poll, name=f"poll for {self.mapping.function}", daemon=True)
            self._poller.start()

    def stop(self, *, drain: bool = False) -> None:
        """Receive no more messages. With `drain`, also wait for running invocations, because they can receive messages
        themselves.

        Always waits for the running poll, because this poll could receive messages after `stop` has returned.
        """
        self.abandon()
        if self._poller is not None:
            self._poller.join()
            self._poller = None
        if drain:
            for _ in range(self.mapping.max_concurrency):
                self._free.acquire()
            self._free.release(self.mapping.max_concurrency)

    def abandon(self) -> None:
        """Stop without waiting, because the emulated account is being closed."""
        self._stopping.set()

    def _poll(self) -> None:
        while not self._stopping.is_set():
            # Wait for a free invocation before the poll, because the messages' visibility timeout begins when they are
            # received.
            if not self._free.acquire(timeout=_SECONDS_OF_A_POLL):
                continue
            messages = self._receive()
            if messages:
                threading.Thread(target=self._deliver, args=(messages,), name="batch", daemon=True).start()
            else:
                self._free.release()

    def _receive(self) -> list[dict[str, Any]]:
        try:
            answer = self._sqs.receive_message(
                QueueUrl=self.mapping.queue_url,
                MaxNumberOfMessages=self.mapping.batch_size,
                WaitTimeSeconds=_SECONDS_OF_A_POLL,
                MessageSystemAttributeNames=["All"],
                MessageAttributeNames=["All"],
            )
        except (BotoCoreError, ClientError) as error:
            if not self._stopping.wait(_SECONDS_AFTER_TROUBLE):
                logger.warning("%s cannot poll %s: %s", self.mapping.function, self.mapping.queue_url, error)
            return []
        return list(answer.get("Messages", []))

    def _deliver(self, messages: list[dict[str, Any]]) -> None:
        try:
            records = [record(message, self.mapping.queue_arn) for message in messages]
            result = self._invoke(self.mapping.function, {"Records": records})
            failed = self._failed(result, [message["MessageId"] for message in messages])
            self._delete([message for message in messages if message["MessageId"] not in failed])
        finally:
            self._free.release()

    def _failed(self, result: Result, ids: list[str]) -> set[str]:
        if result.error:
            return set(ids)
        return failed_ids(result.payload, ids)

    def _delete(self, messages: list[dict[str, Any]]) -> None:
        if not messages:
            return
        entries = [{"Id": str(n), "ReceiptHandle": one["ReceiptHandle"]} for n, one in enumerate(messages)]
        try:
            # Ignore the errors in the response: the function can have deleted some of the messages itself.
            self._sqs.delete_message_batch(QueueUrl=self.mapping.queue_url, Entries=entries)
        except (BotoCoreError, ClientError) as error:  # the queue delivers the messages again, as on AWS
            logger.warning("nothing deleted from %s: %s", self.mapping.queue_url, error)


def failed_ids(payload: bytes, ids: Iterable[str]) -> set[str]:
    """The ids of a batch's messages that the function did not handle, by AWS's rules. If the response is empty or null,
    or names no failures, all messages succeeded. If the response is malformed, or names an unknown message, all
    messages failed."""
    everything = set(ids)
    try:
        response = json.loads(payload or b"null")
        failures = (response or {}).get("batchItemFailures") or []
        failed = {failure["itemIdentifier"] for failure in failures}
    except (ValueError, TypeError, KeyError, AttributeError):
        return everything
    return failed if failed <= everything else everything


def record(message: dict[str, Any], queue_arn: str) -> dict[str, Any]:
    """A received message as the record of a Lambda event."""
    attributes = message.get("MessageAttributes", {})
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message.get("Attributes", {}),
        "messageAttributes": {
            name: {key[0].lower() + key[1:]: part for key, part in value.items()} for name, value in attributes.items()
        },
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": queue_arn,
        "awsRegion": queue_arn.split(":")[3],
    }
