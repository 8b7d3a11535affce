"""Waiting for a turn to become final, by reading it at growing intervals."""

import time

from turnqueue.store import TurnStore
from turnqueue.turn import Turn

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 1.0
_GROWTH = 1.3  # 0.1 s to 1 s in nine reads; 30 reads in 25 s


def wait_until_final(store: TurnStore, turn: Turn, seconds: float) -> Turn:
    """The turn once it is final, or as it stands after `seconds`.

    The reads are eventually consistent, at half the price: a stale one only tells the news a moment later.
    """
    end, pause = time.time() + seconds, _FIRST_PAUSE
    while not turn.final and (left := end - time.time()) > 0:
        time.sleep(min(pause, left))
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)
        turn = store.read(turn.key, time.time(), consistent=False) or turn
    return turn
