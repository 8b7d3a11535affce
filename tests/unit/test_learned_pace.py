"""The pace that all workers learn from a model's 429."""

import time

import pytest

from tests.unit.conftest import Account, Clock, Parts, Scripted
from turnqueue import circuit_breaker
from turnqueue.circuit_breaker import (
    FIRST_INTERVAL_SECONDS,
    OUTAGE_REFUSALS,
    SHORTEST_PERIOD_SECONDS,
    SLOWER,
    Breaker,
    BreakerStore,
    State,
    breaker_names,
)

NOW = 1000.0

# ---- The rule


def test_each_429_makes_calls_rarer_and_time_makes_them_more_frequent() -> None:
    breaker = Breaker().slowed(NOW - 1, NOW)
    assert breaker.pace(NOW) == FIRST_INTERVAL_SECONDS
    slower = breaker.slowed(NOW + 1, NOW + 1)
    assert FIRST_INTERVAL_SECONDS < slower.pace(NOW + 1) < FIRST_INTERVAL_SECONDS * SLOWER
    assert slower.pace(NOW + 2) < slower.pace(NOW + 1)
    assert slower.pace(NOW + 120) == 0


def test_a_429_for_a_call_before_the_last_change_says_nothing_new() -> None:
    breaker = Breaker().slowed(NOW - 1, NOW)

    assert breaker.slowed(NOW, NOW + 1) == breaker


def test_the_pace_outlasts_a_breaker_that_opens() -> None:
    breaker = Breaker().slowed(NOW - 1, NOW).refused(NOW, 1)

    assert breaker.state(NOW) is State.OPEN
    assert breaker.pace(NOW) == FIRST_INTERVAL_SECONDS


# ---- The worker


def learned(scripted: Scripted, interval: float) -> tuple[BreakerStore, str]:
    """The model's breaker, which has learned this pace."""
    store = BreakerStore("GuardsTable")
    name = breaker_names(scripted.url, "gpt-stand-in")[1]
    store.change(name, lambda breaker: breaker._replace(call_interval=interval, slowed_at=round(time.time(), 3)))
    return store, name


def test_a_429_is_learned_and_an_item_of_an_earlier_version_is_kept(account: Account, scripted: Scripted) -> None:
    store, name = learned(scripted, 0.0)
    account.dynamodb.update_item(
        TableName="GuardsTable", Key=store._key(name), UpdateExpression="REMOVE call_interval, slowed_at"
    )
    scripted.status = 429
    account.queued()

    account.work()

    breaker = store.read(name, consistent=True)
    assert (breaker.refusals, breaker.call_interval) == (1, FIRST_INTERVAL_SECONDS)


def test_turns_beyond_the_line_go_back_without_a_call_or_a_claim(
    account: Account, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "LINE_SECONDS", 0.5)
    # All turns ask at the same whole second, because a slot is lost to a clock that is a moment behind.
    now = float(int(time.time()))
    monkeypatch.setattr(time, "time", lambda: now)
    scripted.says("hello")
    learned(scripted, 0.5)
    tasks = [account.queued() for _ in range(5)]
    for record in (records := account.receive()):
        record["attributes"]["ApproximateReceiveCount"] = "2"  # so that the breaker is read
    began = time.monotonic()

    account.work(records)

    assert len(scripted.asked) == 2  # one at once, one after LINE_SECONDS
    assert time.monotonic() - began >= 0.45
    outcomes = [account.task(task_id) for task_id in tasks]
    assert sorted((task["status"], task["attempt"]) for task in outcomes) == [("PENDING", 0)] * 3 + [("SUCCESS", 1)] * 2


def test_a_turn_that_waits_for_its_known_place_gives_its_probe_to_another(
    account: Account, scripted: Scripted, worker: Parts, clock: Clock
) -> None:
    worker.rebuild(MODEL_REQUESTS_PER_MINUTE="1")
    scripted.says("hello")
    account.queued(session_id="s-1")
    account.work()  # it takes the place of this minute
    store, name = BreakerStore("GuardsTable"), breaker_names(scripted.url, "gpt-stand-in")[0]
    for _ in range(OUTAGE_REFUSALS):
        store.change(name, lambda breaker: breaker.refused(time.time(), OUTAGE_REFUSALS))
    clock.forward(SHORTEST_PERIOD_SECONDS)
    waiting = account.queued(session_id="s-2")
    [record] = account.receive()
    record["attributes"]["ApproximateReceiveCount"] = "2"

    account.work([record])

    assert account.outcome(waiting) == ("PENDING", None)
    assert len(scripted.asked) == 1
    assert store.read(name, consistent=True).state(time.time()) is State.HALF_OPEN
