"""Decides whether a model may be called now. The model's two gates and the learned pace decide (turnqueue/gate.py).
Without trouble, a process reads the gates only once, with its first turn, and never writes them. After a refused call
or a repeated delivery, it reads the gates before each call.
"""

import asyncio
import time
from functools import partial
from typing import NamedTuple

from turnqueue.gate import (
    MOST_HIDDEN_SECONDS,
    OUTAGE_REFUSALS,
    RATE_REFUSALS,
    RATE_SPAN_SECONDS,
    Gate,
    GateStore,
    Phase,
    Wait,
    model_name,
    no_place,
    report_opened,
    server_name,
)
from turnqueue.telemetry import count

READ_SECONDS = 1.0
"""In times of trouble, the gates are read again if the last read is this number of seconds old."""

TROUBLE_SECONDS = 120.0
"""The trouble is over after this number of seconds without a sign of it. This is twice the longest period for which a
gate forbids calls."""

PROBE_SECONDS = 10.0
"""Seconds. A probe that is not refused within this time counts as accepted."""


class Pass(NamedTuple):
    """The permission to make one call. `probes`: for each gate that this call probes, the end of the probe's lease."""

    asked_at: float
    probes: dict[str, float]


class Gatekeeper:
    """Makes the gatekeeper of the model `name` at `base_url`."""

    def __init__(self, store: GateStore, base_url: str, name: str) -> None:
        self._store = store
        self._server = server_name(base_url)
        self._model = model_name(base_url, name)
        self._read_at = 0.0
        self._trouble_at = 0.0
        self._answered_since = 0.0  # the time of the latest call that a server accepted
        self._is_known = False
        self._reading = asyncio.Lock()

    async def ask(self, *, again: bool) -> Pass | Wait:
        """Decide whether to call now. `again`: whether the message was delivered before, which is a sign of trouble.
        Reads DynamoDB only in times of trouble."""
        now = time.time()
        if again:
            self._trouble_at = now
        if self._is_known and now - self._trouble_at >= TROUBLE_SECONDS:
            return Pass(now, {})
        async with self._reading:  # Turns that ask at the same time share one read.
            if abs(now - self._read_at) >= READ_SECONDS:
                await asyncio.to_thread(self._read, now)
                self._read_at, self._is_known = now, True
        if wait := self._wait(now):
            return wait
        passed = await asyncio.to_thread(self._probe, now)
        if isinstance(passed, Pass) and not passed.probes and (interval := self._store.known(self._model).pace(now)):
            return await self._in_line(interval, now)
        return passed

    async def _in_line(self, interval: float, now: float) -> Pass | Wait:
        """Waits for this call's slot at the learned pace and returns a pass. Returns a wait if the slot is too far
        away."""
        at = await asyncio.to_thread(self._store.place, self._model, interval, now)
        if at is None:
            return Wait(no_place(), self._code(self._model))
        await asyncio.sleep(max(at - now, 0.0))
        return Pass(time.time(), {})

    def _read(self, now: float) -> None:
        for name in (self._server, self._model):
            if self._store.read(name).open_until:
                self._trouble_at = now

    def _probe(self, now: float) -> Pass | Wait:
        """A pass, with a probe for each gate whose period is over. If the table does not answer, the pass has no probe.
        A turn never waits for the table."""
        probes: dict[str, float] = {}
        for name in (self._server, self._model):
            is_half_open = self._store.known(name).phase(now) is Phase.HALF_OPEN
            if is_half_open and (change := self._store.change(name, lambda gate: gate.probed(now))):
                probes[name] = change.after.open_until
            # another turn probes now, so this turn waits for the result
            elif (gate := self._store.known(name)).phase(now) is Phase.OPEN:
                return Wait(gate.delay(now), self._code(name))
        return Pass(now, probes)

    def _wait(self, now: float) -> Wait | None:
        gates = {name: self._store.known(name) for name in (self._server, self._model)}
        return max(
            (Wait(gate.delay(now), self._code(name)) for name, gate in gates.items() if gate.phase(now) is Phase.OPEN),
            default=None,
        )

    def _code(self, name: str) -> str:
        return "model_rate_limited" if name == self._model else "model_unavailable"

    def refused(self, passed: Pass, code: str, retry_after: float | None) -> None:
        """The server refused the call before any token."""
        now = time.time()
        self._trouble_at = now
        count("ModelRefused")
        at_least = min(retry_after or 0.0, MOST_HIDDEN_SECONDS)
        if is_rate := code == "model_rate_limited":
            count("ModelRateLimited")
        refusing, other = (self._model, self._server) if is_rate else (self._server, self._model)
        if refusing in passed.probes:
            probe = passed.probes[refusing]
            again = partial(Gate.settled, probe=probe, now=now, let_in=False, at_least=at_least)
            report_opened(self._store.change(refusing, again), code)
        else:
            most, span = (RATE_REFUSALS, RATE_SPAN_SECONDS) if is_rate else (OUTAGE_REFUSALS, 0.0)
            # do not count this refusal if the server accepted a later call
            is_counted = self._answered_since <= passed.asked_at

            def refuse(gate: Gate) -> Gate:
                slowed = gate.slowed(passed.asked_at, now) if is_rate else gate
                return slowed.refused(now, most, span, at_least) if is_counted else slowed

            if is_counted or is_rate:
                report_opened(self._store.change(refusing, refuse), code)
        if is_rate and other in passed.probes:
            # A server that sends 429 is up, so end the probe of the server's gate. A server that is down says nothing
            # about the model's limit.
            self._settle(other, passed.probes[other], now)

    def _settle(self, name: str, probe: float, now: float) -> None:
        self._store.change(name, lambda gate: gate.settled(probe, now, let_in=True))

    def unused(self, passed: Pass) -> None:
        """No call was made, so another turn may probe at once."""
        now = time.time()
        for name, probe in passed.probes.items():
            self._store.change(name, partial(Gate.given_back, probe=probe, now=now))

    def is_open(self, now: float) -> bool:
        """Whether this process knows that the model must not be called."""
        return any(self._store.known(name).phase(now) is not Phase.CLOSED for name in (self._server, self._model))

    async def let_in(self, passed: Pass) -> None:
        """The server accepted the call: its headers have come, or it did not refuse a probe in time. Safe to repeat."""
        self._answered_since = max(self._answered_since, passed.asked_at)
        if passed.probes or any(self._store.known(name).refusals for name in (self._server, self._model)):
            await asyncio.to_thread(self._let_in, passed)

    def _let_in(self, passed: Pass) -> None:
        now = time.time()
        for name in (self._server, self._model):
            if name in passed.probes:
                self._settle(name, passed.probes[name], now)
            elif self._store.known(name).refusals:
                self._store.change(name, lambda gate: gate.answered(now))
