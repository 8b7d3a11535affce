"""Receives turns from the queue, in addition to those of the worker's event, by one ReceiveMessage call at a time.

If the response of such a call is lost or not awaited, SQS still hides the response's messages until their visibility
timeout ends (github.com/aws/aws-sdk-js/issues/2350). So the worker always waits for the response. It repeats a failed
call with the same attempt id, and SQS then returns the same messages.
"""

import asyncio
import secrets
import time

from botocore.exceptions import BotoCoreError, ClientError

from leases import LEASE_SECONDS
from turnqueue.queue import Message, TurnQueue
from turnqueue.telemetry import error_name, logger

POLL_SECONDS = 1
"""The seconds that SQS waits for a message. With a shorter wait, the long polls of Lambda's event source would get all
messages, and Lambda would start another worker for them."""

READ_SECONDS = POLL_SECONDS + 3.0
"""The read timeout of a receive, in seconds."""

# Seconds between two receives under load. Without this pause, there would be twice as many receives. The pause delays a
# turn by 0.1 s on average.
_PAUSE_SECONDS = 0.2
_PAUSE_AFTER_TROUBLE_SECONDS = 1.0
_REPEATS = 2  # even if no turn runs any more, a failed receive is repeated up to this number of times


class Intake:
    """The receives of one invocation. `queue` tries each call once and waits READ_SECONDS for the response."""

    def __init__(self, queue: TurnQueue) -> None:
        self._queue = queue
        self._failures = 0
        self._attempt_id = ""
        self._attempt_until = 0.0
        self._most = 0

    @property
    def pause(self) -> float:
        """Seconds until the next receive."""
        return _PAUSE_AFTER_TROUBLE_SECONDS if self._failures else _PAUSE_SECONDS

    @property
    def is_owed(self) -> bool:
        """Whether the last receive must be repeated. It failed, but perhaps SQS has already hidden messages for it."""
        return 0 < self._failures <= _REPEATS

    async def poll(self, most: int) -> list[Message]:
        """Receive up to `most` messages, each hidden for LEASE_SECONDS. Returns no messages if the receive fails; the
        next `poll` then repeats the receive."""
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
