"""Maps every outcome of a delivery to one decision: the turn is done, SQS delivers the message again in some seconds,
or the turn fails with a code. The rules use neither AWS nor a model. invocation.py and attempt.py execute the
decisions."""

import random
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from modelerror import ModelError
from turnqueue.circuit_breaker import MOST_HIDDEN_SECONDS
from turnqueue.turn import MAX_ATTEMPTS, Turn

# While AWS fails, SQS delivers the message again 5 s after the first delivery, 10 s after the second, and so on up to
# 30 s.
_AWS_BACKOFF_SECONDS = 5.0
_LONGEST_AWS_BACKOFF_SECONDS = 30.0


class Verdict(Enum):
    DONE = "done"  # the turn is final: the worker deletes the message
    BACK = "back"  # SQS delivers the message again
    FAIL = "fail"  # the worker writes FAILURE with `code`, then deletes the message


class Decision(NamedTuple):
    """The worker's decision about a turn and its message. `seconds`: the time until SQS delivers the message again;
    None for the end of the message's visibility timeout. `is_refund`: whether the turn gets another attempt in place of
    this one."""

    verdict: Verdict
    seconds: float | None = None
    code: str = ""
    is_refund: bool = False


DONE = Decision(Verdict.DONE)


def back(seconds: float | None, *, is_refund: bool = False) -> Decision:
    return Decision(Verdict.BACK, seconds, is_refund=is_refund)


def fail(code: str) -> Decision:
    return Decision(Verdict.FAIL, code=code)


def not_claimed(current: Turn | None, now: float) -> Decision:
    """The decision for a message whose turn could not be claimed. `current`: the turn as it is now, None if it does not
    exist."""
    match current:
        case None:
            return DONE
        case Turn(final=True):
            return DONE
        case Turn() if current.overdue(now):
            return fail(current.overdue_code)
        case Turn() if current.held(now):
            # add 1 s, because clocks differ
            return back(min((current.lease_until or now) - now + 1, MOST_HIDDEN_SECONDS))
        case Turn() if current.attempt >= current.last_attempt:
            return fail("worker_lost")  # the worker of the last attempt crashed, so it recorded no outcome
        case _:
            return back(1)  # the turn has changed since the claim was refused, so try again soon


def superseded(current: Turn | None) -> Decision:
    """The decision for an attempt that lost its turn: another worker has claimed it, or another function has ended
    it."""
    return DONE if current is None or current.final else back(None)


def after_failure(turn: Turn, error: ModelError, now: float, *, is_fallback_next: bool) -> Decision:
    """The decision after a failure of the model or an error in the worker. `is_fallback_next`: the next attempt asks
    another model, so the Retry-After of this model is ignored."""
    asked_for = 0.0 if is_fallback_next else error.retry_after or 0.0
    refused_wait = refusal_backoff(1 if is_fallback_next else turn.refusals + 1, asked_for)
    wait = backoff(turn.tries, asked_for)
    match error:
        case _ if turn.overdue(now):
            return fail(error.code if error.refused else turn.overdue_code)
        case ModelError(retryable=False):
            return fail(error.code)  # A later attempt would not help: for example, the key is wrong.
        case ModelError(refused=True) if now + refused_wait < turn.deadline_at:
            return back(refused_wait, is_refund=True)
        case ModelError(refused=True):
            return fail(error.code)
        case _ if turn.attempt >= turn.last_attempt or now + wait >= turn.deadline_at:
            return fail(error.code)
        case _:
            return back(wait)


def aws_failed(deliveries: int) -> Decision:
    """The decision for a message that could not be handled because AWS failed. `deliveries`: how often SQS delivered
    it."""
    return back(min(deliveries * _AWS_BACKOFF_SECONDS, _LONGEST_AWS_BACKOFF_SECONDS))


def backoff(tries: int, asked_for: float, draw: Callable[[], float] = random.random) -> float:
    """The back-off in seconds before the next attempt: 2 after the first try, 4 after the second, 8 after later tries,
    but at least `asked_for`. A random addition of up to 50 % separates turns that failed together. The sum is at most
    60 s."""
    return min(max(2.0 ** min(tries, MAX_ATTEMPTS), asked_for) * (1 + draw() / 2), MOST_HIDDEN_SECONDS)


def refusal_backoff(refusals: int, asked_for: float, draw: Callable[[], float] = random.random) -> float:
    """The back-off in seconds after a refusal: it starts at 2, doubles with each refusal, and is at least `asked_for`.
    A random addition of up to 50 % separates turns that were refused together. If the sum is more than 60 s, the
    back-off is a random 48 to 60 s."""
    wait = max(2.0 ** min(refusals, 10), asked_for) * (1 + draw() / 2)
    return wait if wait < MOST_HIDDEN_SECONDS else MOST_HIDDEN_SECONDS * (1 - draw() / 5)
