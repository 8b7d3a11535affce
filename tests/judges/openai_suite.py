"""OpenAI's Python client, which checks every response strictly. Run with its newest version and with an older major."""

import os
import time
from collections.abc import Iterator

import openai
import pytest
from pydantic import BaseModel

TOOL = {
    "type": "function",
    "name": "add_one",
    "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
}


class Person(BaseModel):
    name: str


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=os.environ["JUDGED_URL"], api_key=os.environ["JUDGED_KEY"], _strict_response_validation=True
    ) as client:
        yield client


def test_background(client: openai.OpenAI) -> None:
    response = client.responses.create(model="general", input="hello", background=True)
    end = time.monotonic() + 30
    while response.status in ("queued", "in_progress"):
        assert time.monotonic() < end
        time.sleep(0.2)
        response = client.responses.retrieve(response.id)
    assert response.output_text == '[stand-in model] You said "hello".'
    assert client.responses.cancel(response.id).status == "completed"
    assert len(client.responses.input_items.list(response.id).data) == 1
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(model="general", input="hello") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert stream.get_final_response().output_text == text == '[stand-in model] You said "hello".'


def test_resumed_stream(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="general", input="hello", background=True, stream=True))
    for after in range(len(events) - 1):
        rest = list(client.responses.retrieve(events[0].response.id, stream=True, starting_after=after))  # type: ignore[union-attr]
        assert rest == events[after + 1 :]


def test_form(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(model="general", input="I'm Ann", text_format=Person)
    assert parsed.output_parsed == Person(name="Ann")


def test_function(client: openai.OpenAI) -> None:
    asked = client.responses.create(model="general", input="add 3", tools=[TOOL])  # type: ignore[list-item]
    (call,) = asked.output
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "4"}  # type: ignore[union-attr]
    answer = client.responses.create(model="general", input=[output], previous_response_id=asked.id)  # type: ignore[list-item]
    assert answer.output_text.endswith("The tools said: 4.")


def test_conversation(client: openai.OpenAI) -> None:
    made = client.conversations.create(metadata={"topic": "tea"})
    for word in ("one", "two"):
        answer = client.responses.create(model="general", input=word, conversation=made.id)
    assert answer.output_text.endswith('you said: "one".')
    assert client.conversations.retrieve(made.id) == made
    assert len(list(client.conversations.items.list(made.id, limit=3))) == 4


def test_completions(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model="general", messages=[{"role": "user", "content": "hello"}])
    assert plain.choices[0].message.content == '[stand-in model] You said "hello".'
    chunks = client.chat.completions.create(
        model="general", messages=[{"role": "user", "content": "hello"}], stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == plain.choices[0].message.content


def test_models_and_errors(client: openai.OpenAI) -> None:
    assert "general" in [model.id for model in client.models.list()]
    with pytest.raises(openai.NotFoundError, match="no such model"):
        client.responses.create(model="gpt-5", input="hello")
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model="general", input="hello", tools=[{"type": "web_search"}])
    with pytest.raises((openai.PermissionDeniedError, openai.AuthenticationError)):  # the second at the StreamUrl
        client.with_options(api_key="tq_wrong").models.list()
