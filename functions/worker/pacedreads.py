"""Reads the body of a response less often than its server writes.

A model sends each token alone, and to be woken, to read and to parse costs more CPU than all else. So what arrives
within a while is taken at once: the socket keeps it meanwhile.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager

SECONDS = 0.1
"""How long a piece may be held back. Nobody reads quicker, and an answer is shown less often."""


@asynccontextmanager
async def paced(body: AsyncIterable[bytes], slow: Callable[[], bool]) -> AsyncIterator[AsyncIterator[bytes]]:
    """The bytes of `body` in larger pieces. They are paced while `slow()`, and come at once while not."""
    reads = _Reads(body, slow)
    fetching = asyncio.ensure_future(reads.fetch())
    try:
        yield reads.pieces(fetching)
    finally:
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)


class _Reads:
    def __init__(self, body: AsyncIterable[bytes], slow: Callable[[], bool]) -> None:
        self._body = body
        self._slow = slow
        self._buffer = bytearray()
        self._arrived = asyncio.Event()

    async def fetch(self) -> None:
        now, next_at = asyncio.get_running_loop().time, 0.0
        try:
            async for piece in self._body:
                if self._buffer:  # It came with the piece before, in one read.
                    self._buffer += piece
                    continue
                self._buffer += piece
                if self._slow():  # Each SECONDS one piece is held back, and the next read brings what came meanwhile.
                    if (left := next_at - now()) > 0:
                        await asyncio.sleep(left)
                    else:
                        next_at = now() + SECONDS
                self._arrived.set()
        finally:
            self._arrived.set()

    async def pieces(self, fetching: asyncio.Future[None]) -> AsyncIterator[bytes]:
        while self._buffer or not fetching.done():
            await self._arrived.wait()
            self._arrived.clear()
            if self._buffer:
                piece = bytes(self._buffer)
                self._buffer.clear()
                yield piece
        fetching.result()
