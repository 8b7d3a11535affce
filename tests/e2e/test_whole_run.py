"""Checks all calls, logs, messages and responses of the functions in the whole run: of the tests before this file, and
of a complete tour."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from development import cfn
from local.deploy import STACK_NAME
from local.recorder import Call
from local.stack import POLLER, LocalStack
from tests.e2e import tour
from tests.e2e.conftest import Api, Deployment
from turnqueue.telemetry import FIELDS
from turnqueue.turn import is_ulid

pytestmark = pytest.mark.timeout(240)  # some 20 s of the tour, and the start of the stack if this file runs alone

type Permission = tuple[str, str, str]
"""(function, action, resource), both by their logical ids"""

LOG_ACTIONS = ("logs:CreateLogStream", "logs:PutLogEvents")
NOT_CALLED_HERE: dict[Permission, str] = {
    **{
        (f"{name}Function", action, f"{name}LogGroup"): "Lambda writes a function's log with its role; here to a file"
        for name in ("Submit", "Status", "Worker", "Deadletter", "Authorizer", "Streams")
        for action in LOG_ACTIONS
    },
    ("WorkerFunction", "sqs:GetQueueAttributes", "TurnQueue"): "Lambda's poller asks with the role; ours does not",
    ("DeadletterFunction", "sqs:GetQueueAttributes", "DeadLetterQueue"): "the same",
}
"""What the roles allow and the run cannot show to be needed. Lambda demands the last two of the role of a function
that it feeds from a queue (its developer guide, "Using Lambda with Amazon SQS", 2026-11)."""


@pytest.fixture(scope="module")
def whole_run(stack: LocalStack, alice: Api, nobody: Api) -> LocalStack:
    tour.take(stack, alice, nobody)
    return stack


@pytest.fixture(scope="module")
def calls(whole_run: LocalStack) -> list[Call]:
    assert whole_run.recorder
    return [part for call in whole_run.recorder.calls() for part in parts(call)]


def parts(call: Call) -> Iterator[Call]:
    """The parts of a transaction as calls, because AWS asks for the permission of each part. Or the call as it is."""
    for part in call.parameters.get("TransactItems", ()):
        for kind, parameters in part.items():
            yield replace(call, action=f"dynamodb:{kind}Item", parameters=parameters)
    if "TransactItems" not in call.parameters:
        yield call


def resources(stack: LocalStack) -> dict[str, str]:
    """The logical id of each resource of the stack by its name in the account."""
    answer = stack.client("cloudformation").describe_stack_resources(StackName=STACK_NAME)["StackResources"]
    names = {each["PhysicalResourceId"].rpartition("/")[2]: each["LogicalResourceId"] for each in answer}
    return names | {tour.secret_arn(stack): "ModelKeySecretArn"}


def used(calls: list[Call], names: dict[str, str]) -> set[Permission]:
    permissions = set()
    for call in calls:
        named = [
            call.parameters[key]
            for key in ("TableName", "QueueUrl", "SecretId", "Bucket", "FunctionName")
            if key in call.parameters
        ] or list(call.parameters.get("RequestItems", {}))  # of BatchGetItem
        [resource] = [names[name if name in names else name.rpartition("/")[2]] for name in named] or ["?"]
        # A batch is one permission with the single call, on AWS.
        permissions.add((call.caller.removesuffix(POLLER), call.action.removesuffix("Batch"), resource))
    return permissions


def test_every_role_allows_what_its_function_does_and_nothing_else(whole_run: LocalStack, calls: list[Call]) -> None:
    granted = {
        (function, action, resource)
        for function in whole_run.functions
        for action, resource in cfn.permissions(cfn.role(function))
    }

    done = used(calls, resources(whole_run))

    assert done - granted == set(), "not allowed by the template"
    assert granted - done - set(NOT_CALLED_HERE) == set(), "allowed, and never used"
    assert set(NOT_CALLED_HERE) - granted == set(), "an exception for what is not allowed"
    assert set(NOT_CALLED_HERE) & done == set(), "an exception for what is used"


# ---- What is private stays in the turns table


SHORTEST_OF_A_KIND = 12
"""Characters: a shorter text, as "hello", may stand somewhere for another reason."""


@pytest.fixture(scope="module")
def private(deployment: Deployment, whole_run: LocalStack) -> set[str]:
    """The planted words; what every user of the run has said and was answered; the keys and tokens."""
    said: set[str] = set()
    scanned = whole_run.client("dynamodb").get_paginator("scan").paginate(TableName=whole_run.outputs["TurnsTableName"])
    for item in (item for page in scanned for item in page["Items"]):
        for name in ("request", "result", "partial"):
            if name in item:
                text = item[name]["S"]
                said |= set(texts(text if name == "partial" else json.loads(text)))
    # The id of an image is ours, and means nothing to another.
    said = {text for text in said if not is_ulid(text) and not text.startswith("data/")}
    assert len(said) > 20, "nobody has said anything"
    tokens = {part for token in deployment.tokens.values() for part in token.split(".")[1:]}
    return {*tour.PLANTED, whole_run.model.key, *tokens, *(text for text in said if len(text) >= SHORTEST_OF_A_KIND)}


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from texts(child)


def lines(stack: LocalStack) -> Iterator[dict[str, Any]]:
    """What the functions wrote into their logs: nothing but JSON. The runtime ends its own report of an error with no
    line break."""
    for name in stack.functions:
        log = stack.logs / f"{name}.log"
        text = log.read_text().lstrip() if log.exists() else ""
        while text:
            document, end = json.JSONDecoder().raw_decode(text)
            yield document
            text = text[end:].lstrip()


def absent(private: set[str], place: str, text: str) -> None:
    # As it is, and as JSON within JSON.
    found = [secret for secret in private if secret in text or json.dumps(secret)[1:-1] in text]
    assert not found, f"{found} in {place}"


def test_no_log_holds_what_is_private(whole_run: LocalStack, private: set[str]) -> None:
    """Metrics too: they are lines of the log. And what the account and the deployment have written."""
    logs = {path.name: path.read_text() for path in whole_run.logs.iterdir()}
    assert {"WorkerFunction.log", "SubmitFunction.log", "emulator.log", "sam.log", "model.log"} <= set(logs)

    for name, text in logs.items():
        absent(private, name, text)


def test_no_queue_and_no_guard_holds_what_is_private(
    whole_run: LocalStack, calls: list[Call], private: set[str]
) -> None:
    sent = [call.parameters for call in calls if call.action == "sqs:SendMessage"]
    assert sent
    for message in sent:
        assert set(message) == {"QueueUrl", "MessageBody", "MessageGroupId", "MessageDeduplicationId"}
        assert set(json.loads(message["MessageBody"])) == {"session", "turn"}

    of_texts = {whole_run.outputs[name] for name in ("TurnsTableName", "EventsTableName")}
    elsewhere = [call for call in calls if call.parameters.get("TableName") not in of_texts]
    assert {call.action for call in elsewhere} >= {"sqs:SendMessage", "dynamodb:PutItem"}
    absent(private, "a call", json.dumps([call.parameters for call in elsewhere]))


def test_no_refusal_holds_what_is_private(deployment: Deployment, whole_run: LocalStack, private: set[str]) -> None:
    assert len(deployment.refusals) > 10
    absent(private, "an error", "\n".join(deployment.refusals))


def test_no_key_or_token_is_in_the_turns_table(whole_run: LocalStack, calls: list[Call], private: set[str]) -> None:
    written = [call.parameters for call in calls if call.action in ("dynamodb:PutItem", "dynamodb:UpdateItem")]
    keys = private & {tour.IDEMPOTENCY_KEY, tour.MODEL_KEY, whole_run.model.key}
    assert len(keys) == 3
    absent(keys, "a table", json.dumps(written))


def test_log_lines_have_the_fields_of_the_list_and_metrics_are_numbers(whole_run: LocalStack) -> None:
    """Save the platform's own report of an invocation that failed, which is not ours to write."""
    kinds = set()
    for line in lines(whole_run):
        if str(line.get("type", "")).startswith("platform.") or {"errorType", "stackTrace"} <= set(line):
            continue
        kinds.add("_aws" in line)
        if "_aws" not in line:
            assert set(line) <= set(FIELDS), line
            continue
        [directive] = line["_aws"]["CloudWatchMetrics"]
        names = {metric["Name"] for metric in directive["Metrics"]}
        dimensions = {name for names in directive["Dimensions"] for name in names}
        assert set(line) - {"_aws", *names, *dimensions} <= set(FIELDS), line
        assert dimensions == {"service"}, "a dimension holds text: is it one of ours?"
        assert all(isinstance(value, float | int) for name in names for value in line[name])
    assert kinds == {True, False}
