"""Finds the turns of this process that clients want to cancel. Every 2 s, one read of the event log fetches the
cancellation rows of all these turns."""

import asyncio

from botocore.exceptions import BotoCoreError, ClientError

from turnqueue.events import EventLog
from turnqueue.telemetry import error_name, logger
from turnqueue.turn import Key, Turn


class Cancellations:
    """Watches the turns that run in one worker process. `every`: the seconds between two reads. Use an object only in
    one event loop."""

    def __init__(self, log: EventLog, every: float = 2.0) -> None:
        self._log = log
        self._every = every
        self._waiting: dict[Key, tuple[Turn, asyncio.Event]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def asked(self, turn: Turn) -> None:
        """Wait for a sign that a client has asked to cancel this attempt. The caller must then read the turn."""
        event = asyncio.Event()
        self._waiting[turn.key] = (turn, event)
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        try:
            await event.wait()
        finally:
            del self._waiting[turn.key]
            if not self._waiting and self._reading:
                self._reading.cancel()
                self._reading = None

    async def _read(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            turns = [turn for turn, _ in self._waiting.values()]
            try:
                asked = await asyncio.to_thread(self._log.cancellations, turns)
            except (BotoCoreError, ClientError) as error:
                logger.warning("cancellations not read", extra={"error": error_name(error)})
                continue
            for key in asked & self._waiting.keys():
                self._waiting[key][1].set()
