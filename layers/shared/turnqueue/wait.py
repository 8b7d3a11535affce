"""Waits for a turn to become final, by reads at growing intervals."""

import time
from functools import cache

from botocore.exceptions import BotoCoreError, ClientError

from turnqueue.circuit_breaker import ModelBreakers
from turnqueue.store import TurnStore
from turnqueue.telemetry import error_name, logger
from turnqueue.turn import Status, Turn
from turnqueue.usage import UsageStore

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 1.0
# A pause between two reads is 0.1 s plus 6 % of the time so far, at most 1 s. So a wait of 25 s takes 50 reads, and
# sees the change half a pause late on average. Longer pauses would cost more than they save: 0.25 s of the function
# (256 MB) cost as much as 13 reads (half a read unit each).
_GROWTH = 1.06
# A wait of this number of seconds is unusual, so the circuit breakers are then read. Usually a turn begins within 0.1
# s.
_PATIENCE_SECONDS = 1.0
# A wait ends this number of seconds before the function, because a last read can hang for 2 s.
_SECONDS_TO_ANSWER = 3.5


@cache
def single_try_store(turns: str, guards: str) -> TurnStore:
    """A store that tries each read once, for at most a second. Use it where the caller can go on without the result, or
    asks again soon."""
    return TurnStore(turns, attempts=1, read_timeout=1, usage=UsageStore(guards, attempts=1, read_timeout=1))


def wait_until_final(
    store: TurnStore, turn: Turn, seconds: float, ends_at: float, breakers: ModelBreakers | None = None
) -> Turn:
    """Waits up to `seconds` for the turn to become final, and returns its last read state. A last read that hangs can
    take 2 s more, but the wait always ends before `ends_at`, the end of the function. With `breakers`, the wait ends
    early if the turn has not begun after a second, and no model may be called.

    The reads are eventually consistent, at half the price: a stale read only delays the result. A failed read does not
    end the wait.
    """
    began = time.time()
    end, pause = min(began + seconds, ends_at - _SECONDS_TO_ANSWER), _FIRST_PAUSE
    while not turn.final and (left := end - time.time()) > 0:
        is_late = turn.status is Status.PENDING and time.time() - began >= _PATIENCE_SECONDS
        if breakers and is_late and breakers.wait(time.time()):
            return turn
        time.sleep(min(pause, left))
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)
        try:
            turn = store.read(turn.key, time.time(), consistent=False) or turn
        except (BotoCoreError, ClientError) as error:
            logger.warning("read failed", extra={"task_id": turn.key.task_id, "error": error_name(error)})
    return turn
