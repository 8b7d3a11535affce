"""Cached replies and retries of failed tasks, on the deployed stack."""

import uuid
from concurrent.futures import ThreadPoolExecutor

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


def test_a_conversation_goes_on_from_a_reply_that_was_kept(alice: Api, stack: LocalStack) -> None:
    message = f"my dog is called Rex {uuid.uuid4()}"
    alice.chat(message, headers=CACHED)
    hit = alice.chat(message, headers=CACHED).json()

    answer = alice.chat("what is my dog called?", session_id=hit["session_id"], headers=CACHED).json()

    assert message in answer["message"]
    page = alice.http.get(f"/chat/session/{hit['session_id']}").json()
    assert [turn["usage"]["cached"] for turn in page["turns"]] == [True, False]


@pytest.mark.parametrize("control", ["no-cache", "no-store"])
def test_who_wants_no_kept_reply_gets_none(alice: Api, stack: LocalStack, control: str) -> None:
    message = f"hello {uuid.uuid4()}"
    alice.chat(message, headers=CACHED)

    assert "Cache-Status" not in alice.chat(message, headers={"Cache-Control": control}).headers
    assert asked(stack, message) == 2


def test_a_failed_task_is_sent_again_once_however_often_one_clicks(alice: Api, bob: Api, stack: LocalStack) -> None:
    message, session = f"[[refuse times=1]] {uuid.uuid4()}", f"s-{uuid.uuid4().hex}"
    failed = alice.submit(message, session_id=session, metadata={"from": "here"})
    assert alice.finished(failed)["error_code"] == "prompt_refused"
    assert bob.http.post(f"/chat/task/{failed}/retry").status_code == 404

    with ThreadPoolExecutor(8) as clicks:
        answers = list(clicks.map(lambda _: alice.http.post(f"/chat/task/{failed}/retry"), range(8)))

    assert {answer.status_code for answer in answers} == {202}
    [place] = {answer.headers["Location"] for answer in answers}
    again = answers[0].json()["task_id"]
    assert place == f"/chat/task/{again}"
    task = alice.finished(again)
    assert (task["status"], task["retry_of"], task["session_id"]) == ("SUCCESS", failed, session)
    turns = alice.http.get(f"/chat/session/{session}").json()["turns"]
    assert [turn["task_id"] for turn in turns] == [failed, again]
    assert [(turn["message"], turn["metadata"]) for turn in turns] == [(message, {"from": "here"})] * 2
    refused = alice.http.post(place + "/retry")
    assert (refused.status_code, refused.json()["code"]) == (409, "not_failed")
