"""events/ has one file for each trigger. The template's handler for each file gives the intended outcome."""

import hashlib
import json
import time
from types import ModuleType
from typing import Any

import pytest

from development import cfn
from tests.payloads import Context, event_file
from tests.unit.conftest import Account, Clock, read

FILES = sorted(path.stem for path in (cfn.ROOT / "events").glob("*.json"))
OPENAI = ("openai-create", "openai-retrieve", "openai-delete")
HTTP = ("submit", "media", "status", "events", "cancel", "retry", "session", "usage", "health", *OPENAI)
QUEUE = ("worker", "deadletter")
TASK_ID = "session_123.01KANEC0X00000000000000000"
ROUTES = cfn.resources("AWS::ApiGatewayV2::Route").values()
AUTHORIZATION = {route["RouteKey"]: route["AuthorizationType"] for route in ROUTES}


@pytest.fixture
def waiting(account: Account, submit: ModuleType, clock: Clock) -> None:
    """The turn that the files name, recorded at the time that its id tells, and not yet run."""
    clock.forward(1763803792.288 - time.time())
    key = submit.Key("alice#session_123", "01KANEC0X00000000000000000")
    request = {"message": "I need a haircut", "role": "booking"}
    submit.store.create(submit.Turn.submitted(key, request, time.time()))


def invoke(account: Account, function: str, file: str) -> Any:
    return account.functions[function].handler(event_file(file), Context())


# ---- What each file is for


@pytest.mark.parametrize(
    ("function", "file", "status_code", "member", "value"),
    [
        ("submit", "media", 201, "max_bytes", 48_211),
        ("status", "status", 200, "task_id", TASK_ID),
        ("status", "cancel", 200, "error_code", "cancelled"),
        ("submit", "openai-create", 200, "status", "queued"),
        ("status", "openai-retrieve", 200, "id", f"resp_{TASK_ID}"),
        ("status", "openai-delete", 200, "deleted", True),
        ("status", "health", 200, "status", "ok"),
    ],
)
def test_a_request_is_answered(
    account: Account, waiting: None, function: str, file: str, status_code: int, member: str, value: Any
) -> None:
    response = read(invoke(account, function, file))

    assert (response["statusCode"], response["json"][member]) == (status_code, value)


def test_submit_accepts_a_task_and_once_only(account: Account) -> None:
    first, second = (read(invoke(account, "submit", "submit")) for _ in range(2))

    assert (first["statusCode"], first["json"]["status"]) == (202, "PENDING")
    assert first["json"]["session_id"] == "session_123"
    assert second["json"]["task_id"] == first["json"]["task_id"]
    assert account.waiting() == (1, 0)


def test_events_tell_what_is_new_of_the_answer(account: Account, waiting: None) -> None:
    response = invoke(account, "status", "events")

    assert (response["statusCode"], response["body"]) == (200, "retry: 300\n\n")


def test_retry_sends_the_message_of_a_failed_task_again(account: Account, waiting: None) -> None:
    assert invoke(account, "submit", "retry")["statusCode"] == 409
    account.cancel(TASK_ID)

    response = read(invoke(account, "submit", "retry"))

    assert (response["statusCode"], response["json"]["status"]) == (202, "PENDING")
    assert account.task(response["json"]["task_id"])["retry_of"] == TASK_ID


def test_session_shows_the_conversation(account: Account, waiting: None) -> None:
    response = read(invoke(account, "status", "session"))

    assert [turn["message"] for turn in response["json"]["turns"]] == ["I need a haircut"]


@pytest.mark.parametrize("file", ["status", "events", "cancel", "session", "openai-retrieve", "openai-delete"])
def test_on_an_empty_table_they_find_nothing(account: Account, file: str) -> None:
    assert invoke(account, "status", file)["statusCode"] == 404


def test_worker_answers_the_turn(account: Account, waiting: None) -> None:
    assert invoke(account, "worker", "worker") == {"batchItemFailures": []}

    task = account.task(TASK_ID)
    assert (task["status"], task["result"]["draft"]["service"]) == ("SUCCESS", "haircut")


def test_deadletter_closes_the_turn(account: Account, waiting: None) -> None:
    assert invoke(account, "deadletter", "deadletter") == {"batchItemFailures": []}

    assert account.outcome(TASK_ID) == ("FAILURE", "worker_lost")


@pytest.mark.parametrize("file", QUEUE)
def test_on_an_empty_table_a_message_is_done_with(account: Account, file: str) -> None:
    assert invoke(account, file, file) == {"batchItemFailures": []}


# ---- That there is one for each trigger, and what it says of itself


def test_every_route_has_a_file_and_every_file_a_route() -> None:
    covered = {event_file(name)["routeKey"] for name in HTTP}
    without = {"HEAD /health", "$default", "OPTIONS /{proxy+}"}  # They have nothing that a file could show.

    assert covered | without == set(AUTHORIZATION)
    assert not covered & without


def test_every_queue_that_triggers_a_function_has_a_file() -> None:
    sources = {
        (function["Handler"].partition(".")[0], event["Properties"]["Queue"]["Fn::GetAtt"].partition(".")[0])
        for function in cfn.resources("AWS::Serverless::Function").values()
        for event in function.get("Events", {}).values()
        if event["Type"] == "SQS"
    }

    arns = {(name, event_file(name)["Records"][0]["eventSourceARN"].rpartition(":")[2]) for name in QUEUE}
    assert {(name, arn.removesuffix(".fifo")) for name, arn in arns} == sources


def test_there_is_no_other_file() -> None:
    assert set(FILES) == {*HTTP, *QUEUE}


@pytest.mark.parametrize("file", HTTP)
def test_a_request_agrees_with_itself(file: str) -> None:
    event = event_file(file)

    assert event["version"] == "2.0"
    assert event["requestContext"]["routeKey"] == event["routeKey"]
    assert event["requestContext"]["http"]["path"] == event["rawPath"]
    method, _, path = event["routeKey"].partition(" ")
    assert event["requestContext"]["http"]["method"] == method
    for name, value in event.get("pathParameters", {}).items():
        path = path.replace(f"{{{name}}}", value).replace(f"{{{name}+}}", value)
    assert path == event["rawPath"]
    query = "&".join(f"{name}={value}" for name, value in event.get("queryStringParameters", {}).items())
    assert query == event["rawQueryString"]
    assert all(name == name.lower() for name in event["headers"])


@pytest.mark.parametrize("file", HTTP)
def test_a_request_has_claims_if_its_route_has_an_authorizer(file: str) -> None:
    event = event_file(file)

    assert ("authorizer" in event["requestContext"]) == (AUTHORIZATION[event["routeKey"]] != "NONE")


@pytest.mark.parametrize("file", QUEUE)
def test_a_message_agrees_with_what_submit_sends(file: str, submit: ModuleType) -> None:
    (record,) = event_file(file)["Records"]
    message = json.loads(record["body"])
    key = submit.Key(message["session"], message["turn"])

    assert key.task_id == TASK_ID
    assert record["attributes"]["MessageGroupId"] == key.group
    assert record["attributes"]["MessageDeduplicationId"] == key.task_id
    assert record["md5OfBody"] == hashlib.md5(record["body"].encode()).hexdigest()
    assert record["eventSource"] == "aws:sqs"


def test_a_dead_letter_was_received_more_often_than_the_queue_allows() -> None:
    (record,) = event_file("deadletter")["Records"]
    redrive = cfn.resources("AWS::SQS::Queue")["TurnQueue"]["RedrivePolicy"]

    assert int(record["attributes"]["ApproximateReceiveCount"]) > redrive["maxReceiveCount"]
