"""Places below the known rate of a model, one for each call: `ModelRequestsPerMinute`.

All workers share one item of the guards table, which holds the time of the next free place (GCRA, as for owners'
limits). A place is taken by one conditional write, up to a minute ahead; a second write if others wait already.
DynamoDB takes about 1,000 writes a second for one item, so one model can be paced up to some 30,000 calls a minute.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from turnqueue.rate_limits import Rate, RateLimiter
from turnqueue.telemetry import error_name, logger
from turnqueue.turn import Turn

AHEAD_SECONDS = 60.0
"""Seconds ahead for which a place may be taken, because no message is hidden for longer."""


class Place(NamedTuple):
    """The time at which the call may be made; or, if no place was taken, the time to ask again."""

    at: float
    is_taken: bool


class Pace:
    """The places of one model, by its `name`."""

    def __init__(self, limiter: RateLimiter, name: str, per_minute: int) -> None:
        self._limiter = limiter
        self._name = name
        self._rate = Rate(per_minute, burst=max(round(per_minute * AHEAD_SECONDS / 60), 1))

    def place(self, turn: Turn, now: float, draw: Callable[[], float] = random.random) -> Place:
        """The place that this turn took earlier, or a new one. If the table does not answer, the call may be made now.
        The provider refuses it if it is too early, and the turn waits. If all places of the next minute are taken, the
        turn asks again after a random half minute to minute. A place becomes free sooner, but only for one of all
        waiting turns."""
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
