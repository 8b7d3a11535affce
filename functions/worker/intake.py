"""Polls the queue for more turns than those of the worker's event, one poll at a time. SQS may give messages to a poll
whose response is lost, or whose caller has gone (github.com/aws/aws-sdk-js/issues/2350). Those messages are then hidden
for a lease. So the worker never abandons a poll. It repeats a failed poll with the same attempt id, which brings the
same messages.
"""

import asyncio
import secrets
import time

from botocore.exceptions import BotoCoreError, ClientError

from leases import LEASE_SECONDS
from turnqueue.queue import Message, TurnQueue
from turnqueue.telemetry import error_name, logger

POLL_SECONDS = 1
"""How long SQS waits for a message. Shorter polls get nothing beside the long polls of Lambda's event source, which
then starts another worker."""

READ_SECONDS = POLL_SECONDS + 3.0
"""The read timeout of a poll."""

_PAUSE_SECONDS = 0.2  # This halves the polls under load. A turn waits for half of this time on average.
_PAUSE_AFTER_TROUBLE_SECONDS = 1.0
_REPEATS = 2  # seconds after a failed poll when all turns are over


class Intake:
    """The polls of one invocation. `queue` tries each call once and waits READ_SECONDS for the response."""

    def __init__(self, queue: TurnQueue) -> None:
        self._queue = queue
        self._failures = 0
        self._attempt_id = ""
        self._attempt_until = 0.0
        self._most = 0

    @property
    def pause(self) -> float:
        """Seconds until the next poll."""
        return _PAUSE_AFTER_TROUBLE_SECONDS if self._failures else _PAUSE_SECONDS

    @property
    def is_owed(self) -> bool:
        """Whether to repeat the last poll, because it failed and its messages may be hidden for this worker."""
        return 0 < self._failures <= _REPEATS

    async def poll(self, most: int) -> list[Message]:
        """Poll for up to `most` messages, each hidden for a lease. Returns none if the poll fails; the next call then
        repeats it."""
        now = time.time()
        if not self._failures or now >= self._attempt_until:
            self._attempt_id, self._attempt_until, self._most = secrets.token_hex(16), now + LEASE_SECONDS, most
        try:
            messages = await asyncio.to_thread(
                self._queue.receive,
                self._most,
                hidden_for=round(LEASE_SECONDS),
                wait=POLL_SECONDS,
                attempt_id=self._attempt_id,
            )
        except (BotoCoreError, ClientError) as error:
            self._failures += 1
            logger.warning("queue not polled", extra={"error": error_name(error)})
            return []
        self._failures = 0
        return messages
