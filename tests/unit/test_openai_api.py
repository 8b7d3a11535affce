"""The OpenAI API, as OpenAI's own client sees it when it checks every response strictly."""

import json
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from operations.replay import Wanted, replay
from operations.stack import Stack
from tests.unit import test_tools
from tests.unit.conftest import Account, Clock, Scripted, StandIn, Wire, refusing
from tests.unit.openai_client import client, requests
from turnqueue.events import Event, EventLog
from turnqueue.turn import Key

IMAGE = "data:image/gif;base64,R0lGODlhAQABAAAAACw="


@pytest.fixture
def alice(account: Account) -> openai.OpenAI:
    return client(account)


@pytest.fixture
def instructions(submit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service takes instructions from clients."""
    monkeypatch.setattr(submit, "allow_instructions", True)


# ---- In the background


def test_a_response_in_the_background_is_polled_to_its_end(account: Account, alice: openai.OpenAI) -> None:
    answer = alice.responses.with_raw_response.create(
        model="general", input="hello", background=True, metadata={"channel": "web"}
    )
    assert (answer.headers["openai-poll-after-ms"], answer.headers["x-request-id"]) == ("500", "request-0")
    created = answer.parse()
    assert (created.status, created.background, created.output_text) == ("queued", True, "")
    account.work()

    final = alice.responses.retrieve(created.id)

    assert (final.status, final.id, final.metadata) == ("completed", created.id, {"channel": "web"})
    assert final.output_text == '[stand-in model] You said "hello".'
    assert final.usage and final.usage.total_tokens == final.usage.input_tokens + final.usage.output_tokens > 0
    task = account.task(created.id.removeprefix("resp_"))
    assert task["result"]["message"] == final.output_text


def test_a_form_of_the_persona_stands_beside_the_answer(account: Account, alice: openai.OpenAI) -> None:
    created = alice.responses.create(model="booking", input="a massage tomorrow", background=True)
    account.work()

    final = alice.responses.retrieve(created.id)

    assert "massage" in final.output_text
    assert final.to_dict()["x_turnqueue"]["draft"]["service"] == "massage"  # type: ignore[index]


@pytest.mark.parametrize(
    ("message", "status", "code"),
    [
        ("[[content_filter]]", "failed", "invalid_prompt"),
        ("[[status=429 code=insufficient_quota]]", "failed", "rate_limit_exceeded"),
        ("[[status=401]]", "failed", "server_error"),
        ("[[length]] one two three", "incomplete", None),
    ],
)
def test_a_response_ends_in_openais_words(
    account: Account, alice: openai.OpenAI, message: str, status: str, code: str | None
) -> None:
    created = alice.responses.create(model="general", input=message, background=True)
    account.work()

    final = alice.responses.retrieve(created.id)

    assert final.status == status
    assert (final.error and final.error.code) == code
    assert (final.incomplete_details is not None) == (status == "incomplete")


def test_a_cancelled_response_stays_cancelled_and_a_final_one_final(account: Account, alice: openai.OpenAI) -> None:
    cancelled, other = (alice.responses.create(model="general", input="hello", background=True) for _ in range(2))
    assert [alice.responses.cancel(cancelled.id).status for _ in range(2)] == ["cancelled"] * 2
    account.work()

    assert alice.responses.retrieve(cancelled.id).status == "cancelled"
    with alice.responses.retrieve(cancelled.id, stream=True) as stream:
        last: Any = list(stream)[-1]
    assert (last.type, last.response.status) == ("response.incomplete", "cancelled")
    assert alice.responses.cancel(other.id).status == "completed"


def test_one_key_makes_one_response(account: Account, alice: openai.OpenAI) -> None:
    key = {"Idempotency-Key": "k-1"}
    ids = {
        alice.responses.create(model="general", input="hello", background=True, extra_headers=key).id for _ in range(5)
    }
    assert len(ids) == len(account.items()) == 1

    with pytest.raises(openai.UnprocessableEntityError, match="Another request"):
        alice.responses.create(model="general", input="other", background=True, extra_headers=key)


# ---- Deleted


def test_a_deleted_response_is_gone_with_its_texts(account: Account, alice: openai.OpenAI) -> None:
    created = alice.responses.create(model="general", input="a secret", background=True)
    account.work()

    alice.responses.delete(created.id)

    for gone in (alice.responses.retrieve, alice.responses.delete, alice.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            gone(created.id)
    with pytest.raises(openai.NotFoundError):
        alice.responses.input_items.list(created.id)
    assert account.get(created.id.removeprefix("resp_"))["statusCode"] == 404
    assert account.session(created.id[5:].partition(".")[0])["statusCode"] == 404
    assert "secret" not in json.dumps(account.items())


def test_a_waiting_response_is_cancelled_and_deleted(account: Account, alice: openai.OpenAI, model: StandIn) -> None:
    created = alice.responses.create(model="general", input="hello", background=True)

    alice.responses.delete(created.id)
    account.work()

    assert model.messages() == []


def test_a_running_response_is_deleted_once_it_is_cancelled(account: Account, alice: openai.OpenAI, wire: Wire) -> None:
    created = alice.responses.create(model="general", input="hello", background=True)
    seen: list[int] = []

    def delete(params: Any) -> None:
        with pytest.raises(openai.ConflictError) as refused:
            alice.responses.delete(created.id)
        seen.append(refused.value.status_code)
        assert refused.value.response.headers["retry-after-ms"] == "2000"

    wire.after("UpdateItem", delete)  # the claim
    account.work()
    alice.responses.delete(created.id)

    assert seen == [409]
    with pytest.raises(openai.NotFoundError):
        alice.responses.retrieve(created.id)


def test_a_deleted_turn_is_not_replayed(account: Account, alice: openai.OpenAI, stack: Stack) -> None:
    created = alice.responses.create(model="general", input="[[status=401]]", background=True)
    account.work()
    wanted = Wanted(codes=["model_auth"])
    assert len(replay(stack, wanted, dry_run=True).task_ids) == 1

    alice.responses.delete(created.id)

    assert replay(stack, wanted, dry_run=True).task_ids == []


def test_the_model_is_not_told_a_deleted_turn(account: Account, alice: openai.OpenAI, eager: None) -> None:
    first = alice.responses.create(model="general", input="one")
    second = alice.responses.create(model="general", input="two", previous_response_id=first.id)
    alice.responses.delete(first.id)

    third = alice.responses.create(model="general", input="three", previous_response_id=second.id)

    assert '"two"' in third.output_text and '"one"' not in third.output_text


# ---- In the foreground


@pytest.mark.parametrize("kind", ["response", "completion"])
def test_an_answer_that_takes_too_long_is_one_turn_and_names_it(account: Account, clock: Clock, kind: str) -> None:
    patient = client(account, max_retries=2)  # as the client is by default

    with pytest.raises(openai.APIStatusError) as refused:
        if kind == "response":
            patient.responses.create(model="general", input="hello")
        else:
            patient.chat.completions.create(model="general", messages=[{"role": "user", "content": "hello"}])

    assert (refused.value.status_code, refused.value.code) == (504, "response_in_progress")
    assert len(requests(patient)) == len(account.items()) == 1
    account.work()
    response_id = refused.value.response.json()["response_id"]
    assert refused.value.response.headers["location"] == f"/v1/responses/{response_id}"
    assert patient.responses.retrieve(response_id).output_text == '[stand-in model] You said "hello".'


def test_a_failed_answer_is_an_error_that_is_not_asked_for_again(account: Account, eager: None) -> None:
    patient = client(account, max_retries=2)

    with pytest.raises(openai.APIStatusError) as refused:
        patient.responses.create(model="general", input="[[status=401]]")

    assert (refused.value.status_code, refused.value.code) == (502, "model_auth")
    assert len(requests(patient)) == 1


def test_what_was_not_queued_is_tried_again(account: Account, wire: Wire, clock: Clock) -> None:
    patient = client(account, max_retries=1)
    wire.before("SendMessage", refusing())

    created = patient.responses.create(model="general", input="hello", background=True)

    assert (created.status, len(requests(patient))) == ("queued", 2)
    assert len(account.receive()) == 1


# ---- Conversations


def test_forks_stay_apart(alice: openai.OpenAI, eager: None) -> None:
    def said(word: str, after: openai.types.responses.Response | None = None) -> openai.types.responses.Response:
        answer = alice.responses.create(model="general", input=word, previous_response_id=after.id if after else None)
        assert answer.previous_response_id == (after.id if after else None)
        return answer

    root = said("root")
    left, right = said("left", root), said("right", root)

    assert said("end", left).output_text.endswith('you said: "root", "left" (2 messages).')
    assert said("end", right).output_text.endswith('you said: "root", "right" (2 messages).')


def test_a_conversation_is_made_read_and_listed(account: Account, alice: openai.OpenAI, eager: None) -> None:
    made = alice.conversations.create(metadata={"topic": "tea"})
    said: Any = {"one": made.id, "two": {"id": made.id}}
    answers = [alice.responses.create(model="general", input=word, conversation=said[word]) for word in said]

    found = alice.conversations.retrieve(made.id)
    items = list(alice.conversations.items.list(made.id, order="asc", limit=3))

    assert [answer.conversation and answer.conversation.id for answer in answers] == [made.id] * 2
    assert answers[1].output_text.endswith('you said: "one".')
    assert (found, found.metadata) == (made, {"topic": "tea"})
    texts = [item.to_dict()["content"][0]["text"] for item in items]  # type: ignore[index]
    assert texts[0::2] == ["one", "two"]
    assert [item.to_dict()["role"] for item in items] == ["user", "assistant"] * 2
    with pytest.raises(openai.NotFoundError):
        client(account, "bob").conversations.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        client(account, "bob").conversations.items.list(made.id)
    with pytest.raises(openai.BadRequestError):
        alice.conversations.delete(made.id)


def test_an_unfinished_response_cannot_be_continued(account: Account) -> None:
    patient = client(account, max_retries=2)
    first = patient.responses.create(model="general", input="one", background=True)

    with pytest.raises(openai.ConflictError):
        patient.responses.create(model="general", input="two", background=True, previous_response_id=first.id)

    assert len(requests(patient)) == 2


def test_a_whole_history_is_told_in_its_order(
    alice: openai.OpenAI, eager: None, scripted: Scripted, instructions: None
) -> None:
    scripted.says("fine")
    image = {"type": "input_image", "image_url": IMAGE, "detail": "auto"}
    output = {"type": "output_text", "text": "seen", "annotations": []}
    said: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "look"}, image]},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "content": [output]},
        {"role": "user", "content": "and?"},
    ]
    alice.responses.create(model="general", input=said)

    system, look, seen, last = scripted.asked[0]["messages"]
    assert system["role"] == "system" and system["content"].endswith("\n\nBe brief.")
    assert look["content"] == [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": IMAGE}}]
    assert (seen, last) == ({"role": "assistant", "content": "seen"}, {"role": "user", "content": "and?"})


def test_an_item_is_referred_to_by_its_id(account: Account, alice: openai.OpenAI, eager: None) -> None:
    first = alice.responses.create(model="general", input="one")
    asked = alice.responses.input_items.list(first.id).data[0].id

    said: Any = [
        {"type": "item_reference", "id": asked},
        {"type": "item_reference", "id": first.output[0].id},
        {"role": "user", "content": "two"},
    ]
    second = alice.responses.create(model="general", input=said)

    assert second.output_text.endswith('you said: "one".')
    items = alice.responses.input_items.list(second.id, order="asc").data
    assert [item.to_dict()["content"][0]["text"] for item in items] == ["one", first.output_text, "two"]  # type: ignore[index]


def test_input_items_come_in_pages(alice: openai.OpenAI, account: Account) -> None:
    said: Any = [{"role": "user", "content": str(number)} for number in range(5)]
    created = alice.responses.create(model="general", input=said, background=True)

    for order, wanted in (("asc", "01234"), ("desc", "43210")):
        found = alice.responses.input_items.list(created.id, order=order, limit=2)  # type: ignore[arg-type]
        texts = [item.to_dict()["content"][0]["text"] for item in found]  # type: ignore[index]
        assert "".join(texts) == wanted


# ---- What a request may ask of the model


class Person(BaseModel):
    name: str
    people: int


def test_an_answer_is_parsed_in_the_form_that_was_asked_for(alice: openai.OpenAI, eager: None) -> None:
    answer = alice.responses.parse(model="general", input="I'm Ann, table for 4", text_format=Person)

    assert answer.output_parsed == Person(name="Ann", people=4)


def test_a_document_that_is_none_is_no_answer(account: Account, alice: openai.OpenAI, clock: Clock) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "p", "schema": Person.model_json_schema()}}
    created = alice.responses.create(model="general", input="[[broken_json]]", text=form, background=True)
    for _ in range(3):
        account.work()
        clock.forward(60)

    final = alice.responses.retrieve(created.id)

    assert (final.status, final.to_dict()["x_turnqueue"]["error_code"]) == ("failed", "output_invalid")  # type: ignore[index]


def test_the_model_gets_the_options_of_a_request(
    alice: openai.OpenAI, eager: None, scripted: Scripted, instructions: None
) -> None:
    scripted.says("fine")
    alice.responses.create(
        model="general", input="hello", instructions="Rhyme.", max_output_tokens=50, temperature=0.5, top_p=0.9
    )
    (asked,) = scripted.asked

    assert (asked["max_completion_tokens"], asked["temperature"], asked["top_p"]) == (50, 0.5, 0.9)
    assert asked["messages"][0]["content"].endswith("\n\nRhyme.")
    assert asked["messages"][0]["content"].startswith("You are a helpful assistant.")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"instructions": "Obey me."}, "instructions"),
        ({"input": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]}, "input"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"conversation": "conv_s", "previous_response_id": "resp_s.1"}, "previous_response_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input.0.content.0.type"),
        ({"input": []}, "input"),
        ({"extra_body": {"surprise": 1}}, "surprise"),
        ({"temperature": 3}, "temperature"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(account: Account, alice: openai.OpenAI, more: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        alice.responses.create(**{"model": "general", "input": "hello", "background": True} | more)

    assert refused.value.param == param
    assert account.items() == []


def test_an_image_of_a_forbidden_host_is_refused_wherever_it_is(
    alice: openai.OpenAI, submit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "media_urls", type(submit.media_urls)("off"))
    image: Any = {"role": "user", "content": [{"type": "input_image", "image_url": "https://a.example/b.png"}]}

    for said in ([image], [image, {"role": "user", "content": "what is it?"}]):
        with pytest.raises(openai.UnprocessableEntityError, match="this service accepts only uploads"):
            alice.responses.create(model="general", input=said, background=True)


# ---- Functions of the client

TOOLS: Any = [tool | {"strict": True} for tool in test_tools.TOOLS]


def outputs(response: Any) -> Any:
    calls = [item for item in response.output if item.type == "function_call"]
    return [{"type": "function_call_output", "call_id": call.call_id, "output": "4"} for call in calls]


def test_an_answer_calls_a_function_and_the_next_goes_on_with_its_result(alice: openai.OpenAI, eager: None) -> None:
    asked = alice.responses.create(model="general", input="what is 3 and one?", tools=TOOLS)
    (call,) = asked.output
    assert call.type == "function_call"
    assert (asked.status, call.name, json.loads(call.arguments)) == ("completed", "add_one", {"number": 3})

    answer = alice.responses.create(model="general", input=outputs(asked), tools=TOOLS, previous_response_id=asked.id)

    assert answer.output_text == '[stand-in model] You said "what is 3 and one?". The tools said: 4.'
    later = alice.responses.create(model="general", input="thanks", previous_response_id=answer.id)
    assert 'You said "thanks"' in later.output_text


def test_a_client_that_keeps_the_history_sends_the_calls_itself(alice: openai.OpenAI, eager: None) -> None:
    said: Any = [{"role": "user", "content": "add 3"}]
    asked = alice.responses.create(model="general", input=said, tools=TOOLS)
    calls: Any = [item.to_dict() for item in asked.output]

    answer = alice.responses.create(model="general", input=[*said, *calls, *outputs(asked)], tools=TOOLS)

    assert answer.output_text.endswith("The tools said: 4.")


def test_a_streamed_call_of_a_function_is_the_call(alice: openai.OpenAI, eager: None) -> None:
    with alice.responses.stream(model="general", input="[[calls=2]] 3", tools=TOOLS) as stream:
        deltas = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()

    assert "".join(deltas) == "".join(item.arguments for item in final.output if item.type == "function_call")


def test_a_chat_completion_calls_a_function(alice: openai.OpenAI, eager: None) -> None:
    nested: Any = [{"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}} for tool in TOOLS]
    said: Any = [{"role": "user", "content": "add 3"}]
    asked = alice.chat.completions.create(model="general", messages=said, tools=nested)
    (choice,) = asked.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    call = choice.message.tool_calls[0]  # type: ignore[index]
    chunks = list(alice.chat.completions.create(model="general", messages=said, tools=nested, stream=True))
    pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or ()]
    assert [piece.function and piece.function.name for piece in pieces] == ["add_one", None]

    said += [choice.message.to_dict(), {"role": "tool", "tool_call_id": call.id, "content": "4"}]
    answer = alice.chat.completions.create(model="general", messages=said, tools=nested)

    assert answer.choices[0].message.content == '[stand-in model] You said "add 3". The tools said: 4.'


def test_the_model_calls_the_function_that_it_is_told_to(alice: openai.OpenAI, eager: None) -> None:
    named: Any = {"type": "function", "name": "add_two"}
    asked = alice.responses.create(model="general", input="3", tools=TOOLS, tool_choice=named)
    assert [item.name for item in asked.output if item.type == "function_call"] == ["add_two"]

    told = alice.responses.create(model="general", input="3", tools=TOOLS, tool_choice="none")
    assert told.output_text == '[stand-in model] You said "3".'


# ---- Streams


def test_a_streamed_answer_is_the_answer(alice: openai.OpenAI, eager: None) -> None:
    with alice.responses.stream(model="general", input="hello") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()

    assert final.output_text == '[stand-in model] You said "hello".'
    assert alice.responses.retrieve(final.id).output[0].to_dict() == final.output[0].to_dict(exclude_none=True)
    assert kinds[:2] + kinds[-1:] == ["response.created", "response.in_progress", "response.completed"]


@pytest.mark.parametrize("background", [False, True])
def test_a_stream_that_cannot_be_finished_is_an_error_that_names_the_response(
    account: Account, alice: openai.OpenAI, clock: Clock, background: bool
) -> None:
    seen: list[Any] = []

    with pytest.raises(openai.APIError, match=r"GET /v1/responses/resp_") as refused:
        for event in alice.responses.create(model="general", input="hello", background=background, stream=True):
            seen.append(event)

    assert refused.value.code == "response_in_progress"
    assert len(account.items()) == 1
    account.work()
    last = seen[-1].sequence_number
    seen += alice.responses.retrieve(seen[0].response.id, stream=True, starting_after=last)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].type == "response.completed"


@pytest.mark.parametrize(
    ("message", "end", "status"),
    [
        ("[[content_filter]]", "response.failed", "failed"),
        ("[[length]] one two three", "response.incomplete", "incomplete"),
    ],
)
def test_a_stream_ends_as_its_response_does(
    alice: openai.OpenAI, eager: None, message: str, end: str, status: str
) -> None:
    events = list(alice.responses.create(model="general", input=message, stream=True))

    assert (events[-1].type, events[-1].response.status) == (end, status)  # type: ignore[union-attr]


def test_a_stream_in_the_background_takes_void_text_back(account: Account, alice: openai.OpenAI) -> None:
    created = alice.responses.create(model="general", input="hello", background=True)
    account.work()
    key = Key.of_task("alice", created.id.removeprefix("resp_"))
    assert key
    log = EventLog("EventsTable", attempts=1)
    for row in (Event(1, "d", 1, "lost"), Event(2, "s", 2), Event(3, "d", 2, "[stand-in"), Event(4, "d", 2, " model]")):
        log.put(key, row, time.time())

    with alice.responses.stream(response_id=created.id) as stream:
        events = list(stream)
        final: Any = stream.get_final_response()

    assert final.output_text == '[stand-in model] You said "hello".'
    deltas = [(event.output_index, event.delta) for event in events if event.type == "response.output_text.delta"]
    assert deltas == [(0, "lost"), (1, "[stand-in"), (1, " model]"), (1, ' You said "hello".')]
    done = [event.item.status for event in events if event.type == "response.output_item.done"]  # type: ignore[union-attr]
    assert done == ["incomplete", "completed"]
    assert alice.responses.input_items.list(created.id).data
    reference: Any = [{"type": "item_reference", "id": final.output[0].id}, {"role": "user", "content": "and?"}]
    alice.responses.create(model="general", input=reference, background=True)


def test_a_chat_completion_is_streamed(alice: openai.OpenAI, eager: None) -> None:
    said: Any = [{"role": "user", "content": "hello"}]
    usage: Any = {"include_usage": True}
    chunks = list(alice.chat.completions.create(model="general", messages=said, stream=True, stream_options=usage))

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == '[stand-in model] You said "hello".'
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage and chunks[-1].usage.total_tokens > 0


# ---- Models, chat completions and the rest


def test_the_models_are_the_personas(alice: openai.OpenAI) -> None:
    assert [model.id for model in alice.models.list()] == ["booking", "general"]
    assert alice.models.retrieve("booking").id == "booking"
    with pytest.raises(openai.NotFoundError) as refused:
        alice.responses.create(model="gpt-5", input="hello")
    assert refused.value.code == "model_not_found"


def test_a_chat_completion_is_answered_from_its_messages(alice: openai.OpenAI, eager: None, instructions: None) -> None:
    answer = alice.chat.completions.create(
        model="general",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "1"},
            {"role": "user", "content": "two"},
        ],
    )

    (choice,) = answer.choices
    assert (
        choice.message.content == '[stand-in model] You said "two". Before that, in this conversation, you said: "one".'
    )
    assert choice.finish_reason == "stop"
    assert answer.usage and answer.usage.completion_tokens > 0


def test_a_chat_completion_that_was_cut_says_so(alice: openai.OpenAI, eager: None) -> None:
    said: Any = [{"role": "user", "content": "a long story"}]
    answer = alice.chat.completions.create(model="general", messages=said, max_tokens=3)

    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.embeddings.create(model="general", input="x"),
        lambda client: client.files.list(),
        lambda client: client.files.delete("file-1"),
    ],
)
def test_what_is_not_served_is_refused_clearly(alice: openai.OpenAI, call: Callable[[openai.OpenAI], Any]) -> None:
    with pytest.raises(openai.BadRequestError, match="does not support"):
        call(alice)


# ---- Owners


def test_another_owners_response_does_not_exist(account: Account, alice: openai.OpenAI, eager: None) -> None:
    bob = client(account, "bob")
    hers = alice.responses.create(model="general", input="a secret")

    reference: Any = [{"type": "item_reference", "id": hers.output[0].id}, {"role": "user", "content": "x"}]
    calls: list[Callable[[], Any]] = [
        lambda: bob.responses.retrieve(hers.id),
        lambda: bob.responses.cancel(hers.id),
        lambda: bob.responses.delete(hers.id),
        lambda: bob.responses.input_items.list(hers.id),
        lambda: bob.responses.create(model="general", input="x", previous_response_id=hers.id),
        lambda: bob.responses.create(model="general", input=reference),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError):
            call()
    his = bob.responses.create(model="general", input="x", conversation=f"conv_{hers.id[5:].partition('.')[0]}")
    assert "secret" not in his.output_text
    assert alice.responses.retrieve(hers.id).status == "completed"


# ---- What /chat pays


@pytest.mark.parametrize("function", ["submit", "status"])
def test_nothing_of_it_is_imported_before_the_first_request(function: str) -> None:
    from tests.unit.test_imports import imported  # a fresh interpreter's

    assert not {name for name in imported(function) if name.startswith(("turnqueue.v1", "v1_"))}
    assert "turnqueue.v1" in sys.modules
