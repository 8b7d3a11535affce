"""Holds an answer while the model writes it."""

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from chunks import Call
from modelerror import ModelError
from structured import readable
from thoughts import LeadingThoughts
from turnqueue.turn import MAX_RESULT_BYTES
from turnqueue.usage import BYTES_OF_A_TOKEN

COUNTS = ("prompt_tokens", "completion_tokens", "cached_tokens")

_MOST_CALLS = 128  # the maximum number of function calls in an answer; also the maximum number of tools in a request

_MOST_TOKENS = 10**9  # A larger count is a mistake of the server.


class Answer(NamedTuple):
    """A whole answer. `result`: {message, data, draft, tool_calls?}. `usage`: {model, prompt_tokens, completion_tokens,
    cached_tokens, estimated, finish_reason, first_token_ms, cost_usd, persona, persona_version}; `cost_usd` is None if
    the model has no price, and `first_token_ms` is None if there is no text.
    """

    result: dict[str, Any]
    usage: dict[str, Any]


class Reply:
    """An answer while the model writes it. `structured`: whether the user reads only the member `message` of the
    answer. `headers_at`: when the server accepted the call (2xx), in seconds since the epoch; `on_headers` is called at
    that time. `last_progress_at`: when the model last sent text or thoughts, or else when it was called.
    `first_token_ms`: from the call to the first text of the answer. `request_id`: the provider's id for the call.
    `model`: the server's name for its model, unchecked. `begun`: whether the model has sent any text, thoughts or
    function call.
    """

    def __init__(self) -> None:
        self.structured = False
        self.headers_at: float | None = None
        self.on_headers: Callable[[], None] | None = None
        self.first_token_ms: int | None = None
        self.request_id: str | None = None
        self.model = ""
        self.begun = False
        self._thoughts = LeadingThoughts()
        self._parts: list[str] = []
        self._size = 0
        self._thought_bytes = 0
        self._calls: list[dict[str, Any]] = []
        self._prompt_tokens = 0
        self._reported: dict[str, int] = {}
        self._asked_at = self.last_progress_at = time.time()
        self._wanted: float = math.inf
        self._grown = asyncio.Event()

    def asked(self, prompt_tokens: int) -> None:
        """Record that a call to the model begins. The time to the first token is measured from here. `prompt_tokens`:
        an estimate."""
        self.headers_at = None
        self._prompt_tokens = prompt_tokens
        self._reported = {}
        self._asked_at = self.last_progress_at = time.time()

    def accepted(self) -> None:
        """Record that the server has accepted the call with a 2xx status."""
        self.headers_at = time.time()
        if self.on_headers:
            self.on_headers()

    def turned_away(self) -> None:
        """Record that the server has refused the call. A refused call uses no tokens."""
        self._prompt_tokens = 0
        self._reported = {}

    def add(self, text: str) -> None:
        """Append text of the answer. Raises ModelError if the answer is larger than a turn can store."""
        self.begun = True
        self.last_progress_at = time.time()
        if not self._thoughts.over:
            text, thoughts = self._thoughts.feed(text)
            self._thought_bytes += _bytes(thoughts)
        self._append(text)

    def thought(self, text: str) -> None:
        """Count the bytes of the model's thoughts. Thoughts are neither shown nor stored."""
        self.begun = True
        self.last_progress_at = time.time()
        self._thought_bytes += _bytes(text)

    def call(self, piece: Call) -> None:
        """Take a piece of a function call. Raises ModelError if the calls are larger than a turn can store."""
        self.begun = True
        self.last_progress_at = time.time()
        self._size += _bytes(piece.id + piece.name + piece.arguments)
        if self._size > MAX_RESULT_BYTES or len(self._calls) > _MOST_CALLS:
            raise ModelError("result_too_large")
        # Some servers send no number, or 0 for each call. Then a new id begins a new call.
        same = [call for call in self._calls if piece.number is not None and call["number"] == piece.number]
        found = same[-1] if same else None
        if found is None and piece.number is None and not piece.id and self._calls:
            found = self._calls[-1]
        if found is None or (piece.id and found["call_id"] and piece.id != found["call_id"]):
            found = {"number": piece.number, "call_id": "", "name": "", "arguments": ""}
            self._calls.append(found)
        found["call_id"] = found["call_id"] or piece.id
        found["name"] = found["name"] or piece.name
        found["arguments"] += piece.arguments

    def calls(self) -> list[dict[str, str]]:
        """The functions that the model calls: {call_id, name, arguments}, in order."""
        return [
            {
                "call_id": clean(call["call_id"])[:200] or f"call_{secrets.token_hex(12)}",
                "name": clean(call["name"]),
                "arguments": clean(call["arguments"]) or "{}",
            }
            for call in self._calls
            if call["name"]
        ]

    def ended(self) -> None:
        """Record that the answer is complete. Characters that could have been the beginning of a tag then count as
        text."""
        self._append(self._thoughts.rest())

    def _append(self, text: str) -> None:
        if not text:
            return
        if self.first_token_ms is None:
            self.first_token_ms = round((time.time() - self._asked_at) * 1000)
        size = self._size + _bytes(text)
        if size > MAX_RESULT_BYTES:
            raise ModelError("result_too_large")  # the turn stores the partial answer without this piece
        self._parts.append(text)
        self._size = size
        if size > self._wanted:
            self._wanted = math.inf
            self._grown.set()

    async def grow(self, size: int) -> None:
        """Wait until the answer has more than `size` bytes. Only one caller may wait at a time."""
        if self._size <= size:
            self._wanted = size
            self._grown.clear()
            await self._grown.wait()

    def report(self, usage: Mapping[str, Any]) -> None:
        """Store the counts that the server reports. Malformed counts are left out."""
        self._reported |= {name: count for name in COUNTS if (count := _count(usage.get(name))) is not None}

    def usage(self, model: str) -> dict[str, Any]:
        """The usage of this attempt so far: {model, prompt_tokens, completion_tokens, cached_tokens, estimated}.

        `model`: the requested name, in case the server sent none. Missing or malformed counts are estimated from bytes,
        and `estimated` is true then. A refused call used no tokens.
        """
        prompt, completion, cached = map(self._reported.get, COUNTS)
        # If a server that has answered reports 0 tokens, it has not counted them.
        unknown_prompt = not prompt and self._prompt_tokens > 0
        unknown_completion = not completion and self.begun
        if unknown_prompt:
            prompt = self._prompt_tokens
        if unknown_completion:
            completion = -(-(self._size + self._thought_bytes) // BYTES_OF_A_TOKEN)
        return {
            "model": clean(self.model)[:100] or model,
            "prompt_tokens": prompt or 0,
            "completion_tokens": completion or 0,
            "cached_tokens": min(cached or 0, prompt or 0),
            "estimated": unknown_prompt or unknown_completion,
        }

    @property
    def text(self) -> str:
        """The whole text so far."""
        return clean("".join(self._parts))

    @property
    def size(self) -> int:
        """The bytes of the whole text so far."""
        return self._size

    def readable(self) -> str:
        """The text so far that the user may read. Of a structured answer, this is the received part of `message`."""
        return readable(self.text) if self.structured else self.text

    def progress(self) -> float:
        """The estimated progress, from 0 to 0.95: 0.5 at 500 bytes. Nobody knows the final length."""
        return round(0.95 * self._size / (self._size + 500), 2)


def clean(text: str) -> str:
    """Make the text valid UTF-8. Two adjacent halves of a surrogate pair become their character. A half alone, which
    JSON allows, becomes a replacement character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _count(value: object) -> int | None:
    """A token count as a server reports it; None if it is malformed. True is an int in Python, and not a count."""
    return value if type(value) is int and 0 <= value < _MOST_TOKENS else None
