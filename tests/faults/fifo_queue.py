"""An SQS FIFO queue as its consumers see it, on a given clock. Not thread-safe.

The queue follows AWS's documentation, and not an emulator:
- A group delivers nothing while one of its messages is in flight.
- A batch whose visibility expires is delivered again in order.
- SQS refuses a handle that is expired or superseded.
- A message that is sent again within 5 minutes is dropped, even if the first one was deleted, but only within its group.
- A message that was received too often goes to the dead-letter queue at its next receive.
- A receive that is repeated with the same attempt id gets the same messages.
"""

import itertools
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

DEDUPLICATION_SECONDS = 300
LONGEST_VISIBILITY = 43_200
MOST_AT_ONCE = 10


class QueueError(Exception):
    """SQS refuses: `code` as on the wire."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(eq=False)
class Message:
    message_id: str
    body: str
    group: str
    deduplication_id: str
    sequence: int
    sent_at: float
    received: int = 0
    first_received_at: float | None = None
    visible_at: float = -math.inf
    handle: str | None = None
    deleted: bool = False
    is_changed: bool = False
    """Whether its consumer has changed its visibility since it was handed out."""

    def in_flight(self, now: float) -> bool:
        return self.visible_at > now


class Received(NamedTuple):
    """A message as it was handed out; the handle is of this one delivery."""

    message_id: str
    handle: str
    body: str
    group: str
    deduplication_id: str
    sequence: int
    receive_count: int
    sent_at: float
    first_received_at: float


class FifoQueue:
    def __init__(
        self,
        name: str,
        clock: Callable[[], float],
        *,
        visibility: float,
        retention: float = 4 * 86_400,
        most_receives: int | None = None,
        dead_letters: "FifoQueue | None" = None,
    ) -> None:
        self.name = name
        self.visibility = visibility
        self.most_receives = most_receives
        self.on_change: Callable[[], None] = lambda: None
        self.on_hand_out: Callable[[Message], None] = lambda message: None
        self.was_expired = False
        """Whether a test has let messages become visible before their time."""
        self.bodies: list[str] = []
        self.longest_hidden = 0.0
        """The maximum seconds that a consumer has hidden a message for at once."""
        self._clock = clock
        self._retention = retention
        self._dead_letters = dead_letters
        self._messages: list[Message] = []
        self._by_handle: dict[str, Message] = {}
        self._attempts: dict[str, list[Received]] = {}
        self._sent: dict[tuple[str, str], Message] = {}
        self._sequence = itertools.count(1)

    # ---- what SQS offers

    def send(self, body: str, group: str, deduplication_id: str) -> Message:
        """Queue a message. One that was sent within the last 5 minutes is answered like the first and dropped."""
        now = self._clock()
        earlier = self._sent.get((group, deduplication_id))
        if earlier and now - earlier.sent_at < DEDUPLICATION_SECONDS:
            return earlier
        number = next(self._sequence)
        message = Message(f"{self.name}-{number}", body, group, deduplication_id, number, now)
        self._sent[group, deduplication_id] = message
        self._add(message)
        return message

    def receive(
        self, limit: int = MOST_AT_ONCE, *, visibility: float | None = None, attempt_id: str = ""
    ) -> list[Received]:
        """Up to `limit` messages, those of a group in order. They are in flight until their visibility runs out: that of
        the queue, or `visibility` seconds. The same `attempt_id` gets the same messages, and their visibility runs anew,
        as long as nothing has become of any of them."""
        now = self._clock()
        visibility = self.visibility if visibility is None else visibility
        if earlier := self._of_attempt(attempt_id, now):
            for each in earlier:
                self._by_handle[each.handle].visible_at = now + visibility
            return earlier
        self._forget_old(now)
        locked = {message.group for message in self._messages if message.in_flight(now)}
        received: list[Received] = []
        for message in self._messages.copy():
            if message.group in locked:
                continue
            if self.most_receives is not None and message.received >= self.most_receives:
                self._give_up(message, now)
                continue
            if len(received) == min(limit, MOST_AT_ONCE):
                break
            received.append(self._hand_out(message, now, visibility))
        if attempt_id:
            self._attempts[attempt_id] = received
        return received

    def delete(self, handle: str) -> None:
        """Delete a message. To delete it again is no error; to delete it by a handle that is no longer its own is one."""
        message = self._of(handle)
        if message.deleted:
            return
        self._check(message, handle)
        self._remove(message)
        self.on_change()

    def change_visibility(self, handle: str, seconds: float) -> None:
        if not 0 <= seconds <= LONGEST_VISIBILITY:
            raise QueueError("InvalidParameterValue", "Value for parameter VisibilityTimeout is invalid.")
        self.longest_hidden = max(self.longest_hidden, seconds)
        message = self._of(handle)
        if message.deleted:
            raise QueueError("InvalidParameterValue", "Message does not exist or is not available.")
        self._check(message, handle)
        assert message.first_received_at is not None
        now = self._clock()
        if now + seconds - message.first_received_at > LONGEST_VISIBILITY:
            raise QueueError("InvalidParameterValue", "Total VisibilityTimeout is beyond the limit of 43200 seconds.")
        message.visible_at = now + seconds
        message.is_changed = True
        self.on_change()

    # ---- what a test may ask or do

    def has_some(self) -> bool:
        """Whether a receive would get a message."""
        now = self._clock()
        locked = {message.group for message in self._messages if message.in_flight(now)}
        return any(message.group not in locked for message in self._messages)

    def next_visible_at(self) -> float:
        """When the next message that is in flight now becomes visible."""
        now = self._clock()
        return min((m.visible_at for m in self._messages if m.in_flight(now)), default=math.inf)

    def waiting(self) -> list[Message]:
        """All messages that are not deleted, in flight or not."""
        return list(self._messages)

    def expire(self, message_ids: Collection[str]) -> None:
        """Let messages become visible before their time, while their consumer still works on them."""
        self.was_expired = True
        for message in self._messages:
            if message.message_id in message_ids:
                message.visible_at = self._clock()
        self.on_change()

    def lose(self, message_id: str) -> None:
        """Remove a message without a trace, which SQS never does: for stories in which one is not there."""
        for message in self._messages.copy():
            if message.message_id == message_id:
                self._remove(message)

    # ---- inside

    def _add(self, message: Message) -> None:
        self._messages.append(message)
        self.bodies.append(message.body)
        self.on_change()

    def _of_attempt(self, attempt_id: str, now: float) -> list[Received]:
        received = self._attempts.get(attempt_id, [])
        messages = [self._by_handle[each.handle] for each in received]
        is_untouched = all(
            message.handle == each.handle and message.in_flight(now) and not (message.deleted or message.is_changed)
            for message, each in zip(messages, received, strict=True)
        )
        return received if is_untouched else []

    def _hand_out(self, message: Message, now: float, visibility: float) -> Received:
        self.on_hand_out(message)
        message.received += 1
        message.first_received_at = message.first_received_at or now
        message.visible_at = now + visibility
        message.is_changed = False
        message.handle = f"{message.message_id}/{message.received}"
        self._by_handle[message.handle] = message
        return Received(
            message.message_id,
            message.handle,
            message.body,
            message.group,
            message.deduplication_id,
            message.sequence,
            message.received,
            message.sent_at,
            message.first_received_at,
        )

    def _of(self, handle: str) -> Message:
        try:
            return self._by_handle[handle]
        except KeyError:
            raise QueueError("ReceiptHandleIsInvalid", "The input receipt handle is invalid.") from None

    def _check(self, message: Message, handle: str) -> None:
        if message.handle != handle or not message.in_flight(self._clock()):
            raise QueueError(
                "InvalidParameterValue",
                f"Value {handle} for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.",
            )

    def _remove(self, message: Message) -> None:
        message.deleted = True
        self._messages.remove(message)

    def _give_up(self, message: Message, now: float) -> None:
        self._remove(message)
        if self._dead_letters:
            # The queue of dead letters counts its own time and order; a message keeps its id and its count.
            self._dead_letters._add(
                Message(
                    message.message_id,
                    message.body,
                    message.group,
                    message.deduplication_id,
                    next(self._dead_letters._sequence),
                    now,
                    message.received,
                )
            )

    def _forget_old(self, now: float) -> None:
        for message in self._messages.copy():
            if now - message.sent_at > self._retention:
                self._remove(message)
