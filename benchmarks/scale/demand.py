"""What so many chats a second ask of each service, and which limit they meet first: arithmetic, by Little's law.

A chat is a small one (docs/data.md): asynchronous, polled as by the JavaScript client with `wait: 0`, in a conversation
of 5 turns, with an answer that streams from its first second on. Rates are a second's.
"""

import math
from functools import cache
from typing import NamedTuple

from benchmarks.lognormal import Lognormal
from benchmarks.scale.overhead import ASSUMED, BATCH, CALLS_AFTER, CALLS_BEFORE, on_lambda
from benchmarks.scale.simulation import Workers

MEAN, SIGMA = 3.0, 0.5
"""Of the model's lognormal latency: the mean in seconds, and the deviation of its logarithm."""

TOKENS = 200
"""Of a chat: the one in docs/api.md has 138 for its prompt and 58 for its answer."""
TURN_WRITES, GUARD_WRITES, HISTORY_READS, POLL_READS, WAIT_READS = 3, 1, 1, 1, 0.5
"""In DynamoDB's units, of docs/data.md's table: record, claim and answer; usage; a poll, and one inside of a wait."""

FIRST_POLL = 1.0
"""Seconds: the Retry-After of a 202."""

JITTER = 0.2
"""The JavaScript client waits up to so much longer than it is told."""


def workers(concurrency: int = Workers.concurrency, first_pollers: int = Workers.first_pollers) -> Workers:
    """The template's, with the overhead that is assumed."""
    cost = ASSUMED["worker"]
    return Workers(
        concurrency=concurrency,
        first_pollers=first_pollers,
        cold_start=cost.init,
        cpu=on_lambda(cost.cpu / 2, 0),
        before=on_lambda(0, CALLS_BEFORE),
        after=on_lambda(cost.cpu / 2, CALLS_AFTER),
    )


@cache
def longest(turns: int) -> float:
    """The expected longest of so many answers."""
    return Lognormal(MEAN, SIGMA).slowest_of(turns)


def batch_seconds(turns: int) -> float:
    """How long an invocation with so many turns, each of its own session, takes on average."""
    own = workers()
    return turns * own.cpu + own.before + longest(turns) + own.after


def _mean(of: list[float]) -> float:
    return math.fsum(of) / len(of)


@cache
def _latencies() -> list[float]:
    """A thousand answers that stand for all: the middles of as many equal parts of the distribution."""
    return [Lognormal(MEAN, SIGMA).at((index + 0.5) / 1000) for index in range(1000)]


def waited(told: float) -> float:
    """How long the client waits that is told so: half of the most that it adds comes to that."""
    return told * (1 + JITTER / 2)


def pause(age: float) -> float:
    """Between two polls of a task of that age, by its `poll_after_ms`."""
    return waited(min(max(age / 4, 0.5), 5.0) if age < 60 else min(age / 12, 15.0))


def polls(seconds: float) -> int:
    """Of a task that is final after so many."""
    asked, now = 1, waited(FIRST_POLL)
    while now < seconds:
        now += pause(now)
        asked += 1
    return asked


def reads_of_a_wait(seconds: float) -> int:
    """How often turnqueue/wait.py reads a task that is final after so many: first after 0.1 s, each pause 1.06 times
    the last, at most 1 s."""
    reads, now, pause = 0, 0.0, 0.1
    while now < seconds:
        now, pause, reads = now + pause, min(pause * 1.06, 1.0), reads + 1
    return reads


class Chat(NamedTuple):
    """What one chat takes, on average."""

    seconds: float
    """From submission to answer, alone in its batch."""
    polls: float
    progress: float
    """Writes of the growing answer, one a second."""
    reads_of_a_wait: float

    @property
    def requests(self) -> float:
        return 1 + self.polls

    @property
    def writes(self) -> float:
        """Units of the turns table."""
        return TURN_WRITES + self.progress

    @property
    def reads(self) -> float:
        return HISTORY_READS + self.polls * POLL_READS

    @property
    def environment_seconds(self) -> float:
        """Of submit, status and a worker whose batches are full: by Little's law, how many environments are busy for
        each chat a second."""
        return (
            on_lambda(ASSUMED["submit"].cpu, 2)
            + self.polls * on_lambda(ASSUMED["status"].cpu, 1)
            + batch_seconds(BATCH) / BATCH
        )

    @property
    def waiting_seconds(self) -> float:
        """The same in sync mode, where submit waits for the answer and nobody polls."""
        return on_lambda(ASSUMED["submit"].cpu, 2) + self.seconds + batch_seconds(BATCH) / BATCH


@cache
def chat() -> Chat:
    extra = batch_seconds(1) - MEAN
    finals = [latency + extra for latency in _latencies()]
    return Chat(
        seconds=batch_seconds(1),
        polls=_mean([polls(final) for final in finals]),
        progress=_mean([float(int(latency)) for latency in _latencies()]),
        reads_of_a_wait=_mean([reads_of_a_wait(final) for final in finals]),
    )


class Limit(NamedTuple):
    """`each`: of it for each chat a second. `turn`: what is to be turned."""

    name: str
    each: float
    limit: float
    turn: str

    @property
    def binds_at(self) -> float:
        """Chats a second."""
        return self.limit / self.each


def limits() -> list[Limit]:
    """All that binds below 100,000 chats a second, the first first."""
    one, worker = chat(), batch_seconds(BATCH) / BATCH
    found = [
        Limit("model, requests a minute, tier 1", 60, 500, "the provider's tier"),
        Limit("model, requests a minute, tier 5", 60, 30_000, "the provider, or several"),
        Limit("model, tokens a minute, tier 1", 60 * TOKENS, 200_000, "the provider's tier"),
        Limit("model, tokens a minute, tier 5", 60 * TOKENS, 150_000_000, "the provider, or several"),
        Limit("`WorkerConcurrency`, default", worker, 20, "`WorkerConcurrency`"),
        Limit("`WorkerConcurrency`, prod", worker, 50, "`WorkerConcurrency`"),
        Limit("`WorkerConcurrency`, most", worker, 1000, "a second stack, or provisioned pollers"),
        Limit("Lambda's concurrency, new account", one.environment_seconds, 10, "Service Quotas"),
        Limit("Lambda's concurrency", one.environment_seconds, 1000, "Service Quotas"),
        Limit(
            "Lambda's concurrency, sync mode", one.waiting_seconds, 1000, "`FeatureAsyncChatEnabled`, Service Quotas"
        ),
        Limit("`ApiRequestsPerSecond`, default", one.requests, 1000, "`ApiRequestsPerSecond`"),
        Limit("API Gateway, account", one.requests, 10_000, "Service Quotas"),
        Limit(
            "Lambda's requests a second", one.requests + 1 / BATCH, 10_000, "Lambda's concurrency, of which it is 10 x"
        ),
        Limit("turns table, writes, new", one.writes, 4000, "warm throughput, or grow slowly"),
        Limit("turns table, reads, new", one.reads, 12_000, "warm throughput, or grow slowly"),
        Limit("guards table, writes, new", GUARD_WRITES, 4000, "warm throughput, or grow slowly"),
        Limit("turns table, writes, quota", one.writes, 40_000, "Service Quotas"),
        Limit("turns table, reads, quota", one.reads, 40_000, "Service Quotas"),
        Limit("guards table, writes, quota", GUARD_WRITES, 40_000, "Service Quotas"),
        Limit("FIFO without high throughput", 1, 300, "not ours: it is on in the template"),
        Limit("FIFO, calls of a kind, most regions", 1, 2400, "the region, Service Quotas"),
        Limit("FIFO, calls of a kind, largest regions", 1, 70_000, "a second queue"),
        Limit("messages in flight", batch_seconds(BATCH), 120_000, "a second queue"),
    ]
    return sorted(found, key=lambda limit: limit.binds_at)


def row(rate: float) -> list[str]:
    """Of the table of loads: what so many chats a second ask for."""
    one = chat()
    return [
        f"{rate:,.0f}",
        number(rate),
        number(rate * one.polls),
        number(rate * batch_seconds(1)),
        number(rate * batch_seconds(BATCH) / BATCH),
        number(rate * one.seconds),
        f"{number(rate)}, {number(rate / BATCH)}, {number(rate)}",
        number(rate * one.writes),
        number(rate * one.reads),
        number(rate * 60),
        number(rate * 60 * TOKENS),
    ]


HEAD = [
    "chats/s",
    "submit/s",
    "polls/s",
    "workers, batches of 1",
    "workers, batches of 10",
    "submit waiting, sync mode",
    "FIFO send, receive, delete/s",
    "WRU/s",
    "RRU/s",
    "requests/min",
    "tokens/min",
]
RATES = (1, 10, 100, 1_000, 10_000)


def number(value: float) -> str:
    """With two digits that count, or as an integer."""
    if value >= 100:
        digits = 1 - math.floor(math.log10(value))
        return f"{round(value, digits):,.0f}"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}".removesuffix(".0")


def binding_rows() -> list[list[str]]:
    return [
        [limit.name, number(limit.each), f"{limit.limit:,.0f}", number(limit.binds_at), limit.turn]
        for limit in limits()
    ]


BINDING_HEAD = ["limit", "for each chat a second", "limit is", "binds at chats/s", "turn"]
