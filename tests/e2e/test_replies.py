"""Cached replies, on the deployed stack."""

import uuid

import pytest

from local.stack import LocalStack
from tests.e2e.conftest import Api
from tests.stand_in import StandIn

CACHED = {"Cache-Control": "max-age=600"}


def asked(stack: LocalStack, message: str) -> int:
    """How often the model was asked this."""
    return StandIn(stack.model_url).messages().count(message)


@pytest.mark.parametrize("role", ["general", "booking"])
def test_an_equal_message_is_answered_at_once_in_both_modes(alice: Api, bob: Api, stack: LocalStack, role: str) -> None:
    message = f"I need a haircut {uuid.uuid4()}"
    first = alice.chat(message, headers=CACHED, role=role)
    assert "Cache-Status" not in first.headers

    now = alice.chat(message, headers=CACHED, role=role)
    later = alice.chat(message, headers=CACHED, role=role, query="?async_mode=true")

    assert (now.status_code, later.status_code) == (200, 202)
    assert later.headers["Location"] == f"/chat/task/{later.json()['task_id']}"
    told = {name: first.json()[name] for name in ("message", "data", "draft")}
    for hit in (now, later):
        assert hit.headers["Cache-Status"] == "turnqueue; hit"
        task = alice.task(hit.json()["task_id"])
        assert task["status"] == "SUCCESS"
        assert {name: task["result"][name] for name in told} == told
        assert (task["usage"]["cached"], task["usage"]["prompt_tokens"], task["attempt"]) == (True, 0, 0)
    assert asked(stack, message) == 1
    assert "Cache-Status" not in bob.chat(message, headers=CACHED, role=role).headers
    assert asked(stack, message) == 2
