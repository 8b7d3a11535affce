"""The writes of a chat. Each costs money, and a million chats pay a million times."""

import time
import uuid
from collections import Counter

import pytest

from local.recorder import Call
from local.stack import AUDIENCE, LocalStack
from tests.e2e.conftest import Api, until_idle
from turnqueue.turn import guard_key

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def writes(stack: LocalStack) -> list[Call]:
    """Those of one chat of an owner who is new, whose answer comes at once, until its worker has ended."""
    assert stack.recorder
    owner, session = f"owner-{uuid.uuid4()}", f"session-{uuid.uuid4()}"
    token = stack.issuer.signed({"sub": owner, "aud": AUDIENCE, "exp": int(time.time()) + 600})
    api = Api(stack.api_url, token)
    with api.http:
        assert api.finished(api.submit("hello", session_id=session))["status"] == "SUCCESS"
    until_idle(stack)
    hashed = guard_key("", owner).removeprefix("#")
    return [
        call
        for call in stack.recorder.calls()
        if call.action in ("dynamodb:PutItem", "dynamodb:UpdateItem")
        and (f"{owner}#{session}" in str(call.parameters) or hashed in str(call.parameters))
    ]


def test_a_chat_without_progress_is_three_writes_of_its_turn(writes: list[Call], stack: LocalStack) -> None:
    turns = [call for call in writes if call.parameters["TableName"] == stack.outputs["TurnsTableName"]]

    assert [(call.caller, call.action) for call in turns] == [
        ("SubmitFunction", "dynamodb:PutItem"),  # recorded
        ("WorkerFunction", "dynamodb:UpdateItem"),  # claimed
        ("WorkerFunction", "dynamodb:UpdateItem"),  # answered
    ]
    assert all(call.status == 200 and call.parameters["ConditionExpression"] for call in turns)
    _, claimed, answered = (call.parameters for call in turns)
    assert ":set_claim_id" in claimed["ExpressionAttributeValues"]
    assert ":set_result" in answered["ExpressionAttributeValues"]


def test_what_else_a_chat_writes_is_the_usage_of_the_day(writes: list[Call], stack: LocalStack) -> None:
    """It is reserved at submit and settled at the end. And the rate of its owner, because this stack has OwnerLimits.
    All are in the guards table, whose keys say so."""
    guards = [call for call in writes if call.parameters["TableName"] == stack.outputs["GuardsTableName"]]

    kinds = Counter((call.caller, call.parameters["Key"]["guard"]["S"].partition("#")[0]) for call in guards)

    assert kinds == {
        ("SubmitFunction", "rate"): 1,
        ("SubmitFunction", "usage"): 1,
        ("WorkerFunction", "usage"): 1,
    }
