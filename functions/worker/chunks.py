"""Parses a piece of a streamed answer, or a whole answer, of Chat Completions. This module reads plain JSON, because
the SDK's objects for each chunk take more CPU than everything else in the worker. A malformed member is treated as
absent.
"""

import json
import re
from typing import Any, NamedTuple

_THOUGHTS = ("reasoning_content", "reasoning", "thinking")

# Maps the finish reasons of servers, in lower case, to OpenAI's names.
_REASONS = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "complete": "stop",
    "completed": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "content_filter",
    "safety": "content_filter",
    "prohibited_content": "content_filter",
    "recitation": "content_filter",
    "refusal": "content_filter",
    "sensitive": "content_filter",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "function_call",
}

BROKEN_OFF = "error"
"""The finish reason of an answer that its server stopped in the middle."""

_BREAKS = re.compile("error|abort|cancel|fail|timeout|timed_out|interrupt|overload|insufficient", re.IGNORECASE)


class Call(NamedTuple):
    """A piece of a function call. `number`: the index of the call in the answer, None if the server sends no index."""

    number: int | None
    id: str
    name: str
    arguments: str


class Chunk(NamedTuple):
    """`content`: text of the answer. `thoughts`: text that the model does not address to the user.

    `finish_reason`: one that OpenAI defines, BROKEN_OFF, or None. An unknown reason becomes None. `usage`:
    {prompt_tokens, completion_tokens, cached_tokens}, each as the server sent it, null included. As a rule only the
    last chunk has `usage`. `error`: the server's error in any form, or None.
    """

    model: str
    content: str
    thoughts: str
    refused: bool
    finish_reason: str | None
    usage: dict[str, Any]
    error: Any
    calls: tuple["Call", ...] = ()

    @classmethod
    def of(cls, data: object) -> "Chunk":
        chunk = _object(data)
        found = chunk.get("choices")
        content = thoughts = ""
        calls: list[Call] = []
        refused, reason, error = False, None, _error(chunk)
        usage = _object(chunk.get("usage"))
        for choice in found if isinstance(found, list) else ():
            if not isinstance(choice, dict):
                continue
            delta = choice.get("delta") or choice.get("message")
            if isinstance(delta, dict):
                said = delta.get("content")
                if type(said) is str:
                    content += said
                elif isinstance(said, list):
                    content += "".join(map(_text_of_part, said))
                    thoughts += "".join(map(_thoughts_of_part, said))
                thoughts += next((text for name in _THOUGHTS if (text := _text(delta.get(name)))), "")
                refused = refused or bool(delta.get("refusal"))
                pieces = delta.get("tool_calls")
                calls += map(_call, pieces if isinstance(pieces, list) else ())
            reason = _reason(choice.get("finish_reason")) or reason
            error = error or choice.get("error")
            usage = usage or _object(choice.get("usage"))
        return cls(_text(chunk.get("model")), content, thoughts, refused, reason, _usage(usage), error, tuple(calls))


def _error(chunk: dict[str, Any]) -> Any:
    if error := chunk.get("error"):
        # Members beside `error` can have more information, for example a code.
        return error if isinstance(error, dict) else chunk
    return chunk if chunk.get("object") == "error" or chunk.get("type") == "error" else None


def _reason(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    value = value[:100].lower()
    return _REASONS.get(value) or (BROKEN_OFF if _BREAKS.search(value) else None)


def _call(piece: object) -> Call:
    piece = _object(piece)
    function = _object(piece.get("function"))
    index, arguments = piece.get("index"), function.get("arguments")
    if isinstance(arguments, dict):  # Some servers send the JSON document as an object, not as text.
        arguments = json.dumps(arguments, ensure_ascii=False)
    name, call_id = _text(function.get("name")), _text(piece.get("id"))
    return Call(index if type(index) is int else None, call_id, name, _text(arguments))


def _text_of_part(part: object) -> str:
    """The text of a typed part of the content; "" for a part that is not text."""
    if isinstance(part, str):
        return part
    part = _object(part)
    return _text(part.get("text")) if part.get("type") in ("text", "output_text", None) else ""


def _thoughts_of_part(part: object) -> str:
    part = _object(part)
    if part.get("type") not in ("thinking", "reasoning", "reasoning_text"):
        return ""
    for name in ("thinking", "reasoning", "text"):
        found = part.get(name)
        if isinstance(found, list):
            return "".join(map(_text_of_part, found))
        if isinstance(found, str):
            return found
    return ""


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    if not usage:
        return {}
    cached = _object(usage.get("prompt_tokens_details")).get("cached_tokens")
    return {
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        # DeepSeek sends the cached tokens under this name.
        "cached_tokens": usage.get("prompt_cache_hit_tokens") if cached is None else cached,
    }


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
