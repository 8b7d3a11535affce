"""POST /chat: the recorded turn, the queued message, the response, and the wait."""

import hashlib
import json
import re
import time
from types import ModuleType
from typing import Any

import pytest

from tests.unit.conftest import (
    ENVIRONMENT,
    Account,
    Action,
    Clock,
    Parts,
    Printed,
    Response,
    StandIn,
    Wire,
    refusing,
    task_id_of,
    unreachable,
)
from turnqueue.turn import Key

WRITES = ("PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem", "TransactWriteItems")
ASYNC = {"async_mode": "true"}


# ---- What is recorded and queued


def by_default(account: Account, method: str, path: str) -> Any:
    """The response to a request for which API Gateway has no other route."""
    event = account.post_event({"message": "hello"}, query=ASYNC, route="$default")
    event["requestContext"]["routeKey"] = "$default"
    event["requestContext"]["http"] |= {"method": method, "path": path}
    event["rawPath"] = path
    return account.answer("submit", event)


def test_an_old_clients_path_with_a_slash_accepts_a_message(account: Account) -> None:
    response = by_default(account, "POST", "/chat/")

    assert response["statusCode"] == 202
    assert account.task(response["json"]["task_id"])["status"] == "PENDING"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", path) for path in ("/", "/chat//", "//chat/", "/chats", "/chat/media/", "/Chat/")),
        *((method, "/chat/") for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "post")),
        *(("POST", "/chat/task//retry"), ("GET", "/chat/task/s.1/")),
    ],
)
def test_any_other_path_is_a_404(account: Account, wire: Wire, method: str, path: str) -> None:
    response = by_default(account, method, path)

    assert (response["statusCode"], response["json"]["code"]) == (404, "no_such_route")
    assert response["headers"]["Content-Type"] == "application/problem+json"
    assert wire.calls == []


def test_a_turn_is_recorded_with_these_attributes_and_no_others(account: Account) -> None:
    request: dict[str, Any] = {"message": "hello", "role": "booking", "metadata": {"channel": "web"}}

    before = time.time()
    task_id = account.queued(**request, session_id="s-1")
    item = account.item(task_id)

    assert item.pop("session") == {"S": "alice#s-1"}
    assert f"s-1.{item.pop('turn')['S']}" == task_id
    assert json.loads(item.pop("request")["S"]) == request
    assert item.pop("status") == {"S": "PENDING"}
    assert item.pop("attempt") == {"N": "0"}
    created = float(item.pop("created_at")["N"])
    assert before - 0.001 <= created <= time.time()
    assert float(item.pop("deadline_at")["N"]) == pytest.approx(created + 15 * 60, abs=0.001)
    assert int(item.pop("expires_at")["N"]) == int(created) + 7 * 24 * 3600
    assert item == {}


def test_the_message_is_the_key_of_the_turn_and_nothing_else(account: Account, wire: Wire) -> None:
    task_id = account.queued("a prompt", session_id="s-1", metadata={"channel": "web"})

    (sent,) = wire.made("SendMessage")
    assert json.loads(sent.pop("MessageBody")) == {"session": "alice#s-1", "turn": task_id.partition(".")[2]}
    assert sent == {
        "QueueUrl": ENVIRONMENT["QUEUE_URL"],
        "MessageGroupId": hashlib.sha256(b"alice#s-1").hexdigest(),
        "MessageDeduplicationId": task_id,
    }


def test_a_turn_is_recorded_before_it_is_queued_and_with_two_calls_in_all(account: Account, wire: Wire) -> None:
    account.submit()

    assert [call.operation for call in wire.calls] == ["PutItem", "SendMessage"]


def test_a_synchronous_chat_costs_three_writes_of_its_item_too(account: Account, wire: Wire, eager: None) -> None:
    """test_costs.py counts those of an asynchronous one."""
    assert account.post({"message": "hello"})["statusCode"] == 200

    # submit, claim, finish; its owner's usage
    assert [write["TableName"] for write in wire.made(*WRITES)] == ["TurnsTable"] * 3 + ["GuardsTable"]


def test_a_session_id_is_made_if_none_is_given(account: Account) -> None:
    first, second = account.submit(), account.submit()

    assert re.fullmatch(r"[A-Za-z0-9_-]{20,64}", first["session_id"])
    assert first["session_id"] != second["session_id"]


# ---- The 202


def test_the_202_is_a_chat_response_that_says_where_and_when_to_look(account: Account) -> None:
    response = account.post({"message": "hello", "session_id": "s-1"}, headers={"Prefer": "respond-async"})

    task_id = response["json"].pop("task_id")
    assert re.fullmatch(r"s-1\.[0-7][0-9A-HJKMNP-TV-Z]{25}", task_id)
    answer = {"session_id": "s-1", "message": "Processing...", "data": None, "draft": None, "status": "PENDING"}
    assert response["json"] == answer
    assert response["headers"] == {
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
        "Location": f"/chat/task/{task_id}",
        "Retry-After": "1",
        "Preference-Applied": "respond-async",
    }


# ---- How the client wants its answer


@pytest.mark.parametrize(
    ("query", "prefer", "flag", "seconds", "applied"),
    [
        (None, None, False, 25, None),
        (None, None, True, 0, None),
        # The query wins over the header and the flag.
        ("true", None, False, 0, None),
        ("true", "wait=5", False, 0, None),
        ("true", "respond-async", False, 0, "respond-async"),
        ("false", None, True, 25, None),
        ("false", "respond-async", False, 25, None),
        ("false", "wait=4", True, 4, "wait=4"),
        ("true", None, True, 0, None),
        # What FastAPI took for a boolean.
        ("True", None, False, 0, None),
        ("1", None, False, 0, None),
        ("yes", None, False, 0, None),
        ("on", None, False, 0, None),
        ("0", None, True, 25, None),
        ("off", None, True, 25, None),
        ("NO", None, True, 25, None),
        # The header wins over the flag.
        (None, "respond-async", False, 0, "respond-async"),
        (None, "wait=5", True, 5, "wait=5"),
        (None, "wait=5", False, 5, "wait=5"),
        (None, "wait=0", False, 0, "wait=0"),
        (None, "wait=99", False, 25, "wait=25"),
        (None, "wait=10000000000", False, 25, "wait=25"),
        (None, 'wait="7"', False, 7, "wait=7"),
        (None, "wait=3, wait=9", False, 3, "wait=3"),
        (None, "respond-async, wait=6", False, 6, "respond-async, wait=6"),
        (None, "wait = 6 ; foo=1 , Respond-Async;x", False, 6, "respond-async, wait=6"),
        # What we do not know is ignored.
        (None, "return=minimal", False, 25, None),
        (None, "return=minimal", True, 0, None),
    ],
)
def test_query_over_header_over_flag(
    account: Account,
    clock: Clock,
    submit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    query: str | None,
    prefer: str | None,
    flag: bool,
    seconds: int,
    applied: str | None,
) -> None:
    monkeypatch.setattr(submit, "async_by_default", flag)

    began = time.time()
    response = account.post(
        {"message": "hello"},
        query={"async_mode": query} if query else None,
        headers={"Prefer": prefer} if prefer else None,
    )

    assert response["statusCode"] == 202  # No worker is there, so it waits for as long as it may.
    assert sum(clock.slept) <= seconds <= time.time() - began
    assert response["headers"].get("Preference-Applied") == applied


def test_the_flag_is_the_environment_variable_of_the_replaced_system(submit: ModuleType) -> None:
    assert submit.async_by_default is False  # FEATURE_ASYNC_CHAT_ENABLED is "false" in these tests


# ---- Waiting for the answer


def test_a_sync_answer_is_the_chat_response_as_soon_as_it_is_there(account: Account, clock: Clock, eager: None) -> None:
    prefer = "respond-async, wait=10"
    response = account.post({"message": "hello", "session_id": "s-1"}, headers={"Prefer": prefer})

    assert response["statusCode"] == 200
    plain = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    assert response["headers"] == plain | {"Preference-Applied": prefer}
    assert set(response["json"]) == {"session_id", "message", "data", "draft", "task_id"}
    assert account.task(response["json"]["task_id"])["result"] == response["json"]
    assert len(clock.slept) == 1


def test_what_does_not_finish_in_time_is_a_202_and_not_lost(account: Account, clock: Clock, printed: Printed) -> None:
    response = account.post({"message": "hello"}, headers={"Prefer": "wait=2"})

    assert response["statusCode"] == 202
    assert response["headers"]["Location"] == f"/chat/task/{response['json']['task_id']}"
    assert printed.metrics() == {"TaskSubmitted": [1], "SyncWaitTimedOut": [1]}
    account.work()
    assert account.outcome(response["json"]["task_id"]) == ("SUCCESS", None)


def test_a_202_after_a_wait_tells_how_the_task_stands_now(account: Account, clock: Clock, worker: Parts) -> None:
    def claim() -> None:
        for item in account.items():
            key = Key(item["session"]["S"], item["turn"]["S"])
            if item["status"]["S"] == "PENDING":
                worker.store.claim(key, time.time(), time.time() + 100)

    clock.meanwhile = claim

    response = account.post({"message": "hello"}, headers={"Prefer": "wait=12"})

    assert (response["statusCode"], response["json"]["status"]) == (202, "STARTED")
    assert response["headers"]["Retry-After"] == "3"  # A quarter of its age.


@pytest.mark.parametrize(("seconds", "most"), [(10, 7), (2, 0)])
def test_it_answers_before_its_own_time_is_up(account: Account, clock: Clock, seconds: int, most: int) -> None:
    response = account.post({"message": "hello"}, seconds=seconds)

    assert response["statusCode"] == 202
    assert sum(clock.slept) <= most


def test_while_it_waits_it_reads_seldom_and_cheaply(account: Account, clock: Clock, wire: Wire) -> None:
    account.post({"message": "hello"})

    reads = [read for read in wire.made("GetItem") if read["TableName"] == "TurnsTable"]
    assert 40 <= len(reads) <= 52
    assert len(wire.made("GetItem")) - len(reads) <= 10, "the two breakers of the model, each 5 s"
    assert not any(read.get("ConsistentRead") for read in reads)
    assert clock.slept[0] == pytest.approx(0.1)
    assert all(later >= sooner for sooner, later in zip(clock.slept[:-2], clock.slept[1:-1], strict=True))
    assert max(clock.slept) <= 1.0


def test_a_read_that_fails_does_not_end_the_wait(account: Account, clock: Clock, wire: Wire) -> None:
    wire.before("GetItem", refusing())
    wire.before("GetItem", unreachable)
    clock.meanwhile = account.work

    response = account.post({"message": "hello"})

    assert response["statusCode"] == 200


def test_if_no_read_succeeds_while_it_waits_the_task_is_not_lost(account: Account, clock: Clock, wire: Wire) -> None:
    wire.before("GetItem", refusing(), times=100)

    response = account.post({"message": "hello"}, headers={"Prefer": "wait=5"})

    assert response["statusCode"] == 202
    wire.clear()
    account.work()
    assert account.outcome(response["json"]["task_id"]) == ("SUCCESS", None)


@pytest.mark.parametrize(
    ("message", "status", "code", "retryable"),
    [
        ("[[refuse]]", 422, "prompt_refused", False),
        ("[[content_filter]]", 422, "prompt_refused", False),
        ("[[status=400 code=context_length_exceeded]]", 422, "context_too_long", False),
        ("[[status=400]]", 502, "model_rejected", False),
        ("[[status=401]]", 502, "model_auth", False),
        ("[[status=429 code=insufficient_quota]]", 502, "model_quota", False),
        ("[[broken_json]]", 502, "output_invalid", True),
        ("[[tokens=20000]]", 502, "result_too_large", False),
        ("[[cut=3]]", 503, "model_unavailable", True),
    ],
)
def test_a_failed_turn_is_a_problem_document(
    account: Account, eager: None, message: str, status: int, code: str, retryable: bool
) -> None:
    response = account.post({"message": message, "session_id": "s-1", "role": "booking"})

    check_failure(account, response, status, code, retryable)


def check_failure(account: Account, response: Response, status: int, code: str, retryable: bool) -> None:
    assert (response["statusCode"], response["json"]["code"]) == (status, code)
    assert response["headers"]["Content-Type"] == "application/problem+json"
    assert (response["headers"].get("Retry-After") is not None) == (status == 503)
    problem = response["json"]
    assert problem["status"] == status
    assert problem["retryable"] is retryable
    assert problem["error"]["message"] == problem["detail"]
    assert problem["error"]["code"] == code
    assert problem["session_id"] == problem["task_id"].partition(".")[0]
    task = account.task(problem["task_id"])
    assert (task["status"], task["error_code"]) == ("FAILURE", code)
    assert (task["error"], task["retryable"]) == (problem["detail"], retryable)


def test_a_turn_past_its_deadline_is_a_504(account: Account, clock: Clock) -> None:
    key = {"Idempotency-Key": "k-1"}
    account.post({"message": "hello"}, query=ASYNC, headers=key)
    clock.forward(16 * 60)

    response = account.post({"message": "hello"}, headers=key)

    check_failure(account, response, 504, "deadline_exceeded", True)


def test_a_turn_that_is_cancelled_meanwhile_is_a_409(account: Account, clock: Clock) -> None:
    clock.meanwhile = lambda: [account.cancel(task_id_of(item)) for item in account.items()]

    response = account.post({"message": "hello"})

    check_failure(account, response, 409, "cancelled", False)
    assert response["json"]["error"]["type"] == "conflict_error"


def test_a_turn_that_is_lost_meanwhile_is_a_503(account: Account, clock: Clock) -> None:
    clock.meanwhile = lambda: account.bury(account.receive())

    response = account.post({"message": "hello"})

    check_failure(account, response, 503, "worker_lost", True)


# ---- When AWS fails


@pytest.mark.parametrize("fault", [refusing("ServiceUnavailable", 503), unreachable], ids=["refused", "unreachable"])
def test_if_the_queue_does_not_take_it_the_task_fails_and_nothing_is_accepted(
    account: Account, wire: Wire, printed: Printed, fault: Action
) -> None:
    wire.before("SendMessage", fault)

    response = account.post({"message": "hello"}, query=ASYNC)

    problem = response["json"]
    assert (response["statusCode"], problem["code"], problem["retryable"]) == (503, "enqueue_failed", True)
    assert int(response["headers"]["Retry-After"]) > 0
    assert response["headers"]["Content-Type"] == "application/problem+json"
    assert account.outcome(problem["task_id"]) == ("FAILURE", "enqueue_failed")
    assert account.waiting() == (0, 0)
    assert printed.metrics() == {"EnqueueFailed": [1], "TaskFailed": [1]}


def test_a_message_that_arrived_though_refused_is_dropped_by_the_worker(
    account: Account, wire: Wire, model: StandIn
) -> None:
    wire.after("SendMessage", unreachable)
    response = account.post({"message": "hello"}, query=ASYNC)
    assert response["statusCode"] == 503
    assert account.waiting() == (1, 0)

    assert account.work() == []

    assert model.messages() == []
    assert account.waiting() == (0, 0)
    assert account.outcome(response["json"]["task_id"]) == ("FAILURE", "enqueue_failed")


@pytest.mark.parametrize(("message", "status"), [("hello", "SUCCESS"), ("[[status=500 times=1]]", "PENDING")])
def test_a_message_that_arrived_though_refused_and_was_begun_is_accepted(
    account: Account, wire: Wire, clock: Clock, message: str, status: str
) -> None:
    def begun_all_the_same(params: dict[str, Any]) -> None:
        account.work()
        unreachable(params)

    wire.after("SendMessage", begun_all_the_same)

    response = account.post({"message": message}, query=ASYNC)

    assert (response["statusCode"], account.outcome(response["json"]["task_id"])) == (202, (status, None))
    clock.forward(10)
    account.work()
    assert account.outcome(response["json"]["task_id"]) == ("SUCCESS", None)


@pytest.mark.parametrize("operation", ["SendMessage", "PutItem"])
def test_an_answer_that_was_lost_once_makes_no_second_turn_and_no_second_message(
    account: Account, wire: Wire, clock: Clock, operation: str
) -> None:
    """botocore repeats the call. A second put is refused by what it put itself."""
    wire.lose_answer(operation)

    response = account.post({"message": "hello"}, query=ASYNC)

    assert (response["statusCode"], len(account.items()), account.waiting()) == (202, 1, (1, 0))
    account.work()
    assert account.outcome(response["json"]["task_id"]) == ("SUCCESS", None)


def test_if_the_table_refuses_nothing_is_queued(account: Account, wire: Wire) -> None:
    wire.before("PutItem", refusing())

    response = account.post({"message": "hello"})

    assert (response["statusCode"], response["json"]["code"]) == (503, "unavailable")
    assert int(response["headers"]["Retry-After"]) > 0
    assert wire.made("SendMessage") == []


def test_if_queue_and_table_fail_the_task_still_ends(account: Account, wire: Wire, clock: Clock) -> None:
    wire.before("SendMessage", refusing())
    wire.before("UpdateItem", refusing())

    response = account.post({"message": "hello"})

    assert (response["statusCode"], response["json"]["code"]) == (503, "enqueue_failed")
    clock.forward(15 * 60)
    assert account.outcome(response["json"]["task_id"]) == ("FAILURE", "deadline_exceeded")


def test_a_failure_of_our_own_tells_nothing_of_its_cause(account: Account, wire: Wire, printed: Printed) -> None:
    def bug(params: dict[str, Any]) -> None:
        raise ValueError("the innermost secret")

    wire.before("PutItem", bug)

    response = account.post({"message": "hello"})

    assert (response["statusCode"], response["json"]["code"]) == (500, "internal_error")
    assert response["json"]["error"]["type"] == "server_error"
    assert "innermost" not in response["body"]
    assert "innermost" not in printed.everything
    (line,) = printed.logged("request failed")
    assert line["error"] == "ValueError"
    assert line["where"]


# ---- Who is calling


def test_the_owner_is_never_what_the_client_says(account: Account) -> None:
    response = account.post(
        {"message": "hello", "session_id": "s-1", "metadata": {"owner": "bob", "sub": "bob"}},
        headers={"X-Owner": "bob", "Authorization": "Bearer bob"},
        query={**ASYNC, "owner": "bob", "sub": "bob"},
    )

    assert response["statusCode"] == 202
    assert [item["session"]["S"] for item in account.items()] == ["alice#s-1"]


# ---- What is counted


def test_chats_and_their_replays_are_counted_and_no_refused_request(account: Account, printed: Printed) -> None:
    for _ in range(2):
        account.post({"message": "hello"}, query=ASYNC, headers={"Idempotency-Key": "k-1"})
    account.post({"message": ""})

    assert printed.metrics() == {"TaskSubmitted": [1], "TaskReplayed": [1]}
