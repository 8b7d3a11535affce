"""Reads the body of a response less often than its server writes.

A model sends each token alone. If the worker woke up for each token, to read and parse it, this would take more CPU
than all its other work. So one read takes all bytes that arrived in 100 ms. In the meantime, they are in the socket's
buffer.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager

SECONDS = 0.1
"""Seconds for which a piece of the body can be held back. The worker writes the text to the event log less often than
that, so this delays no reader."""


@asynccontextmanager
async def paced(body: AsyncIterable[bytes], slow: Callable[[], bool]) -> AsyncIterator[AsyncIterator[bytes]]:
    """The bytes of `body`. While `slow()` is true, they come in fewer and larger pieces; otherwise each piece comes at
    once."""
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
                if self._buffer:  # The reader has not taken the buffer yet, so it also gets this piece.
                    self._buffer += piece
                    continue
                self._buffer += piece
                # After a piece that is passed on at once, the next piece waits until SECONDS have passed. The read
                # after that takes all bytes that arrived during the wait.
                if self._slow():
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
