"""A model server on a real socket that sends bytes exactly as a test orders them: headers, pieces, pauses, and how the
connection ends."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

HANG = object()
"""In a script: send nothing more, and keep the connection open."""
RESET = object()
"""In a script: break the connection with a TCP reset."""
END = object()
"""In a script: end the body as HTTP ends it."""

type Piece = bytes | str | float | object


@dataclass
class Response:
    """The answer to one call: a status, headers, and a script of the body.

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


class Scripted:
    """The raw server in a thread: it sends the `events` that a test has set, and keeps the requests in `asked`."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        ready = threading.Event()

        async def serve() -> None:
            async with serving(self._answer) as raw:
                self.url = raw.url
                ready.set()
                await self._closing.wait()

        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(serve(),))
        self._thread.start()
        ready.wait()

    def _answer(self, asked: Asked) -> Response:
        self.asked.append(asked.body)
        headers = {"content-type": "text/event-stream"} | self.headers
        return Response([f"data: {event}\n\n" for event in self.events], self.status, headers)

    def says(self, *contents: str, finish_reason: str | None = "stop") -> None:
        """Send these pieces of an answer. They are put into JSON as they are, so "\\ud83d" is half a surrogate pair."""
        self.events = [f'{{"choices": [{{"index": 0, "delta": {{"content": "{text}"}}}}]}}' for text in contents]
        end = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason}]})
        self.events += [end, "[DONE]"]

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        self._loop.close()
