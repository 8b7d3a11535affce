"""Whether the first model is to be asked: a circuit breaker as plain data. No AWS, no clock of its own.

    CLOSED ── FAILURES of the first model within WINDOW_SECONDS ──► OPEN ── OPEN_SECONDS ──► HALF_OPEN
      ▲                                                              ▲  ▲                        │ one attempt probes,
      └──────────────── the probe was answered ──────────────────────┼──┴── the probe failed ◄───┤ OPEN for the others
                                                                     └── until the probe's end ◄─┘

Times are seconds since the epoch. A probe is known by its end: whoever has another cannot settle it.
"""

from enum import StrEnum
from typing import NamedTuple

FAILURES = 3
"""In a row, as far as a worker can tell. A turn has three attempts, and its last goes to the fallback anyhow."""

WINDOW_SECONDS = 300.0
"""Longer than two attempts that time out after a minute, with their back-off."""

OPEN_SECONDS = 30.0
"""An outage shorter than this is not worth a probe; a longer one costs a slow answer in so many seconds."""

FAILED = frozenset({"model_unavailable", "model_timeout", "model_rate_limited"})
"""The codes of a model that is down, or may as well be. All others are an answer, if a bad one."""


class Phase(StrEnum):
    CLOSED = "closed"  # the first model is asked
    OPEN = "open"  # the fallback is asked
    HALF_OPEN = "half-open"  # whoever comes next may probe the first model


class Circuit(NamedTuple):
    """`failures` were counted, and count until `counted_until`; `open_until`: 0 while it is closed."""

    failures: int = 0
    counted_until: float = 0.0
    open_until: float = 0.0

    def phase(self, now: float) -> Phase:
        if not self.open_until:
            return Phase.CLOSED
        return Phase.OPEN if now < self.open_until else Phase.HALF_OPEN

    def failed(self, now: float) -> "Circuit":
        """The first model has failed, asked while this was closed. If it is not any more, that tells nothing new."""
        if self.open_until:
            return self
        begun = now < self.counted_until
        failures = self.failures + 1 if begun else 1
        if failures >= FAILURES:
            return Circuit(open_until=_millis(now + OPEN_SECONDS))
        return Circuit(failures, self.counted_until if begun else _millis(now + WINDOW_SECONDS))

    def probed(self, now: float, until: float) -> "Circuit":
        """With a probe that ends at `until` at the latest, if there is one to be had."""
        return Circuit(open_until=_millis(until)) if self.phase(now) is Phase.HALF_OPEN and until > now else self

    def settled(self, probe: float, *, answered: bool, now: float) -> "Circuit":
        """After the probe, known by its end; unchanged if that is no longer the one that counts."""
        if not probe or self.open_until != probe:
            return self
        return Circuit() if answered else Circuit(open_until=_millis(now + OPEN_SECONDS))


def _millis(seconds: float) -> float:
    """To the millisecond, which a table keeps as it is."""
    return round(seconds, 3)
