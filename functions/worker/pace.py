"""Spaces the calls to a model by its known rate limit, `ModelRequestsPerMinute`. Each call reserves a slot: a time at
which it may start, up to a minute ahead. All workers share one item of the guards table, which holds the next free slot
(GCRA, as for owners' limits). A reservation takes one conditional write, or two if other calls already wait. DynamoDB
accepts about 1,000 writes a second to one item, so this works up to about 30,000 calls a minute.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from turnqueue.rate_limits import Rate, RateLimiter
from turnqueue.telemetry import error_name, logger
from turnqueue.turn import Turn

AHEAD_SECONDS = 60.0
"""The maximum number of seconds from a reservation to its slot: no message is hidden for a longer time."""


class Place(NamedTuple):
    """The result of a reservation. `is_taken`: whether the turn has a slot. `at`: the time of the slot, or the time to
    ask again."""

    at: float
    is_taken: bool


class Pace:
    """Paces the calls to the model `name`."""

    def __init__(self, limiter: RateLimiter, name: str, per_minute: int) -> None:
        self._limiter = limiter
        self._name = name
        self._rate = Rate(per_minute, burst=max(round(per_minute * AHEAD_SECONDS / 60), 1))

    def place(self, turn: Turn, now: float, draw: Callable[[], float] = random.random) -> Place:
        """Returns the slot that this turn reserved earlier, or reserves a new one.

        If the table does not answer, the call may be made now; the provider refuses a call that comes too early, and
        the turn then waits. If all slots of the next minute are taken, the turn asks again after a random 30 to 60 s.
        Asking sooner would not help, because each slot serves only one of the many waiting turns."""
        if turn.place_at is not None and turn.place_at > now - AHEAD_SECONDS:
            return Place(turn.place_at, is_taken=True)
        try:
            grant = self._limiter.take(self._name, self._rate, now, kind="pace")
        except (BotoCoreError, ClientError) as error:
            logger.warning("place not taken", extra={"task_id": turn.key.task_id, "error": error_name(error)})
            return Place(now, is_taken=True)
        if grant.wait:
            return Place(now + AHEAD_SECONDS * (1 + draw()) / 2, is_taken=False)
        return Place(now + max(grant.full_after - self._rate.interval, 0), is_taken=True)
