"""What a process of the fleet does when it is told to: calls of the real functions and of the real store.

Imported by the tests for the names, and by the processes to do it. Only `prepare` needs a function's environment.
"""

import contextlib
import importlib
import json
import os
import time
import unittest.mock
from types import ModuleType
from typing import Any, Literal, NamedTuple

import botocore.exceptions

from tests.payloads import Context
from turnqueue.turn import Turn

type Trouble = Literal["", "lost", "unanswered"]
"""What befalls a SendMessage: nothing; it never takes effect; it does, and its caller does not learn of it."""

_SECONDS_FOR_A_MESSAGE = 20

_trouble: Trouble = ""
_pause = 0.0
_modules: dict[str, ModuleType] = {}


class Answer(NamedTuple):
    """What a function of the API answered."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]


class Written(NamedTuple):
    """What became of a conditional write: `turn` is the turn after it, or, if it was refused, as it stands."""

    done: bool
    turn: Turn | None


def prepare() -> None:
    """Import what all processes need, before they are forked: no connection is open and no thread runs then."""
    session = importlib.import_module("turnqueue.aws")._session
    session.register("before-call.sqs.SendMessage", lambda **_: _time_out_if("lost"))
    session.register("after-call.sqs.SendMessage", lambda **_: _time_out_if("unanswered"))
    for name in ("submit", "status", "deadletter"):
        _modules[name] = importlib.import_module(name)
    importlib.import_module(
        "model"
    )  # and with it openai; the worker's own module holds an event loop, which none can share


def _time_out_if(trouble: Trouble) -> None:
    if _trouble == trouble:
        time.sleep(_pause)
        raise botocore.exceptions.ReadTimeoutError(endpoint_url="https://sqs.invalid")


def load(function: str) -> ModuleType:
    if function not in _modules:
        _modules[function] = importlib.import_module(function)
    return _modules[function]


def warm(function: str) -> None:
    """Import the function, as a cold start does, so that the race itself is none of imports."""
    load(function)


def request(function: str, event: dict[str, Any], trouble: Trouble = "", pause: float = 0.0) -> Answer:
    """An HTTP request to a function of the API. The trouble takes the seconds of `pause` to show."""
    global _trouble, _pause
    _trouble, _pause = trouble, pause
    try:
        response = load(function).handler(event, Context(29.0))
    finally:
        _trouble = ""
    return Answer(response["statusCode"], response["headers"], json.loads(response["body"]))


def batch(function: str, records: list[dict[str, Any]], ahead: float = 0.0) -> list[str]:
    """A batch for the worker or for deadletter, in a process whose clock is `ahead` by so many seconds.

    Returns the ids of the messages that it gives back.
    """
    real = time.time
    with unittest.mock.patch.object(time, "time", lambda: real() + ahead):
        response = load(function).handler({"Records": records}, Context(400.0))
    return [failure["itemIdentifier"] for failure in response["batchItemFailures"]]


def timed_batch(function: str, records: list[dict[str, Any]]) -> tuple[list[str], float]:
    """The same, and when it was done."""
    return batch(function, records), time.time()


def deliver() -> list[str]:
    """What the event source does: as soon as a message comes, the worker gets it, and it is deleted unless given back.

    Returns the ids of the messages that were given back.
    """
    sqs, url = load("turnqueue.aws").client("sqs", attempts=2), os.environ["QUEUE_URL"]
    end = time.monotonic() + _SECONDS_FOR_A_MESSAGE
    messages: list[dict[str, Any]] = []
    while not messages:
        assert time.monotonic() < end, "no message came"
        messages = sqs.receive_message(QueueUrl=url, MessageSystemAttributeNames=["All"]).get("Messages", [])
    given_back = batch("worker", [record(message) for message in messages])
    for message in messages:
        if message["MessageId"] not in given_back:
            with contextlib.suppress(botocore.exceptions.ClientError):  # the worker has deleted it itself
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return given_back


def record(message: dict[str, Any]) -> dict[str, Any]:
    """A received message as the worker's event has it."""
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
    }


def store(method: str, *arguments: Any) -> Written:
    """A write of the worker's store."""
    return _write(method, *arguments)


def claim_and_succeed(key: Any, now: float, lease_until: float, result: dict[str, Any]) -> tuple[Written, Written]:
    """What a worker with a very fast model does."""
    claimed = _write("claim", key, now, lease_until)
    if not claimed.done:
        return claimed, claimed
    return claimed, _write("succeed", claimed.turn, result, {}, time.time())


def _write(method: str, *arguments: Any) -> Written:
    turns: Any = load("status").store
    refused = importlib.import_module("turnqueue.store").Refused
    try:
        answer = getattr(turns, method)(*arguments)
    except refused as error:
        return Written(False, error.current)
    return Written(True, answer if isinstance(answer, Turn) else None)
