"""A model server on a real socket that sends exactly a test's bytes, and a worker's `Model` that calls it. A test
defines the headers, the pieces, the pauses, and the end of the connection.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from model import Answer, Model
from persona import Persona, persona
from prices import parse_prices
from reply import Reply
from turnqueue.turn import Key, Turn

HANG = object()
"""In a script: send nothing more, and keep the connection open."""
RESET = object()
"""In a script: break the connection with a TCP reset."""
END = object()
"""In a script: end the body as HTTP ends it."""

type Piece = bytes | str | float | object


@dataclass
class Response:
    """What one call is answered: a status, headers, and a script of the body.

    Bytes and texts are sent as one HTTP chunk each; a number is a pause in seconds. A script that does not say how it
    ends ends as HTTP does.
    """

    body: Sequence[Piece] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "text/event-stream"})


@dataclass
class Asked:
    """A request as the server read it."""

    target: str
    headers: dict[str, str]
    body: dict[str, Any]


type Script = Response | Callable[[Asked], Response | None]
"""Answers each request; None closes the connection without a word."""


@dataclass
class RawModel:
    url: str
    script: Callable[[Asked], Response | None]
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client closes its connection while it is being answered."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                asked = Asked(first.split(" ")[1], headers, json.loads(body or b"{}"))
                self.asked.append(asked)
                response = self.script(asked)
                if response is None or not await self._respond(response, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            writer.close()

    @staticmethod
    async def _respond(response: Response, writer: asyncio.StreamWriter) -> bool:
        """Returns whether the connection can be used again."""
        head = "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
        writer.write(f"HTTP/1.1 {response.status} X\r\n{head}transfer-encoding: chunked\r\n\r\n".encode())
        for piece in response.body:
            if isinstance(piece, int | float):
                await writer.drain()
                await asyncio.sleep(piece)
            elif piece is HANG:
                await writer.drain()
                await asyncio.Future()
            elif piece is RESET:
                await writer.drain()
                writer.transport.abort()
                return False
            elif piece is not END:
                data = piece.encode() if isinstance(piece, str) else piece
                assert isinstance(data, bytes)
                writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


@asynccontextmanager
async def serving(script: Callable[[Asked], Response | None]) -> AsyncIterator[RawModel]:
    raw = RawModel("", script)
    tasks = set[asyncio.Task[None]]()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(raw._serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    raw.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield raw
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Asking:
    """A worker's model, connected with a raw one. `reply` is that of the last call."""

    def __init__(self, raw: RawModel) -> None:
        self.raw = raw
        self.reply = Reply()
        self.keys = ["sk-test"]
        self.model = Model(raw.url, "gpt-stand-in", self._key, parse_prices("gpt-stand-in:0.4/1.6"), 16_000)

    async def _key(self, fresh: bool = False) -> str:
        if fresh and len(self.keys) > 1:
            self.keys.pop(0)
        return self.keys[0]

    async def ask(
        self, message: str = "hello", *, told: Persona | str = "general", history: Sequence[Turn] = ()
    ) -> Answer:
        told = persona(told) if isinstance(told, str) else told
        self.reply = Reply()
        self.reply.structured = told.output is not None
        key = Key("alice#s-1", "01ARZ3NDEKTSV4RRFFQ69G5FAV")
        turn = Turn.submitted(key, {"message": message, "role": told.role}, 1_800_000_000)
        async with asyncio.timeout(20):
            return await self.model.answer(told, history, turn, {}, self.reply)


def with_model[T](script: Script, use: Callable[[Asking], Coroutine[Any, Any, T]]) -> T:
    """Run `use` with a model that is answered by `script`, or always by the same response."""

    async def run() -> T:
        async with serving(script if callable(script) else lambda asked: script) as raw:
            asking = Asking(raw)
            try:
                return await use(asking)
            finally:
                await asking.model._client.close()

    return asyncio.run(run())


def content(text: str, **more: Any) -> str:
    """An event with a piece of the answer."""
    return event(delta(content=text) | more)


def delta(**members: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": members, "finish_reason": None}]}


def completion(text: str, reason: str | None = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": reason}]}


def finish(reason: str | None = "stop", **more: Any) -> str:
    return event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], **more})


def event(data: Any) -> str:
    return f"data: {json.dumps(data)}\n\n"


USAGE = event(
    {
        "choices": [],
        "usage": {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3}},
    }
)
DONE = "data: [DONE]\n\n"
WHOLE = (content("All is "), content("well."), finish(), USAGE, DONE)
