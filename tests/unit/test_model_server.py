"""The stand-in model, driven as the worker drives a real one: through the OpenAI SDK, over HTTP."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, ConfigDict, ValidationError

from local.model_server import serve

type Message = dict[str, Any]


class Draft(BaseModel):
    model_config = ConfigDict(extra="forbid")
    service: str | None
    day: str | None
    time: str | None
    name: str | None
    phone: str | None
    party_size: int | None


class Booking(BaseModel):
    model_config = ConfigDict(extra="forbid")
    reference: str | None


class Reply(BaseModel):
    model_config = ConfigDict(extra="forbid")
    message: str
    data: Booking | None
    draft: Draft | None


@pytest.fixture(scope="module")
def running() -> Iterator[OpenAI]:
    with serve() as url, OpenAI(base_url=url, api_key="any", max_retries=0, timeout=5) as client:
        yield client


@pytest.fixture
def client(running: OpenAI) -> OpenAI:
    set_faults(running)
    running.delete("/../stand-in/calls", cast_to=object)
    return running


def async_client(client: OpenAI) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=client.base_url, api_key="any", max_retries=0, timeout=60)


def set_faults(client: OpenAI, **faults: object) -> None:
    client.post("/../stand-in/faults", cast_to=object, body=faults)


def calls(client: OpenAI) -> Any:
    return client.get("/../stand-in/calls", cast_to=object)


def user(text: str, images: int = 0) -> Message:
    if not images:
        return {"role": "user", "content": text}
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    return {"role": "user", "content": [{"type": "text", "text": text}, *[image] * images]}


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


def until(holds: Callable[[], bool]) -> None:
    """Each look is a request to the server, so this waits without a pause of its own."""
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline, "it never came true"


# ---- Plain answers


def test_a_plain_answer_has_the_openai_shape(client: OpenAI) -> None:
    answer = ask(client, "Hello there")

    assert (answer.model, answer.system_fingerprint) == ("some-model", "stand-in")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content == '[stand-in model] You said "Hello there".'
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens == 3  # 11 characters, 4 a token
    assert answer.usage.completion_tokens == 10
    assert answer.usage.total_tokens == 13
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


def test_a_long_prefix_is_reported_as_cached(client: OpenAI) -> None:
    usage = ask(client, assistant("x" * 4200), "Hi").usage

    assert usage is not None and usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 1024


def test_a_token_limit_truncates(client: OpenAI) -> None:
    choice = ask(client, "Hello", max_completion_tokens=4).choices[0]

    assert (choice.finish_reason, choice.message.content) == ("length", "[stand-in model]")


# ---- Streams


def test_a_stream_adds_up_to_the_plain_answer_and_ends_with_usage(client: OpenAI) -> None:
    messages = ("One", "Two words more, so that there are many of them")
    plain = ask(client, *messages)

    chunks = list(stream_of(client, *messages, stream_options={"include_usage": True}))

    pieces = pieces_of(chunks)
    assert len(pieces) > 1
    assert "".join(pieces) == plain.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert (chunks[-1].choices, chunks[-1].usage) == ([], plain.usage)
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stream_without_include_usage_has_none(client: OpenAI) -> None:
    chunks = list(stream_of(client, "Hello"))

    assert [chunk.usage for chunk in chunks if chunk.usage or not chunk.choices] == []


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


def test_200_slow_requests_run_side_by_side(client: OpenAI) -> None:
    async def all_of_them() -> list[str]:
        async with asyncio.timeout(25), async_client(client) as model:  # one after the other they take 100

            async def one(number: int) -> str:
                stream = await model.chat.completions.create(
                    model="m", messages=conversation(f"{number} [[latency=0.5]]"), stream=True
                )
                return "".join(pieces_of([chunk async for chunk in stream]))

            return await asyncio.gather(*map(one, range(200)))

    answers = asyncio.run(all_of_them())

    assert answers == [f'[stand-in model] You said "{number}".' for number in range(200)]
    assert calls(client)["disconnected"] == 0


# ---- Refused requests


def test_a_key_that_is_not_the_only_one_is_refused(client: OpenAI) -> None:
    client.post("/../stand-in/key", cast_to=object, body={"only": "sk-2"})

    with pytest.raises(openai.AuthenticationError):
        client.models.list()
    assert client.with_options(api_key="sk-2").models.list().data
    client.post("/../stand-in/key", cast_to=object, body={})
    assert client.models.list().data


@pytest.mark.parametrize("authorization", ["Bearer bad-key", "Bearer", "Basic abc", ""])
def test_a_wrong_key_is_401(client: OpenAI, authorization: str) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        ask(client, "Hello", extra_headers={"Authorization": authorization})

    assert refused.value.code == "invalid_api_key"
    assert (calls(client)["unauthorized"], calls(client)["total"]) == (1, 0)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "system", "content": "Be kind"}]}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "messages[0]",
        ),
        ({"model": ""}, "model"),
        ({"colour": "blue"}, "colour"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
    ],
)
def test_a_wrong_body_is_400(client: OpenAI, wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, "Hello", extra_body=wrong)

    assert refused.value.param == named
    assert refused.value.type == "invalid_request_error"


def test_a_strict_schema_must_be_closed_and_complete(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}
    response_format = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}

    with pytest.raises(openai.BadRequestError, match="all in required"):
        ask(client, "Hello", response_format=response_format)


# ---- Structured answers


def test_a_document_is_valid_against_every_kind_of_schema(client: OpenAI) -> None:
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

    def document(message: str) -> dict[str, Any]:
        said = conversation(message)
        parsed = client.chat.completions.parse(model="m", messages=said, response_format=Everything)
        everything = parsed.choices[0].message.parsed
        assert everything is not None
        return everything.model_dump()

    nothing: dict[str, Any] = {
        "count": 0,
        "share": 0,
        "sure": False,
        "unsure": None,
        "tags": [],
        "trees": [],
        "tree": None,
    }
    assert document("Hello") == nothing | {
        "kind": "everything",
        "size": "small",
        "half_size": None,
        "maybe_size": None,
        "either": {"label": "", "left": None},
    }
    said = document("A Very large one, count: 3, share = 0.5, sure: yes, unsure: no, reference: R2")
    assert said == nothing | {
        "kind": "everything",
        "size": "very_large",
        "half_size": None,
        "maybe_size": "very_large",
        "count": 3,
        "share": 0.5,
        "sure": True,
        "unsure": False,
        "either": {"reference": "R2"},
    }


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


def test_a_prompt_longer_than_the_window_is_refused_as_openai_does(client: OpenAI) -> None:
    message = "[[window=8]] 12345678 12345678"  # 30 characters: 8 tokens

    assert text_of(client, message)
    with pytest.raises(openai.BadRequestError, match="maximum context length") as refused:
        text_of(client, f"{message} 12345678")
    assert refused.value.code == "context_length_exceeded"


def test_a_blind_model_refuses_images_also_earlier_ones(client: OpenAI) -> None:
    assert text_of(client, "[[blind]] Hello")
    set_faults(client, blind=True)
    for messages in ([user("look", 1)], [user("look", 1), {"role": "assistant", "content": "A cat."}, user("and?")]):
        with pytest.raises(openai.BadRequestError, match="image_url is only supported by certain models"):
            client.chat.completions.create(model="m", messages=messages)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("directive", "raised", "code", "kind"),
    [
        ("status=500", openai.InternalServerError, None, "server_error"),
        ("status=503 code=overloaded", openai.InternalServerError, "overloaded", "server_error"),
        ("status=401", openai.AuthenticationError, "invalid_api_key", "invalid_request_error"),
        ("status=404", openai.NotFoundError, "model_not_found", "invalid_request_error"),
        (
            "status=429 code=insufficient_quota",
            openai.RateLimitError,
            "insufficient_quota",
            "insufficient_quota",
        ),
        (
            "status=400 code=context_length_exceeded",
            openai.BadRequestError,
            "context_length_exceeded",
            "invalid_request_error",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_has_the_openai_shape(
    client: OpenAI,
    directive: str,
    raised: type[openai.APIStatusError],
    code: str | None,
    kind: str,
    stream: bool,
) -> None:
    messages = conversation(f"secret [[{directive}]]")
    with pytest.raises(raised) as refused:
        client.chat.completions.create(model="m", messages=messages, stream=stream)

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


def test_a_hang_sends_nothing(client: OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        text_of(client.with_options(timeout=0.2), "[[hang=60]]")
    until(lambda: calls(client)["disconnected"] == 1)


def test_a_drip_streams_word_by_word(client: OpenAI) -> None:
    started = time.monotonic()
    pieces = pieces_of(list(stream_of(client, "[[drip=0.02 tokens=10]]")))

    assert time.monotonic() - started >= 0.2
    assert "".join(pieces) == "[stand-in model] " + " ".join(f"word{number}" for number in range(3, 11))
    assert len(pieces) == 10


def test_each_chunk_and_the_end_wait_for_a_step(client: OpenAI) -> None:
    message = "[[step=2 echo=one two three four five]]"
    chunks = iter(stream_of(client.with_options(timeout=60), message))
    assert next(chunks).choices[0].delta.role == "assistant"

    def step() -> ChatCompletionChunk:
        client.post("/../stand-in/step", cast_to=object, body={"message": message})
        return next(chunks)

    assert [step().choices[0].delta.content for _ in range(3)] == ["one two ", "three four ", "five"]
    client.post("/../stand-in/step", cast_to=object, body={"message": "another"})
    assert step().choices[0].finish_reason == "stop"


def test_a_cut_stream_ends_without_a_reason(client: OpenAI) -> None:
    chunks: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIConnectionError):
        for chunk in stream_of(client, "[[cut=5 words=40]]"):
            chunks.append(chunk)

    assert len(pieces_of(chunks)) == 5
    assert all(choice.finish_reason is None for chunk in chunks for choice in chunk.choices)


def test_broken_json_does_not_parse(client: OpenAI) -> None:
    answer = ask(client, "Hello [[broken_json]]", response_format=JSON_REPLY)

    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"


def test_a_wrong_shape_parses_and_is_invalid(client: OpenAI) -> None:
    text = text_of(client, "Hello [[wrong_shape]]", response_format=JSON_REPLY) or ""

    assert json.loads(text).keys() == Reply.model_fields.keys()
    with pytest.raises(ValidationError):
        Reply.model_validate_json(text)


def test_a_refusal(client: OpenAI) -> None:
    message = ask(client, "Hello [[refuse]]", response_format=JSON_REPLY).choices[0].message
    deltas = [chunk.choices[0].delta for chunk in stream_of(client, "Hello [[refuse]]")]

    assert (message.content, message.refusal) == (None, "[stand-in model] I can't help with that.")
    assert "".join(delta.refusal or "" for delta in deltas) == message.refusal
    assert not any(delta.content for delta in deltas)


@pytest.mark.parametrize("reason", ["content_filter", "length"])
def test_an_answer_that_ends_early(client: OpenAI, reason: str) -> None:
    choice = ask(client, f"Hello [[{reason}]]").choices[0]
    chunks = list(stream_of(client, f"Hello [[{reason}]]"))

    assert choice.finish_reason == chunks[-1].choices[0].finish_reason == reason
    assert choice.message.content == "".join(pieces_of(chunks)) == "[stand-in model] "


def test_an_echo_is_the_answer(client: OpenAI) -> None:
    assert text_of(client, "[[latency=0 echo=times=2, as I said: [[1]]]]") == "times=2, as I said: [[1]]"
    assert reply_to(client, "[[echo=Just this]]").message == "Just this"
    document = '{"message":"Mine","data":{"reference":"R1"},"draft":null}'
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


@pytest.mark.parametrize("ending", [{"times": 1}, {"for_seconds": 0.4}])
def test_an_outage_that_ends_by_itself(client: OpenAI, ending: dict[str, float]) -> None:
    set_faults(client, status=500, **ending)
    with pytest.raises(openai.InternalServerError):
        text_of(client, "Hello")

    def answered() -> bool:
        try:
            return text_of(client, "Hello") is not None
        except openai.InternalServerError:
            return False

    until(answered)
    if "times" in ending:
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


@pytest.mark.parametrize("stream", [False, True])
def test_a_cancelled_call_stops_the_work_and_is_counted(client: OpenAI, stream: bool) -> None:
    async def cancelled() -> None:
        async with async_client(client) as model:
            message = conversation("[[hang=60]]")
            asking = model.chat.completions.create(model="m", messages=message, stream=stream)
            call = asyncio.create_task(asking)
            await asyncio.to_thread(until, lambda: calls(client)["total"] == 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(cancelled())

    until(lambda: calls(client)["disconnected"] == 1)
    assert calls(client)["last"][0]["ended_at"] - calls(client)["last"][0]["at"] < 5


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
