"""Keeps short leases of turns and messages, and renews them while this worker lives.

A worker that dies, or pauses for a minute, loses its turns to another worker at the end of the lease. So a dead worker
delays its sessions by at most a minute, however long an answer takes. The renewals run in a separate thread with
separate clients, so that even 40 busy turns cannot delay them.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from itertools import batched

from botocore.exceptions import BotoCoreError, ClientError

from turnqueue.queue import MOST_AT_ONCE, TurnQueue
from turnqueue.store import Refused, TurnStore
from turnqueue.telemetry import error_name, logger
from turnqueue.turn import Key, Turn

LEASE_SECONDS = 50.0
"""Seconds until a claim, or the visibility timeout of a message, ends without renewal. A worker that pauses for 25 s
keeps its turns, even if its clock is a few seconds wrong."""

RENEW_SECONDS = 20.0
"""The age in seconds at which a lease is renewed. A turn that takes less time needs no renewal, so it costs no extra
write."""

_AGAIN_SECONDS = 3.0  # seconds between two tries of a renewal while AWS fails: nine tries fit before the lease ends


class Leases:
    """The leases of one worker process. `store` and `queue` try each call once. Use an object only in one event
    loop."""

    def __init__(self, store: TurnStore, queue: TurnQueue) -> None:
        self._store = store
        self._queue = queue
        self._thread = ThreadPoolExecutor(1)
        self._renewing = asyncio.Lock()
        self._due_of_message: dict[str, float] = {}
        self._turns: dict[Key, tuple[Turn, Callable[[Refused], None]]] = {}
        self._due_of_turn: dict[Key, float] = {}

    def hold_messages(self, handles: Collection[str]) -> None:
        """Renew the visibility timeout of these messages until they are dropped. Call this method just after SQS has
        hidden them for LEASE_SECONDS."""
        self._due_of_message |= dict.fromkeys(handles, time.time() + RENEW_SECONDS)

    async def drop_messages(self, handles: Collection[str]) -> None:
        """Stop renewing these messages. Waits for a running renewal, because that renewal could hide them again
        later."""
        for handle in handles:
            self._due_of_message.pop(handle, None)
        async with self._renewing:
            pass

    def hold_turn(self, turn: Turn, lost: Callable[[Refused], None]) -> None:
        """Renew the lease of a turn that was just claimed, until the lease is dropped. Calls `lost` once if another
        worker has the turn, or if the turn's cancellation was requested."""
        self._turns[turn.key] = (turn, lost)
        self._due_of_turn[turn.key] = time.time() + RENEW_SECONDS

    def drop_turn(self, turn: Turn) -> None:
        self._turns.pop(turn.key, None)
        self._due_of_turn.pop(turn.key, None)

    async def renew_until(self, stop: asyncio.Event) -> None:
        """Renew due leases until `stop` is set. Waits for a running renewal, because Lambda freezes the process when
        the handler returns."""
        while not stop.is_set():
            now = time.time()
            due = min((*self._due_of_message.values(), *self._due_of_turn.values()), default=now + RENEW_SECONDS)
            try:
                await asyncio.wait_for(stop.wait(), max(due - now, 0.1))
            except TimeoutError:
                async with self._renewing:
                    await self._renew()

    async def _renew(self) -> None:
        now = time.time()
        # Also renew leases that are due within 2 s, so that there are fewer and larger batches.
        turns = [self._turns[key][0] for key, due in self._due_of_turn.items() if due <= now + 2]
        messages = [handle for handle, due in self._due_of_message.items() if due <= now + 2]
        self._due_of_turn |= {turn.key: now + _AGAIN_SECONDS for turn in turns}
        self._due_of_message |= dict.fromkeys(messages, now + _AGAIN_SECONDS)
        if not turns and not messages:
            return
        loop = asyncio.get_running_loop()
        kept, lost, hidden = await loop.run_in_executor(self._thread, self._renew_now, turns, messages)
        # Turns and messages that were dropped during the renewal must not be added again.
        self._due_of_turn |= {turn.key: now + RENEW_SECONDS for turn in kept if turn.key in self._turns}
        self._due_of_message |= {handle: now + RENEW_SECONDS for handle in hidden if handle in self._due_of_message}
        for turn, refused in lost:
            if turn.key in self._turns:
                _, tell = self._turns[turn.key]
                self.drop_turn(turn)
                tell(refused)

    def _renew_now(
        self, turns: Collection[Turn], messages: Collection[str]
    ) -> tuple[list[Turn], list[tuple[Turn, Refused]], list[str]]:
        """Returns the renewed turns, the lost turns, and the renewed messages. Renews the turns first, so that the
        lease of a turn ends before SQS delivers its message again."""
        kept: list[Turn] = []
        lost: list[tuple[Turn, Refused]] = []
        hidden: list[str] = []
        for turn in turns:
            try:
                self._store.renew(turn, time.time() + LEASE_SECONDS)
                kept.append(turn)
            except Refused as refused:
                lost.append((turn, refused))
            except (BotoCoreError, ClientError) as error:
                logger.warning("lease not renewed", extra={"task_id": turn.key.task_id, "error": error_name(error)})
        for some in batched(messages, MOST_AT_ONCE, strict=False):
            try:
                self._queue.change_visibility(dict.fromkeys(some, round(LEASE_SECONDS)))
                hidden += some
            except (BotoCoreError, ClientError) as error:
                logger.warning("visibility not renewed", extra={"error": error_name(error)})
        return kept, lost, hidden
