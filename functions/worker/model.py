"""Calls the model through OpenAI's Chat Completions API, which many servers offer. This is the only module that imports
openai."""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2
import openai

import modelstream
import refusals
from conversation import Conversation, Window, tokens_of
from dialect import Dialect
from modelerror import ModelError
from persona import Persona
from prices import Price
from refusals import Refusal, refusal
from reply import Answer, Reply
from retryafter import retry_after
from structured import result
from turnqueue.telemetry import count, milliseconds
from turnqueue.turn import Turn

__all__ = ["Answer", "Model", "ModelError", "Reply"]

# No read timeout, because some models think for minutes before they write. The caller bounds the whole call.
_TIMEOUT = openai.Timeout(None, connect=5, pool=5)

# All public certificate authorities, loaded once for both models. Loading takes 20 ms of a whole CPU. So it is done at
# init, which gets a whole CPU; an invocation gets a seventh (github.com/aws/aws-lambda-base-images/issues/154).
_TRUSTED = httpx2.create_ssl_context()


class Model:
    """`key`: an async function that returns the API key; fresh=True bypasses its cache. `prices`: the price of each
    model, by its name. `history_tokens`: the maximum number of history tokens (estimated) that the model gets with a
    message."""

    def __init__(self, base_url: str, name: str, key: Any, prices: Mapping[str, Price], history_tokens: int) -> None:
        self._name = name
        self._history_tokens = history_tokens
        self._prices = prices
        self._key = key
        self._dialects: dict[str, Dialect] = {}
        self._windows: dict[str, Window] = {}
        # No redirects, because a redirect would send the conversation to another host. No compression, because a small
        # reply could expand to a large one. No retries by the SDK, because Lambda bills the pauses of the SDK, and
        # because a crash would lose the number of tries.
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=key,
            max_retries=0,
            timeout=_TIMEOUT,
            default_headers={"Accept-Encoding": "identity"},
            http_client=openai.DefaultAsyncHttpx2Client(
                timeout=_TIMEOUT, follow_redirects=False, event_hooks={"response": [_accept]}, verify=_TRUSTED
            ),
        )

    async def answer(
        self, persona: Persona, history: Sequence[Turn], turn: Turn, images: Mapping[str, str], reply: Reply
    ) -> Answer:
        """Stream the answer to `turn` into `reply`, and return the whole answer. `images`: data URLs by the ids of the
        uploads. If the server refuses a field, the length or the images of the request, this method sends a reduced
        request. Raises ModelError.
        """
        name = persona.model or self._name
        window = self._windows.setdefault(name, Window())
        conversation = Conversation.of(persona, history, turn, images, self._history_tokens)
        conversation = window.fitted(conversation, time.time())
        dialect, fresh_key = self._dialects.get(name, Dialect()), False
        try:
            while True:  # The loop ends, because each way to reduce the request is used only once.
                request = dialect.request(name, conversation.messages(), persona)
                try:
                    reason = await self._call(request, reply)
                    break
                except Refusal as refused:
                    if reply.begun:
                        raise
                    if refused.status == 401 and not fresh_key:
                        fresh_key = True
                        await self._key(fresh=True)  # The cached key may be out of date.
                    elif less := dialect.after(refused.field, request):
                        dialect = less
                    elif refused.code == "context_too_long" and (shorter := conversation.shorter()):
                        conversation = shorter
                    elif refused.code == "model_rejected" and (bare := _without_images(turn, conversation)):
                        conversation = bare
                    else:
                        raise
            self._dialects[name] = dialect
            window.answered(conversation, time.time())
            if reason == "content_filter":
                raise ModelError("prompt_refused")
            reply.ended()
            answer = result(persona.output, reply.text, reply.calls() if "tools" in persona.options else ())
        except ModelError as error:
            reply.request_id = error.request_id = error.request_id or reply.request_id
            if error.refused or (isinstance(error, Refusal) and not reply.begun):
                reply.turned_away()
            raise
        finally:
            self._measure(reply, persona)
        rest = {
            "finish_reason": reason,
            "first_token_ms": reply.first_token_ms,
            "persona": persona.role,
            "persona_version": persona.version,
        }
        return Answer(answer, self.usage(persona, reply) | rest)

    def usage(self, persona: Persona, reply: Reply) -> dict[str, Any]:
        """The usage of an attempt so far: Reply.usage, with `cost_usd` (None if the model has no price)."""
        name = persona.model or self._name
        used = reply.usage(name)
        price = self._prices.get(name)
        return used | {"cost_usd": price.dollars(used) if price else None}

    async def _call(self, request: dict[str, Any], reply: Reply) -> str:
        """Make one call and write its answer into `reply`. Returns the finish reason. Raises Refusal if the server
        refused the call, and ModelError if the call failed otherwise."""
        asked_at = time.time()
        reply.asked(tokens_of(request["messages"]))
        try:
            # Do not use chat.completions.create, because it makes objects from each chunk and imports all their types.
            response = await self._client.post(
                "/chat/completions",
                cast_to=httpx2.Response,
                body=request,
                stream=True,
                stream_cls=openai.AsyncStream[object],
            )
        except openai.APIConnectionError as error:
            raise _unreachable(error) from error
        assert isinstance(response, httpx2.Response)
        reply.request_id = _request_id(response.headers)
        reply.accepted()
        reason = await modelstream.read(response, reply)
        milliseconds("ModelLatency", time.time() - asked_at)
        return reason

    def _measure(self, reply: Reply, persona: Persona) -> None:
        """Record the metrics of an attempt, also of a failed one, because the provider bills it too."""
        if reply.first_token_ms is not None:
            milliseconds("TimeToFirstToken", reply.first_token_ms / 1000)
        used = self.usage(persona, reply)
        if used["prompt_tokens"] or used["completion_tokens"]:
            count("PromptTokens", used["prompt_tokens"])
            count("CompletionTokens", used["completion_tokens"])
            if used["cost_usd"] is not None:
                count("MicroDollars", round(used["cost_usd"] * 1_000_000))


def _without_images(turn: Turn, conversation: Conversation) -> Conversation | None:
    """The conversation without its earlier images, because the server may have refused them. None if `turn` itself has
    images or if there are no earlier images."""
    return None if turn.request.get("media") else conversation.without_images()


async def _accept(response: httpx2.Response) -> None:
    """Raises Refusal if the server refused the call, and ModelError if the response is compressed."""
    request_id = _request_id(response.headers)
    if not response.is_success:
        wait = retry_after(response.headers, time.time())
        said = refusals.parsed(await refusals.body(response))
        raise refusal(response.status_code, said, retry_after=wait, request_id=request_id)
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise ModelError("model_rejected", request_id=request_id)


def _unreachable(error: openai.APIConnectionError) -> ModelError:
    """The ModelError for a connection that failed, or that broke before the server answered."""
    if isinstance(error.__cause__, httpx2.LocalProtocolError | httpx2.UnsupportedProtocol):
        return ModelError("model_rejected")  # The URL or the key is malformed, so the request cannot be sent.
    return ModelError("model_unavailable", refused=True)


_REQUEST_IDS = ("x-request-id", "request-id", "x-amzn-requestid", "apim-request-id", "x-ms-request-id", "cf-ray")


def _request_id(headers: Mapping[str, str]) -> str | None:
    """The provider's id for a call: at most 100 printable ASCII characters."""
    found = next((headers[name] for name in _REQUEST_IDS if headers.get(name)), "")
    return re.sub(r"[^ -~]", "", found)[:100].strip() or None
