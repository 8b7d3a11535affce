"""Circuit breakers for the models. All workers share them, so that no worker calls a model that refuses calls.

- A CLOSED breaker allows calls. It opens after several refusals with no answer between them.
- An OPEN breaker blocks calls for a period of 5 to 60 s. When the period is over, the breaker is HALF_OPEN.
- A HALF_OPEN breaker allows one call, the probe. While the probe runs, the breaker is OPEN for all other calls. If the
  server accepts the probe, the breaker closes. If the server refuses the probe, the breaker opens for a longer period.

A call must be allowed by two breakers. One belongs to the server and opens in an outage. All models of the server share
it. The other belongs to the model on that server and opens when the provider limits the rate (429). The model's breaker
also learns a pace: each 429 slows down the calls of all workers, and each second without a 429 speeds them up again.

`Breaker` is plain data, without AWS or a clock. Times are seconds since the epoch.
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
"""The number of refusals that open the server's breaker. One is not enough: it can be a broken connection."""

RATE_REFUSALS = 4
RATE_SPAN_SECONDS = 3.0
"""The model's breaker opens after RATE_REFUSALS refusals (429) with no answer between them, if the first is at least
RATE_SPAN_SECONDS old. A provider at its limit still answers some calls, and an open breaker would block those too."""

WINDOW_SECONDS = 60.0
"""Refusals are counted for this number of seconds after the first refusal. It is 60, because two attempts of one turn
are at most 60 s apart."""

SHORTEST_PERIOD_SECONDS = 5.0
LONGEST_PERIOD_SECONDS = 60.0
_PERIOD_GROWTH = 1.5
"""The length of each period, divided by the length of the period before it. If the periods doubled, the first probe
after an outage of a minute could come 40 s late."""

SLOWER, FASTER = 1.07, 0.97
"""The interval between two calls is multiplied by SLOWER after a 429, and by FASTER after each second without a 429.
With these factors, a model that allows 120 of 150 calls a minute refuses 0.3 calls for each task in the simulation of
docs/scale.md."""

FIRST_INTERVAL_SECONDS = 0.05
_SHORTEST_INTERVAL_SECONDS = 0.02  # calls are not spaced if the learned interval is shorter than this
_LONGEST_INTERVAL_SECONDS = 30.0

LINE_SECONDS = 2.0
"""A call can reserve a slot at most this number of seconds ahead, because the learned pace changes fast."""

PROBE_LEASE_SECONDS = 15.0
"""A probe blocks all other calls for at most this number of seconds. Its worker settles it within 10 s. If the
worker dies, another call may probe when this lease is over."""

MOST_HIDDEN_SECONDS = 60.0
"""The worker hides a message for at most this number of seconds at a time. So a cancelled turn frees its session within
a minute."""

_KEPT_SECONDS = 86_400  # the table deletes a breaker a day after its last change; each probe is a change
_WATCHED_SECONDS = 5.0  # functions that call no model read the breakers again after this number of seconds
_TRIES = 3  # the maximum number of tries; a try fails if another worker changes the breaker at the same time


class State(StrEnum):
    CLOSED = "closed"  # calls are allowed
    OPEN = "open"  # calls are blocked
    HALF_OPEN = "half-open"  # one call is allowed: the probe


class Breaker(NamedTuple):
    """The stored fields of a circuit breaker.

    refusals        the refusals since the last answer
    periods         how often the breaker has opened since the trouble began
    counted_until   the time until which further refusals are added to `refusals`
    open_until      the end of the period, or of the running probe's lease; 0 if the breaker is closed
    since           the time at which the trouble began
    closed_at       the time at which the breaker closed last
    call_interval   the learned interval in seconds between two calls, as of `slowed_at`
    slowed_at       the time of the last 429 that changed `call_interval`
    """

    refusals: int = 0
    periods: int = 0
    counted_until: float = 0.0
    open_until: float = 0.0
    since: float = 0.0
    closed_at: float = 0.0
    call_interval: float = 0.0
    slowed_at: float = 0.0

    def state(self, now: float) -> State:
        if not self.open_until:
            return State.CLOSED
        return State.OPEN if now < self.open_until else State.HALF_OPEN

    def refused(self, now: float, most: int, span: float = 0.0, at_least: float = 0.0) -> "Breaker":
        """The breaker after a refusal of a call that it had allowed. The breaker opens at refusal number `most`, if the
        first refusal is at least `span` seconds old. `at_least`: the seconds that the provider asks the workers to
        wait."""
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
        """The learned interval in seconds between two calls, counted over all workers together. 0 if no limit is
        known."""
        interval: float = self.call_interval * FASTER ** max(now - self.slowed_at, 0.0)
        return interval if interval >= _SHORTEST_INTERVAL_SECONDS else 0.0

    def slowed(self, asked_at: float, now: float) -> "Breaker":
        """The breaker after a 429 for a call that was made at `asked_at`. If the call was made before the last 429 that
        changed the pace, the pace stays."""
        if asked_at <= self.slowed_at:
            return self
        interval = max(self.pace(now) * SLOWER, FIRST_INTERVAL_SECONDS)
        return self._replace(call_interval=round(min(interval, _LONGEST_INTERVAL_SECONDS), 6), slowed_at=_millis(now))

    def answered(self, now: float) -> "Breaker":
        """The breaker after an answer. The count of refusals begins again at 0. An open breaker does not change,
        because only a probe can close it."""
        return self if self.open_until or not self.refusals else self._replace(refusals=0, counted_until=0.0)

    def probed(self, now: float) -> "Breaker":
        """The breaker with a running probe: `open_until` is the end of the probe's lease, and identifies the probe. The
        unchanged breaker if no call may probe now."""
        if self.state(now) is not State.HALF_OPEN:
            return self
        return self._replace(open_until=_millis(now + PROBE_LEASE_SECONDS))

    def settled(self, probe: float, now: float, *, accepted: bool, at_least: float = 0.0) -> "Breaker":
        """The breaker after the server accepted or refused the probe. `probe`: the end of the probe's lease. If another
        probe has begun since, the breaker does not change."""
        if self.open_until != probe:
            return self
        return self.closed(now) if accepted else self._opened(now, at_least)

    def given_back(self, probe: float, now: float) -> "Breaker":
        """The breaker after a probe that made no call. The next caller may probe."""
        return self._replace(open_until=_millis(now)) if self.open_until == probe else self

    def opened_by_hand(self, now: float, seconds: float) -> "Breaker":
        return Breaker(periods=1, open_until=_millis(now + seconds), since=_millis(now))

    def closed(self, now: float) -> "Breaker":
        """The closed breaker. `periods` stays, because refusals within the next minute belong to the same trouble."""
        return self._replace(refusals=0, counted_until=0.0, open_until=0.0, closed_at=_millis(now))

    def _opened(self, now: float, at_least: float) -> "Breaker":
        is_same_trouble = self.open_until > 0 or now - self.closed_at < WINDOW_SECONDS
        periods = self.periods + 1 if is_same_trouble else 1
        period = min(SHORTEST_PERIOD_SECONDS * _PERIOD_GROWTH ** min(periods - 1, 10), LONGEST_PERIOD_SECONDS)
        seconds = min(max(period, at_least), LONGEST_PERIOD_SECONDS)
        since = self.since if is_same_trouble and self.since else _millis(now)
        return self._replace(
            refusals=0, periods=periods, counted_until=0.0, open_until=_millis(now + seconds), since=since
        )

    def delay(self, now: float, draw: Callable[[], float] = random.random) -> float:
        """The seconds until SQS delivers a blocked turn again: the rest of the period, plus a random time. The maximum
        of this random time grows while the trouble lasts. Without the random time, all blocked turns would come back at
        once."""
        spread = min(max((now - self.since) / 2, SHORTEST_PERIOD_SECONDS), MOST_HIDDEN_SECONDS / 2)
        wait = max(self.open_until - now, 0.0) + draw() * spread
        # A time above the limit is replaced by a random time below the limit. If the limit replaced it, all these turns
        # would come back at once.
        return wait if wait <= MOST_HIDDEN_SECONDS else MOST_HIDDEN_SECONDS - draw() * spread


def no_place(draw: Callable[[], float] = random.random) -> float:
    """The seconds until SQS again delivers a turn that got no slot. In the meantime, other turns take the slots, so no
    slot stays empty."""
    return 5.0 + 15.0 * draw()


def _millis(seconds: float) -> float:
    """The time, rounded to milliseconds, so that a stored time equals the computed one."""
    return round(seconds, 3)


def server_name(base_url: str) -> str:
    """The name of a server's breaker, which all its models share."""
    return base_url.rstrip("/")


def model_name(base_url: str, model: str) -> str:
    """The name of the breaker of one model on a server."""
    return f"{server_name(base_url)} {model}"


def breaker_names(base_url: str, model: str) -> tuple[str, str]:
    """The names of the two breakers of a model: the server's and the model's."""
    return server_name(base_url), model_name(base_url, model)


class Wait(NamedTuple):
    """A call is not allowed. `seconds`: when to ask again. `code`: the reason, a key of FAILURES."""

    seconds: float
    code: str


class Change(NamedTuple):
    before: Breaker
    after: Breaker


class BreakerStore:
    """Reads and changes a stack's breakers in the guards table. No method raises an AWS error: if the table does not
    answer, the last known state counts, so that no turn fails because of the table."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._known: dict[str, Breaker] = {}

    @cached_property
    def _client(self) -> Any:
        # Made at the first use, because the functions submit and status often need no breaker.
        return aws.client("dynamodb", attempts=1, read_timeout=1)

    def known(self, name: str) -> Breaker:
        """The last state of the breaker that this process saw."""
        return self._known.get(name, Breaker())

    def read(self, name: str, *, consistent: bool = False) -> Breaker:
        """The breaker as stored, by one read. If the read fails, the last known state."""
        try:
            return self._read(name, consistent=consistent)
        except (BotoCoreError, ClientError) as error:
            logger.warning("circuit breaker not read", extra={"error": error_name(error)})
            return self.known(name)

    def change(self, name: str, step: Callable[[Breaker], Breaker]) -> Change | None:
        """Change the breaker by `step`: a read and a conditional write. None if `step` changed nothing, or if the
        change was not stored."""
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
            logger.warning("circuit breaker not changed", extra={"error": error_name(error)})
        return None

    @cached_property
    def _limiter(self) -> RateLimiter:
        return RateLimiter(self._table, attempts=1, read_timeout=1)

    def place(self, name: str, interval: float, now: float) -> float | None:
        """Reserve the next slot at the learned pace, by one or two writes. Returns the slot's time, or None if that is
        more than LINE_SECONDS away. If the table does not answer, the call may be made now."""
        rate = Rate(60 / interval, burst=int(LINE_SECONDS / interval) + 1)
        try:
            grant = self._limiter.take(name, rate, now, kind="learned-pace")
        except (BotoCoreError, ClientError) as error:
            logger.warning("place not taken", extra={"error": error_name(error)})
            return now
        return None if grant.wait else now + max(grant.full_after - interval, 0.0)

    def _read(self, name: str, *, consistent: bool) -> Breaker:
        answer = self._client.get_item(TableName=self._table, Key=self._key(name), ConsistentRead=consistent)
        item: dict[str, Any] = answer.get("Item", {})
        refusals, periods, *times = (item.get(field, {"N": "0"})["N"] for field in Breaker._fields)
        self._known[name] = Breaker(int(refusals), int(periods), *map(float, times))
        return self._known[name]

    def _write(self, name: str, before: Breaker, after: Breaker) -> bool:
        """Write `after` if the stored breaker still equals `before`. Returns whether it did."""
        # A field is missing if no breaker is stored yet, or if an earlier version wrote it.
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
                + ", ".join(f"{field} = :{field}" for field in Breaker._fields),
                ConditionExpression=was,
                ExpressionAttributeValues={key: {"N": repr(value)} for key, value in values.items()},
            )
        except self._client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    @staticmethod
    def _key(name: str) -> dict[str, Any]:
        return {"guard": {"S": guard_key("circuit-breaker", name)}}


class ModelBreakers:
    """Reads whether calls to the models are blocked, for functions that call no model. Reads the breakers at most every
    5 s.

    `variables`: MODEL_BASE_URL, MODEL_NAME, FALLBACK_MODEL_NAME and FALLBACK_BASE_URL, as the template gives them.
    """

    def __init__(self, table: str, variables: Mapping[str, str]) -> None:
        base_url, name = variables["MODEL_BASE_URL"], variables["MODEL_NAME"]
        self._models = [(base_url, name)]
        if fallback := variables["FALLBACK_MODEL_NAME"]:
            self._models.append((variables["FALLBACK_BASE_URL"] or base_url, fallback))
        self._store = BreakerStore(table)
        self._read_at = 0.0

    def wait(self, now: float) -> Wait | None:
        """The wait until a model of the stack may be called. None if one may be called now."""
        if abs(now - self._read_at) >= _WATCHED_SECONDS:
            self._read_at = now
            for name in {name for model in self._models for name in breaker_names(*model)}:
                self._store.read(name)
        waits = []
        for base_url, model in self._models:
            server, rate = (self._store.known(name) for name in breaker_names(base_url, model))
            if not server.open_until and not rate.open_until:
                return None
            is_rate = rate.open_until > server.open_until
            until = max(server.open_until, rate.open_until)
            waits.append(Wait(max(until - now, 0.0), "model_rate_limited" if is_rate else "model_unavailable"))
        return min(waits)


def report_opened(change: Change | None, code: str) -> None:
    """If the change opened the breaker, count and log this. A refused probe opens the breaker again, and counts too."""
    if change and change.after.periods > change.before.periods:
        count("BreakerOpened")
        logger.warning("circuit breaker opened", extra={"code": code})
