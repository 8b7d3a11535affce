"""An answer while it is being written, for those who watch it."""

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

_MOST_CALLS = 128  # as many as a request may have tools

_MOST_TOKENS = 10**9  # A larger count is a mistake of the server.


class Answer(NamedTuple):
    """`result`: {message, data, draft}.

    `usage`: {model, prompt_tokens, completion_tokens, cached_tokens, finish_reason, first_token_ms, cost_usd, persona,
    persona_version}; the counts are null if the server gave none, the cost is without them or a price.
    """

    result: dict[str, Any]
    usage: dict[str, Any]


class Reply:
    """An answer while it is being written. `structured`: it is a JSON document.

    `headers_at`: when the server accepted the call (2xx), in seconds since the epoch. `on_headers` is called then.
    `last_progress_at`: when the model last sent text or thoughts, or else when it was asked. `first_token_ms`: from the
    question to the first text that a user may read. `request_id`: the provider's name for the call. `model`: the name
    that the server gives its model, as it sent it. `begun`: whether the model has sent any text or thoughts.
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
        """The model is being asked now: the time to its first token begins. `prompt_tokens`: by estimate."""
        self.headers_at = None
        self._prompt_tokens = prompt_tokens
        self._reported = {}
        self._asked_at = self.last_progress_at = time.time()

    def accepted(self) -> None:
        """The server has accepted the call: it answered with a status of 2xx."""
        self.headers_at = time.time()
        if self.on_headers:
            self.on_headers()

    def turned_away(self) -> None:
        """The server refused the call, so it used no tokens."""
        self._prompt_tokens = 0
        self._reported = {}

    def add(self, text: str) -> None:
        """Append what the model has said now. Raises ModelError when it is more than can be kept."""
        self.begun = True
        self.last_progress_at = time.time()
        if not self._thoughts.over:
            text, thoughts = self._thoughts.feed(text)
            self._thought_bytes += _bytes(thoughts)
        self._append(text)

    def thought(self, text: str) -> None:
        """Count thoughts of the model. They are neither shown nor kept."""
        self.begun = True
        self.last_progress_at = time.time()
        self._thought_bytes += _bytes(text)

    def call(self, piece: Call) -> None:
        """Take a piece of a call of a function. Raises ModelError when it is more than can be kept."""
        self.begun = True
        self.last_progress_at = time.time()
        self._size += _bytes(piece.id + piece.name + piece.arguments)
        if self._size > MAX_RESULT_BYTES or len(self._calls) > _MOST_CALLS:
            raise ModelError("result_too_large")
        # Some servers number no call, or each with 0: then an id that is new begins one.
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
        """The functions that the model asks for: {call_id, name, arguments}, in order."""
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
        """The answer is whole: what was held back, because it might have become a thought, is text."""
        self._append(self._thoughts.rest())

    def _append(self, text: str) -> None:
        if not text:
            return
        if self.first_token_ms is None:
            self.first_token_ms = round((time.time() - self._asked_at) * 1000)
        size = self._size + _bytes(text)
        if size > MAX_RESULT_BYTES:
            raise ModelError("result_too_large")  # without this piece: what was said is kept as the partial answer
        self._parts.append(text)
        self._size = size
        if size > self._wanted:
            self._wanted = math.inf
            self._grown.set()

    async def grow(self, size: int) -> None:
        """Wait until more than `size` bytes of the answer have come. One waits at a time."""
        if self._size <= size:
            self._wanted = size
            self._grown.clear()
            await self._grown.wait()

    def report(self, usage: Mapping[str, Any]) -> None:
        """Take the counts that the server reports, as it sent them. What is no count is left out."""
        self._reported |= {name: count for name in COUNTS if (count := _count(usage.get(name))) is not None}

    def usage(self, model: str) -> dict[str, Any]:
        """The usage of this attempt so far: {model, prompt_tokens, completion_tokens, cached_tokens, estimated}.

        `model`: the name that was asked for, in case the server told none. Counts that the server did not report, or
        not as a count, are estimated from bytes, and `estimated` is true. A call that was turned away used nothing.
        """
        prompt, completion, cached = map(self._reported.get, COUNTS)
        # A server that has answered and counts 0 has not counted.
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
        """All that was said."""
        return clean("".join(self._parts))

    @property
    def size(self) -> int:
        """The bytes of all that was said."""
        return self._size

    def readable(self) -> str:
        """The part that a user may read already: of a structured answer its `message`, so far as it has come."""
        return readable(self.text) if self.structured else self.text

    def progress(self) -> float:
        """From 0 to 0.95. A guess, because nobody knows how long an answer will be: half of it at 500 bytes."""
        return round(0.95 * self._size / (self._size + 500), 2)


def clean(text: str) -> str:
    """Text of the model's that every store takes: half a surrogate pair, which JSON can hold and UTF-8 cannot, becomes
    a replacement character. Halves that stand together become the character that they are."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _count(value: object) -> int | None:
    """A number of tokens as a server reports it; None if it is none. True is an int in Python, and no count."""
    return value if type(value) is int and 0 <= value < _MOST_TOKENS else None
