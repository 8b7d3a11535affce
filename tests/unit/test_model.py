"""The worker's model against servers that behave in every way, on a real socket."""

import asyncio
import gzip
import itertools
import json
import math
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modelerror import ModelError
from persona import persona
from reply import Answer, Reply
from tests.raw_server import HANG, RESET, Asked, Response, Script, serving
from tests.unit.raw_model import DONE, USAGE, WHOLE, Asking, completion, content, delta, event, finish, with_model
from turnqueue import telemetry

DOCUMENT = json.dumps(
    {
        "message": "When?",
        "draft": {"service": "haircut", "date": None, "time": None, "name": None},
        "data": {"complete": False, "missing": ["date"]},
    }
)


@pytest.fixture(autouse=True)
def no_metrics() -> Iterator[None]:
    yield
    telemetry._metrics.clear_metrics()


def most_memory[T](use: Callable[[], T]) -> tuple[T, float]:
    """What `use` returns, and the most MB that Python held for it at once."""
    tracemalloc.start()
    try:
        return use(), tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


async def failure(asking: Asking, message: str = "hello", **how: Any) -> ModelError:
    """The error that a call ends with."""
    with pytest.raises(ModelError) as raised:
        await asking.ask(message, **how)
    return raised.value


def answered(script: Script, message: str = "hello", **how: Any) -> tuple[Answer, Asking]:
    """What becomes of a call that ends well."""

    async def use(asking: Asking) -> tuple[Answer, Asking]:
        return await asking.ask(message, **how), asking

    return with_model(script, use)


def failed(script: Script, message: str = "hello", **how: Any) -> tuple[ModelError, Asking]:
    """What becomes of a call that fails."""

    async def use(asking: Asking) -> tuple[ModelError, Asking]:
        return await failure(asking, message, **how), asking

    return with_model(script, use)


# ---- What a watcher sees of a call


def test_a_reply_tells_when_the_server_accepted_the_call_and_under_which_name() -> None:
    async def use(asking: Asking) -> None:
        began = time.time()
        asking_now = asyncio.ensure_future(asking.ask())
        accepted = asyncio.Event()
        await asyncio.sleep(0)
        asking.reply.on_headers = accepted.set
        await asyncio.wait_for(accepted.wait(), 5)
        assert asking.reply.headers_at and asking.reply.headers_at >= began
        assert (asking.reply.first_token_ms, asking_now.done()) == (None, False)
        assert asking.reply.request_id == "req-1 x"
        answer = await asking_now
        assert answer.result["message"] == "All is well."
        assert asking.reply.first_token_ms is not None and asking.reply.first_token_ms >= 200

    headers = {"content-type": "text/event-stream", "x-request-id": "req-1\t x"}
    with_model(Response([b": hello\n\n", 0.25, *WHOLE], headers=headers), use)


def test_what_a_call_has_used_is_told_at_any_time() -> None:
    async def use(asking: Asking) -> None:
        asking_now = asyncio.ensure_future(asking.ask("x" * 4000))
        while not asking.reply.begun:
            await asyncio.sleep(0.01)
        used = asking.reply.usage("asked")
        assert used["estimated"] is True
        assert 1000 < used["prompt_tokens"] < 1300
        assert (used["model"], used["completion_tokens"], used["cached_tokens"]) == ("asked", 100, 0)
        asking_now.cancel()
        await asyncio.gather(asking_now, return_exceptions=True)
        assert asking.reply.usage("asked") == used
        assert telemetry._metrics.metric_set["CompletionTokens"]["Value"] == [100.0]

    with_model(Response([content("y" * 400), HANG]), use)


def test_what_the_server_counted_counts() -> None:
    _, asking = answered(Response([content("All is well.", model="told"), *WHOLE[2:]]))

    counted = {"prompt_tokens": 9, "completion_tokens": 5, "cached_tokens": 3}
    assert asking.reply.usage("asked") == {"model": "told", "estimated": False} | counted


def test_a_call_that_was_turned_away_has_used_nothing() -> None:
    headers = {"retry-after-ms": "1500", "request-id": "req-2"}
    error, asking = failed(Response(status=429, headers=headers))

    assert (error.code, error.refused, error.retry_after) == ("model_rate_limited", True, 1.5)
    assert error.request_id == "req-2"
    used = asking.reply.usage("asked")
    assert (used["prompt_tokens"], used["completion_tokens"], used["estimated"]) == (0, 0, False)


# ---- Turned away before any token, or cut


def test_a_connection_that_is_refused_is_no_attempt() -> None:
    async def use(asking: Asking) -> None:
        asking.model._client.base_url = "http://127.0.0.1:9/v1"  # discard: nothing listens there
        error = await failure(asking)
        assert (error.code, error.refused) == ("model_unavailable", True)

    with_model(Response(), use)


@pytest.mark.parametrize("ending", [None, Response([RESET]), Response([b": hello\n\n", RESET]), Response([])])
def test_a_connection_that_breaks_before_any_token_is_no_attempt(ending: Response | None) -> None:
    error, _ = failed(lambda asked: ending)

    assert (error.code, error.refused) == ("model_unavailable", True)


def test_a_connection_that_breaks_after_text_is_an_attempt() -> None:
    error, asking = failed(Response([WHOLE[0], 0.1, RESET]))

    assert (error.code, error.refused) == ("model_unavailable", False)
    assert asking.reply.text == "All is "


# ---- A stream

C = content("All is well.")
STREAMS: dict[str, tuple[Any, ...]] = {
    "as it should be": WHOLE,
    "retry": ("retry: 3000\n\n", *WHOLE),
    "an event without data": ("event: ping\n\n", *WHOLE),
    "empty data": ("data:\n\n", "data: \n\n", *WHOLE),
    "comments after an id": ("id: 1\n\n", ": keep-alive\n\n", *WHOLE),
    "an id in each event": tuple(f"id: {number}\n{each}" for number, each in enumerate(WHOLE)),
    "names of events": tuple(f"event: completion\n{each}" for each in WHOLE),
    "no space after the colon": tuple(each.replace("data: ", "data:") for each in WHOLE),
    "CRLF": tuple(each.replace("\n", "\r\n") for each in WHOLE),
    "CR": tuple(each.replace("\n", "\r") for each in WHOLE),
    "a byte order mark": (b"\xef\xbb\xbf", *WHOLE),
    "blank lines first": ("\n\n\n", *WHOLE),
    "data in several lines": (C.replace(", ", ",\ndata: "), *WHOLE[2:]),
    "one byte at a time": tuple(bytes([byte]) for byte in "".join(WHOLE).encode()),
    "all at once": ("".join(WHOLE),),
    "unknown fields": ("color: red\ndata\n" + C, *WHOLE[2:]),
    "no end of the last event": (*WHOLE[:-1], "data: [DONE]"),
    "no end of the only event": (C + finish().rstrip(),),
    "objects that say nothing": (event({}), event([]), event(5), *WHOLE),
    "no [DONE]": (C, finish(), USAGE),
    "no usage": (C, finish(), DONE),
    "no reason": (C, DONE),
    "a reason that nobody knows": (C, finish("weary"), DONE),
    "usage in the last chunk": (C, finish(usage={"prompt_tokens": 9, "completion_tokens": 5}), DONE),
    "usage, then silence": (C, finish(), USAGE, HANG),
    "a reason, then a broken connection": (C, finish(), RESET),
    "a reason, then half an event": (C, finish(), 'data: {"choi'),
    "a reason, then an error": (C, finish(), event({"error": {"message": "no"}})),
    "a reason, then what is no UTF-8": (C, finish(), b"data: \xff\n\n"),
    "[DONE], then a broken connection": (C, DONE, RESET),
    "[DONE], then silence": (C, DONE, HANG),
    "[DONE], then more": (C, DONE, content(" Or not."), "data: {\n\n"),
    "parts of text": (event(delta(content=[{"type": "text", "text": "All is well."}])), *WHOLE[2:]),
    "reasoning_content": (event(delta(reasoning_content="hm")), *WHOLE),
    "reasoning": (event(delta(reasoning="hm", content="")), *WHOLE),
    "thinking parts": (event(delta(content=[{"type": "thinking", "thinking": "hm"}])), *WHOLE),
    "a leading block of thoughts": (content("<thi"), content("nk>hm</think>\n"), *WHOLE),
    "a plain completion": (json.dumps(completion("All is well.")),),
    "a plain completion in pieces": (
        " \n",
        *[json.dumps(completion("All is well."))[start:][:50] for start in (0, 50, 100, 150)],
    ),
    "a plain completion without a reason": (json.dumps(completion("All is well.", None)),),
}


@pytest.mark.parametrize("body", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json; charset=latin-1"])
def test_a_whole_answer_is_read_in_every_form(body: tuple[Any, ...], content_type: str) -> None:
    began = time.monotonic()
    answer, asking = answered(Response(body, headers={"content-type": content_type}))

    assert answer.result == {"message": "All is well.", "data": None, "draft": None}
    assert answer.usage["finish_reason"] == "stop"
    assert answer.usage["completion_tokens"] > 0
    assert len(asking.raw.asked) == 1
    assert time.monotonic() - began < 2


def test_after_the_reason_for_the_end_usage_is_waited_for_a_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, _ = answered(Response([C, finish(), 0.5, USAGE, DONE]))
    assert (answer.usage["completion_tokens"], answer.usage["estimated"]) == (5, False)

    monkeypatch.setattr("modelstream._USAGE_SECONDS", 0.3)
    began = time.monotonic()
    answer, _ = answered(Response([C, finish(), HANG]))
    assert 0.3 <= time.monotonic() - began < 2
    assert (answer.result["message"], answer.usage["estimated"]) == ("All is well.", True)


def test_a_connection_is_used_again_after_a_whole_answer() -> None:
    async def use(asking: Asking) -> int:
        for _ in range(3):
            await asking.ask()
        return asking.raw.connections

    assert with_model(Response(WHOLE), use) == 1


def test_thoughts_are_progress_and_are_paid_for() -> None:
    async def use(asking: Asking) -> None:
        asking_now = asyncio.ensure_future(asking.ask())
        while not asking.reply.begun:
            await asyncio.sleep(0.01)
        assert asking.reply.last_progress_at > (asking.reply.headers_at or math.inf)
        assert (asking.reply.text, asking.reply.first_token_ms) == ("", None)
        assert asking.reply.usage("m")["completion_tokens"] == 100
        await asking_now
        assert asking.reply.text == "All is well."
        assert asking.reply.first_token_ms is not None and asking.reply.first_token_ms >= 200
        assert asking.reply.usage("m")["completion_tokens"] == 103

    thoughts = event(delta(reasoning_content="x" * 400))
    with_model(Response([": x\n\n", 0.05, thoughts, 0.25, C, finish(), DONE]), use)


# what is sent, the code, whether it is no attempt
BROKEN: dict[str, tuple[tuple[Any, ...], str, bool]] = {
    "an event that is no JSON": ((content("half a "), "data: {broken\n\n", *WHOLE), "model_unavailable", False),
    "a first event that is no JSON": (("data: upstream died\n\n",), "model_unavailable", False),
    "JSON that is too deep": ((f"data: {'[' * 100_000}\n\n",), "model_unavailable", False),
    "a number that is too long": ((f"data: {'9' * 10_000}\n\n",), "model_unavailable", False),
    "half a character": ((content("half a "), b'data: {"a": "\xe8\xaa"}\n\n', *WHOLE), "model_unavailable", False),
    "a character that is cut by the end": ((C, b"data: \xe8"), "model_unavailable", False),
    "a reason that is an error": ((content("half a sen"), finish("error"), DONE), "model_unavailable", False),
    "a reason that is an error, first": ((finish("error"), DONE), "model_unavailable", True),
    "an end without a reason": ((content("half a sen"),), "model_unavailable", False),
    "an end behind an unknown reason": ((content("half a sen"), finish("weary")), "model_unavailable", False),
    "no event": (("upstream connect error",), "model_unavailable", True),
    "only a role": ((event(delta(role="assistant", content="")),), "model_unavailable", True),
    "a page": (("<!DOCTYPE html><html>down</html>",), "model_unavailable", True),
    "half a plain completion": (('{"choices": [{"message": {"content": "half',), "model_unavailable", False),
    "a blank answer": ((content(" \n"), finish(), DONE), "output_invalid", False),
    "no answer": ((finish(), USAGE, DONE), "output_invalid", False),
    "[DONE] alone": ((DONE,), "output_invalid", False),
    "only thoughts": ((content("<think>hm"), finish("length"), DONE), "output_invalid", False),
    "a refusal": ((event(delta(refusal="I will not")), *WHOLE[2:]), "prompt_refused", False),
    "a filtered answer": ((C, finish("content_filter"), DONE), "prompt_refused", False),
    "an error first": ((event({"error": {"message": "overloaded"}}),), "model_unavailable", True),
    "an error as a plain body": (('{"error": {"message": "overloaded"}}',), "model_unavailable", True),
    "an error in a list": (('[{"error": {"code": 503, "message": "overloaded"}}]',), "model_unavailable", True),
    "an error in the middle": ((C, event({"error": {"message": "overloaded"}})), "model_unavailable", False),
    "an event named error": (('event: error\ndata: {"code": 429, "message": "slow"}\n\n',), "model_rate_limited", True),
    "an error in a choice": ((event({"choices": [{"error": {"code": 502}}]}),), "model_unavailable", True),
    "a rate limit in the stream": ((event({"error": {"code": 429}}),), "model_rate_limited", True),
    "a quota in the stream": ((event({"error": {"type": "insufficient_quota"}}),), "model_quota", False),
    "a wrong key in the stream": ((event({"error": {"type": "authentication_error"}}),), "model_auth", False),
    "a bad request in the stream": ((event({"error": {"type": "invalid_request_error"}}),), "model_rejected", False),
    "too long, in the stream": ((event({"error": {"code": "context_length_exceeded"}}),), "context_too_long", False),
}


@pytest.mark.parametrize(("body", "code", "refused"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_whole_answer_is_sorted(body: tuple[Any, ...], code: str, refused: bool) -> None:
    error, asking = failed(Response(body))

    assert (error.code, error.refused) == (code, refused)
    assert len(asking.raw.asked) == 1


def test_a_call_that_is_given_up_is_closed() -> None:
    async def use(asking: Asking) -> None:
        asking_now = asyncio.ensure_future(asking.ask())
        while not asking.reply.begun:
            await asyncio.sleep(0.01)
        asking_now.cancel()
        await asyncio.gather(asking_now, return_exceptions=True)
        await asyncio.wait_for(asking.raw.left.wait(), 5)

    with_model(Response([C, *[0.05, C] * 200]), use)


# ---- Its pace


class Watched(Reply):
    """Notes when text came."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[float] = []

    def add(self, text: str) -> None:
        self.at.append(time.monotonic())
        super().add(text)


def test_a_stream_is_shown_at_once_and_then_read_at_a_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.raw_model.Reply", Watched)
    tokens = [part for number in range(100) for part in (content(f"{number} "), 0.01)]

    async def use(asking: Asking) -> tuple[float, float, Watched]:
        began = time.monotonic()
        await asking.ask()
        assert isinstance(asking.reply, Watched)
        return began, time.monotonic(), asking.reply

    began, ended, reply = with_model(Response([*tokens, finish(), USAGE, DONE]), use)

    assert reply.text.split() == [str(number) for number in range(100)]
    assert reply.at[0] - began < 0.2
    assert ended - reply.at[-1] < 0.2
    reads = 1 + sum(after - before > 0.005 for before, after in itertools.pairwise(reply.at))
    assert reads <= 3 + 2 * (ended - began) / 0.1
    assert max(after - before for before, after in itertools.pairwise(reply.at)) < 0.3


# ---- A document


@pytest.mark.parametrize(
    "said",
    [
        DOCUMENT,
        f"```json\n{DOCUMENT}\n```",
        f"\n```\n{DOCUMENT}```\n",
        f"Here it is:\n\n```json\r\n{DOCUMENT}\r\n```\nAnything else?",
        f"<think>A haircut.</think>\n```json\n{DOCUMENT}\n```",
        f"A haircut, then.</think>\n\n{DOCUMENT}",
        f"  {DOCUMENT}  ",
    ],
)
def test_a_document_is_unwrapped_before_it_is_validated(said: str) -> None:
    answer, _ = answered(Response([content(said), finish(), DONE]), told="booking")

    assert answer.result == json.loads(DOCUMENT)


@pytest.mark.parametrize("said", ["A haircut.", "{}", f"{DOCUMENT[:-1]}", "```json\n{}\n```", "</think>"])
def test_what_is_no_document_is_invalid(said: str) -> None:
    error, _ = failed(Response([content(said), finish(), DONE]), told="booking")

    assert error.code == "output_invalid"


def test_a_fenced_document_is_readable_while_it_grows() -> None:
    reply = Reply()
    reply.structured = True
    for piece in ("```js", 'on\n{"message": "All', " is"):
        reply.add(piece)

    assert reply.readable() == "All is"


# ---- Asking again with less


def refusing(field: str, status: int = 400) -> Callable[[Asked], Response]:
    """A server that does not take a field."""

    def script(asked: Asked) -> Response:
        if field not in asked.body:
            return Response([content(DOCUMENT), finish(), DONE])
        error = {"message": f"Unsupported parameter: '{field}'.", "type": "invalid_request_error", "param": field}
        return Response([json.dumps({"error": error})], status, {"content-type": "application/json"})

    return script


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("field", ["stream_options", "temperature", "response_format"])
def test_a_field_that_is_refused_is_left_out_and_that_is_remembered(field: str, status: int) -> None:
    told = persona("booking")._replace(temperature=0.2)

    async def use(asking: Asking) -> None:
        assert (await asking.ask(told=told)).result["message"] == "When?"
        calls = len(asking.raw.asked)
        assert calls == (3 if field == "response_format" else 2)
        await asking.ask(told=told)
        assert len(asking.raw.asked) == calls + 1
        assert all(field in asked.body for asked in asking.raw.asked[:-2])
        assert not any(field in asked.body for asked in asking.raw.asked[-2:])
        await asking.ask(told=told._replace(model="another"))
        assert len(asking.raw.asked) == 2 * calls + 1

    with_model(refusing(field, status), use)


def test_several_fields_are_left_out_one_after_the_other() -> None:
    def script(asked: Asked) -> Response:
        for field in ("stream_options", "temperature", "response_format"):
            if field in asked.body:
                return refusing(field)(asked)
        return Response([content(DOCUMENT), finish(), DONE])

    answer, asking = answered(script, told=persona("booking")._replace(temperature=0.2))

    assert answer.result["message"] == "When?"
    assert len(asking.raw.asked) == 5


@pytest.mark.parametrize(
    ("field", "twin"), [("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")]
)
def test_a_limit_of_tokens_goes_by_its_other_name(field: str, twin: str) -> None:
    told = persona("general")._replace(options={field: 7})

    _, asking = answered(refusing(field), told=told)

    assert [each.body.get(twin) for each in asking.raw.asked] == [None, 7]
    assert field not in asking.raw.asked[1].body


def test_without_a_schema_a_document_is_asked_for_in_words() -> None:
    _, asking = answered(refusing("response_format"), told="booking")

    forms = [asked.body.get("response_format", {}).get("type") for asked in asking.raw.asked]
    assert forms == ["json_schema", "json_object", None]
    systems = [asked.body["messages"][0]["content"] for asked in asking.raw.asked]
    assert ["JSON" in system and '"missing"' in system for system in systems] == [False, True, True]
    assert all(system.startswith(persona("booking").instructions) for system in systems)


def test_what_helps_nothing_is_not_remembered() -> None:
    error = {"message": "stream_options, or so", "type": "invalid_request_error"}
    always = Response([json.dumps({"error": error})], 400)

    async def use(asking: Asking) -> None:
        for _ in range(2):
            assert (await failure(asking)).code == "model_rejected"
        assert [("stream_options" in asked.body) for asked in asking.raw.asked] == [True, False] * 2
        assert asking.reply.usage("m")["prompt_tokens"] == 0

    with_model(always, use)


@pytest.mark.parametrize("field", ["top_k", "messages", "max_tokens", "temperature", "response_format"])
def test_a_field_that_was_not_sent_is_not_left_out(field: str) -> None:
    error = {"message": f"Unsupported parameter: '{field}'", "type": "invalid_request_error", "param": field}

    refused, asking = failed(Response([json.dumps({"error": error})], 400))

    assert (refused.code, len(asking.raw.asked)) == ("model_rejected", 1)


# ---- A server that means harm


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status: int) -> None:
    async def use(asking: Asking) -> None:
        async with serving(lambda asked: Response(WHOLE)) as elsewhere:
            asking.raw.script = lambda asked: Response(status=status, headers={"location": elsewhere.url})
            error = await failure(asking)
            assert (error.code, error.refused) == ("model_rejected", False)
            assert elsewhere.connections == 0

    with_model(Response(), use)


PACKED = gzip.compress(b" " * 50 * 2**20)


@pytest.mark.parametrize(
    ("status", "code"), [(200, "model_rejected"), (400, "model_rejected"), (503, "model_unavailable")]
)
def test_a_packed_reply_is_not_unpacked(status: int, code: str) -> None:
    response = Response([PACKED], status, {"content-encoding": "gzip"})

    (error, asking), megabytes = most_memory(lambda: failed(response))

    assert error.code == code
    assert asking.raw.asked[0].headers["accept-encoding"] == "identity"
    assert megabytes < 5


# what is sent again and again, the status, the code
ENDLESS: dict[str, tuple[str, int, str]] = {
    "a line": ("x" * 60_000, 200, "result_too_large"),
    "an event": ("data: x\n" * 8_000, 200, "result_too_large"),
    "a plain completion": ("{" + " " * 60_000, 200, "result_too_large"),
    "an error": ("x" * 60_000, 503, "model_unavailable"),
    "comments": (":\n\n" * 20_000, 200, "result_too_large"),
    "thoughts": (event(delta(reasoning="x" * 60_000)), 200, "result_too_large"),
    "text": (content("x" * 60_000), 200, "result_too_large"),
}


@pytest.mark.parametrize(("piece", "status", "code"), ENDLESS.values(), ids=ENDLESS)
def test_a_reply_without_an_end_is_bounded(piece: str, status: int, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelstream.MAX_REPLY_BYTES", 4 * 1024 * 1024)

    (error, _), megabytes = most_memory(lambda: failed(Response([piece] * 2_000, status)))

    assert error.code == code
    assert megabytes < 12


def test_an_error_whose_body_never_ends_is_sorted_by_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refusals._BODY_SECONDS", 0.2)
    began = time.monotonic()

    error, _ = failed(Response(['{"error": ', HANG], 429))

    assert error.code == "model_rate_limited"
    assert time.monotonic() - began < 3


def test_half_a_surrogate_pair_meets_the_other_half_or_is_stored_by_no_name() -> None:
    half = "\\ud83d"
    body = [
        f'data: {{"model": "m{half}", "choices": [{{"delta": {{"content": "a{half}"}}}}]}}\n\n',
        f'data: {{"choices": [{{"delta": {{"content": "\\ude00b{half}"}}, "finish_reason": "stop{half}"}}]}}\n\n',
        DONE,
    ]

    answer, _ = answered(Response(body))

    assert (answer.result["message"], answer.usage["model"]) == ("a😀b\ufffd", "m\ufffd")
    json.dumps([answer.result, answer.usage], ensure_ascii=False).encode()


def test_the_providers_name_for_a_call_is_printable_and_short() -> None:
    headers = {"content-type": "text/event-stream", "x-request-id": "\xe4" + "r\t" * 300}

    _, asking = answered(Response(WHOLE, headers=headers))

    assert asking.reply.request_id == "r" * 100


def test_a_key_that_no_header_can_hold_is_wrong_for_good() -> None:
    async def use(asking: Asking) -> None:
        asking.keys = ["sk\nx"]
        error = await failure(asking)
        assert (error.code, error.refused) == ("model_rejected", False)

    with_model(Response(WHOLE), use)
