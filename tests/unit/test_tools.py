"""Functions of the client on POST /chat: the model asks for them, and exactly one later message brings the results."""

import json
from typing import Any

import openai
import pytest

from tests.unit.conftest import Account, Clock, Response, StandIn, Wire, refusing
from tests.unit.openai_client import client
from tests.unit.test_limits import SetLimits, set_limits, usage

__all__ = ["set_limits"]

PARAMETERS = {
    "type": "object",
    "properties": {"number": {"type": "integer"}},
    "required": ["number"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "name": name, "description": "Adds.", "parameters": PARAMETERS}
    for name in ("add_one", "add_two")
]


def calling(account: Account, message: str = "what is 3 and one?", **more: Any) -> dict[str, Any]:
    """The answer to a message, which asks for functions."""
    response = account.post({"message": message, "session_id": "s-1", "tools": TOOLS, **more})
    assert response["statusCode"] == 200, response
    assert response["json"]["tool_calls"]
    answer: dict[str, Any] = response["json"]
    return answer


def outputs(answer: dict[str, Any], output: str = "4") -> list[dict[str, str]]:
    return [{"call_id": call["call_id"], "output": output} for call in answer["tool_calls"]]


def proceed(account: Account, results: Any, **more: Any) -> Response:
    headers = more.pop("headers", {})
    body = {"session_id": "s-1", "tool_outputs": results, "tools": TOOLS, **more}
    return account.post(body, headers=headers)


# ---- The way of a function


def test_a_task_ends_with_the_calls_and_the_next_message_goes_on_with_their_results(
    account: Account, eager: None
) -> None:
    asked = calling(account)
    (call,) = asked["tool_calls"]
    assert call.keys() == {"call_id", "name", "arguments"}
    assert (call["name"], json.loads(call["arguments"]), asked["message"]) == ("add_one", {"number": 3}, "")
    task = account.task(asked["task_id"])
    assert (task["status"], task["result"]["tool_calls"]) == ("SUCCESS", [call])

    answer = proceed(account, outputs(asked))["json"]

    assert answer["message"] == '[stand-in model] You said "what is 3 and one?". The tools said: 4.'
    assert "tool_calls" not in answer
    later = account.post({"message": "thanks", "session_id": "s-1"})["json"]
    assert 'You said "thanks"' in later["message"]


def test_the_last_event_has_the_calls(account: Account, eager: None) -> None:
    asked = calling(account, stream=True)

    (done,) = account.news(asked["task_id"], 0)

    assert (done["event"], done["task"]["result"]["tool_calls"]) == ("done", asked["tool_calls"])


def test_results_and_a_message_go_together(account: Account, eager: None, model: StandIn) -> None:
    asked = calling(account)

    answer = proceed(account, outputs(asked), message="and in words?", tools=None)["json"]

    assert answer["message"].startswith('[stand-in model] You said "and in words?".')


def test_functions_are_called_in_parallel_unless_the_request_forbids_it(account: Account, eager: None) -> None:
    asked = calling(
        account, "[[calls=3]] 5", parallel_tool_calls=False, tool_choice={"type": "function", "name": "add_two"}
    )

    assert [call["name"] for call in asked["tool_calls"]] == ["add_two", "add_one", "add_two"]
    stored = json.loads(account.item(asked["task_id"])["request"]["S"])
    assert stored["options"] == {"parallel_tool_calls": False}
    assert proceed(account, outputs(asked))["json"]["message"].endswith("The tools said: 4, 4, 4.")


def test_the_conversation_has_the_calls_and_their_results(account: Account, eager: None) -> None:
    asked = calling(account)
    proceed(account, outputs(asked))

    first, second = account.session("s-1")["json"]["turns"]

    assert (first["result"]["tool_calls"], "tool_outputs" in first) == (asked["tool_calls"], False)
    assert (second["message"], second["tool_outputs"]) == ("", outputs(asked))


def test_the_openai_api_reads_a_turn_of_chat_and_continues_it(account: Account, eager: None) -> None:
    asked = calling(account)
    alice = client(account)

    response = alice.responses.retrieve(f"resp_{asked['task_id']}")
    (call,) = response.output
    assert call.type == "function_call"
    assert response.tools[0].to_dict() == TOOLS[0] | {"strict": None}
    sent: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "4"}]
    answer = alice.responses.create(model="general", input=sent, previous_response_id=response.id)

    assert answer.output_text.endswith("The tools said: 4.")
    assert proceed(account, outputs(asked))["json"]["code"] == "already_continued"


# ---- Exactly one continuation


def test_results_are_accepted_once_and_a_repeated_request_gets_the_same_task(account: Account, eager: None) -> None:
    asked = calling(account)
    key = {"Idempotency-Key": "k-1"}
    first = proceed(account, outputs(asked), headers=key)["json"]

    again = proceed(account, outputs(asked), headers=key)
    other = proceed(account, outputs(asked))

    assert again["json"] == first
    assert again["headers"]["Idempotency-Replayed"] == "true"
    assert (other["statusCode"], other["json"]["code"]) == (409, "already_continued")
    assert other["json"]["error"]["param"] == "tool_outputs"
    assert len(account.session("s-1")["json"]["turns"]) == 2


def test_results_can_be_sent_again_if_their_task_has_failed(account: Account, eager: None, wire: Wire) -> None:
    asked = calling(account)
    wire.before("SendMessage", refusing())
    assert proceed(account, outputs(asked))["json"]["code"] == "enqueue_failed"

    answer = proceed(account, outputs(asked))

    assert answer["json"]["message"].endswith("The tools said: 4.")


def test_a_failed_continuation_is_retried_unless_another_has_succeeded(account: Account, eager: None) -> None:
    asked = calling(account)
    failed = proceed(account, outputs(asked), message="[[refuse]]", tools=None)["json"]["task_id"]
    assert account.outcome(failed) == ("FAILURE", "prompt_refused")
    assert proceed(account, outputs(asked))["statusCode"] == 200

    retried = account.retry(failed)

    assert (retried["statusCode"], retried["json"]["code"]) == (409, "already_continued")


@pytest.mark.parametrize("wrong", ["unknown", "missing", "twice"])
def test_the_results_must_be_those_of_the_calls(account: Account, eager: None, wrong: str) -> None:
    asked = calling(account, "[[calls=2]] 3")
    right = outputs(asked)
    given, param = {
        "unknown": ([*right, right[0] | {"call_id": "call_x"}], "tool_outputs.2.call_id"),
        "missing": (right[:1], "tool_outputs"),
        "twice": ([right[0], right[0]], "tool_outputs.1.call_id"),
    }[wrong]

    refused = proceed(account, given)

    assert (refused["statusCode"], refused["json"]["code"]) == (400, "tool_outputs_mismatch")
    assert refused["json"]["error"]["param"] == param
    assert refused["json"]["detail"].startswith(f"{param}: ")
    assert len(account.session("s-1")["json"]["turns"]) == 1
    assert proceed(account, right)["statusCode"] == 200


@pytest.mark.parametrize(("owner", "session"), [("bob", "s-1"), ("alice", "s-2")])
def test_calls_of_another_session_or_owner_do_not_exist(
    account: Account, eager: None, owner: str, session: str
) -> None:
    sent = {"session_id": session, "tool_outputs": outputs(calling(account))}

    refused = account.post(sent, owner=owner)

    assert (refused["statusCode"], refused["json"]["code"]) == (400, "tool_outputs_mismatch")


def test_calls_are_those_of_the_attempt_that_was_recorded(account: Account, clock: Clock, model: StandIn) -> None:
    task_id = account.queued("[[cut=2 times=1]] 3", session_id="s-1", tools=TOOLS)
    account.work()
    assert account.task(task_id)["result"] is None
    clock.forward(60)
    account.work()

    (call,) = account.task(task_id)["result"]["tool_calls"]

    assert model.calls()["total"] == 2
    assert proceed(account, [{"call_id": call["call_id"], "output": "4"}])["statusCode"] == 202


# ---- A message instead of the results


def test_a_message_instead_of_the_results_is_answered_and_the_calls_are_over(account: Account, eager: None) -> None:
    asked = calling(account)

    answer = account.post({"message": "never mind", "session_id": "s-1"})
    late = proceed(account, outputs(asked))

    assert answer["json"]["message"].startswith('[stand-in model] You said "never mind".')
    assert (late["statusCode"], late["json"]["code"]) == (409, "already_continued")


def test_a_conversation_of_the_openai_api_follows_the_same_rules(account: Account, eager: None) -> None:
    alice = client(account)
    sent: Any = {"model": "general", "conversation": "conv_s-1", "tools": TOOLS}
    asked = alice.responses.create(input="3", **sent)
    results: Any = [
        {"type": "function_call_output", "call_id": call.call_id, "output": "4"}
        for call in asked.output
        if call.type == "function_call"
    ]
    with pytest.raises(openai.BadRequestError) as refused:
        alice.responses.create(input=[results[0] | {"call_id": "call_x"}], **sent)
    assert refused.value.code == "tool_outputs_mismatch"

    answer = alice.responses.create(input=results, **sent)

    assert answer.output_text.endswith("The tools said: 4.")
    assert (answer.previous_response_id, answer.conversation and answer.conversation.id) == (None, "conv_s-1")
    with pytest.raises(openai.ConflictError) as conflict:
        alice.responses.create(input=results, **sent)
    assert conflict.value.code == "already_continued"
    alice.responses.create(model="general", input="[[calls=2]] 3", conversation="conv_s-1", tools=TOOLS)  # type: ignore[arg-type]
    said = alice.responses.create(model="general", input="never mind", conversation="conv_s-1")
    assert 'You said "never mind"' in said.output_text
    again = alice.responses.create(input="3", **sent)
    results = [{"call_id": call.call_id, "output": "4"} for call in again.output if call.type == "function_call"]
    assert "The tools said: 4." in proceed(account, results)["json"]["message"]


# ---- Calls that the model no longer gets


@pytest.fixture
def short_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is told three turns and not 20, so that a test needs fewer of them."""
    monkeypatch.setattr("attempt.HISTORY_TURNS", 3)
    monkeypatch.setattr("continuation.MOST_TURNS", 3)


def test_a_session_goes_on_when_its_results_are_older_than_the_history(
    account: Account, eager: None, short_history: None
) -> None:
    proceed(account, outputs(calling(account)))

    answers = [account.post({"message": f"m{number}", "session_id": "s-1"}) for number in range(5)]

    assert {answer["statusCode"] for answer in answers} == {200}


def test_a_loop_of_functions_may_be_longer_than_the_history(account: Account, eager: None, short_history: None) -> None:
    asked = calling(account)

    for _ in range(5):
        asked = proceed(account, outputs(asked), message="what is 3 and one?")["json"]

    assert asked["tool_calls"]


def test_results_of_a_deleted_turn_stay_in_the_conversation(account: Account, eager: None) -> None:
    asked = calling(account)
    proceed(account, outputs(asked, "the sum is 4"))
    client(account).responses.delete(f"resp_{asked['task_id']}")

    answer = account.post({"message": "thanks", "session_id": "s-1"})

    assert "the sum is 4" in answer["json"]["message"]


def test_results_that_come_late_hide_no_message(account: Account, eager: None) -> None:
    asked = calling(account)
    failed = proceed(account, outputs(asked), message="[[refuse]]", tools=None)["json"]["task_id"]
    assert account.outcome(failed) == ("FAILURE", "prompt_refused")
    account.post({"message": "my name is Zed", "session_id": "s-1"})

    assert proceed(account, outputs(asked))["statusCode"] == 200
    later = account.post({"message": "thanks", "session_id": "s-1"})

    assert "my name is Zed" in later["json"]["message"]


def test_refused_results_reserve_no_tokens(account: Account, eager: None, set_limits: SetLimits) -> None:
    set_limits("default:6000/100/1000000")
    asked = calling(account)
    proceed(account, outputs(asked))

    assert proceed(account, outputs(asked))["statusCode"] == 409

    assert usage(account)["json"]["reserved_tokens"] == 0
