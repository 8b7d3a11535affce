"""The model, over OpenAI Chat Completions: any server that speaks it will do. The only module that knows openai."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import openai
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from chunks import Chunk
from conversation import messages
from persona import Persona
from prices import Price
from turnqueue.telemetry import count, milliseconds
from turnqueue.turn import FAILURES, MAX_RESULT_BYTES, Turn

# Per read; whoever awaits the call bounds it as a whole. 60 s, for some models think before they speak.
_TIMEOUT = openai.Timeout(60, connect=5, pool=5)

_QUOTA_CODES = ("insufficient_quota", "billing_hard_limit_reached")
_REFUSAL_CODES = ("content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation")


class ModelError(Exception):
    """The model gave no answer. `code` is one of FAILURES; `retry_after`: the seconds that the provider asked for."""

    def __init__(self, code: str, retry_after: float | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.retry_after = retry_after

    @property
    def retryable(self) -> bool:
        return FAILURES[self.code].retryable


class Answer(NamedTuple):
    """`result`: {message, data, draft}.

    `usage`: {model, prompt_tokens, completion_tokens, cached_tokens, finish_reason, first_token_ms, cost_usd, persona,
    persona_version}; the counts are null if the server gave none, the cost is without them or a price.
    """

    result: dict[str, Any]
    usage: dict[str, Any]


class Reply:
    """An answer while it is being written, for those who watch it. `structured`: it is a JSON document."""

    def __init__(self) -> None:
        self.structured = False
        self._parts: list[str] = []
        self._size = 0
        self._asked_at = time.time()
        self.first_token_ms: int | None = None

    def asked(self) -> None:
        """The model is being asked now: the time to its first token begins."""
        self._asked_at = time.time()

    def add(self, text: str) -> None:
        """Append what the model has said now. Raises ModelError when it is more than can be kept."""
        if self.first_token_ms is None:
            self.first_token_ms = round((time.time() - self._asked_at) * 1000)
        size = self._size + len(text.encode("utf-8", "surrogatepass"))
        if size > MAX_RESULT_BYTES:
            raise ModelError("result_too_large")  # without this piece: what was said is kept as the partial answer
        self._parts.append(text)
        self._size = size

    @property
    def text(self) -> str:
        """All that was said. Half a surrogate pair, which no store takes, becomes a replacement character."""
        return "".join(self._parts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")

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
        """From 0 to 0.95. A guess, for nobody knows how long an answer will be: half of it at 500 bytes."""
        return round(0.95 * self._size / (self._size + 500), 2)


class Model:
    """`key`: an async function that gives the API key; with fresh=True not one that it has kept. `prices`: by the names
    of models."""

    def __init__(self, base_url: str, name: str, key: Any, prices: Mapping[str, Price]) -> None:
        self._name = name
        self._prices = prices
        self._key = key
        # No retries of the SDK's: it would sleep in here, billed, and lose its count with a crash. The queue retries.
        self._client = openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=_TIMEOUT)

    async def answer(
        self, persona: Persona, history: Sequence[Turn], turn: Turn, images: Mapping[str, str], reply: Reply
    ) -> Answer:
        """Stream the answer to `turn` into `reply` and return it whole. `images`: data URLs by the ids of the uploads.

        Raises ModelError.
        """
        request: dict[str, Any] = {
            "model": persona.model or self._name,
            "messages": messages(persona, history, turn, images),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if persona.temperature is not None:
            request["temperature"] = persona.temperature
        if persona.output:
            request["response_format"] = _response_format(persona.output)
        try:
            return await self._stream(request, persona, reply)
        except openai.AuthenticationError:
            # The key may have been rotated since it was cached. Once; if it is refused again, it is wrong.
            await self._key(fresh=True)
        except openai.OpenAIError as error:
            raise _model_error(error) from error
        try:
            return await self._stream(request, persona, reply)
        except openai.OpenAIError as error:
            raise _model_error(error) from error

    async def _stream(self, request: dict[str, Any], persona: Persona, reply: Reply) -> Answer:
        usage: dict[str, Any] = {"model": request["model"]}
        finish_reason = None
        asked_at = time.time()
        reply.asked()
        # Not chat.completions.create, which makes objects of each chunk (chunks.py) and imports all that they may be.
        stream = await self._client.post(
            "/chat/completions", cast_to=object, body=request, stream=True, stream_cls=openai.AsyncStream[object]
        )
        async with stream:
            async for data in stream:
                chunk = Chunk.of(data)
                usage["model"] = chunk.model or request["model"]
                usage |= chunk.usage
                if chunk.refused:
                    raise ModelError("prompt_refused")
                if chunk.content:
                    reply.add(chunk.content)
                finish_reason = chunk.finish_reason or finish_reason
        if finish_reason is None:
            raise ModelError("model_unavailable")  # The stream was cut.
        usage = _in_measure(usage)
        price = self._prices.get(request["model"])
        usage["cost_usd"] = price.dollars(usage) if price else None
        _measure(time.time() - asked_at, reply.first_token_ms, usage)
        if finish_reason == "content_filter":
            raise ModelError("prompt_refused")
        rest = {
            "finish_reason": str(finish_reason)[:100],
            "first_token_ms": reply.first_token_ms,
            "persona": persona.role,
            "persona_version": persona.version,
        }
        return Answer(_result(persona, reply.text), usage | rest)


def _in_measure(usage: dict[str, Any]) -> dict[str, Any]:
    """What a server says of its answer, as counts and a short name."""
    counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens", "cached_tokens")}
    known = {name: value if isinstance(value, int) and value < 10**9 else None for name, value in counts.items()}
    return {"model": str(usage["model"])[:100], **known}


def _measure(seconds: float, first_token_ms: int | None, usage: dict[str, Any]) -> None:
    """Record a call that came to its end, also one whose answer is then found to be of no use: it is paid for."""
    milliseconds("ModelLatency", seconds)
    if first_token_ms is not None:
        milliseconds("TimeToFirstToken", first_token_ms / 1000)
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if isinstance(prompt, int) and isinstance(completion, int):  # A sloppy server gives none.
        count("PromptTokens", prompt)
        count("CompletionTokens", completion)
    if usage["cost_usd"] is not None:
        count("MicroDollars", round(usage["cost_usd"] * 1_000_000))


def _response_format(output: type[BaseModel]) -> dict[str, Any]:
    schema = {"name": output.__name__, "schema": output.model_json_schema(), "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def _result(persona: Persona, text: str) -> dict[str, Any]:
    """The answer in the form of the persona, checked here again: providers differ in how well they hold a schema."""
    result: dict[str, Any] = {"message": text, "data": None, "draft": None}
    if persona.output:
        try:
            result |= persona.output.model_validate_json(text).model_dump(mode="json")
        except ValidationError:
            raise ModelError("output_invalid") from None
    if not result["message"]:
        raise ModelError("output_invalid")
    if len(json.dumps(result, ensure_ascii=False).encode()) > MAX_RESULT_BYTES:
        raise ModelError("result_too_large")
    return result


def _model_error(error: openai.OpenAIError) -> ModelError:
    """Sort an error of the SDK by what must be done about it. Its text may quote the prompt and is not kept."""
    match error:
        case openai.RateLimitError(code=code) if code in _QUOTA_CODES:
            return ModelError("model_quota")
        case openai.RateLimitError():
            return ModelError("model_rate_limited", _retry_after(error))
        case openai.APITimeoutError():
            return ModelError("model_timeout")
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            return ModelError("model_auth")
        case openai.BadRequestError(code="context_length_exceeded"):
            return ModelError("context_too_long")
        case openai.BadRequestError(code=code) if code in _REFUSAL_CODES:
            return ModelError("prompt_refused")
        case openai.APIStatusError(status_code=status) if status < 500 and status not in (408, 409):
            return ModelError("model_rejected")
        case openai.APIStatusError():
            return ModelError("model_unavailable", _retry_after(error))
        case _:  # the connection failed, or an error came in the middle of the stream
            return ModelError("model_unavailable")


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Retry-After in seconds. The date form, which no model's provider is known to send, is not read."""
    value = error.response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) <= 6 else None
