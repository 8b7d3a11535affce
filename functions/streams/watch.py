"""Watches a turn and its event log: reads both at short intervals."""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from turnqueue.events import Event, EventLog
from turnqueue.store import TurnStore
from turnqueue.telemetry import error_name, logger
from turnqueue.turn import Status, Turn

# Seconds between two reads. The worker writes a row every 0.25 s at first, and later every 0.5 or 1 s. A read of the
# log costs half a read unit.
_SHORTEST_PAUSE, _LATER_PAUSE = 0.1, 0.2
_SECONDS_UNTIL_LATER = 10.0
_LONGEST_PAUSE = 1.0
_GROWTH = 0.05  # a pause is this share of the time since the last new row or status, within the limits above
_LONGEST_WITHOUT_A_LOOK = 2.0
"""The maximum number of seconds between two reads of the turn. The turn is read even while new rows come, because a
worker that has lost the turn can still write rows."""


class State(NamedTuple):
    """A state of a turn, and the rows since the previous state."""

    turn: Turn
    rows: Sequence[Event]


def states(store: TurnStore, log: EventLog, turn: Turn, after: int, ends_at: float) -> Iterator[State]:
    """Yields the state of a turn after each read, and at least once. Stops when the turn is final, or at `ends_at`.
    `after`: the last known row. Raises botocore's ClientError or BotoCoreError if the first read fails. A later read
    that fails is tried again.
    """
    rows = log.after(turn.key, after, consistent=True)
    began_at = news_at = looked_at = time.time()
    while True:
        yield State(turn, rows)
        after = rows[-1].n if rows else after
        if turn.final or (left := ends_at - time.time()) <= 0:
            return
        now = time.time()
        shortest = _SHORTEST_PAUSE if now - began_at < _SECONDS_UNTIL_LATER else _LATER_PAUSE
        time.sleep(min(max(_GROWTH * (now - news_at), shortest), _LONGEST_PAUSE, left))
        rows = []
        try:
            if turn.status is Status.STARTED:
                rows = log.after(turn.key, after)
            if not rows or time.time() - looked_at > _LONGEST_WITHOUT_A_LOOK:
                looked_at = time.time()
                seen = store.read(turn.key, looked_at, consistent=False) or turn
                if seen.final:
                    # These rows are the last ones, because the turn's worker writes none after the turn's end.
                    rows = log.after(turn.key, after, consistent=True)
                if seen.status is not turn.status:
                    news_at = time.time()
                turn = seen
        except (BotoCoreError, ClientError) as error:
            logger.warning("read failed", extra={"task_id": turn.key.task_id, "error": error_name(error)})
        if rows:
            news_at = time.time()
