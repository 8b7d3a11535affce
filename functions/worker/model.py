"""The model, over OpenAI Chat Completions: any server that speaks it will do. The only module that knows openai."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import openai
from pydantic import BaseModel, ValidationError

from chunks import Chunk
from conversation import Conversation, tokens_of
from modelerror import ModelError
from persona import Persona
from prices import Price
from reply import Answer, Reply, clean
from retryafter import retry_after
from turnqueue.telemetry import count, milliseconds
from turnqueue.turn import MAX_RESULT_BYTES, Turn

__all__ = ["Answer", "Model", "ModelError", "Reply"]

# No time-out of a read: some models think for minutes before they speak, and the caller bounds the call as a whole.
_TIMEOUT = openai.Timeout(None, connect=5, pool=5)

MAX_HISTORY_TOKENS = 16_000

_QUOTA_CODES = ("insufficient_quota", "billing_hard_limit_reached")
_REFUSAL_CODES = ("content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation")


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
            **persona.options,
            "model": persona.model or self._name,
            "messages": Conversation.of(persona, history, turn, images, MAX_HISTORY_TOKENS).messages(),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if persona.temperature is not None:
            request["temperature"] = persona.temperature
        if persona.output:
            request["response_format"] = _response_format(persona.output)
        try:
            return await self._asked(request, persona, reply)
        except openai.OpenAIError as error:
            refusal = _model_error(error, reply)
            if refusal.refused or not reply.headers_at:
                reply.turned_away()
            raise refusal from error
        finally:
            self._measure(reply, persona)

    def usage(self, persona: Persona, reply: Reply) -> dict[str, Any]:
        """What an attempt has used so far: that of Reply.usage, and `cost_usd`, None if the model has no price."""
        name = persona.model or self._name
        used = reply.usage(name)
        price = self._prices.get(name)
        return used | {"cost_usd": price.dollars(used) if price else None}

    async def _asked(self, request: dict[str, Any], persona: Persona, reply: Reply) -> Answer:
        try:
            return await self._stream(request, persona, reply)
        except openai.AuthenticationError:
            # The key may have been rotated since it was cached. Once; if it is refused again, it is wrong.
            await self._key(fresh=True)
        return await self._stream(request, persona, reply)

    async def _stream(self, request: dict[str, Any], persona: Persona, reply: Reply) -> Answer:
        finish_reason = None
        asked_at = time.time()
        reply.asked(tokens_of(request["messages"]))
        # Not chat.completions.create, which makes objects of each chunk (chunks.py) and imports all that they may be.
        stream = await self._client.post(
            "/chat/completions", cast_to=object, body=request, stream=True, stream_cls=openai.AsyncStream[object]
        )
        reply.request_id = _request_id(stream.response.headers)
        reply.accepted()
        async with stream:
            async for data in stream:
                chunk = Chunk.of(data)
                if chunk.model:
                    reply.report({"model": chunk.model})
                if chunk.usage:
                    reply.report(chunk.usage)
                if chunk.refused:
                    raise ModelError("prompt_refused", request_id=reply.request_id)
                if chunk.content:
                    reply.add(chunk.content)
                finish_reason = chunk.finish_reason or finish_reason
        if finish_reason is None:  # The stream was cut.
            raise ModelError("model_unavailable", refused=not reply.begun, request_id=reply.request_id)
        milliseconds("ModelLatency", time.time() - asked_at)
        if finish_reason == "content_filter":
            raise ModelError("prompt_refused", request_id=reply.request_id)
        rest = {
            "finish_reason": clean(str(finish_reason))[:100],
            "first_token_ms": reply.first_token_ms,
            "persona": persona.role,
            "persona_version": persona.version,
        }
        return Answer(_result(persona, reply.text), self.usage(persona, reply) | rest)

    def _measure(self, reply: Reply, persona: Persona) -> None:
        """Record what a call has used, however it ended: it is paid for."""
        if reply.first_token_ms is not None:
            milliseconds("TimeToFirstToken", reply.first_token_ms / 1000)
        used = self.usage(persona, reply)
        if used["prompt_tokens"] or used["completion_tokens"]:
            count("PromptTokens", used["prompt_tokens"])
            count("CompletionTokens", used["completion_tokens"])
            if used["cost_usd"] is not None:
                count("MicroDollars", round(used["cost_usd"] * 1_000_000))


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
    if not result["message"].strip():
        raise ModelError("output_invalid")
    if len(json.dumps(result, ensure_ascii=False).encode()) > MAX_RESULT_BYTES:
        raise ModelError("result_too_large")
    return result


def _model_error(error: openai.OpenAIError, reply: Reply) -> ModelError:
    """Sort an error of the SDK by what must be done about it. Its text may quote the prompt and is not kept."""
    if not isinstance(error, openai.APIStatusError):
        # The connection was not made or it broke, or an error came in the stream.
        return ModelError("model_unavailable", refused=not reply.begun, request_id=reply.request_id)
    wait = retry_after(error.response.headers, time.time())
    request_id = _request_id(error.response.headers)
    match error:
        case openai.RateLimitError(code=code) if code in _QUOTA_CODES:
            return ModelError("model_quota", request_id=request_id)
        case openai.RateLimitError():
            return ModelError("model_rate_limited", retry_after=wait, refused=True, request_id=request_id)
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            return ModelError("model_auth", request_id=request_id)
        case openai.BadRequestError(code="context_length_exceeded"):
            return ModelError("context_too_long", request_id=request_id)
        case openai.BadRequestError(code=code) if code in _REFUSAL_CODES:
            return ModelError("prompt_refused", request_id=request_id)
        case openai.APIStatusError(status_code=status) if status < 500 and status not in (408, 409):
            return ModelError("model_rejected", request_id=request_id)
        case _:
            return ModelError("model_unavailable", retry_after=wait, refused=True, request_id=request_id)


_REQUEST_IDS = ("x-request-id", "request-id", "x-amzn-requestid", "apim-request-id", "x-ms-request-id", "cf-ray")


def _request_id(headers: Mapping[str, str]) -> str | None:
    """The provider's name for a call: at most 100 printable ASCII characters."""
    found = next((headers[name] for name in _REQUEST_IDS if headers.get(name)), "")
    return re.sub(r"[^ -~]", "", found)[:100].strip() or None
