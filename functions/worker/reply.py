"""An answer while it is being written, for those who watch it."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pydantic_core import from_json

from modelerror import ModelError
from turnqueue.turn import MAX_RESULT_BYTES

BYTES_OF_A_TOKEN = 4
"""Of English, as OpenAI's help says; other scripts have more tokens to a letter, and more bytes."""

COUNTS = ("prompt_tokens", "completion_tokens", "cached_tokens")

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
    question to the first text that a user may read. `request_id`: the provider's name for the call.
    """

    def __init__(self) -> None:
        self.structured = False
        self.headers_at: float | None = None
        self.on_headers: Callable[[], None] | None = None
        self.first_token_ms: int | None = None
        self.request_id: str | None = None
        self._parts: list[str] = []
        self._size = 0
        self._thought_bytes = 0
        self._prompt_tokens = 0
        self._reported: dict[str, Any] = {}
        self._asked_at = self.last_progress_at = time.time()

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
        """The call was refused, so it used no tokens."""
        self._prompt_tokens = 0
        self._reported = {}

    def add(self, text: str) -> None:
        """Append what the model has said now. Raises ModelError when it is more than can be kept."""
        self.last_progress_at = time.time()
        if self.first_token_ms is None:
            self.first_token_ms = round((self.last_progress_at - self._asked_at) * 1000)
        size = self._size + len(text.encode("utf-8", "surrogatepass"))
        if size > MAX_RESULT_BYTES:
            raise ModelError("result_too_large")  # without this piece: what was said is kept as the partial answer
        self._parts.append(text)
        self._size = size

    def thought(self, text: str) -> None:
        """Count thoughts of the model. They are neither shown nor kept."""
        self.last_progress_at = time.time()
        self._thought_bytes += len(text.encode("utf-8", "surrogatepass"))

    def report(self, usage: Mapping[str, Any]) -> None:
        """Take the usage that the server reports: {model?, prompt_tokens?, completion_tokens?, cached_tokens?}, each as
        the server sent it."""
        self._reported |= usage

    @property
    def begun(self) -> bool:
        """Whether the model has sent any text or thoughts."""
        return bool(self._size or self._thought_bytes)

    def usage(self, model: str) -> dict[str, Any]:
        """What this attempt has used so far: {model, prompt_tokens, completion_tokens, cached_tokens, estimated}.

        `model`: the name that was asked for, in case the server told none. Counts that the server did not report, or
        not as a count, are estimated from bytes, and `estimated` is true. A call that was turned away used nothing.
        """
        name = self._reported.get("model")
        prompt, completion, cached = (_count(self._reported.get(name)) for name in COUNTS)
        estimated = (prompt is None and self._prompt_tokens > 0) or (completion is None and self.begun)
        if prompt is None:
            prompt = self._prompt_tokens
        if completion is None:
            completion = -(-(self._size + self._thought_bytes) // BYTES_OF_A_TOKEN)
        return {
            "model": clean(name)[:100] if isinstance(name, str) and name else model,
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "cached_tokens": min(cached or 0, prompt),
            "estimated": estimated,
        }

    @property
    def text(self) -> str:
        """All that was said."""
        return clean("".join(self._parts))

    def readable(self) -> str:
        """What a user may read of it already: of a structured answer its `message`, so far as it has come."""
        if not self.structured:
            return self.text
        try:
            document = from_json(self.text, allow_partial="trailing-strings")
        except ValueError:
            return ""
        message = document.get("message") if isinstance(document, dict) else None
        return message if isinstance(message, str) else ""

    def progress(self) -> float:
        """From 0 to 0.95. A guess, because nobody knows how long an answer will be: half of it at 500 bytes."""
        return round(0.95 * self._size / (self._size + 500), 2)


def clean(text: str) -> str:
    """Text of the model's that every store takes: half a surrogate pair, which JSON can hold and UTF-8 cannot, becomes
    a replacement character. Halves that stand together become the character that they are."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(value: object) -> int | None:
    """A number of tokens as a server reports it; None if it is none. True is an int in Python, and no count."""
    return value if type(value) is int and 0 <= value < _MOST_TOKENS else None
