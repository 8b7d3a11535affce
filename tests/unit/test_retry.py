"""A client's retry of a failed task makes a new task that names the old one; more clicks make no further task."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest

from tests.payloads import Context, api_event
from tests.unit.conftest import Account, Clock, Parts, Wire, refusing
from turnqueue.turn import Key

IMAGE = {"type": "image", "url": "https://example.com/cat.png"}


@pytest.fixture
def failed(account: Account) -> str:
    """A task that has failed, and whose message succeeds when it is sent again."""
    task_id = account.queued("hello again", session_id="s-1", role="booking", media=[IMAGE], metadata={"a": "b"})
    account.cancel(task_id)
    account.work()
    return task_id


def test_a_failed_task_becomes_a_new_task_with_the_same_message(account: Account, failed: str) -> None:
    old = account.item(failed)

    response = account.retry(failed)

    new = response["json"]["task_id"]
    assert response["statusCode"] == 202
    assert response["headers"]["Location"] == f"/chat/task/{new}"
    assert "Idempotency-Replayed" not in response["headers"]
    assert (response["json"]["session_id"], response["json"]["status"]) == ("s-1", "PENDING")
    assert new != failed
    account.work()
    task = account.task(new)
    assert (task["status"], task["retry_of"], task["attempt"]) == ("SUCCESS", failed, 1)
    page = account.session("s-1")["json"]["turns"]
    assert [turn["task_id"] for turn in page] == [failed, new]
    for name in ("message", "role", "media", "metadata"):
        assert page[0][name] == page[1][name]
    assert account.item(failed) == old
    assert account.task(failed)["retry_of"] is None


@pytest.mark.parametrize("status", ["PENDING", "STARTED", "SUCCESS"])
def test_what_has_not_failed_is_a_409(account: Account, worker: Parts, status: str, wire: Wire) -> None:
    task_id = account.queued()
    if status == "STARTED":
        worker.store.claim(Key.of_task("alice", task_id), time.time(), time.time() + 60)
    elif status == "SUCCESS":
        account.work()
    wire.clear()

    refused = account.retry(task_id)

    assert account.outcome(task_id)[0] == status
    assert (refused["statusCode"], refused["json"]["code"]) == (409, "not_failed")
    assert refused["headers"]["Content-Type"] == "application/problem+json"
    assert {call.operation for call in wire.calls} <= {"GetItem", "Query"}


def test_a_task_past_its_deadline_has_failed(account: Account, clock: Clock) -> None:
    task_id = account.queued()
    clock.forward(901)

    again = account.retry(task_id)

    assert again["statusCode"] == 202
    assert account.outcome(task_id) == ("FAILURE", "deadline_exceeded")


@pytest.mark.parametrize("task_id", ["s-1.01KANEC0X00000000000000000", "no-id", "", "s 1.01KANEC0X00000000000000000"])
def test_an_unknown_task_is_a_404_and_so_is_another_owners(account: Account, failed: str, task_id: str) -> None:
    for unknown in (account.retry(task_id), account.retry(failed, owner="bob")):
        assert (unknown["statusCode"], unknown["json"]["code"]) == (404, "task_not_found")
    assert len(account.items()) == 1


# ---- More than once


def test_two_clicks_are_one_retry(account: Account, failed: str) -> None:
    first, second = account.retry(failed), account.retry(failed)

    assert second["json"]["task_id"] == first["json"]["task_id"]
    assert second["headers"]["Idempotency-Replayed"] == "true"
    assert account.waiting() == (1, 0)


def test_twenty_clicks_at_once_are_one_retry(account: Account, failed: str, submit: ModuleType) -> None:
    begin = threading.Barrier(20)
    event = api_event("POST /chat/task/{task_id}/retry", path={"task_id": failed})

    def click() -> str:
        begin.wait(timeout=20)
        # Not `handler`, whose metrics are those of a process that has one request at a time.
        return str(submit.retry(event, ends_at=time.time() + 29)["headers"]["Location"])

    with ThreadPoolExecutor(20) as threads:
        places = {future.result() for future in [threads.submit(click) for _ in range(20)]}

    assert len(places) == 1
    assert len(account.items()) == 2
    assert account.waiting() == (1, 0)


def test_a_retry_that_fails_is_tried_again_by_its_own_id(account: Account, failed: str) -> None:
    second = account.retry(failed)["json"]["task_id"]
    account.cancel(second)

    third = account.retry(second)["json"]["task_id"]

    assert len({failed, second, third}) == 3
    assert account.task(third)["retry_of"] == second
    assert account.retry(failed)["json"]["task_id"] == second


def test_a_key_of_the_clients_makes_a_retry_of_its_own(account: Account, failed: str) -> None:
    key = {"Idempotency-Key": "again"}
    first, second, other = (account.retry(failed, headers=headers)["json"]["task_id"] for headers in (key, key, {}))

    assert first == second != other
    assert account.task(first)["retry_of"] == account.task(other)["retry_of"] == failed


def test_the_key_of_the_first_submit_is_not_the_key_of_a_retry(account: Account) -> None:
    headers = {"Idempotency-Key": "k-1", "Prefer": "respond-async"}
    task_id = account.post({"message": "hello", "session_id": "s-1"}, headers=headers)["json"]["task_id"]
    account.cancel(task_id)

    refused = account.retry(task_id, headers={"Idempotency-Key": "k-1"})

    assert (refused["statusCode"], refused["json"]["code"]) == (422, "idempotency_key_reused")


def test_a_retry_that_could_not_be_queued_is_queued_by_the_next_click(
    account: Account, failed: str, wire: Wire
) -> None:
    wire.before("SendMessage", refusing())
    refused = account.retry(failed)
    assert (refused["statusCode"], refused["json"]["code"]) == (503, "enqueue_failed")

    again = account.retry(failed)

    assert (again["statusCode"], again["json"]["task_id"]) == (202, refused["json"]["task_id"])
    account.work()
    assert account.outcome(again["json"]["task_id"]) == ("SUCCESS", None)


# ---- As a submit


def test_a_retry_can_wait_for_the_answer(account: Account, failed: str, clock: Clock) -> None:
    clock.meanwhile = lambda: account.work()

    answer = account.retry(failed, headers={"Prefer": "wait=10"})

    assert answer["statusCode"] == 200
    assert answer["headers"]["Preference-Applied"] == "wait=10"
    assert account.task(answer["json"]["task_id"])["retry_of"] == failed


def test_a_retry_counts_against_the_limits_and_a_refused_one_does_not(
    account: Account, failed: str, submit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "limiter", submit.Limiter.of("default:1/1", "", "GuardsTable"))

    assert account.retry("s-1.01KANEC0X00000000000000000")["statusCode"] == 404
    assert account.retry(failed)["statusCode"] == 202
    assert account.retry(failed)["statusCode"] == 429


def test_the_body_of_a_retry_is_not_looked_at(account: Account, failed: str, submit: ModuleType) -> None:
    event = api_event("POST /chat/task/{task_id}/retry", path={"task_id": failed}) | {
        "body": "{",
        "isBase64Encoded": False,
    }
    event["headers"]["content-type"] = "text/plain"

    assert submit.handler(event, Context(29.0))["statusCode"] == 202


def test_a_retry_is_not_answered_from_the_cache(
    account: Account, submit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on with its session, where there may be more."""
    monkeypatch.setattr(submit, "cache", {"seconds": 600, "shared": False})
    account.queued("hello")
    account.work()
    failed = account.post({"message": "hello"}, headers={"Prefer": "respond-async", "Cache-Control": "no-cache"})
    account.cancel(failed["json"]["task_id"])

    again = account.retry(failed["json"]["task_id"])

    assert account.outcome(again["json"]["task_id"]) == ("PENDING", None)
    assert "Cache-Status" not in again["headers"]
