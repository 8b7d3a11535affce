"""The memory that the turns of a process have for images.

Ten turns with images of 2 MiB take some 130 of the worker's 256 MiB (docs/operations.md, "Uploads"). Forty would take
more than there is. The size of a turn's images shows only when they are read. So a turn takes room for the most that
it may have, waits until there is some, and keeps what it needs.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from turnqueue.media import MAX_UPLOAD_BYTES

BYTES = 10 * MAX_UPLOAD_BYTES

BYTES_OF_A_SLOT = MAX_UPLOAD_BYTES // 4
"""Images of so many bytes count as one more turn."""


class Room:
    """For one event loop."""

    def __init__(self) -> None:
        self._held = 0
        self._freed = asyncio.Event()

    @property
    def slots(self) -> int:
        """What the images that are held now weigh, in turns."""
        return math.ceil(self._held / BYTES_OF_A_SLOT)

    @asynccontextmanager
    async def for_images(self) -> AsyncIterator[Callable[[int], None]]:
        """Room for the images of one turn, while the block lasts. The block is given a function to tell how many bytes
        they have. Until it does they count as MAX_UPLOAD_BYTES."""
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
