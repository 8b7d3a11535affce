"""Reads the body of a response less often than its server writes.

A model sends each token alone, and each wake-up, read and parse costs more CPU than everything else. So one read takes
everything that arrived in 100 ms. Until then the socket buffers it.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager

SECONDS = 0.1
"""Seconds for which a piece can be held back. No user reads faster than that, and rows are written less often."""


@asynccontextmanager
async def paced(body: AsyncIterable[bytes], slow: Callable[[], bool]) -> AsyncIterator[AsyncIterator[bytes]]:
    """The bytes of `body`: in larger pieces while `slow()` is true, and at once otherwise."""
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
                if self._buffer:  # The piece came in the same read as the previous one.
                    self._buffer += piece
                    continue
                self._buffer += piece
                # Hold one piece back for SECONDS. The next read brings everything that arrived in that time.
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
