"""The calls that a process of the fleet can make: of the real functions and of the real store. Tests import the names,
and processes run them. Only `prepare` needs a function's environment variables.
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
"""The fault of a SendMessage: none; it has no effect; or it takes effect and its response is lost."""

_SECONDS_FOR_A_MESSAGE = 20

_trouble: Trouble = ""
_pause = 0.0
_modules: dict[str, ModuleType] = {}


class Answer(NamedTuple):
    """The response of a function of the API."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]


class Written(NamedTuple):
    """The result of a conditional write: `turn` is the turn after it, or the unchanged turn if it was refused."""

    done: bool
    turn: Turn | None


def prepare() -> None:
    """Import the modules that all processes need, before the fork, while no connection is open and no thread runs."""
    session = importlib.import_module("turnqueue.aws")._session
    session.register("before-call.sqs.SendMessage", lambda **_: _time_out_if("lost"))
    session.register("after-call.sqs.SendMessage", lambda **_: _time_out_if("unanswered"))
    for name in ("submit", "status", "deadletter"):
        _modules[name] = importlib.import_module(name)
    importlib.import_module(
        "model"
    )  # this imports openai too; the module worker has an event loop, which forked processes cannot share


def _time_out_if(trouble: Trouble) -> None:
    if _trouble == trouble:
        time.sleep(_pause)
        raise botocore.exceptions.ReadTimeoutError(endpoint_url="https://sqs.invalid")


def load(function: str) -> ModuleType:
    if function not in _modules:
        _modules[function] = importlib.import_module(function)
    return _modules[function]


def warm(function: str) -> None:
    """Import the function, like a cold start, so that imports are not part of the race."""
    load(function)


def request(function: str, event: dict[str, Any], trouble: Trouble = "", pause: float = 0.0) -> Answer:
    """An HTTP request to a function of the API. The fault appears after `pause` seconds."""
    global _trouble, _pause
    _trouble, _pause = trouble, pause
    try:
        response = load(function).handler(event, Context(29.0))
    finally:
        _trouble = ""
    return Answer(response["statusCode"], response["headers"], json.loads(response["body"]))


def batch(function: str, records: list[dict[str, Any]], ahead: float = 0.0) -> list[str]:
    """A batch for the worker or for deadletter, in a process whose clock is `ahead` seconds fast. Returns the ids of
    the messages that come back.
    """
    real = time.time
    with unittest.mock.patch.object(time, "time", lambda: real() + ahead):
        response = load(function).handler({"Records": records}, Context(400.0))
    return [failure["itemIdentifier"] for failure in response["batchItemFailures"]]


def timed_batch(function: str, records: list[dict[str, Any]]) -> tuple[list[str], float]:
    """The same, with the time of its end."""
    return batch(function, records), time.time()


def deliver() -> list[str]:
    """Imitates the event source: gives each message to the worker at once, and deletes it unless it must come back.
    Returns the ids of the messages that came back.
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
    """A received message in the form of the worker's event."""
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
    }


def claim_and_succeed(key: Any, now: float, lease_until: float, result: dict[str, Any]) -> tuple[Written, Written]:
    """Claim and answer a turn, like a worker with a very fast model."""
    claimed = store("claim", key, now, lease_until)
    if not claimed.done:
        return claimed, claimed
    return claimed, store("succeed", claimed.turn, result, {}, time.time())


def store(method: str, *arguments: Any) -> Written:
    """A write of the worker's store."""
    turns: Any = load("status").store
    refused = importlib.import_module("turnqueue.store").Refused
    try:
        answer = getattr(turns, method)(*arguments)
    except refused as error:
        return Written(False, error.current)
    return Written(True, answer if isinstance(answer, Turn) else None)
