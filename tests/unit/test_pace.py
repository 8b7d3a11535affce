"""The known rate of a model: a turn calls at its reserved time, and not earlier."""

import os
import time

import pytest

from tests.unit.conftest import Account, Parts, StandIn, Wire
from turnqueue.circuit_breaker import model_name
from turnqueue.rate_limits import Rate, RateLimiter

PER_MINUTE = 6


def take(places: int) -> float:
    """Take so many places as other workers do. Returns the time of the next one."""
    limiter = RateLimiter("GuardsTable", attempts=1, read_timeout=1)
    name, now = model_name(os.environ["MODEL_BASE_URL"], os.environ["MODEL_NAME"]), time.time()
    for number in range(places):
        grant = limiter.take(name, Rate(PER_MINUTE, PER_MINUTE), now + number / 1000, kind="pace")
    return now + grant.full_after


def hidden(wire: Wire) -> int:
    """For how long the last message was hidden."""
    seconds: int = wire.made("ChangeMessageVisibilityBatch")[-1]["Entries"][0]["VisibilityTimeout"]
    return seconds


def test_a_turn_without_a_place_makes_no_call_and_asks_again_after_half_a_minute(
    account: Account, worker: Parts, wire: Wire, model: StandIn
) -> None:
    """All places of the next minute are taken, and the next is free in ten seconds: for one turn of all that wait."""
    worker.rebuild(MODEL_REQUESTS_PER_MINUTE=str(PER_MINUTE))
    take(PER_MINUTE)
    task_id = account.queued()

    account.work()

    assert model.messages() == []
    assert account.outcome(task_id) == ("PENDING", None)
    assert 29 <= hidden(wire) <= 60
    assert "place_at" not in account.item(task_id)


def test_a_turn_comes_back_before_its_place_and_waits_for_it_in_the_worker(
    account: Account, worker: Parts, wire: Wire, model: StandIn
) -> None:
    """SQS hides a message for whole seconds. A turn that comes back late calls together with those behind it."""
    worker.rebuild(MODEL_REQUESTS_PER_MINUTE=str(PER_MINUTE))
    place_at = take(1)
    task_id = account.queued()

    account.work()

    assert model.messages() == []
    assert float(account.item(task_id)["place_at"]["N"]) == pytest.approx(place_at, abs=0.01)
    assert place_at - 2 <= time.time() + hidden(wire) <= place_at
