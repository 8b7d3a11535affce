"""Decides whether the worker may call a model now. Three things can block a call: the server's circuit breaker, the
model's circuit breaker (turnqueue/circuit_breaker.py) and the learned pace.

Without trouble, a process reads the breakers once, with its first turn, and writes nothing. After a refused call or a
repeated delivery, it reads them before each call, at most once a second.
"""

import asyncio
import time
from collections.abc import Collection
from functools import partial
from typing import NamedTuple

from turnqueue.circuit_breaker import (
    MOST_HIDDEN_SECONDS,
    OUTAGE_REFUSALS,
    RATE_REFUSALS,
    RATE_SPAN_SECONDS,
    Breaker,
    BreakerStore,
    State,
    Wait,
    breaker_names,
    no_place,
    report_opened,
)
from turnqueue.telemetry import count

READ_SECONDS = 1.0
"""In times of trouble, the breakers are read again if the last read is at least this number of seconds old."""

TROUBLE_SECONDS = 120.0
"""The trouble is over if its last sign is this number of seconds old: twice the longest period of a breaker."""

PROBE_SECONDS = 10.0
"""A probe counts as accepted if the server does not refuse it within this number of seconds."""


class Permit(NamedTuple):
    """The permission to make one call. `probes`: the breakers that this call probes, each with the end of the probe's
    lease."""

    asked_at: float
    probes: dict[str, float]


class Admission:
    """Gives permits for calls to the model `name` at `base_url`, and tells the breakers the result of each call."""

    def __init__(self, store: BreakerStore, base_url: str, name: str) -> None:
        self._store = store
        self._server, self._model = self._names = breaker_names(base_url, name)
        self._read_at = 0.0
        self._trouble_at = 0.0
        self._accepted_at = 0.0  # when the latest accepted call was made
        self._is_known = False
        self._reading = asyncio.Lock()

    async def permit(self, *, again: bool) -> Permit | Wait:
        """A permit for a call now, or the wait before the worker asks again. `again`: whether the message was delivered
        before, which is a sign of trouble. Reads DynamoDB only in times of trouble."""
        now = time.time()
        if again:
            self._trouble_at = now
        if self._is_known and now - self._trouble_at >= TROUBLE_SECONDS:
            return Permit(now, {})
        async with self._reading:  # concurrent turns share one read
            if abs(now - self._read_at) >= READ_SECONDS:
                await asyncio.to_thread(self._read, now)
                self._read_at, self._is_known = now, True
        if wait := self._blocked(now):
            return wait
        permit = await asyncio.to_thread(self._probe, now)
        if isinstance(permit, Permit) and not permit.probes and (interval := self._store.known(self._model).pace(now)):
            return await self._paced(interval, now)
        return permit

    async def _paced(self, interval: float, now: float) -> Permit | Wait:
        """Wait for a slot at the learned pace. If the next slot is too far away, returns a wait at once."""
        at = await asyncio.to_thread(self._store.place, self._model, interval, now)
        if at is None:
            return Wait(no_place(), self._code(self._model))
        await asyncio.sleep(max(at - now, 0.0))
        return Permit(time.time(), {})

    def _read(self, now: float) -> None:
        for name in self._names:
            if self._store.read(name).open_until:
                self._trouble_at = now

    def _blocked(self, now: float, probes: Collection[str] = ()) -> Wait | None:
        """The longest wait for an open breaker, or None if no breaker blocks the call. A breaker in `probes` does not
        block the call, because the call probes this breaker."""
        breakers = {name: self._store.known(name) for name in self._names if name not in probes}
        waits = [
            Wait(breaker.delay(now), self._code(name))
            for name, breaker in breakers.items()
            if breaker.state(now) is State.OPEN
        ]
        return max(waits, default=None)

    def _probe(self, now: float) -> Permit | Wait:
        """A permit that probes each half-open breaker. If another worker already probes one of them, a wait instead. If
        the table does not answer, a permit without a probe, so that no turn waits for the table."""
        probes: dict[str, float] = {}
        for name in self._names:
            is_half_open = self._store.known(name).state(now) is State.HALF_OPEN
            if is_half_open and (change := self._store.change(name, lambda breaker: breaker.probed(now))):
                probes[name] = change.after.open_until
        permit = Permit(now, probes)
        if wait := self._blocked(now, probes):
            self.unused(permit)
            return wait
        return permit

    def _code(self, name: str) -> str:
        return "model_rate_limited" if name == self._model else "model_unavailable"

    def refused(self, permit: Permit, code: str, retry_after: float | None) -> None:
        """Tell the breakers that the server refused the call before it sent any token. `code`: a key of FAILURES.
        `retry_after`: the seconds that the server asks the worker to wait, if any."""
        now = time.time()
        self._trouble_at = now
        at_least = min(retry_after or 0.0, MOST_HIDDEN_SECONDS)
        is_rate = code == "model_rate_limited"
        count("ModelRateLimited", int(is_rate))  # 0 for other refusals: the sample count counts them too
        refusing, other = (self._model, self._server) if is_rate else (self._server, self._model)
        if refusing in permit.probes:
            probe = permit.probes[refusing]
            again = partial(Breaker.settled, probe=probe, now=now, accepted=False, at_least=at_least)
            report_opened(self._store.change(refusing, again), code)
        else:
            most, span = (RATE_REFUSALS, RATE_SPAN_SECONDS) if is_rate else (OUTAGE_REFUSALS, 0.0)
            # a refusal counts only if the server has accepted no call that was made after the refused call
            is_counted = self._accepted_at <= permit.asked_at

            def refuse(breaker: Breaker) -> Breaker:
                slowed = breaker.slowed(permit.asked_at, now) if is_rate else breaker
                return slowed.refused(now, most, span, at_least) if is_counted else slowed

            if is_counted or is_rate:
                report_opened(self._store.change(refusing, refuse), code)
        if is_rate and other in permit.probes:
            # A server that sends 429 is up, so the server's breaker closes. But a refusal in an outage does not close
            # the model's breaker: a server that is down tells nothing about the model's limit.
            self._settle(other, permit.probes[other], now)

    def _settle(self, name: str, probe: float, now: float) -> None:
        self._store.change(name, lambda breaker: breaker.settled(probe, now, accepted=True))

    def unused(self, permit: Permit) -> None:
        """Give back a permit without a call, so that another turn may probe at once."""
        now = time.time()
        for name, probe in permit.probes.items():
            self._store.change(name, partial(Breaker.given_back, probe=probe, now=now))

    def is_closed(self, now: float) -> bool:
        """Whether both breakers are closed, as far as this process knows. Reads nothing."""
        return all(self._store.known(name).state(now) is State.CLOSED for name in self._names)

    async def accepted(self, permit: Permit) -> None:
        """Tell the breakers that the server accepted the call: its response headers have come, or it did not refuse a
        probe in time. Safe to repeat."""
        self._accepted_at = max(self._accepted_at, permit.asked_at)
        if permit.probes or any(self._store.known(name).refusals for name in self._names):
            await asyncio.to_thread(self._accepted, permit)

    def _accepted(self, permit: Permit) -> None:
        now = time.time()
        for name in self._names:
            if name in permit.probes:
                self._settle(name, permit.probes[name], now)
            elif self._store.known(name).refusals:
                self._store.change(name, lambda breaker: breaker.answered(now))
