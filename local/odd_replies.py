"""Unusual replies of Chat Completions servers, each known from a public bug report. The stand-in model sends one if the
message has `[[odd=NAME]]`. docs/model-servers.md says how Turnqueue treats each."""

import gzip
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

type JsonObject = dict[str, Any]
type Piece = bytes | None
"""None stands for silence: send no more bytes, and keep the connection open."""

JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
DONE = b"data: [DONE]\n\n"
CONTEXT = (
    "This model's maximum context length is 8192 tokens. However, you requested 9001 tokens. Please reduce the length "
    "of the messages or completion."
)


@dataclass(frozen=True)
class OddReply:
    """An unusual reply. `broken`: whether the connection breaks at the end of the body."""

    pieces: Iterable[Piece] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: EVENTS)
    broken: bool = False


def event(data: Any) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def chunk(content: Any = None, reason: str | None = None, **delta: Any) -> bytes:
    said = delta if content is None else {"content": content, **delta}
    return event({"model": "odd", "choices": [{"index": 0, "delta": said, "finish_reason": reason}], "usage": None})


def counted(prompt: Any = 9, completion: Any = 5) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": {"cached_tokens": 0}}
    return event({"choices": [], "usage": usage})


def error(message: str, status: int, **more: Any) -> OddReply:
    told = {"message": message, "type": "invalid_request_error", "param": None, "code": None} | more
    return OddReply([json.dumps({"error": told}).encode()], status, JSON)


def stream(*pieces: Piece, broken: bool = False) -> OddReply:
    return OddReply(pieces, broken=broken)


END = (chunk(reason="stop"), counted(), DONE)


def refusing(name: str, message: str) -> Callable[[str, JsonObject], OddReply]:
    """Replies of a server that refuses every request that has the field `name`, and answers all other requests."""

    def reply(text: str, asked: JsonObject) -> OddReply:
        return error(message, 400, param=name) if name in asked else stream(chunk(text), *END)

    return reply


def without_schema(text: str, asked: JsonObject) -> OddReply:
    if (asked.get("response_format") or {}).get("type") == "json_schema":
        return error("Invalid parameter: 'response_format' of type 'json_schema' is not supported.", 400)
    return stream(chunk(text), *END)


def completion(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": None}).encode()


def surrogate(text: str, asked: JsonObject) -> OddReply:
    half = {"model": "odd\ud83d", "choices": [{"delta": {"content": text}, "finish_reason": "stop\ud83d"}]}
    return stream(event(half), counted(), DONE)


ODD: dict[str, Callable[[str, JsonObject], OddReply]] = {
    # Odd replies of the stream
    "retry": lambda text, _: stream(b"retry: 3000\n\n", chunk(text), *END),
    "ping": lambda text, _: stream(b"event: ping\n\n", b"data:\n\n", b"id: 1\n\n: ping\n\n", chunk(text), *END),
    "crlf": lambda text, _: stream(*(piece.replace(b"\n", b"\r\n") for piece in (chunk(text), *END))),
    "no_done": lambda text, _: stream(chunk(text), chunk(reason="stop"), counted()),
    "no_reason": lambda text, _: stream(chunk(text), DONE),
    "no_usage": lambda text, _: stream(chunk(text), chunk(reason="stop"), DONE),
    "reason_then_silence": lambda text, _: stream(chunk(text), chunk(reason="stop"), None),
    "reason_then_reset": lambda text, _: stream(chunk(text), chunk(reason="stop"), broken=True),
    "reason_error": lambda text, _: stream(chunk(text[: len(text) // 2]), chunk(reason="error"), DONE),
    "no_end": lambda text, _: stream(chunk(text[: len(text) // 2])),
    "not_json": lambda text, _: stream(chunk(text), b"data: upstream died\n\n", *END),
    "half_character": lambda text, _: stream(b'data: {"a": "\xe8\xaa"}\n\n', chunk(text), *END),
    "parts": lambda text, _: stream(chunk([{"type": "text", "text": text}]), *END),
    "reasoning_content": lambda text, _: stream(chunk(reasoning_content="hm"), chunk(text), *END),
    "reasoning": lambda text, _: stream(chunk(reasoning="hm"), chunk(text), *END),
    "thinking_parts": lambda text, _: stream(chunk([{"type": "thinking", "thinking": "hm"}]), chunk(text), *END),
    "think_tag": lambda text, _: stream(chunk("<think>hm"), chunk("</think>\n\n"), chunk(text), *END),
    "plain": lambda text, _: OddReply([completion(text)], headers=JSON),
    "page": lambda text, _: OddReply([b"<!DOCTYPE html><title>Down</title>"], headers={"content-type": "text/html"}),
    "fence": lambda text, _: stream(chunk(f"```json\n{text}\n```"), *END),
    "blank": lambda text, _: stream(chunk(" \n"), *END),
    # Refusals
    "error_inside": lambda text, _: stream(event({"error": {"message": "overloaded", "type": "server_error"}})),
    "error_midway": lambda text, _: stream(chunk(text[:4]), event({"error": {"message": "overloaded"}})),
    "rate_limit_inside": lambda text, _: stream(event({"error": {"code": 429, "message": "slow down"}})),
    "quota_inside": lambda text, _: stream(event({"error": {"type": "insufficient_quota", "message": "no"}})),
    "context_inside": lambda text, _: stream(event({"error": {"code": 400, "message": CONTEXT}})),
    "context_of_vllm": lambda text, _: OddReply(
        [json.dumps({"object": "error", "message": CONTEXT, "type": "BadRequestError", "code": 400}).encode()],
        400,
        JSON,
    ),
    "context_of_llama": lambda text, _: error(
        "the request exceeds the available context size", 500, type="exceed_context_size_error", code=500
    ),
    "too_large_a_minute": lambda text, _: error(
        "Request too large for odd on tokens per min (TPM): Limit 30000, Requested 46002.",
        429,
        type="tokens",
        code="rate_limit_exceeded",
    ),
    "quota_by_type": lambda text, _: error("no", 429, type="insufficient_quota"),
    "unpaid": lambda text, _: error("Insufficient credits", 402, type=None, code=402),
    "key_with_400": lambda text, _: error("API key not valid. Please pass a valid API key.", 400, type=None, code=400),
    "no_stream_options": refusing("stream_options", "Unknown parameter: 'stream_options'."),
    "no_temperature": refusing("temperature", "Unsupported value: 'temperature' does not support 0.2."),
    "no_max_tokens": refusing(
        "max_tokens", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    ),
    "no_json_schema": without_schema,
    # Harmful replies
    "moved": lambda text, _: OddReply(status=307, headers={"location": "/v1/chat/completions"}),
    "packed": lambda text, _: OddReply(
        [gzip.compress(b" " * 50_000_000)], headers=EVENTS | {"content-encoding": "gzip"}
    ),
    "long_line": lambda text, _: OddReply(b"x" * 65_536 for _ in range(1_600)),
    "long_error": lambda text, _: OddReply((b"x" * 65_536 for _ in range(1_600)), 503, JSON),
    "surrogate": surrogate,
    "negative": lambda text, _: stream(chunk(text), chunk(reason="stop"), counted(-999_999_999, -1), DONE),
    "true": lambda text, _: stream(chunk(text), chunk(reason="stop"), counted(True, True), DONE),
}
