"""Sends changes of messages to SQS in batches. No change waits for a batch to fill. The changes that come while a call
runs go together in the next call."""

import asyncio
from collections.abc import Callable, Mapping
from itertools import islice

from turnqueue.queue import MOST_AT_ONCE, Message


class Batches[Change]:
    """Passes changes to `send` in a thread, at most 10 at a time. `send` must not raise. Use an object only in one
    event loop."""

    def __init__(self, send: Callable[[Mapping[Message, Change]], None]) -> None:
        self._send = send
        self._waiting: dict[Message, Change] = {}
        self._sending = asyncio.Lock()

    async def add(self, changes: Mapping[Message, Change]) -> None:
        """Returns when these changes were sent, perhaps in a call that another task made."""
        self._waiting |= changes
        async with self._sending:
            while not self._waiting.keys().isdisjoint(changes):
                some = dict(islice(self._waiting.items(), MOST_AT_ONCE))
                for message in some:
                    del self._waiting[message]
                await asyncio.to_thread(self._send, some)
