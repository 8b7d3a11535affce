"""Trouble at the model delays answers but loses none: every task is SUCCESS, in order, soon after the model's
return."""

import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from tests.patience.trials import Stack, check

OUTAGE_SECONDS = 60
TASKS, SESSIONS = 20, 10


def outage(stack: Stack, begin: Callable[[], None], end: Callable[[], None]) -> tuple[list[dict[str, Any]], float]:
    """Tasks are submitted during a minute of trouble. Returns them when they are final, and when the trouble ended."""
    begin()
    began = time.time()
    tasks = []
    for number in range(TASKS):
        tasks.append(stack.submit(number, SESSIONS))
        time.sleep(max(0.0, began + (number + 1) * 50 / TASKS - time.time()))
    time.sleep(max(0.0, began + OUTAGE_SECONDS - time.time()))
    end()
    returned_at = time.time()
    return stack.ended(tasks, 120), returned_at


@pytest.mark.parametrize("status", [503, 429, 529])
def test_a_minute_of_refusals(stack: Stack, status: int) -> None:
    tasks, returned_at = outage(stack, lambda: stack.model.faults(status=status), lambda: stack.model.faults())
    refused = stack.refused()

    check(f"{status} for 60 s", tasks, returned_at, refused, within=60)
    assert refused / len(tasks) <= 0.5


def test_a_minute_of_refused_connections(stack: Stack) -> None:
    tasks, returned_at = outage(stack, stack.model.kill, stack.model.start)

    # A model that is down counts no calls, so the table has no number here.
    check("connections refused for 60 s", tasks, returned_at, 0, within=60)


def test_a_model_that_thinks_for_100_s(stack: Stack) -> None:
    tasks = [stack.api.submit(f"[[hang=100]] {uuid.uuid4()}") for _ in range(4)]
    began = time.time()

    ended = stack.ended(tasks, 180)

    check("silent for 100 s, then an answer", ended, began + 100, 0, within=60)
    assert {task["attempt"] for task in ended} == {1}


@pytest.mark.parametrize("known", [False, True], ids=["unknown", "known"])
def test_more_is_asked_than_granted(stack: Stack, known: bool) -> None:
    """150 calls a minute for 3 minutes, to a model that grants 120."""
    stack.calm(MODEL_REQUESTS_PER_MINUTE="120" if known else "0")
    stack.model.faults(per_minute=120)
    began = time.time()
    tasks = []
    for number in range(450):
        tasks.append(stack.submit(number, 450))
        time.sleep(max(0.0, began + (number + 1) * 0.4 - time.time()))
    asked_until = time.time()

    ended = stack.ended(tasks, 240)
    refused = stack.refused()

    limit = "ModelRequestsPerMinute=120" if known else "limit unknown"
    check(f"120 a minute granted, 150 asked for 3 minutes, {limit}", ended, asked_until, refused, within=60)
    assert refused / len(ended) <= (0 if known else 0.5)
