"""Limits the memory that the turns of a process use for images.

Ten turns with images of 2 MiB take some 130 of the worker's 256 MiB (docs/operations.md, "Uploads"). Forty such turns
would need more than 256 MiB. The size of a turn's images is known only after they are read. So a turn first waits until
there is memory for the largest possible images, and reserves it. After the read, the turn keeps only the memory that
its images need.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from turnqueue.media import MAX_UPLOAD_BYTES

BYTES = 10 * MAX_UPLOAD_BYTES

BYTES_OF_A_SLOT = MAX_UPLOAD_BYTES // 4
"""The worker takes one turn less for each time that its images fill this number of bytes."""


class Room:
    """The memory for images in one process. Use an object only in one event loop."""

    def __init__(self) -> None:
        self._held = 0
        self._freed = asyncio.Event()

    @property
    def slots(self) -> int:
        """The number of turns that the worker must not take, because of the images in memory."""
        return math.ceil(self._held / BYTES_OF_A_SLOT)

    @asynccontextmanager
    async def for_images(self) -> AsyncIterator[Callable[[int], None]]:
        """Reserve memory for the images of one turn during the block. The block calls the yielded function with the
        size of the images in bytes, as soon as the size is known. Until then MAX_UPLOAD_BYTES are reserved."""
        while self._held + MAX_UPLOAD_BYTES > BYTES:
            self._freed.clear()
            await self._freed.wait()
        held = 0

        def keep(needed: int) -> None:
            nonlocal held
            self._held += needed - held
            held = needed
            self._freed.set()

        keep(MAX_UPLOAD_BYTES)
        try:
            yield keep
        finally:
            keep(0)
