"""Reads the response of an accepted call into a reply. A server may send an event stream, as requested, or the whole
completion as one JSON document. Any other response raises ModelError. The sizes of an event, of a whole completion and
of the response are limited."""

import asyncio
import codecs
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import cast

import anyio
import httpx2
from pydantic_core import from_json

from chunks import BROKEN_OFF, Chunk
from modelerror import ModelError
from pacedreads import paced
from refusals import refusal
from reply import Reply

MAX_REPLY_BYTES = 64 * 1024 * 1024
"""The maximum number of bytes in a response. A chunk of one token has about 350 bytes. So 100,000 tokens of thoughts
and text need about half of the limit."""

MAX_EVENT_BYTES = 512 * 1024
"""The maximum number of bytes in one event. The largest stored answer fits into one event, even if all its characters
are escaped."""

MAX_COMPLETION_BYTES = 2 * 1024 * 1024
"""The maximum number of bytes in a completion in one JSON document, thoughts included."""

# Seconds that a stream is still read after its finish reason, because a server can then send the usage. After the
# usage, or after [DONE], the stream is read for _END_SECONDS. If the HTTP body ends in this time, the next call can use
# the same connection.
_USAGE_SECONDS = 3.0
_END_SECONDS = 0.1

_EVENT_STREAM = {"content-type": "text/event-stream; charset=utf-8"}
# the SDK does not wrap ssl.SSLError and EndOfStream in its exceptions
_BROKEN = (httpx2.HTTPError, httpx2.StreamError, ssl.SSLError, anyio.EndOfStream)


async def read(response: httpx2.Response, reply: Reply) -> str:
    """Read an answer into `reply`. Returns its finish reason, with OpenAI's name. Raises ModelError when the answer is
    incomplete or too large, or when the body is no answer.
    """
    reading = _Reading(reply)
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    try:
        async with asyncio.timeout(None) as limit, paced(response.stream, reading.growing) as pieces:
            await _read(_Body(response.request, pieces), reading, limit)
    except (TimeoutError, ModelError, *_BROKEN) as error:
        if not reading.over:
            raise _failure(error, reply) from error
    finally:
        await response.aclose()
    return reading.reason()


async def _read(body: "_Body", reading: "_Reading", limit: asyncio.Timeout) -> None:
    beginning = await body.beginning()
    if beginning == b"<":  # the body is usually the HTML page of a proxy
        raise ModelError("model_unavailable", refused=True)
    if beginning in (b"{", b"["):
        reading.take_whole(_json(await body.whole()))
        return
    # httpx2 splits the stream into events. It needs the right headers, and some servers send wrong ones.
    source = httpx2.Response(200, headers=_EVENT_STREAM, stream=body, request=body.request)
    events = cast(AsyncGenerator[httpx2.ServerSentEvent], aiter(httpx2.EventSource(source, MAX_EVENT_BYTES)))
    async with aclosing(events):
        async for event in events:
            # The event is broken: httpx2 puts U+FFFD in place of bytes that are not UTF-8.
            if not body.is_utf8 and "\ufffd" in event.data:
                raise ModelError("model_unavailable")
            left = reading.take_event(event)
            if left is not None:
                limit.reschedule(asyncio.get_running_loop().time() + left)


class _Reading:
    """The state of a stream that is being read."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._reason: str | None = None
        self._done = False

    @property
    def over(self) -> bool:
        """Whether the answer is complete. If it is, later errors of the stream are ignored."""
        return self._done or self._reason is not None

    def growing(self) -> bool:
        """Whether the first text has come and more can follow. `paced` may hold pieces back only while this is true."""
        return self._reply.first_token_ms is not None and not self.over

    def reason(self) -> str:
        if not self.over:
            raise ModelError("model_unavailable", refused=not self._reply.begun)  # the answer broke off before its end
        return self._reason or "stop"

    def take_event(self, event: httpx2.ServerSentEvent) -> float | None:
        """Read an event. Returns the seconds for which to read the rest of the stream, None while the answer
        continues."""
        data = event.data
        if self._done or not data or data.isspace():
            return None
        if data.startswith("[DONE]"):
            self._done = True
            return _END_SECONDS
        chunk = self.take(_json(data), is_error=event.event == "error")
        if self._reason is None:
            return None
        return _END_SECONDS if chunk.usage else _USAGE_SECONDS

    def take_whole(self, data: object) -> None:
        """Read a whole completion. It is complete even without a finish reason."""
        self.take(data[0] if isinstance(data, list) and data else data)
        self._done = True

    def take(self, data: object, *, is_error: bool = False) -> Chunk:
        reply, chunk = self._reply, Chunk.of(data)
        if chunk.model:
            reply.model = chunk.model
        if chunk.usage:
            reply.report(chunk.usage)
        if chunk.thoughts:
            reply.thought(chunk.thoughts)
        if chunk.content:
            reply.add(chunk.content)
        for call in chunk.calls:
            reply.call(call)
        if chunk.refused:
            raise ModelError("prompt_refused")
        if chunk.error or is_error:
            raise refusal(None, chunk.error or data, begun=reply.begun)
        if chunk.finish_reason == BROKEN_OFF:
            raise ModelError("model_unavailable", refused=not reply.begun)
        self._reason = chunk.finish_reason or self._reason
        return chunk


class _Body(httpx2.AsyncByteStream):
    """The bytes of a response, up to MAX_REPLY_BYTES. `is_utf8`: whether the bytes so far can be UTF-8."""

    def __init__(self, request: httpx2.Request, pieces: AsyncIterator[bytes]) -> None:
        self.request = request
        self._pieces = self._checked(pieces)
        self._first = b""
        self.is_utf8 = True
        self._utf8 = codecs.getincrementaldecoder("utf-8")()

    async def beginning(self) -> bytes:
        """Read up to the first byte that is not white space. Returns this byte, or b"" for a blank body."""
        async for piece in self._pieces:
            self._first = piece.lstrip(b"\xef\xbb\xbf \t\r\n")
            if self._first:
                break
        return self._first[:1]

    async def whole(self) -> str:
        body = bytearray()
        async for piece in self:
            body += piece
            if len(body) > MAX_COMPLETION_BYTES:
                raise ModelError("result_too_large")
        try:
            return body.decode()
        except UnicodeDecodeError:
            raise ModelError("model_unavailable") from None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._first:
            yield self._first
            async for piece in self._pieces:
                yield piece
            yield b"\n\n"  # Some servers do not end their last event.

    async def _checked(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        left = MAX_REPLY_BYTES
        async for piece in pieces:
            left -= len(piece)
            if left < 0:
                raise ModelError("result_too_large")
            if self.is_utf8:
                try:
                    self._utf8.decode(piece)
                except UnicodeDecodeError:
                    self.is_utf8 = False
            yield piece


def _json(text: str) -> object:
    with suppress(ValueError):
        return from_json(text)  # from_json is three times as fast as json.loads
    try:
        return json.loads(text)  # json.loads, unlike from_json, accepts half a surrogate pair
    except (ValueError, RecursionError):
        raise ModelError("model_unavailable") from None


def _failure(error: Exception, reply: Reply) -> ModelError:
    if isinstance(error, ModelError):
        return error
    if isinstance(error, httpx2.SSEError):
        return ModelError("result_too_large")
    return ModelError("model_unavailable", refused=not reply.begun)
