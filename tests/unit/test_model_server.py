"""The stand-in model, driven as the worker drives a real one: through the OpenAI SDK, over HTTP."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, ConfigDict, ValidationError

from local.model_server import serve

type Message = dict[str, Any]


class Booking(BaseModel):
    model_config = ConfigDict(extra="forbid")
    reference: str | None


class Reply(BaseModel):
    model_config = ConfigDict(extra="forbid")
    message: str
    data: Booking | None


@pytest.fixture(scope="module")
def running() -> Iterator[OpenAI]:
    with serve() as url, OpenAI(base_url=url, api_key="any", max_retries=0, timeout=5) as client:
        yield client


@pytest.fixture
def client(running: OpenAI) -> OpenAI:
    set_faults(running)
    running.delete("/../stand-in/calls", cast_to=object)
    return running


def set_faults(client: OpenAI, **faults: object) -> None:
    client.post("/../stand-in/faults", cast_to=object, body=faults)


def calls(client: OpenAI) -> Any:
    return client.get("/../stand-in/calls", cast_to=object)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def conversation(*messages: str | Message) -> Any:
    return [user(message) if isinstance(message, str) else message for message in messages]


def ask(client: OpenAI, *messages: str | Message, **options: Any) -> ChatCompletion:
    answer = client.chat.completions.create(model="some-model", messages=conversation(*messages), **options)
    assert isinstance(answer, ChatCompletion)
    return answer


def text_of(client: OpenAI, *messages: str | Message, **options: Any) -> str | None:
    return ask(client, *messages, **options).choices[0].message.content


def stream_of(client: OpenAI, *messages: str | Message, **options: Any) -> openai.Stream[ChatCompletionChunk]:
    chunks: openai.Stream[ChatCompletionChunk] = client.chat.completions.create(
        model="some-model", messages=conversation(*messages), stream=True, **options
    )
    return chunks


def pieces_of(chunks: list[ChatCompletionChunk]) -> list[str]:
    return [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]


def reply_to(client: OpenAI, *messages: str | Message) -> Reply:
    """Structured output; the SDK makes the strict schema and reads the answer by it."""
    said = conversation(*messages)
    answer = client.chat.completions.parse(model="some-model", messages=said, response_format=Reply)
    reply = answer.choices[0].message.parsed
    assert reply is not None
    return reply


JSON_REPLY: Any = {
    "type": "json_schema",
    "json_schema": {"name": "reply", "schema": Reply.model_json_schema(), "strict": True},
}


# ---- Plain answers


def test_a_plain_answer_has_the_openai_shape(client: OpenAI) -> None:
    answer = ask(client, "Hello there")

    assert (answer.model, answer.system_fingerprint) == ("some-model", "stand-in")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content == '[stand-in model] You said "Hello there".'
    counted = {"prompt_tokens": 3, "completion_tokens": 10, "total_tokens": 13}  # 11 characters, 4 a token
    assert answer.to_dict()["usage"] == counted | {"prompt_tokens_details": {"cached_tokens": 0}}


def test_a_long_prefix_is_reported_as_cached(client: OpenAI) -> None:
    usage = ask(client, assistant("x" * 4200), "Hi").usage

    assert usage is not None and usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 1024


def test_a_token_limit_truncates(client: OpenAI) -> None:
    choice = ask(client, "Hello", max_completion_tokens=4).choices[0]

    assert (choice.finish_reason, choice.message.content) == ("length", "[stand-in model]")


# ---- Streams


def test_a_stream_adds_up_to_the_plain_answer_and_ends_with_usage_if_asked_to(client: OpenAI) -> None:
    messages = ("One", "Two words more, so that there are many of them")
    plain = ask(client, *messages)

    chunks = list(stream_of(client, *messages, stream_options={"include_usage": True}))

    pieces = pieces_of(chunks)
    assert len(pieces) > 1
    assert "".join(pieces) == plain.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert (chunks[-1].choices, chunks[-1].usage) == ([], plain.usage)
    assert all(chunk.usage is None for chunk in [*chunks[:-1], *stream_of(client, "Hello")])


def test_latency_is_a_quarter_of_silence_and_then_progress(client: OpenAI) -> None:
    started = time.monotonic()
    at = [
        time.monotonic() - started
        for chunk in stream_of(client, "[[latency=0.4 words=30]]")
        if chunk.choices[0].delta.content
    ]

    assert at[0] >= 0.1
    assert at[-1] >= 0.4
    assert at[-1] - at[0] >= 0.2
    assert len(at) == 8  # 20 a second at the most


def test_100_slow_requests_run_side_by_side(client: OpenAI) -> None:
    async def all_of_them() -> list[str | None]:
        # one after the other they take 50 s
        async with asyncio.timeout(25), AsyncOpenAI(base_url=client.base_url, api_key="any", timeout=60) as model:

            async def one(number: int) -> str | None:
                said = conversation(f"{number} [[latency=0.5]]")
                return (await model.chat.completions.create(model="m", messages=said)).choices[0].message.content

            return await asyncio.gather(*map(one, range(100)))

    assert asyncio.run(all_of_them()) == [f'[stand-in model] You said "{number}".' for number in range(100)]


# ---- Refused requests


@pytest.mark.parametrize("authorization", ["Bearer bad-key", "Bearer", "Basic abc", ""])
def test_a_wrong_key_is_401(client: OpenAI, authorization: str) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        ask(client, "Hello", extra_headers={"Authorization": authorization})

    assert refused.value.code == "invalid_api_key"
    assert (calls(client)["unauthorized"], calls(client)["total"]) == (1, 0)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        *(({"messages": messages}, "messages") for messages in ([], None, [{"role": "system", "content": "Be kind"}])),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "messages[0]"),
        ({"model": ""}, "model"),
        ({"colour": "blue"}, "colour"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
    ],
)
def test_a_wrong_body_is_400(client: OpenAI, wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, "Hello", extra_body=wrong)

    assert (refused.value.param, refused.value.type) == (named, "invalid_request_error")


def test_a_strict_schema_must_be_closed_and_complete(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}
    response_format = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}

    with pytest.raises(openai.BadRequestError, match="all in required"):
        ask(client, "Hello", response_format=response_format)


# ---- Structured answers


class Tree(BaseModel):
    model_config = ConfigDict(extra="forbid")
    label: str
    left: "Tree | None"


class Everything(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["everything"]
    size: Literal["small", "very", "very_large"]
    half_size: Literal["half", None]
    maybe_size: Literal["small", "very_large"] | None
    count: int
    share: float
    sure: bool
    unsure: bool | None
    tags: list[str]
    trees: list[Tree]
    tree: Tree | None
    either: Tree | Booking


@pytest.mark.parametrize(
    ("message", "said", "either"),
    [
        (
            "Hello",
            {"size": "small", "maybe_size": None, "count": 0, "share": 0, "sure": False, "unsure": None},
            {"label": "", "left": None},
        ),
        (
            "A Very large one, count: 3, share = 0.5, sure: yes, unsure: no, reference: R2",
            {"size": "very_large", "maybe_size": "very_large", "count": 3, "share": 0.5, "sure": True, "unsure": False},
            {"reference": "R2"},
        ),
    ],
)
def test_a_document_is_valid_against_every_kind_of_schema(
    client: OpenAI, message: str, said: dict[str, Any], either: dict[str, Any]
) -> None:
    parsed = client.chat.completions.parse(model="m", messages=conversation(message), response_format=Everything)

    everything = parsed.choices[0].message.parsed
    assert everything is not None
    empty: dict[str, Any] = {"kind": "everything", "half_size": None, "tags": [], "trees": [], "tree": None}
    assert everything.model_dump() == empty | said | {"either": either}


def test_a_structured_answer_can_be_streamed(client: OpenAI) -> None:
    pieces = pieces_of(list(stream_of(client, "I need a haircut", response_format=JSON_REPLY)))

    assert len(pieces) > 1
    assert Reply.model_validate_json("".join(pieces)) == reply_to(client, "I need a haircut")


# ---- Faults that a message asks for


def test_a_status_fails_the_first_calls_of_that_message_only(client: OpenAI) -> None:
    message = "Hello [[status=429 retry_after=1.5 times=2]]"
    for _ in range(2):
        with pytest.raises(openai.RateLimitError) as refused:
            text_of(client, message)
        assert refused.value.code == "rate_limit_exceeded"
        assert refused.value.response.headers["retry-after"] == "1.5"

    assert text_of(client, message) == '[stand-in model] You said "Hello".'
    with pytest.raises(openai.RateLimitError):
        text_of(client, f"{message} again")
    assert calls(client)["by_message"] == {message: 3, f"{message} again": 1}


@pytest.mark.parametrize(
    ("directive", "raised", "code", "kind"),
    [
        ("status=500", openai.InternalServerError, None, "server_error"),
        ("status=503 code=overloaded", openai.InternalServerError, "overloaded", "server_error"),
        ("status=401", openai.AuthenticationError, "invalid_api_key", "invalid_request_error"),
        ("status=404", openai.NotFoundError, "model_not_found", "invalid_request_error"),
        ("status=429 code=insufficient_quota", openai.RateLimitError, "insufficient_quota", "insufficient_quota"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_has_the_openai_shape(
    client: OpenAI, directive: str, raised: type[openai.APIStatusError], code: str | None, kind: str, stream: bool
) -> None:
    with pytest.raises(raised) as refused:
        client.chat.completions.create(model="m", messages=conversation(f"secret [[{directive}]]"), stream=stream)

    assert (refused.value.code, refused.value.type) == (code, kind)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("directive", "named"),
    [
        ("latncy=2", "'latncy'"),
        ("refuse=yes", "'refuse' takes no value"),
        ("latency", "'latency' takes a value of type float"),
        ("status=teapot", "'status' takes a value of type int"),
        ("status=200", "'status'"),
        ("hang=-1", "'hang'"),
        ("latency=nan", "'latency'"),
        ("broken_json", "'broken_json' needs a response_format"),
        ("wrong_shape", "'wrong_shape' needs a response_format"),
    ],
)
def test_a_wrong_directive_is_named(client: OpenAI, directive: str, named: str) -> None:
    with pytest.raises(openai.BadRequestError, match=named):
        text_of(client, f"Hello [[{directive}]]")


def test_broken_json_does_not_parse(client: OpenAI) -> None:
    answer = ask(client, "Hello [[broken_json]]", response_format=JSON_REPLY).choices[0]

    assert answer.finish_reason == "stop"
    with pytest.raises(ValidationError, match="Invalid JSON"):
        Reply.model_validate_json(answer.message.content or "")


@pytest.mark.parametrize("reason", ["content_filter", "length"])
def test_an_answer_that_ends_early(client: OpenAI, reason: str) -> None:
    choice = ask(client, f"Hello [[{reason}]]").choices[0]

    assert (choice.finish_reason, choice.message.content) == (reason, "[stand-in model] ")


def test_an_echo_is_the_answer(client: OpenAI) -> None:
    assert text_of(client, "[[latency=0 echo=times=2, as I said: [[1]]]]") == "times=2, as I said: [[1]]"
    assert reply_to(client, "[[echo=Just this]]").message == "Just this"
    document = '{"message":"Mine","data":{"reference":"R1"}}'
    assert text_of(client, f"[[echo={document}]]", response_format=JSON_REPLY) == document


# ---- Faults of the whole server, and its counts


def test_an_outage_lasts_until_it_is_cleared(client: OpenAI) -> None:
    set_faults(client, status=429, retry_after=2, for_seconds=60)
    for _ in range(2):
        with pytest.raises(openai.RateLimitError) as refused:
            text_of(client, "Hello")
        assert refused.value.response.headers["retry-after"] == "2"
    with pytest.raises(openai.InternalServerError):
        text_of(client, "A message's own [[status=500]] wins")

    set_faults(client)
    assert text_of(client, "Hello") == '[stand-in model] You said "Hello".'


def test_an_outage_that_ends_by_itself(client: OpenAI) -> None:
    set_faults(client, status=500, times=1)
    with pytest.raises(openai.InternalServerError):
        text_of(client, "Hello")

    assert text_of(client, "Hello")
    assert calls(client)["total"] == 2


def test_calls_are_told_and_forgotten(client: OpenAI) -> None:
    before = time.time()
    ask(client, {"role": "system", "content": "Be kind"}, "A", assistant("fine"), "B")
    list(stream_of(client, "B"))

    told = calls(client)
    assert (told["total"], told["by_message"]) == (2, {"B": 2})
    assert [(call["message"], call["model"], call["stream"], call["history"]) for call in told["last"]] == [
        ("B", "some-model", False, 2),
        ("B", "some-model", True, 0),
    ]
    first, second = told["last"]
    assert before <= first["at"] <= first["ended_at"] <= second["at"]

    client.delete("/../stand-in/calls", cast_to=object)
    assert (calls(client)["total"], calls(client)["last"]) == (0, [])


def test_the_server_stops_with_a_request_open() -> None:
    with serve() as url:
        client = OpenAI(base_url=url, api_key="any", max_retries=0)
        stream = stream_of(client, "[[drip=30 tokens=10]]")
        started = time.monotonic()

    assert time.monotonic() - started < 10
    with client, pytest.raises(openai.APIConnectionError):
        list(stream)


def test_the_command_prints_its_url_when_it_is_ready() -> None:
    command = [sys.executable, "-m", "local.model_server", "--port", "0"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=os.environ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:") and url.endswith("/v1")
            with OpenAI(base_url=url, api_key="any", max_retries=0) as client:
                assert text_of(client, "Hello") == '[stand-in model] You said "Hello".'
        finally:
            server.terminate()
