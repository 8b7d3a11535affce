"""An owner's usage of a day: a submit reserves it, the end of the turn settles it, and it never decreases."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.conftest import Account, Clock, Wire, refusing
from turnqueue.turn import Key, Turn
from turnqueue.usage import (
    TOKENS_OF_AN_ANSWER,
    TOKENS_OF_AN_IMAGE,
    UsageStore,
    _counts,
    day_of,
    estimated_tokens,
    lost_attempt,
)

NOON = 1_800_014_400.0  # of a day of its own
USED = {"prompt_tokens": 30, "completion_tokens": 12, "cached_tokens": 8, "cost_usd": 0.000031}


@pytest.fixture
def days(account: Account) -> UsageStore:
    return UsageStore("GuardsTable", attempts=1)


def turn(reserved: int = 0, at: float = NOON, owner: str = "alice") -> Turn:
    key = Key(f"{owner}#s-1", "01KANEC0X00000000000000000")
    return Turn.submitted(key, {"message": "hello", "role": "general"}, at)._replace(reserved_tokens=reserved)


def tokens(days: UsageStore, at: float = NOON, owner: str = "alice") -> tuple[int, int]:
    """The tokens used on a day, and those reserved."""
    day = days.read(owner, day_of(at))
    return day["prompt_tokens"] + day["completion_tokens"], day["reserved_tokens"]


# ---- Reserving


def test_a_reservation_counts_like_use(days: UsageStore) -> None:
    assert days.reserve("alice", 60, 100, NOON) == (True, 0, 60)
    assert days.reserve("alice", 60, 100, NOON) == (True, 0, 120)  # the last one may go over
    assert days.reserve("alice", 60, 100, NOON) == (False, 0, 120)
    assert tokens(days) == (0, 120)
    assert days.reserve("bob", 60, 100, NOON).taken
    assert days.reserve("alice", 60, 100, NOON + 86_400).taken


def test_of_100_at_once_no_more_are_let_in_than_the_quota_has_room_for(days: UsageStore) -> None:
    with ThreadPoolExecutor(50) as threads:
        taken = list(threads.map(lambda _: days.reserve("alice", 10, 100, NOON).taken, range(100)))

    assert taken.count(True) == 10
    assert tokens(days) == (0, 100)


def test_exactly_at_the_quota_nothing_is_left(days: UsageStore) -> None:
    days.settle(turn(), {"prompt_tokens": 99, "completion_tokens": 0}, NOON, is_final=True)
    assert days.reserve("alice", 1, 100, NOON) == (True, 99, 100)
    assert days.reserve("alice", 1, 100, NOON) == (False, 99, 100)


def test_a_day_of_an_earlier_version_counts_what_was_used(account: Account, days: UsageStore) -> None:
    """It has no charge."""
    days.settle(turn(), USED, NOON, is_final=True)
    [item] = account.items("GuardsTable")
    del item["charged_tokens"]
    account.dynamodb.put_item(TableName="GuardsTable", Item=item)

    assert days.reserve("alice", 60, 42, NOON) == (False, 42, 60)
    assert tokens(days) == (42, 0)
    assert days.reserve("alice", 60, 43, NOON).taken


# ---- Settling


def test_the_end_of_a_turn_puts_what_was_used_in_the_place_of_the_reservation(days: UsageStore, wire: Wire) -> None:
    days.reserve("alice", 60, 100, NOON)
    wire.calls.clear()

    days.settle(turn(60), USED, NOON + 5, is_final=True, answers=1)

    assert [call.operation for call in wire.calls] == ["UpdateItem"]
    assert tokens(days) == (42, 0)
    assert days.read("alice", day_of(NOON)) == {
        "answers": 1,
        "prompt_tokens": 30,
        "completion_tokens": 12,
        "cached_tokens": 8,
        "estimated_tokens": 0,
        "reserved_tokens": 0,
        "cost_usd": 0.000031,
    }


def test_an_attempt_that_is_not_the_last_leaves_the_reservation(days: UsageStore) -> None:
    days.reserve("alice", 60, 1000, NOON)

    days.settle(turn(60), USED, NOON, is_final=False)

    assert tokens(days) == (42, 60)
    assert days.read("alice", day_of(NOON))["answers"] == 0


def test_a_turn_that_used_nothing_gives_its_tokens_back(days: UsageStore) -> None:
    days.reserve("alice", 60, 100, NOON)
    days.settle(turn(60), None, NOON, is_final=True)
    days.reserve("alice", 60, 100, NOON)
    days.release(turn(60))

    assert tokens(days) == (0, 0)


def test_nothing_to_add_is_no_write(days: UsageStore, wire: Wire) -> None:
    days.settle(turn(), None, NOON, is_final=True)
    days.settle(turn(60), {"prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0}, NOON, is_final=False)
    days.release(turn())

    assert wire.calls == []


def test_a_turn_that_ends_after_midnight_gives_its_tokens_back_to_its_own_day(days: UsageStore) -> None:
    days.reserve("alice", 60, 100, NOON)
    tomorrow = NOON + 86_400

    days.settle(turn(60), USED, tomorrow, is_final=True, answers=1)

    assert tokens(days) == (0, 0)
    assert tokens(days, tomorrow) == (42, 0)


def test_a_turn_that_is_settled_twice_lowers_no_sum_below_what_was_used(days: UsageStore) -> None:
    days.reserve("alice", 60, 1000, NOON)
    for _ in range(3):
        days.settle(turn(60), USED, NOON, is_final=True)

    assert tokens(days) == (126, 0)
    assert not days.reserve("alice", 60, 126, NOON).taken


def test_an_estimate_is_told_as_one(days: UsageStore) -> None:
    days.settle(turn(), USED | {"estimated": True}, NOON, is_final=True)
    days.settle(turn(), USED, NOON, is_final=True)

    day = days.read("alice", day_of(NOON))
    assert (day["prompt_tokens"] + day["completion_tokens"], day["estimated_tokens"]) == (84, 42)


ODD: Any = st.one_of(
    st.integers(), st.booleans(), st.none(), st.floats(), st.text(max_size=3), st.sampled_from([-1, 10**9, 10**9 - 1])
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no bug
@given(used=st.fixed_dictionaries({}, optional={name: ODD for name in (*USED, "estimated")}))
def test_whatever_a_server_reports_no_count_gets_smaller_and_no_cost_is_odd(used: dict[str, Any]) -> None:
    counts = _counts(used)

    for name, value in counts.items():
        assert type(value) is int and value >= 0, name
    assert counts["cached_tokens"] <= counts["prompt_tokens"] < 10**9
    assert counts["completion_tokens"] < 10**9
    assert counts.get("cost_micros", 0) <= 10**10


# ---- Estimating


def test_an_estimate_has_all_that_the_model_may_be_given_and_an_answer() -> None:
    request = {"message": "x" * 400, "media": [{"type": "image", "url": "https://e.com/a.png"}] * 2}

    first = estimated_tokens(request)

    assert first == 101 + 2 * TOKENS_OF_AN_IMAGE + TOKENS_OF_AN_ANSWER
    assert estimated_tokens(request, 16_000) == first + 16_000
    assert estimated_tokens({"message": "ü" * 400}) == 201 + TOKENS_OF_AN_ANSWER


@pytest.mark.parametrize("reserved", [0, 1, 2500, 18_000])
def test_a_lost_attempt_takes_what_was_reserved_and_is_an_estimate(reserved: int) -> None:
    lost = lost_attempt(turn(reserved))

    whole = reserved or estimated_tokens(turn().request)
    assert lost["prompt_tokens"] + lost["completion_tokens"] == whole
    assert lost["estimated"] is True


# ---- Turns that end without a worker


def reserved_task(account: Account, days: UsageStore) -> str:
    """A queued task that has 60 tokens of its owner's day."""
    submit = account.functions["submit"]
    waiting = turn(60, time.time())
    days.reserve("alice", 60, 1000, waiting.created_at)
    submit.store.create(waiting)
    submit.queue.send(waiting.key)
    return waiting.key.task_id


@pytest.mark.parametrize("end", ["cancelled", "overdue", "dead letter"])
def test_a_task_that_ends_before_a_worker_has_begun_it_gives_its_tokens_back_once(
    account: Account, days: UsageStore, clock: Clock, end: str
) -> None:
    clock.forward(86_400 - time.time() % 86_400 + 3600)  # so that no day ends meanwhile
    task_id = reserved_task(account, days)
    if end == "overdue":
        clock.forward(900)

    for _ in range(2):
        if end == "cancelled":
            assert account.cancel(task_id)["statusCode"] == 200
        elif end == "dead letter":
            account.bury(account.receive())
        assert account.task(task_id)["status"] == "FAILURE"

    assert tokens(days, time.time()) == (0, 0)


def test_a_dead_letter_whose_worker_was_lost_is_settled_by_its_estimate(
    account: Account, days: UsageStore, clock: Clock
) -> None:
    clock.forward(86_400 - time.time() % 86_400 + 3600)
    reserved_task(account, days)
    records = account.receive()
    store = account.functions["submit"].store
    store.claim(turn().key, time.time(), time.time() + 60)
    clock.forward(61)

    assert account.bury(records) == []

    assert tokens(days, time.time()) == (60, 0)
    assert days.read("alice", day_of(time.time()))["estimated_tokens"] == 60


def test_a_day_that_cannot_be_written_keeps_the_reservation_and_the_task_ends(
    account: Account, days: UsageStore, wire: Wire
) -> None:
    task_id = reserved_task(account, days)

    def refuse(params: dict[str, Any]) -> None:
        wire.before("UpdateItem", refusing_guards)

    def refusing_guards(params: dict[str, Any]) -> None:
        assert params["TableName"] == "GuardsTable"
        refusing()(params)

    wire.after("UpdateItem", refuse)
    assert account.cancel(task_id)["statusCode"] == 200

    assert account.outcome(task_id) == ("FAILURE", "cancelled")
    assert tokens(days, time.time()) == (0, 60)
