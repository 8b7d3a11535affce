"""Reading a task, waiting for it, cancelling it; the conversation of a session; health."""

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from types import ModuleType
from typing import Any

import pytest

from tests.payloads import Context, api_event, event_file
from tests.unit.conftest import Account, Clock, Parts, Response, StandIn, Wire, read, refusing
from turnqueue.turn import Key

ULID = "01KANEC0X00000000000000000"
LATER = (
    *("result", "error", "progress", "error_code", "retryable", "partial", "started_at", "finished_at"),
    *("waiting_for", "next_try_at", "usage", "retry_of"),
)
"""The members that are null in a task that waits for its first attempt."""
TIMES = ("created_at", "deadline_at", "expires_at")
MEMBERS = {"task_id", "status", "attempt", "session_id", "poll_after_ms", *LATER, *TIMES}
ANSWER = {"message": "just in time", "data": None, "draft": None}


def claim(account: Account, worker: Parts, task_id: str, seconds: float = 100) -> Any:
    key = Key(f"alice#{task_id.partition('.')[0]}", task_id.partition(".")[2])
    return worker.store.claim(key, time.time(), time.time() + seconds)


def moment(text: str) -> float:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    return datetime.fromisoformat(text).timestamp()


def pages(account: Account, **query: str) -> Iterator[list[Any]]:
    """The turns of each page of session s-1."""
    while True:
        page = account.session("s-1", query=query)
        assert page["statusCode"] == 200
        yield page["json"]["turns"]
        if page["json"]["next_cursor"] is None:
            return
        query["cursor"] = page["json"]["next_cursor"]


# ---- The task


def test_a_pending_task(account: Account) -> None:
    now = time.time()
    task_id = account.queued(session_id="s-1")

    response = account.get(task_id)

    assert response["statusCode"] == 200
    assert response["headers"] == {
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
        "Retry-After": "1",
    }
    task = response["json"]
    created, deadline, expires = (moment(task.pop(name)) for name in TIMES)
    assert now - 0.001 <= created <= time.time()
    assert deadline == pytest.approx(created + 15 * 60, abs=0.002)
    assert expires == int(created) + 7 * 24 * 3600
    known = {"task_id": task_id, "status": "PENDING", "attempt": 0, "session_id": "s-1", "poll_after_ms": 500}
    assert task == known | dict.fromkeys(LATER)


def test_a_started_task(account: Account, worker: Parts) -> None:
    task_id = account.queued()
    claimed = claim(account, worker, task_id)
    worker.show(claimed, "so far", 0.25)

    task = account.task(task_id)

    assert set(task) == MEMBERS
    assert (task["status"], task["attempt"]) == ("STARTED", 1)
    assert (task["progress"], task["partial"], task["result"]) == (0.25, "so far", None)
    assert moment(task["started_at"]) >= moment(task["created_at"])
    assert task["finished_at"] is None


def test_a_successful_task(account: Account) -> None:
    task_id = account.queued(session_id="s-1")
    account.work()

    response = account.get(task_id)

    assert "Retry-After" not in response["headers"]
    task = response["json"]
    assert set(task) == MEMBERS
    assert set(task["result"]) == {"session_id", "message", "data", "draft", "task_id"}
    assert (task["result"]["session_id"], task["result"]["task_id"]) == ("s-1", task_id)
    assert (task["status"], task["progress"], task["poll_after_ms"]) == ("SUCCESS", 1.0, None)
    assert (task["error"], task["error_code"], task["retryable"]) == (None, None, None)
    assert moment(task["finished_at"]) >= moment(task["started_at"])


def test_a_failed_task(account: Account) -> None:
    task_id = account.queued("[[refuse]]")
    account.work()

    response = account.get(task_id)

    assert response["statusCode"] == 200
    assert "Retry-After" not in response["headers"]
    task = response["json"]
    assert set(task) == MEMBERS
    assert (task["status"], task["error_code"], task["retryable"]) == ("FAILURE", "prompt_refused", False)
    assert task["error"] == "The model declined to answer this message."
    assert (task["result"], task["progress"], task["poll_after_ms"]) == (None, None, None)


def test_started_at_is_that_of_the_first_attempt(account: Account, clock: Clock) -> None:
    task_id = account.queued("[[status=500 times=1]]")
    account.work()
    started_at = account.task(task_id)["started_at"]
    clock.forward(10)
    account.work()

    task = account.task(task_id)
    assert (task["attempt"], task["started_at"]) == (2, started_at)


def test_the_four_states_are_all_that_is_ever_shown(account: Account, wire: Wire, clock: Clock) -> None:
    task_id = account.queued("[[cut=2 times=1]]")
    seen = []
    for operation in ("UpdateItem", "DeleteMessageBatch"):
        wire.after(operation, lambda _: seen.append(account.task(task_id)["status"]), times=10)
    account.work()
    clock.forward(10)
    account.work()

    # Each attempt is added to the usage after its end. At the end of the task its message is deleted.
    assert seen == ["STARTED", "PENDING", "PENDING", "STARTED", "SUCCESS", "SUCCESS", "SUCCESS"]


def test_a_status_read_is_one_consistent_read_of_one_item(account: Account, wire: Wire) -> None:
    task_id = account.queued()
    wire.clear()

    account.get(task_id)

    (call,) = wire.calls
    assert (call.operation, call.params["ConsistentRead"]) == ("GetItem", True)


@pytest.mark.parametrize(
    ("age", "milliseconds", "retry_after"),
    [(0, 500, "1"), (1, 500, "1"), (4, 1000, "1"), (12, 3000, "3"), (20, 5000, "5"), (600, 15000, "15")],
)
def test_an_older_task_is_to_be_asked_for_less_often(
    account: Account, clock: Clock, age: int, milliseconds: int, retry_after: str
) -> None:
    task_id = account.queued()
    clock.forward(age)

    response = account.get(task_id)

    assert response["json"]["poll_after_ms"] == pytest.approx(milliseconds, abs=100)
    assert response["headers"]["Retry-After"] == retry_after


# ---- What is not there


def refusals(account: Account, task_id: str, owner: str = "alice") -> list[Response]:
    return [account.get(task_id, owner=owner), account.cancel(task_id, owner=owner)]


def not_found(account: Account) -> Any:
    """The answer for a task that never was."""
    response = account.get(f"s-0.{ULID}")
    assert response["statusCode"] == 404
    assert response["json"]["error"]["type"] == "not_found_error"
    assert response["json"]["code"] == "task_not_found"
    return response["json"]


@pytest.mark.parametrize("task_id", ["", "s-1.", f"s-1.{ULID.lower()}", f"alice#s-1.{ULID}", f"../s-1.{ULID}"])
def test_an_id_that_is_none_is_not_found_and_asks_no_table(account: Account, wire: Wire, task_id: str) -> None:
    """test_turn.py has more of them."""
    unknown = not_found(account)
    wire.clear()

    for response in refusals(account, task_id):
        assert (response["statusCode"], response["json"]) == (404, unknown)
    assert wire.calls == []


def test_an_unknown_id_never_reads_as_pending(account: Account) -> None:
    unknown = not_found(account)

    for response in refusals(account, f"s-1.{ULID}"):
        assert (response["statusCode"], response["json"]) == (404, unknown)
    assert account.items() == []


def test_the_task_of_another_owner_does_not_exist(account: Account) -> None:
    task_id = account.queued(session_id="s-1", owner="alice")
    before = account.item(task_id)

    for response in refusals(account, task_id, owner="bob"):
        assert (response["statusCode"], response["json"]) == (404, not_found(account))
    assert account.item(task_id) == before
    assert account.task(task_id, owner="alice")["status"] == "PENDING"


def test_an_expired_task_does_not_exist_though_it_is_still_in_the_table(account: Account, clock: Clock) -> None:
    task_id = account.queued()
    account.work()
    clock.forward(7 * 24 * 3600 + 1)

    for response in refusals(account, task_id):
        assert (response["statusCode"], response["json"]) == (404, not_found(account))
    assert account.session(task_id.partition(".")[0])["statusCode"] == 404


def test_a_route_that_is_none_of_ours_is_a_404(status: ModuleType, account: Account) -> None:
    event = api_event("GET /chat/task/{task_id}") | {"routeKey": "GET /chat/tasks"}

    assert read(status.handler(event, Context()))["json"]["code"] == "no_such_route"


def test_a_table_that_does_not_answer_is_a_503(account: Account, wire: Wire) -> None:
    task_id = account.queued(session_id="s-1")
    for operation, ask in (("GetItem", account.get), ("GetItem", account.cancel)):
        wire.before(operation, refusing())
        response = ask(task_id)
        assert (response["statusCode"], response["json"]["code"]) == (503, "unavailable")
        assert response["headers"]["Retry-After"]
    wire.before("Query", refusing())
    assert account.session("s-1")["statusCode"] == 503


# ---- Waiting


def test_wait_returns_as_soon_as_the_task_is_final(account: Account, clock: Clock) -> None:
    task_id = account.queued()
    clock.meanwhile = account.work

    response = account.get(task_id, query={"wait": "20"})

    assert response["json"]["status"] == "SUCCESS"
    assert len(clock.slept) == 1


@pytest.mark.parametrize(("wait", "seconds"), [("0", 0), ("3", 3), ("20", 20), ("600", 20)])
def test_wait_is_over_after_so_many_seconds(account: Account, clock: Clock, wait: str, seconds: int) -> None:
    task_id = account.queued()
    began = time.time()

    response = account.get(task_id, query={"wait": wait})

    assert response["statusCode"] == 200
    assert response["json"]["status"] == "PENDING"
    assert sum(clock.slept) <= seconds <= time.time() - began


def test_a_wait_after_a_slow_first_read_ends_before_the_function_does(
    account: Account, clock: Clock, wire: Wire
) -> None:
    """Two tries of the first read may hang for 4 s each, and API Gateway would answer the rest for us."""
    task_id = account.queued()
    began = time.time()
    wire.before("GetItem", lambda _: clock.forward(10))

    assert account.get(task_id, query={"wait": "20"})["json"]["status"] == "PENDING"
    assert time.time() - began < 29 - 2


def test_a_read_that_fails_does_not_end_the_wait(account: Account, clock: Clock, wire: Wire) -> None:
    task_id = account.queued()
    clock.meanwhile = account.work
    wire.after("GetItem", lambda _: wire.before("GetItem", refusing()))  # the first one while it waits

    assert account.get(task_id, query={"wait": "20"})["json"]["status"] == "SUCCESS"


def test_a_final_task_and_one_that_is_not_there_are_not_waited_for(account: Account, clock: Clock) -> None:
    task_id = account.queued()
    account.work()

    assert account.get(task_id, query={"wait": "20"})["json"]["status"] == "SUCCESS"
    assert account.get(f"s-1.{ULID}", query={"wait": "20"})["statusCode"] == 404
    assert clock.slept == []


def test_a_task_that_passes_its_deadline_while_it_is_waited_for_reads_as_final(account: Account, clock: Clock) -> None:
    task_id = account.queued()
    clock.forward(15 * 60 - 5)

    task = account.get(task_id, query={"wait": "20"})["json"]

    assert (task["status"], task["error_code"]) == ("FAILURE", "deadline_exceeded")


# ---- Past the deadline


@pytest.mark.parametrize("held", [False, True])
def test_who_reads_an_overdue_task_ends_it(account: Account, clock: Clock, worker: Parts, held: bool) -> None:
    task_id = account.queued()
    if held:
        claim(account, worker, task_id, seconds=3600)
    clock.forward(15 * 60)

    task = account.task(task_id)

    assert (task["status"], task["error_code"], task["retryable"]) == ("FAILURE", "deadline_exceeded", True)
    assert (task["progress"], task["poll_after_ms"]) == (None, None)
    assert account.item(task_id)["status"] == {"S": "FAILURE"}


def test_a_page_closes_ten_overdue_turns_and_the_next_one_goes_on(account: Account, clock: Clock, wire: Wire) -> None:
    sent = [account.queued(str(number), session_id="s-1") for number in range(23)]
    clock.forward(15 * 60 + 1)

    seen: list[list[str]] = []
    for turns in pages(account, limit="100"):
        assert len(wire.made("UpdateItem")) <= 20  # the turn, and the tokens that it had reserved
        assert {(turn["status"], turn["error_code"]) for turn in turns} == {("FAILURE", "deadline_exceeded")}
        seen.append([turn["task_id"] for turn in turns])
        wire.clear()

    assert list(itertools.chain(*seen)) == sent
    assert len(seen) == 3


def test_an_overdue_task_is_past_cancelling(account: Account, clock: Clock) -> None:
    task_id = account.queued()
    clock.forward(15 * 60)

    response = account.cancel(task_id)

    assert (response["statusCode"], response["json"]["error_code"]) == (200, "deadline_exceeded")


def test_a_task_that_ends_just_before_a_reader_ends_it_keeps_its_end(
    account: Account, clock: Clock, wire: Wire, worker: Parts
) -> None:
    task_id = account.queued()
    claimed = claim(account, worker, task_id, seconds=3600)
    clock.forward(15 * 60)
    wire.before("UpdateItem", lambda _: worker.store.succeed(claimed, ANSWER, {}, time.time() - 5))

    task = account.task(task_id)

    assert (task["status"], task["result"]["message"]) == ("SUCCESS", "just in time")


# ---- Cancelling


def test_a_pending_task_is_cancelled_at_once(account: Account) -> None:
    task_id = account.queued()

    response = account.cancel(task_id)

    assert response["statusCode"] == 200
    task = response["json"]
    assert set(task) == MEMBERS
    assert (task["status"], task["error_code"], task["retryable"]) == ("FAILURE", "cancelled", False)
    assert task["error"] == "The task was cancelled."
    assert account.task(task_id) == task


def test_of_a_started_task_the_cancellation_is_accepted(account: Account, worker: Parts) -> None:
    task_id = account.queued()
    claim(account, worker, task_id)

    response = account.cancel(task_id)

    assert response["statusCode"] == 202
    assert response["headers"]["Retry-After"]
    assert (response["json"]["status"], response["json"]["error_code"]) == ("STARTED", None)
    assert account.item(task_id)["cancel_requested"] == {"BOOL": True}


def test_a_started_task_whose_worker_died_is_cancelled_at_once(account: Account, worker: Parts, clock: Clock) -> None:
    task_id = account.queued()
    claim(account, worker, task_id, seconds=100)
    clock.forward(101)

    assert account.cancel(task_id)["json"]["error_code"] == "cancelled"


def test_to_cancel_again_changes_nothing(account: Account, worker: Parts) -> None:
    pending, started = account.queued(), account.queued()
    claim(account, worker, started)
    first = [account.cancel(pending), account.cancel(started)]
    items = account.items()

    second = [account.cancel(pending), account.cancel(started)]

    assert [response["statusCode"] for response in first] == [200, 202]
    assert [response["statusCode"] for response in second] == [200, 202]
    assert second[0]["json"] == first[0]["json"]
    assert account.items() == items


@pytest.mark.parametrize("message", ["hello", "[[refuse]]"])
def test_what_is_final_stays_as_it_is(account: Account, message: str) -> None:
    task_id = account.queued(message)
    account.work()
    before = account.item(task_id)

    response = account.cancel(task_id)

    assert response["statusCode"] == 200
    assert response["json"] == account.task(task_id)
    assert response["json"]["error_code"] != "cancelled"
    assert account.item(task_id) == before


def test_a_task_that_starts_while_it_is_cancelled_is_marked(account: Account, worker: Parts, wire: Wire) -> None:
    task_id = account.queued()
    wire.before("UpdateItem", lambda _: claim(account, worker, task_id))

    assert account.cancel(task_id)["statusCode"] == 202


@pytest.mark.parametrize("end", ["SUCCESS", "FAILURE"])
def test_a_task_that_ends_or_is_handed_back_while_it_is_cancelled_is_not_marked(
    account: Account, worker: Parts, wire: Wire, end: str
) -> None:
    """Nobody works on one that is handed back, and its back-off may be long: it ends at once."""
    task_id = account.queued()
    claimed = claim(account, worker, task_id)

    leave: dict[str, Callable[[], object]] = {
        "SUCCESS": lambda: worker.store.succeed(claimed, ANSWER, {}, time.time()),
        "FAILURE": lambda: worker.store.release(claimed),
    }
    wire.before("UpdateItem", lambda _: wire.before("UpdateItem", lambda _: leave[end]()))

    response = account.cancel(task_id)

    assert (response["statusCode"], response["json"]["status"]) == (200, end)
    assert response["json"]["error_code"] == (None if end == "SUCCESS" else "cancelled")
    assert "cancel_requested" not in account.item(task_id)


def test_a_cancelled_turn_does_not_hold_up_its_session(account: Account, model: StandIn) -> None:
    account.cancel(account.queued("one", session_id="s-1"))
    second = account.queued("two", session_id="s-1")

    assert account.work() == []

    assert account.outcome(second) == ("SUCCESS", None)
    assert model.messages() == ["two"]


# ---- The conversation


def test_a_conversation_is_its_turns_in_order(account: Account) -> None:
    media = [{"type": "image", "url": "https://example.com/cat.png"}]
    ids = [
        account.queued("one", session_id="s-1", role="booking", media=media, metadata={"channel": "web"}),
        account.queued("[[refuse]] two", session_id="s-1"),
    ]
    account.work()
    ids.append(account.queued("three", session_id="s-1"))

    response = account.session("s-1")

    assert response["statusCode"] == 200
    assert set(response["json"]) == {"session_id", "turns", "next_cursor"}
    assert (response["json"]["session_id"], response["json"]["next_cursor"]) == ("s-1", None)
    turns = response["json"]["turns"]
    assert [turn["task_id"] for turn in turns] == ids
    assert [turn["status"] for turn in turns] == ["SUCCESS", "FAILURE", "PENDING"]
    assert all(set(turn) == MEMBERS | {"message", "role", "media", "metadata"} for turn in turns)
    said = [(turn["message"], turn["role"], turn["media"], turn["metadata"]) for turn in turns]
    assert said == [
        ("one", "booking", media, {"channel": "web"}),
        ("[[refuse]] two", "general", [], {}),
        ("three", "general", [], {}),
    ]
    assert turns[0]["result"]["draft"] is not None


def test_a_conversation_is_one_consistent_query_by_its_key(account: Account, wire: Wire) -> None:
    account.submit(session_id="s-1")
    wire.clear()

    account.session("s-1")

    (call,) = wire.calls
    assert (call.operation, call.params["ConsistentRead"]) == ("Query", True)
    assert "FilterExpression" not in call.params and "IndexName" not in call.params


def test_a_long_conversation_comes_in_pages(account: Account) -> None:
    ids = [account.queued(str(number), session_id="s-1") for number in range(5)]

    seen = [[turn["task_id"] for turn in turns] for turns in pages(account, limit="2")]

    assert seen == [ids[:2], ids[2:4], ids[4:]]


def test_past_the_last_page_there_is_an_empty_one(account: Account) -> None:
    task_id = account.queued(session_id="s-1")

    response = account.session("s-1", query={"cursor": task_id.partition(".")[2]})

    assert response["statusCode"] == 200
    assert response["json"] == {"session_id": "s-1", "turns": [], "next_cursor": None}


def test_a_page_has_50_turns_and_at_most_100(account: Account, wire: Wire) -> None:
    account.submit(session_id="s-1")
    for query in ({}, {"limit": "1"}, {"limit": "100"}, {"limit": "5000"}):
        account.session("s-1", query=query)

    assert [made["Limit"] for made in wire.made("Query")] == [50, 1, 100, 100]


@pytest.mark.parametrize("session_id", ["s-2", "", "s.1", "alice#s-1", "s-1#", "s" * 65, "s-1\n", "../s-1"])
def test_a_conversation_that_never_was_is_not_found(account: Account, session_id: str) -> None:
    account.submit(session_id="s-1")

    response = account.session(session_id)

    assert (response["statusCode"], response["json"]["code"]) == (404, "session_not_found")
    assert response["json"]["error"]["param"] == "session_id"


@pytest.mark.parametrize(("owner", "session_id"), [("bob", "s-1"), ("alice", "x#s-2"), ("alice#x#s-2", "")])
def test_the_conversation_of_another_owner_does_not_exist(account: Account, owner: str, session_id: str) -> None:
    account.submit(session_id="s-1", owner="alice")
    account.submit(session_id="s-2", owner="alice#x")

    foreign = account.session(session_id, owner=owner)

    assert foreign["statusCode"] == 404
    assert foreign["json"] == account.session("s-0", owner=owner)["json"]


def test_expired_turns_are_gone_and_do_not_hide_those_after_them(account: Account, clock: Clock) -> None:
    for number in range(2):
        account.submit(f"old {number}", session_id="s-1")
    clock.forward(7 * 24 * 3600 + 1)
    account.submit("new", session_id="s-1")

    for limit in ("1", "50"):
        found = itertools.chain(*pages(account, limit=limit))
        assert [turn["message"] for turn in found] == ["new"]


# ---- Health


def test_health_needs_no_token_and_asks_nobody(account: Account, status: ModuleType, wire: Wire) -> None:
    event = event_file("health")
    assert "authorizer" not in event["requestContext"]

    response = read(status.handler(event, Context()))

    assert response["statusCode"] == 200
    assert set(response["json"]) == {"status", "version", "roles"}
    assert {"booking", "general"} <= set(response["json"]["roles"])
    assert response["json"]["status"] == "ok"
    assert re.fullmatch(r"\d+\.\d+\.\d+", response["json"]["version"])
    assert wire.calls == []
    assert not any(value in json.dumps(response) for value in ("Table", "arn:", "sqs"))


def test_head_health_is_as_get_without_a_body(account: Account, status: ModuleType) -> None:
    event = event_file("health")
    got = status.handler(event, Context())
    event["routeKey"] = "HEAD /health"

    asked = status.handler(event, Context())

    assert asked == got | {"body": ""}
