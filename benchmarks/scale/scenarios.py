"""The simulated loads, and the rows of their tables."""

import math
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from benchmarks import bill, on_lambda
from benchmarks.scale.demand import MEAN, SIGMA, full_worker, number, workers, workers_before
from benchmarks.scale.simulation import (
    FOR_EVER,
    Draw,
    Model,
    Outage,
    Refill,
    Reply,
    Run,
    Simulation,
    Steps,
    Winner,
    Workers,
    area,
    lognormal,
    poisson,
)

LATENCY = lognormal(MEAN, SIGMA)
FIRST_TOKEN = 20
"""FirstTokenSeconds, if there is a fallback."""

STREAMED = (0.03, 0.016)
"""The extra CPU seconds of an answer with 300 tokens 10 ms apart, with ten answers at once: before and now, rounded
from `python -m benchmarks.streams`."""

HEAD = [
    "load",
    "chats",
    "answered",
    "wait p50, s",
    "p95",
    "p99",
    "answer p50, s",
    "p99",
    "turns an invocation",
    "GB-s per 1,000",
    "most workers",
    "most waiting",
]


TROUBLE_HEAD = [
    "trouble at the model",
    "answered",
    "last answer after the trouble, s",
    "refused calls per chat",
    "deliveries without a call, per chat",
    "most calls in a second after the trouble",
    "waiting costs, $",
]


class Scenario(NamedTuple):
    """One simulated load. `trouble_ends`: when the model has its full rate again, or fewer chats arrive."""

    name: str
    run: Run
    trouble_ends: float | None = None


def simulated(own: Workers, rate: float, seconds: float, latency: Draw = LATENCY, seed: int = 1) -> Run:
    """A steady load."""
    arrivals = poisson(lambda _: rate, rate, seconds, seed)
    return Simulation(own, Model(latency), seed=seed + 1).run(arrivals)


def steady(rate: float, concurrency: int = Workers.concurrency, seconds: float = 450) -> Scenario:
    run = simulated(workers(concurrency=concurrency), rate, seconds)
    return Scenario(f"steady {rate:g}/s, {concurrency} workers", run)


def steady_before(rate: float, seconds: float = 450) -> Scenario:
    own = workers_before()
    return Scenario(f"steady {rate:g}/s, {own.concurrency} workers, before", simulated(own, rate, seconds))


def burst(own: Workers, name: str) -> Scenario:
    """A thousand chats in one second, each in a separate session."""
    rng = random.Random(1)
    arrivals = sorted((rng.random(), str(number)) for number in range(1000))
    name = f"1,000 at once, {own.concurrency} workers{name}"
    return Scenario(name, Simulation(own, Model(LATENCY), seed=2).run(arrivals))


BURSTS = {
    "20, before": (workers_before(), ", before"),
    "10": (workers(), ""),
    "20": (workers(concurrency=20), ""),
    "20, pollers there": (workers(concurrency=20, first_pollers=20), ", all pollers from the start"),
}


def outage(kind: str, reply: Reply) -> Scenario:
    """The model is down from minute 5 to 10 of 30, at 10 chats a second."""
    first_token = FIRST_TOKEN if "fallback" in kind else math.inf
    model = Model(LATENCY, outage=Outage(300, 600, reply), first_token=first_token)
    arrivals = poisson(lambda _: 10, 10, 1800, seed=1)
    return Scenario(f"model gone for 5 min, {kind}", Simulation(workers(), model, seed=2).run(arrivals), 600)


GRANTED = 500
"""Requests a minute."""


def quota(known: int) -> Scenario:
    """The model grants 500 requests a minute, 8.3 a second. For 10 of 40 minutes 10 chats a second arrive, otherwise 5.
    `known`: ModelRequestsPerMinute, 0 if unknown."""

    def rate(now: float) -> float:
        return 10 if 600 <= now < 1200 else 5

    arrivals = poisson(rate, 10, 2400, seed=1)
    run = Simulation(workers(), Model(LATENCY, a_minute=GRANTED), seed=2, known_rate=known).run(arrivals)
    how = f"`ModelRequestsPerMinute={known}`" if known else "limit unknown"
    return Scenario(f"{GRANTED} requests/min granted, 600 asked for, {how}", run, 1200)


def day(concurrency: int) -> Scenario:
    """From 2 chats a second up to 38 and back: the load of a day, compressed into an hour."""

    def rate(now: float) -> float:
        return 20 - 18 * math.cos(2 * math.pi * now / 3600)

    run = Simulation(workers(concurrency=concurrency), Model(LATENCY), seed=2).run(poisson(rate, 38, 3600, seed=1))
    return Scenario(f"a day's curve to 38/s, {concurrency} workers", run)


def one_session(messages: int = 50) -> Scenario:
    run = Simulation(workers(), Model(LATENCY), seed=2).run((0.0, "one") for _ in range(messages))
    return Scenario(f"{messages} messages in one session", run)


# ---- Beside the design before

GB = 256 / 1024


def gb_seconds(run: Run) -> float:
    """The worker's GB-seconds for 1,000 chats."""
    return 1000 * GB * area(run.workers) / len(run.turns)


def wait_p99(run: Run) -> float:
    return percentile(sorted(turn.wait for turn in run.turns), 99)


EFFICIENT_LOADS = (0.2, 1, 5, 20, 31)
EFFICIENCY_HEAD = [
    "chats/s",
    "before, 20 workers: GB-s",
    "10 workers: GB-s, worst to best",
    "ratio, worst",
    "10 pollers from the start: GB-s, worst",
    "ratio",
    "fewer workers: GB-s",
    "wait p99 before, s",
    "now, worst",
    "receives a chat",
]
WINNERS: tuple[Winner, ...] = ("event source", "any", "worker")


def efficiency_row(rate: float) -> list[str]:
    """GB-seconds of the worker for 1,000 chats, by the rule that decides which poll gets a message."""
    seconds = 450.0 if rate > 1 else 9000.0
    before = simulated(workers_before(), rate, seconds)
    now = [simulated(workers(refill=Refill(winner=winner)), rate, seconds) for winner in WINNERS]
    costs = sorted(map(gb_seconds, now), reverse=True)
    all_there = workers(first_pollers=Workers.concurrency, refill=Refill(winner="event source"))
    worst = gb_seconds(simulated(all_there, rate, seconds))
    fewer = recommended(rate)
    least = gb_seconds(simulated(workers(concurrency=fewer, first_pollers=min(fewer, 5)), rate, seconds))
    return [
        f"{rate:g}",
        f"{gb_seconds(before):.0f}",
        ", ".join(f"{cost:.0f}" for cost in costs),
        f"{costs[0] / gb_seconds(before):.2f}",
        f"{worst:.0f}",
        f"{worst / gb_seconds(before):.2f}",
        f"{least:.0f} ({fewer})",
        f"{wait_p99(before):.2f}",
        f"{max(map(wait_p99, now)):.2f}",
        f"{now[1].receives / len(now[1].turns):.1f}",
    ]


def recommended(rate: float) -> int:
    """WorkerConcurrency for a peak load: twice the workers that it fills, at least Lambda's minimum of 2."""
    return max(math.ceil(2 * rate / full_worker()), 2)


CAPACITY_HEAD = ["workers", "before, chats/s", "now", "ratio", "streamed, before", "streamed, now", "ratio"]
CAPACITIES = (2, 5, 10, 20)


def capacity_row(concurrency: int) -> list[str]:
    cells = []
    for before_cpu, now_cpu in ((0.0, 0.0), STREAMED):
        before = capacity(slower(workers_before(concurrency), before_cpu))
        now = capacity(slower(workers(concurrency=concurrency), now_cpu))
        cells += [f"{before:.1f}", f"{now:.0f}", f"{now / before:.1f}"]
    return [f"{concurrency}", *cells]


def slower(own: Workers, cpu: float) -> Workers:
    """The workers with this much more CPU for each answer, in seconds of a whole CPU."""
    return replace(own, cpu_after=own.cpu_after + on_lambda.seconds(cpu, 0, 256))


def capacity(own: Workers, seconds: int = 300) -> float:
    """Chats a second from a queue that is never empty, after the first minute, with all pollers running."""
    own = replace(own, first_pollers=own.concurrency)
    most = full_worker() if own.refill else own.batch_size / MEAN
    chats = int(most * own.concurrency * seconds * 1.1)
    run = Simulation(own, Model(LATENCY), seed=2).run((0.0, str(number)) for number in range(chats))
    return sum(60 <= (turn.finished or 0) < seconds for turn in run.turns) / (seconds - 60)


SLOW_HEAD = [
    "2 % of 120 s at 20/s",
    "answered, least",
    "model called twice",
    "wait p50, s",
    "p99 of five runs",
    "GB-s per 1,000",
]


def sometimes_slow(rng: random.Random) -> float:
    return 120.0 if rng.random() < 0.02 else LATENCY(rng)


TEN_MINUTES = {"timeout": 900.0, "longest_answer": 600.0}
"""The template's mapping for LongestAnswer=10."""

SLOW: dict[str, Workers] = {
    "before, 20 workers": workers_before(),
    "20 workers": workers(concurrency=20),
    "15 workers": workers(concurrency=15),
    "10 workers": workers(),
    "20 workers, `LongestAnswer=10`": workers(concurrency=20, **TEN_MINUTES),
    "15 workers, `LongestAnswer=10`": workers(concurrency=15, **TEN_MINUTES),
    "10 workers, `LongestAnswer=10`": workers(**TEN_MINUTES),
}


def slow_row(name: str, own: Workers) -> list[str]:
    """The results of five runs, because the number of workers that drain at the same time is random."""
    runs = [simulated(own, 20, 900, sometimes_slow, seed) for seed in range(1, 6)]
    medians = [percentile(sorted(turn.wait for turn in run.turns), 50) for run in runs]
    return [
        name,
        f"{100 * min(1 - run.failed() / len(run.turns) for run in runs):.1f} %",
        f"{sum(turn.tries > 1 for run in runs for turn in run.turns)}",
        f"{statistics.median(medians):.1f}",
        ", ".join(f"{p99:.1f}" for p99 in sorted(map(wait_p99, runs))),
        f"{statistics.fmean(map(gb_seconds, runs)):.0f}",
    ]


OUTAGES = {
    "refuses at once": Reply(0.2, "model_unavailable"),
    "refuses, Retry-After 60": Reply(0.2, "model_unavailable", 60),
    "silent": Reply(FOR_EVER, "model_timeout"),
    f"silent, fallback after {FIRST_TOKEN} s": Reply(FOR_EVER, "model_timeout"),
}


def row(scenario: Scenario) -> list[str]:
    """The waits of answered chats."""
    run = scenario.run
    answered = [turn for turn in run.turns if turn.code is None]
    waits = sorted(turn.wait for turn in answered)
    times = sorted(turn.finished - turn.arrived for turn in answered if turn.finished is not None)
    return [
        scenario.name,
        f"{len(run.turns):,}",
        f"{100 * len(answered) / len(run.turns):.1f} %",
        *(f"{percentile(waits, part):.1f}" for part in (50, 95, 99)),
        *(f"{percentile(times, part):.1f}" for part in (50, 99)),
        number(statistics.fmean(invocation.turns for invocation in run.invocations)),
        f"{gb_seconds(run):.0f}",
        f"{most(run.workers)}",
        number(most(run.waiting)),
    ]


def trouble_row(scenario: Scenario) -> list[str]:
    """The last answer to a chat from before the end of the trouble."""
    run, end = scenario.run, scenario.trouble_ends
    assert end is not None, f"nothing goes wrong in {scenario.name}"
    chats = len(run.turns)
    last = max(turn.finished for turn in run.turns if turn.arrived < end and turn.finished is not None)
    calls = Counter(int(moment) for moment in run.calls if moment >= end)
    return [
        scenario.name,
        f"{100 * (1 - run.failed() / chats):.1f} %",
        f"{last - end:.0f}",
        f"{run.refused / chats:.3f}",
        f"{(run.deferred + run.paced) / chats:.3f}",
        f"{max(calls.values())}",
        f"{waiting_cost(run):.2f}",
    ]


def waiting_cost(run: Run) -> float:
    """Dollars for the deliveries without an answer, each as if it were alone in its invocation. SQS hides the message
    twice. A deferred turn is read once. A refused or paced turn is claimed and released."""
    cpu = workers().cpu_before * 256 / on_lambda.MB_OF_A_CPU
    cost = 0.0
    for deliveries, reads, writes in ((run.deferred, 1, 0), (run.refused, 1, 2), (run.paced, 0, 3)):
        seconds = on_lambda.seconds(cpu, 2 + reads + writes, 256)
        one = bill.dollars("sqs_fifo_request", 3) + bill.dollars("lambda_request", 1)
        one += bill.dollars("lambda_gb_second_arm64", GB * seconds)
        one += bill.dollars("dynamodb_read_unit", reads) + bill.dollars("dynamodb_write_unit", writes)
        cost += deliveries * one
    return cost


def percentile(ordered: Sequence[float], part: int) -> float:
    return ordered[min(len(ordered) * part // 100, len(ordered) - 1)]


def most(steps: Steps) -> int:
    return max(value for _, value in steps)
