"""A turn's key, its id and its states: plain rules, without AWS."""

import json
import re
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.conftest import Account, Clock

turn = import_module("turnqueue.turn")
Key = turn.Key

ULID = "01KANEC0X00000000000000000"
session_ids = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
owners = st.text(min_size=1, max_size=50).filter(lambda text: turn.is_utf8(text))
# No time limit for an example: a busy machine is no bug.
quick = settings(deadline=None, max_examples=60, database=None)
moments = st.floats(min_value=0, max_value=4e9)


# ---- ULIDs


@quick
@given(moments, moments)
def test_ulids_sort_by_time(one: float, other: float) -> None:
    if int(one * 1000) < int(other * 1000):
        assert turn.new_ulid(one) < turn.new_ulid(other)


def test_ulids_of_the_same_moment_are_unique() -> None:
    now = time.time()

    assert len({turn.new_ulid(now) for _ in range(2000)}) == 2000


@quick
@given(moments)
def test_a_ulid_is_one(now: float) -> None:
    text = turn.new_ulid(now)

    assert turn.is_ulid(text)
    assert re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{26}", text)


def test_a_ulid_tells_its_time() -> None:
    text = turn.new_ulid(1795338000.123)

    value = 0
    for character in text[:10]:
        value = value * 32 + "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(character)
    assert value == 1795338000123


def test_session_ids_that_are_made_are_valid_and_differ() -> None:
    made = {turn.new_session_id() for _ in range(1000)}

    assert len(made) == 1000
    assert all(turn.SESSION_ID.fullmatch(session_id) for session_id in made)


# ---- Keys


@quick
@given(owners, session_ids, moments)
def test_a_key_is_what_the_owner_and_the_task_id_say(owner: str, session_id: str, now: float) -> None:
    key = Key(turn.session_key(owner, session_id), turn.new_ulid(now))

    assert Key.of_task(owner, key.task_id) == key
    assert (key.owner, key.session_id) == (owner, session_id)


@quick
@given(owners, session_ids, owners, session_ids)
def test_no_two_pairs_of_owner_and_session_share_a_key(
    owner: str, session_id: str, other_owner: str, other_session_id: str
) -> None:
    if (owner, session_id) != (other_owner, other_session_id):
        assert turn.session_key(owner, session_id) != turn.session_key(other_owner, other_session_id)


NO_SESSIONS = ("\ns-1", "a.b", ".", "../../s-1", "s/1", "alice#s-1", "s#1", "s 1", "sé", "s\x00", "s" * 65)


@pytest.mark.parametrize(
    "task_id",
    [
        *("", ".", ULID, f".{ULID}", "s-1.", f"s-1.{ULID}.{ULID}"),
        *(f"s-1.{end}" for end in (ULID.lower(), f"{ULID}\n", ULID[:-1], f"{ULID}0", f"8{ULID[1:]}")),
        *(f"s-1.{ULID[:-1]}{character}" for character in "ILOUa-_#.É٣"),
        *(f"{session_id}.{ULID}" for session_id in NO_SESSIONS),
    ],
)
def test_what_cannot_be_an_id_of_ours_has_no_key(task_id: str) -> None:
    assert Key.of_task("alice", task_id) is None


@quick
@given(st.text(), st.text(max_size=100))
def test_whatever_is_asked_for_no_owner_reaches_beyond_its_own_sessions(owner: str, task_id: str) -> None:
    key = Key.of_task(owner, task_id)

    assert key is None or (key.owner == owner and key.task_id == task_id)


@quick
@given(owners, session_ids)
def test_a_message_group_is_one_that_sqs_takes(owner: str, session_id: str) -> None:
    assert re.fullmatch("[0-9a-f]{64}", Key(turn.session_key(owner, session_id), ULID).group)


@quick
@given(owners, session_ids, moments)
def test_a_message_leads_back_to_its_turn(owner: str, session_id: str, now: float) -> None:
    queue = import_module("turnqueue.queue")
    key = Key(turn.session_key(owner, session_id), turn.new_ulid(now))

    assert queue.decode(queue.encode(key)) == key


@quick
@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_no_body_of_a_message_is_worse_than_malformed(body: str) -> None:
    queue = import_module("turnqueue.queue")

    try:
        key = queue.decode(body)
    except queue.Malformed:
        return
    assert turn.is_ulid(key.turn)


# ---- States


def submitted(**changes: Any) -> Any:
    return turn.Turn(**{
        "key": Key("alice#s-1", ULID),
        "status": turn.Status.PENDING,
        "request": {},
        "created_at": 1000.0,
        "deadline_at": 1900.0,
        "expires_at": 605_800,
    } | changes)  # fmt: skip


def test_there_are_four_states_and_two_are_final() -> None:
    assert [status.value for status in turn.Status] == ["PENDING", "STARTED", "SUCCESS", "FAILURE"]
    assert {status for status in turn.Status if submitted(status=status).final} == {"SUCCESS", "FAILURE"}


def test_a_submitted_turn_is_pending_for_15_minutes_and_kept_for_7_days() -> None:
    made = turn.Turn.submitted(Key("alice#s-1", ULID), {"message": "x"}, 1000.1239)

    assert (made.status, made.attempt, made.created_at) == ("PENDING", 0, 1000.124)
    assert (made.deadline_at, made.expires_at) == (1900.124, 1000 + 7 * 24 * 3600)


@pytest.mark.parametrize(
    ("status", "lease_until", "held"),
    [
        ("PENDING", None, False),
        ("PENDING", 2000.0, False),
        ("STARTED", None, False),
        ("STARTED", 1499.9, False),
        ("STARTED", 1500.0, True),
        ("STARTED", 1500.1, True),
        ("SUCCESS", 2000.0, False),
    ],
)
def test_a_turn_is_held_by_a_valid_lease_only(status: str, lease_until: float | None, held: bool) -> None:
    assert submitted(status=turn.Status(status), lease_until=lease_until).held(1500.0) is held


@pytest.mark.parametrize(
    ("status", "now", "overdue"),
    [
        ("PENDING", 1899.9, False),
        ("PENDING", 1900.0, True),
        ("STARTED", 1900.0, True),
        ("SUCCESS", 1900.0, False),
        ("FAILURE", 1900.0, False),
    ],
)
def test_only_an_unfinished_turn_is_overdue(status: str, now: float, overdue: bool) -> None:
    assert submitted(status=turn.Status(status)).overdue(now) is overdue


def test_every_failure_says_a_sentence_and_has_an_error_status() -> None:
    for failure in turn.FAILURES.values():
        assert re.fullmatch(r"[A-Z].*\.", failure.text)
        assert failure.http_status in (409, 422, 502, 503, 504)
        assert not (failure.http_status == 422 and failure.retryable)


# ---- What is final stays final: every write, against both ends


@pytest.mark.parametrize("message", ["hello", "[[refuse]]"])
def test_no_write_of_the_store_changes_a_final_turn(account: Account, clock: Clock, message: str) -> None:
    store_module = import_module("turnqueue.store")
    store = account.functions["worker"].worker.services.store
    task_id = account.queued(message)
    key = Key.of_task("alice", task_id)
    account.work()
    before = account.item(task_id)
    claimed = store.read(key, time.time())
    clock.forward(16 * 60)
    now = time.time()

    writes: list[Callable[[], object]] = [
        lambda: store.claim(key, now, now + 100),
        lambda: store.succeed(claimed, {"message": "x"}, {}, now),
        lambda: store.fail_attempt(claimed, "internal_error", "", now),
        lambda: store.release(claimed),
    ]
    writes += [partial(store.fail, key, code, now) for code in turn.FAILURES]
    for write in writes:
        with pytest.raises(store_module.Refused):
            write()

    assert store.create(turn.Turn.submitted(key, {"message": "x"}, now)) is False
    assert store.cancel(key, now).status == before["status"]["S"]
    assert account.item(task_id) == before
