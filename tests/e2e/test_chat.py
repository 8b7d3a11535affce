"""A deployed stack from a client's view: a chat in each mode, the task, the conversation, cancellation, isolation."""

import json
import uuid

import pytest

from tests.e2e.conftest import Api


def new_session() -> str:
    return f"s-{uuid.uuid4().hex}"


@pytest.mark.parametrize("path", ["/chat/", "/chat"])
def test_a_sync_chat_is_answered_in_one_request(alice: Api, path: str) -> None:
    response = alice.http.post(path, json={"message": "hello"})
    assert response.status_code == 200, response.text
    body = response.json()
    assert set(body) == {"session_id", "message", "data", "draft", "task_id"}
    assert body["message"]
    assert alice.task(body["task_id"])["result"] == body


@pytest.mark.parametrize(
    ("query", "headers"),
    [("?async_mode=true", {}), ("", {"Prefer": "respond-async"}), ("?async_mode=true", {"Prefer": "wait=20"})],
    ids=["query", "prefer", "query wins over prefer"],
)
def test_an_async_chat_is_answered_202_and_polled_to_the_end(alice: Api, query: str, headers: dict[str, str]) -> None:
    response = alice.chat("hello", query=query, headers=headers)
    assert response.status_code == 202, response.text
    body = response.json()
    assert body["message"] == "Processing..."
    assert response.headers["Location"] == f"/chat/task/{body['task_id']}"
    assert int(response.headers["Retry-After"]) >= 1
    task = alice.finished(body["task_id"])
    assert task["status"] == "SUCCESS"
    assert task["result"]["task_id"] == body["task_id"]


def test_what_does_not_finish_in_the_wait_is_answered_202_and_not_lost(alice: Api, stack: object) -> None:
    response = alice.chat("[[latency=3]] slowly", headers={"Prefer": "wait=1"})
    assert response.status_code == 202, response.text
    assert response.headers["Preference-Applied"] == "wait=1"
    assert alice.finished(response.json()["task_id"])["status"] == "SUCCESS"


def test_a_conversation_is_remembered_in_order(alice: Api, stack: object) -> None:
    session = new_session()
    first, second = (
        alice.submit(text, session_id=session) for text in ("my dog is called Rex", "what is my dog called?")
    )
    answer = alice.finished(second)["result"]["message"]
    assert "my dog is called Rex" in answer
    assert alice.task(first)["finished_at"] <= alice.task(second)["started_at"]
    conversation = alice.http.get(f"/chat/session/{session}").json()
    assert [turn["task_id"] for turn in conversation["turns"]] == [first, second]
    assert [turn["message"] for turn in conversation["turns"]] == ["my dog is called Rex", "what is my dog called?"]


def test_a_function_of_the_client_is_called_and_its_result_is_accepted_once(alice: Api, stack: object) -> None:
    session, number = new_session(), {"type": "object", "properties": {"number": {"type": "integer"}}}
    tools = [{"type": "function", "name": "add_one", "parameters": number | {"required": ["number"]}}]
    task_id = alice.submit("what is 3 and one?", session_id=session, tools=tools)
    (call,) = alice.finished(task_id)["result"]["tool_calls"]
    assert (call["name"], json.loads(call["arguments"])) == ("add_one", {"number": 3})

    results = {"session_id": session, "tool_outputs": [{"call_id": call["call_id"], "output": "4"}]}
    answer = alice.http.post("/chat", json=results)

    assert answer.json()["message"].endswith("The tools said: 4.")
    assert alice.http.post("/chat", json=results).json()["code"] == "already_continued"


def test_the_same_idempotency_key_makes_one_task(alice: Api, bob: Api) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    first = alice.chat("once", headers=key, query="?async_mode=true")
    second = alice.chat("once", headers=key, query="?async_mode=true")
    assert first.json()["task_id"] == second.json()["task_id"]
    assert second.headers["Idempotency-Replayed"] == "true"
    assert alice.chat("another", headers=key).status_code == 422
    assert bob.chat("another", headers=key).status_code == 200


def test_a_running_task_is_cancelled_and_keeps_what_was_said(alice: Api, stack: object) -> None:
    task_id = alice.submit("[[drip=0.3 tokens=100]] tell me a long story")
    alice.until(task_id, lambda task: bool(task["partial"]))
    assert alice.http.post(f"/chat/task/{task_id}/cancel").status_code == 202
    task = alice.finished(task_id, seconds=15)
    assert (task["status"], task["error_code"]) == ("FAILURE", "cancelled")
    assert task["partial"]
    again = alice.http.post(f"/chat/task/{task_id}/cancel")
    assert again.status_code == 200
    assert again.json() == task


def test_a_refused_prompt_is_a_422_with_the_task(alice: Api, stack: object) -> None:
    response = alice.chat("[[refuse]] something bad")
    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["error"]["code"] == "prompt_refused"
    assert alice.task(problem["task_id"])["status"] == "FAILURE"


def test_health_needs_no_token_and_all_else_does(nobody: Api) -> None:
    got, asked = nobody.http.get("/health"), nobody.http.head("/health")
    assert got.json()["status"] == "ok"
    assert (asked.status_code, asked.headers["content-type"], asked.content) == (200, got.headers["content-type"], b"")
    assert nobody.chat("hello").status_code == 401
    assert nobody.http.get("/chat/task/x.01KANEC0X00000000000000000").status_code == 401
