"""Idempotency-Key: a request that is sent several times, or dies after any step, makes one task."""

import time
from typing import Any

import pytest

from tests.unit.conftest import Account, Clock, Crash, Parts, Response, StandIn, Wire, crash, refusing, unreachable

BODY = {"message": "hello", "session_id": "s-1", "metadata": {"a": "1", "b": "2"}}
DAY = 24 * 3600


def send(account: Account, body: Any = BODY, key: str = "k-1", **options: Any) -> Response:
    options.setdefault("query", {"async_mode": "true"})
    return account.post(body, headers={"Idempotency-Key": key}, **options)


def task_of(response: Response) -> str:
    assert response["statusCode"] == 202, response
    task_id: str = response["json"]["task_id"]
    return task_id


# ---- The same request


def test_the_same_request_joins_the_same_task(account: Account) -> None:
    first, second = send(account), send(account)

    assert task_of(first) == task_of(second)
    assert "Idempotency-Replayed" not in first["headers"]
    assert second["headers"]["Idempotency-Replayed"] == "true"
    assert second["headers"]["Location"] == first["headers"]["Location"]
    assert len(account.items()) == 1
    assert account.waiting() == (1, 0)


def test_without_a_key_or_with_another_the_same_request_makes_two_tasks(account: Account) -> None:
    assert account.queued("hello") != account.queued("hello")
    assert task_of(send(account, key="k-1")) != task_of(send(account, key="k-2"))


def test_a_request_without_a_session_joins_the_session_that_was_made_for_it(account: Account) -> None:
    first, second = send(account, {"message": "hello"}), send(account, {"message": "hello"})

    assert task_of(first) == task_of(second)
    assert first["json"]["session_id"] == second["json"]["session_id"]


@pytest.mark.parametrize(("message", "status"), [("hello", 200), ("[[refuse]] hello", 422)])
def test_a_replay_of_a_final_task_is_its_answer_or_its_failure(
    account: Account, clock: Clock, model: StandIn, message: str, status: int
) -> None:
    clock.meanwhile = account.work

    first, second = (send(account, {"message": message}, query={}) for _ in range(2))

    assert (first["statusCode"], second["statusCode"]) == (status, status)
    assert first["json"] == second["json"]
    assert second["headers"]["Idempotency-Replayed"] == "true"
    assert model.messages() == [message]


def test_a_replay_of_a_task_at_work_queues_nothing(account: Account, worker: Parts, wire: Wire) -> None:
    first = send(account)
    worker.claim(task_of(first))

    second = send(account)

    assert task_of(first) == task_of(second)
    assert second["json"]["status"] == "STARTED"
    assert len(wire.made("SendMessage")) == 1


def test_a_sync_replay_waits_for_the_task_of_the_async_request(account: Account, clock: Clock) -> None:
    first = send(account)
    clock.meanwhile = account.work

    second = send(account, query={})

    assert second["statusCode"] == 200
    assert second["json"]["task_id"] == task_of(first)


# ---- The same request, spelled differently


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{\n "session_id": "s-1",\n "metadata": {"a": "1", "b": "2"},\n "message": "hello" }', "k-1"),
        (r'{"message":"\u0068ello","session_id":"s-1","metadata":{"a":"1","b":"2"}}', "k-1"),
        ('{"message":"hello","role":"general","session_id":"s-1","metadata":{"a":"1","b":"2"}}', "k-1"),
        ('{"message":"hello","media":null,"session_id":"s-1","metadata":{"a":"1","b":"2"}}', "k-1"),
        ('{"message":"hello","session_id":"s-1","metadata":{"a":"1","b":"2"}}', '"k-1"'),
        ('{"message":"hello","session_id":"s-1","metadata":{"a":"1","b":"2"}}', "  k-1 "),
        ('{"message":"hello","session_id":"s-1","metadata":{"b":"2","a":"1"}}', "k-1"),
        ('{"message":"hello","session_id":"s-1","metadata":{"a":"1","b":"2"},"stream":true}', "k-1"),
    ],
)
def test_the_same_request_joins_however_it_is_spelled(account: Account, text: str, key: str) -> None:
    first = send(account)

    assert task_of(send(account, text, key)) == task_of(first)


# ---- Another request


@pytest.mark.parametrize(
    "body",
    [
        BODY | {"message": "Hello"},
        BODY | {"session_id": "s-2"},
        BODY | {"role": "booking"},
        BODY | {"metadata": {"a": "1"}},
        BODY | {"media": [{"type": "image", "url": "https://example.com/cat.png"}]},
        {"message": "hello"},
    ],
)
def test_the_key_of_another_request_is_a_422(account: Account, body: dict[str, Any]) -> None:
    first = send(account)

    second = send(account, body)

    assert (second["statusCode"], second["json"]["code"]) == (422, "idempotency_key_reused")
    assert second["json"]["error"]["param"] == "Idempotency-Key"
    assert "task_id" not in second["json"]
    assert [f"s-1.{item['turn']['S']}" for item in account.items()] == [task_of(first)]


@pytest.mark.parametrize(
    ("one", "other"), [(("a", "b#c"), ("a#b", "c")), (("a", "bc"), ("ab", "c")), (("a", "b:c"), ("a:b", "c"))]
)
def test_no_owner_and_key_equal_another_pair(account: Account, one: tuple[str, str], other: tuple[str, str]) -> None:
    first, second = (send(account, owner=owner, key=key) for owner, key in (one, other))

    assert "Idempotency-Replayed" not in second["headers"]
    assert task_of(first) != task_of(second)


@pytest.mark.parametrize("key", ["k", "k" * 255, '"' + "k" * 255 + '"', "4e0f4e0c-6f0e-4c43", "!~#'/"])
def test_a_key_of_1_to_255_visible_characters(account: Account, key: str) -> None:
    assert task_of(send(account, key=key)) == task_of(send(account, key=key))


def test_a_key_is_kept_as_a_hash_and_for_a_day(account: Account) -> None:
    send(account, key="my-very-own-key")

    (guard,) = account.items("GuardsTable")
    assert set(guard) == {"guard", "task_id", "fingerprint", "expires_at"}
    assert "my-very-own-key" not in str(guard) and "hello" not in str(guard)
    assert int(guard["expires_at"]["N"]) == pytest.approx(time.time() + DAY, abs=5)


# ---- When AWS fails, or a request dies on its way


def test_after_a_failed_send_the_next_request_with_the_key_queues_the_task(account: Account, wire: Wire) -> None:
    wire.before("SendMessage", refusing())
    failed = send(account)
    assert (failed["statusCode"], failed["json"]["code"]) == (503, "enqueue_failed")
    assert account.waiting() == (0, 0)
    assert send(account, BODY | {"message": "other"})["json"]["code"] == "idempotency_key_reused"

    second, third = send(account), send(account)

    assert task_of(third) == task_of(second) == failed["json"]["task_id"]
    assert account.waiting() == (1, 0)
    assert account.work() == []
    assert account.outcome(task_of(second)) == ("SUCCESS", None)


@pytest.mark.parametrize(
    ("when", "operation", "recorded"),
    [("after", "PutItem", 0), ("before", "SendMessage", 1), ("after", "SendMessage", 1)],
)
def test_a_request_that_died_is_finished_by_the_next(
    account: Account, wire: Wire, model: StandIn, when: str, operation: str, recorded: int
) -> None:
    getattr(wire, when)(operation, crash)  # The first PutItem binds the key.
    with pytest.raises(Crash):
        send(account)
    assert (len(account.items("GuardsTable")), len(account.items())) == (1, recorded)

    task_id = task_of(send(account))

    assert account.items("GuardsTable")[0]["task_id"]["S"] == task_id
    account.work()
    assert account.outcome(task_id) == ("SUCCESS", None)
    assert task_of(send(account)) == task_id
    assert model.messages() == ["hello"]
    assert account.waiting() == (0, 0)


def test_a_second_send_that_fails_does_not_end_the_task_of_the_first(account: Account, wire: Wire) -> None:
    first = send(account)
    wire.before("SendMessage", refusing())

    second = send(account)

    assert (second["statusCode"], second["json"]["code"]) == (503, "enqueue_failed")
    assert account.outcome(task_of(first)) == ("PENDING", None)


def test_a_task_answered_while_a_request_joins_it_stays_answered(account: Account, wire: Wire, model: StandIn) -> None:
    first = send(account)
    wire.before("PutItem", lambda _: wire.before("PutItem", lambda _: account.work()))  # the key's, then the turn's

    second = send(account)

    assert task_of(second) == task_of(first)
    account.work()
    assert account.outcome(task_of(first)) == ("SUCCESS", None)
    assert model.messages() == ["hello"]


def test_if_the_guards_do_not_answer_nothing_is_recorded(account: Account, wire: Wire) -> None:
    wire.before("PutItem", unreachable)

    response = send(account)

    assert (response["statusCode"], response["json"]["code"]) == (503, "unavailable")
    assert (account.items(), account.waiting()) == ([], (0, 0))


def test_a_reservation_whose_answer_was_lost_is_our_own(account: Account, wire: Wire) -> None:
    wire.lose_answer("PutItem")  # botocore reserves again, and finds the key bound to the very same task

    response = send(account)

    assert task_of(response)
    assert "Idempotency-Replayed" not in response["headers"]
