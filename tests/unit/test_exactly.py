"""Values just before a limit and exactly at it. Time stands still until a test moves it."""

import time

import pytest

from tests.unit.conftest import Account, StandIn, Wire
from tests.unit.test_cache import SetCache, answered, is_hit, send, set_cache
from turnqueue.turn import DEADLINE_SECONDS, RETENTION_SECONDS

__all__ = ["set_cache"]

JUST = 0.001
"""Seconds: the finest that is stored."""


class Stopped:
    def __init__(self) -> None:
        self.now = 1_900_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch, account: Account) -> Stopped:
    stopped = Stopped()
    monkeypatch.setattr(time, "time", stopped)
    return stopped


# ---- Kept replies


@pytest.mark.parametrize(
    ("control", "age"),
    [("", 600), ("max-age=60", 60), ("max-age=600", 600), ("max-age=601", 600), ("max-age=999999999", 600)],
)
def test_a_reply_is_kept_so_long(account: Account, set_cache: SetCache, at: Stopped, control: str, age: int) -> None:
    """A client may ask for a younger reply than the parameter says, and not for an older one."""
    set_cache(600)
    answered(account)

    at.now += age - JUST
    assert is_hit(account, send(account, control=control))
    at.now += JUST
    assert not is_hit(account, send(account, control=control))


# ---- The model's key


def test_a_key_is_used_for_300_seconds(account: Account, at: Stopped, wire: Wire) -> None:
    def fetches() -> int:
        account.queued()
        account.work()
        return len(wire.made("GetSecretValue"))

    assert fetches() == 1
    at.now += 300 - JUST
    assert fetches() == 1
    at.now += JUST
    assert fetches() == 2


# ---- Idempotency keys


def test_an_idempotency_key_is_remembered_for_24_hours(account: Account, at: Stopped) -> None:
    def task() -> str:
        headers = {"Idempotency-Key": "k-1", "Prefer": "respond-async"}
        return str(account.post({"message": "hello"}, headers=headers)["json"]["task_id"])

    first = task()
    at.now += 24 * 3600 - JUST
    assert task() == first
    at.now += JUST
    assert task() != first


# ---- A turn


def test_a_turn_may_be_answered_until_its_deadline(account: Account, at: Stopped) -> None:
    task_id = account.queued()

    at.now += DEADLINE_SECONDS - JUST
    assert account.outcome(task_id) == ("PENDING", None)
    at.now += JUST
    assert account.outcome(task_id) == ("FAILURE", "deadline_exceeded")


def test_a_turn_is_there_until_its_retention_is_over(account: Account, at: Stopped, model: StandIn) -> None:
    first = account.queued("hello", session_id="s-1")
    account.work()
    at.now += RETENTION_SECONDS - JUST
    second = account.queued("still there?", session_id="s-1")
    account.work()
    turns = account.session("s-1")["json"]["turns"]

    assert account.get(first)["statusCode"] == 200
    assert [turn["task_id"] for turn in turns] == [first, second]
    assert model.calls()["last"][-1]["history"] == 2

    at.now += JUST
    third = account.queued("and now?", session_id="s-1")
    account.work()
    turns = account.session("s-1")["json"]["turns"]

    assert account.get(first)["statusCode"] == 404
    assert [turn["task_id"] for turn in turns] == [second, third]
    assert model.calls()["last"][-1]["history"] == 2  # of the second
