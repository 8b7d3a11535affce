"""Lambda's event source mapping between a FIFO queue and a function."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.faults.faults import LAMBDA_VARIANTS
from tests.faults.fifo_queue import FifoQueue, QueueError, Received
from tests.faults.scheduler import EPOCH

if TYPE_CHECKING:
    from tests.faults.world import Invocation, World

POLL_SECONDS = 0.01


class EventSource:
    """Takes batches of up to 10 messages, of one group or several, and hands each to an invocation.

    The event source deletes the messages that the function does not report as failed. If the function fails as a whole,
    or returns nonsense, all messages count as failed. A failed message is visible again when its visibility timeout ends.
    """

    def __init__(self, world: "World", queue: FifoQueue, function: str, concurrency: int) -> None:
        self.paused = False
        self.concurrency = concurrency
        self.running: list[tuple[Invocation, Sequence[Received]]] = []
        self._world = world
        self._queue = queue
        self._function = function
        self._poll_at = math.inf
        queue.on_change = self.wake

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Meanwhile, take no messages."""
        self.paused = True
        yield
        self.paused = False
        self.wake()

    def wake(self) -> None:
        self._schedule(self._world.now + POLL_SECONDS)

    def _schedule(self, at: float) -> None:
        if at < self._poll_at:
            self._poll_at = at
            self._world.scheduler.call_at(at, lambda: self._poll(at))

    def _poll(self, at: float) -> None:
        if at != self._poll_at:
            return
        self._poll_at = math.inf
        while not self.paused and len(self.running) < self.concurrency:
            limit = self._world.random.choice([1, 2, 10]) if self._world.by_chance else 10
            batch = self._queue.receive(limit)
            if not batch:
                break
            self.deliver(batch)
        if (later := self._queue.next_visible_at()) < math.inf:
            self._schedule(later)

    def deliver(self, batch: Sequence[Received]) -> None:
        """Invoke the function with a batch. A test may call it again for the same: a duplicate."""
        world = self._world
        event = {"Records": [self._record(message) for message in batch]}
        invocation = world.invoke(self._function, event, lambda invocation: self._ended(invocation, batch))
        self.running.append((invocation, batch))
        what = ", ".join(message.handle for message in batch)
        world.tell("Lambda", f"gives {what} to {invocation.process.name}")

    def _ended(self, invocation: "Invocation", batch: Sequence[Received]) -> None:
        self.running.remove((invocation, batch))
        failed = self._failed(invocation, batch)
        for message in batch:
            if message.message_id not in failed:
                self._delete(message)
        self.wake()

    def _failed(self, invocation: "Invocation", batch: Sequence[Received]) -> set[str]:
        everything = {message.message_id for message in batch}
        response = invocation.response
        if invocation.fate != "answered":
            return everything
        if not response or not response.get("batchItemFailures"):
            return set()
        try:
            failed = {str(failure["itemIdentifier"]) for failure in response["batchItemFailures"]}
        except (TypeError, KeyError):
            return everything
        if not failed <= everything:
            self._world.watch.misreported(sorted(failed - everything))
        return failed

    def _delete(self, message: Received) -> None:
        world = self._world
        call = world.plan.begin("Lambda", f"sqs DeleteMessage of {self._function}", LAMBDA_VARIANTS, world.now)
        if call.variant:
            world.tell("Lambda", f"cannot delete {message.handle}")
            return
        try:
            self._queue.delete(message.handle)
        except QueueError:
            world.tell("Lambda", f"is refused to delete {message.handle}, whose handle is too old")

    def _record(self, message: Received) -> dict[str, Any]:
        return {
            "messageId": message.message_id,
            "receiptHandle": message.handle,
            "body": message.body,
            "attributes": {
                "ApproximateReceiveCount": str(message.receive_count),
                "SentTimestamp": str(int((EPOCH + message.sent_at) * 1000)),
                "SequenceNumber": str(message.sequence),
                "MessageGroupId": message.group,
                "SenderId": "simulated",
                "MessageDeduplicationId": message.deduplication_id,
                "ApproximateFirstReceiveTimestamp": str(int((EPOCH + message.first_received_at) * 1000)),
            },
            "messageAttributes": {},
            "md5OfBody": hashlib.md5(message.body.encode(), usedforsecurity=False).hexdigest(),
            "eventSource": "aws:sqs",
            "eventSourceARN": f"arn:aws:sqs:us-east-1:123456789012:{self._queue.name}",
            "awsRegion": "us-east-1",
        }
