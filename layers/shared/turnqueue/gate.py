"""The gate of a model server: a circuit breaker that all workers share. While it is open, no worker calls the model.

- A CLOSED gate allows calls. It opens after several refusals with no answer between them.
- An OPEN gate forbids calls. When its period is over, it is HALF_OPEN.
- A HALF_OPEN gate lets one call probe the server, and forbids other calls until the probe's lease ends. If the server
  accepts the probe, the gate closes. If the server refuses the probe, the gate opens again.

There are two gates for each model: one of the server, for outages, and one of the server and the model, for rate
limits. A call must pass both gates. The model's gate also learns a pace: each 429 slows the calls of all workers, and
each second without a 429 speeds the calls up again. `Gate` is plain data: no AWS, no clock. Times are seconds since the
epoch.
"""

import random
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from turnqueue import aws
from turnqueue.rate_limits import Rate, RateLimiter
from turnqueue.telemetry import count, error_name, logger
from turnqueue.turn import guard_key

OUTAGE_REFUSALS = 2
"""The number of refusals that opens the server's gate. A single refusal can be a broken connection."""

RATE_REFUSALS = 4
RATE_SPAN_SECONDS = 3.0
"""The model's gate opens, and so forbids calls, after this number of 429s within at least this number of seconds, with
no answer between them. A provider at its limit still answers some calls. While it does, the gate stays closed, because
an open gate would waste the calls that the provider allows."""

WINDOW_SECONDS = 60.0
"""Seconds for which refusals are counted, from the first refusal. Two attempts of one turn are at most 60 s apart."""

SHORTEST_PERIOD_SECONDS = 5.0
LONGEST_PERIOD_SECONDS = 60.0
_PERIOD_GROWTH = 1.5
"""The periods do not double. Otherwise the first probe after an outage of a minute could come 40 s late."""

SLOWER, FASTER = 1.07, 0.97
"""The factors for the interval between two calls: after a 429, and after each second without a 429. With these factors,
a model that grants 120 of 150 calls a minute refuses 0.3 calls for each task (tests/scale/test_queueing.py)."""

FIRST_INTERVAL_SECONDS = 0.05
_SHORTEST_INTERVAL_SECONDS = 0.02  # Seconds. If the learned interval is shorter than this, calls are not spaced.
_LONGEST_INTERVAL_SECONDS = 30.0

LINE_SECONDS = 2.0
"""The maximum seconds ahead for which a call can reserve a slot. It is short, because the learned pace changes fast."""

PROBE_LEASE_SECONDS = 15.0
"""Seconds for which other calls wait for a probe. A probe ends within 10 s, unless its worker dies before that."""

MOST_HIDDEN_SECONDS = 60.0
"""The maximum seconds that a message is hidden at once, so that a cancelled turn frees its session within a minute."""

# Seconds after its last change at which a gate is deleted. In an outage, the gate changes at least once a day.
_KEPT_SECONDS = 86_400
_WATCHED_SECONDS = 5.0
_TRIES = 3  # The maximum tries of a change. If a try fails, another worker has counted a refusal at the same time.


class Phase(StrEnum):
    CLOSED = "closed"  # calls are allowed
    OPEN = "open"  # calls are not allowed
    HALF_OPEN = "half-open"  # the first caller may make a trial call (a probe)


class Gate(NamedTuple):
    """The state of a gate. `refusals`: the number since the last answer; it counts until `counted_until`. `open_until`:
    the end of the period or of the probe's lease; 0 while the gate is closed. `since`: when the trouble began.
    `periods`: how often the gate has opened since then. `closed_at`: when the gate closed last. `call_interval`: the
    seconds between two calls at `slowed_at`, the time of the last 429 that counted."""

    refusals: int = 0
    periods: int = 0
    counted_until: float = 0.0
    open_until: float = 0.0
    since: float = 0.0
    closed_at: float = 0.0
    call_interval: float = 0.0
    slowed_at: float = 0.0

    def phase(self, now: float) -> Phase:
        if not self.open_until:
            return Phase.CLOSED
        return Phase.OPEN if now < self.open_until else Phase.HALF_OPEN

    def refused(self, now: float, most: int, span: float = 0.0, at_least: float = 0.0) -> "Gate":
        """The gate after the refusal of a call that the closed gate allowed. The gate opens after `most` refusals, if
        the first refusal is at least `span` seconds old. `at_least`: the seconds that the provider asked to wait."""
        if self.open_until:
            return self
        is_counted = now < self.counted_until
        refusals = self.refusals + 1 if is_counted else 1
        counted_until = self.counted_until if is_counted else _millis(now + WINDOW_SECONDS)
        lasted = now - (counted_until - WINDOW_SECONDS)  # `lasted` can be negative, because clocks differ
        if refusals >= most and (not span or lasted >= span):
            return self._opened(now, at_least)
        return self._replace(refusals=refusals, counted_until=counted_until)

    def pace(self, now: float) -> float:
        """The seconds from one call to the next, for the calls of all workers together. 0 if no limit is known."""
        interval: float = self.call_interval * FASTER ** max(now - self.slowed_at, 0.0)
        return interval if interval >= _SHORTEST_INTERVAL_SECONDS else 0.0

    def slowed(self, asked_at: float, now: float) -> "Gate":
        """The gate after a 429 for a call that was made at `asked_at`. Unchanged if the call was made before the last
        change of the pace."""
        if asked_at <= self.slowed_at:
            return self
        interval = max(self.pace(now) * SLOWER, FIRST_INTERVAL_SECONDS)
        return self._replace(call_interval=round(min(interval, _LONGEST_INTERVAL_SECONDS), 6), slowed_at=_millis(now))

    def answered(self, now: float) -> "Gate":
        """The gate after an answer to a call that was made while the gate was closed."""
        return self if self.open_until or not self.refusals else self._replace(refusals=0, counted_until=0.0)

    def probed(self, now: float) -> "Gate":
        """The gate with a running probe. `open_until` is the end of the probe's lease, and identifies the probe.
        Unchanged if no call may probe now."""
        if self.phase(now) is not Phase.HALF_OPEN:
            return self
        return self._replace(open_until=_millis(now + PROBE_LEASE_SECONDS))

    def settled(self, probe: float, now: float, *, let_in: bool, at_least: float = 0.0) -> "Gate":
        """The gate after a probe got its result. `probe`: the time until which the probe's lease is valid, which
        identifies the probe. If another probe has begun since, the gate does not change."""
        if self.open_until != probe:
            return self
        return self.shut(now) if let_in else self._opened(now, at_least)

    def given_back(self, probe: float, now: float) -> "Gate":
        """The gate after a probe that made no call. The next caller may probe."""
        return self._replace(open_until=_millis(now)) if self.open_until == probe else self

    def opened_by_hand(self, now: float, seconds: float) -> "Gate":
        return Gate(periods=1, open_until=_millis(now + seconds), since=_millis(now))

    def shut(self, now: float) -> "Gate":
        """The closed gate, which allows calls. `periods` does not begin anew, because failures within the next minute
        belong to the same trouble."""
        return self._replace(refusals=0, counted_until=0.0, open_until=0.0, closed_at=_millis(now))

    def _opened(self, now: float, at_least: float) -> "Gate":
        is_same_trouble = self.open_until > 0 or now - self.closed_at < WINDOW_SECONDS
        periods = self.periods + 1 if is_same_trouble else 1
        period = min(SHORTEST_PERIOD_SECONDS * _PERIOD_GROWTH ** min(periods - 1, 10), LONGEST_PERIOD_SECONDS)
        seconds = min(max(period, at_least), LONGEST_PERIOD_SECONDS)
        since = self.since if is_same_trouble and self.since else _millis(now)
        return self._replace(
            refusals=0, periods=periods, counted_until=0.0, open_until=_millis(now + seconds), since=since
        )

    def delay(self, now: float, draw: Callable[[], float] = random.random) -> float:
        """The seconds until the next delivery of a turn that no model may answer now: the rest of the gate's period,
        and a random part of up to half of the trouble's duration. The random part keeps SQS from delivering all waiting
        turns at once."""
        spread = min(max((now - self.since) / 2, SHORTEST_PERIOD_SECONDS), MOST_HIDDEN_SECONDS / 2)
        wait = max(self.open_until - now, 0.0) + draw() * spread
        # No message may be hidden for longer than MOST_HIDDEN_SECONDS. A shorter time is random too, so that SQS does
        # not deliver all turns at once.
        return wait if wait <= MOST_HIDDEN_SECONDS else MOST_HIDDEN_SECONDS - draw() * spread


def no_place(draw: Callable[[], float] = random.random) -> float:
    """The seconds until the next delivery of a turn that got no slot. No slot stays empty in the meantime, because SQS
    delivers other turns."""
    return 5.0 + 15.0 * draw()


def _millis(seconds: float) -> float:
    """The time, rounded to the millisecond, because the table stores milliseconds exactly."""
    return round(seconds, 3)


def server_name(base_url: str) -> str:
    """The name of a server's gate, which all its models share."""
    return base_url.rstrip("/")


def model_name(base_url: str, model: str) -> str:
    """The name of the gate of one model on a server."""
    return f"{server_name(base_url)} {model}"


def gate_names(base_url: str, model: str) -> tuple[str, str]:
    """The names of the gates that a call of a model must pass: the server's and the model's."""
    return server_name(base_url), model_name(base_url, model)


class Wait(NamedTuple):
    """The model must not be called for this number of seconds. `code`: the kind of trouble, a key of FAILURES."""

    seconds: float
    code: str


class Change(NamedTuple):
    before: Gate
    after: Gate


class GateStore:
    """The gates of a stack, in the guards table. No method raises. If the table does not answer, the last known state
    counts, so that no turn fails because of the table."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._known: dict[str, Gate] = {}

    @cached_property
    def _client(self) -> Any:
        # Made at the first use, because most processes meet no trouble.
        return aws.client("dynamodb", attempts=1, read_timeout=1)

    def known(self, name: str) -> Gate:
        """The last state of the gate that this process saw."""
        return self._known.get(name, Gate())

    def read(self, name: str, *, consistent: bool = False) -> Gate:
        """The current state of the gate, at the cost of one read. The last known state if the read fails."""
        try:
            return self._read(name, consistent=consistent)
        except (BotoCoreError, ClientError) as error:
            logger.warning("gate not read", extra={"error": error_name(error)})
            return self.known(name)

    def change(self, name: str, step: Callable[[Gate], Gate]) -> Change | None:
        """Change the gate: a read and a conditional write. None if no change was needed, or if the table refused the
        change."""
        try:
            for _ in range(_TRIES):
                before = self._read(name, consistent=True)
                after = step(before)
                if after == before:
                    return None
                if self._write(name, before, after):
                    self._known[name] = after
                    return Change(before, after)
        except (BotoCoreError, ClientError) as error:
            logger.warning("gate not changed", extra={"error": error_name(error)})
        return None

    @cached_property
    def _limiter(self) -> RateLimiter:
        return RateLimiter(self._table, attempts=1, read_timeout=1)

    def place(self, name: str, interval: float, now: float) -> float | None:
        """The time at which a call may be made at the learned pace. None if that time is more than LINE_SECONDS away.
        This takes one or two writes. If the table does not answer, the call may be made now."""
        rate = Rate(60 / interval, burst=int(LINE_SECONDS / interval) + 1)
        try:
            grant = self._limiter.take(name, rate, now, kind="learned-pace")
        except (BotoCoreError, ClientError) as error:
            logger.warning("place not taken", extra={"error": error_name(error)})
            return now
        return None if grant.wait else now + max(grant.full_after - interval, 0.0)

    def _read(self, name: str, *, consistent: bool) -> Gate:
        answer = self._client.get_item(TableName=self._table, Key=self._key(name), ConsistentRead=consistent)
        item: dict[str, Any] = answer.get("Item", {})
        refusals, periods, *times = (item.get(field, {"N": "0"})["N"] for field in Gate._fields)
        self._known[name] = Gate(int(refusals), int(periods), *map(float, times))
        return self._known[name]

    def _write(self, name: str, before: Gate, after: Gate) -> bool:
        """Write `after` if the stored gate still equals `before`. Returns whether it was equal."""
        # A field can be missing: no gate is stored yet, or an earlier version wrote the gate.
        was = " AND ".join(
            f"{field} = :was_{field}" if value else f"(attribute_not_exists({field}) OR {field} = :was_{field})"
            for field, value in before._asdict().items()
        )
        expires_at = int(max(time.time(), after.open_until, after.counted_until) + _KEPT_SECONDS)
        values: dict[str, float] = {f":{field}": value for field, value in after._asdict().items()}
        values |= {f":was_{field}": value for field, value in before._asdict().items()}
        values[":expires_at"] = expires_at
        try:
            self._client.update_item(
                TableName=self._table,
                Key=self._key(name),
                UpdateExpression="SET expires_at = :expires_at, "
                + ", ".join(f"{field} = :{field}" for field in Gate._fields),
                ConditionExpression=was,
                ExpressionAttributeValues={key: {"N": repr(value)} for key, value in values.items()},
            )
        except self._client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    @staticmethod
    def _key(name: str) -> dict[str, Any]:
        return {"guard": {"S": guard_key("gate", name)}}


class ModelGates:
    """The gates of a stack's models, for functions that call no model. Reads them at most every 5 s.

    `variables`: MODEL_BASE_URL, MODEL_NAME, FALLBACK_MODEL_NAME and FALLBACK_BASE_URL, as the template gives them.
    """

    def __init__(self, table: str, variables: Mapping[str, str]) -> None:
        base_url, name = variables["MODEL_BASE_URL"], variables["MODEL_NAME"]
        self._models = [(base_url, name)]
        if fallback := variables["FALLBACK_MODEL_NAME"]:
            self._models.append((variables["FALLBACK_BASE_URL"] or base_url, fallback))
        self._store = GateStore(table)
        self._read_at = 0.0

    def wait(self, now: float) -> Wait | None:
        """The seconds for which no model of the stack may be called. None if a model may be called."""
        if abs(now - self._read_at) >= _WATCHED_SECONDS:
            self._read_at = now
            for name in {gate for base_url, model in self._models for gate in gate_names(base_url, model)}:
                self._store.read(name)
        waits = []
        for base_url, model in self._models:
            server, rate = (self._store.known(name) for name in gate_names(base_url, model))
            if not server.open_until and not rate.open_until:
                return None
            is_rate = rate.open_until > server.open_until
            until = max(server.open_until, rate.open_until)
            waits.append(Wait(max(until - now, 0.0), "model_rate_limited" if is_rate else "model_unavailable"))
        return min(waits)


def report_opened(change: Change | None, code: str) -> None:
    """Count and log a gate that opened, or opened again after a refused probe."""
    if change and change.after.periods > change.before.periods:
        count("GateOpened")
        logger.warning("gate opened", extra={"code": code})
