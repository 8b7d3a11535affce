"""The loads that are simulated, and what is told of each."""

import math
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks import bill, on_lambda
from benchmarks.report import Chart
from benchmarks.scale.demand import MEAN, SIGMA, number, workers
from benchmarks.scale.simulation import (
    FOR_EVER,
    Model,
    Outage,
    Reply,
    Run,
    Simulation,
    Steps,
    lognormal,
    poisson,
    sampled,
)

LATENCY = lognormal(MEAN, SIGMA)
FIRST_TOKEN = 20
"""FirstTokenSeconds, where there is a fallback."""
HEAD = [
    "load",
    "chats",
    "answered",
    "wait p50, s",
    "p95",
    "p99",
    "answer p50, s",
    "p99",
    "turns a batch",
    "most workers",
    "most waiting",
]


TROUBLE_HEAD = [
    "trouble at the model",
    "answered",
    "last answer after its end, s",
    "refused calls a chat",
    "sent back without a call, a chat",
    "most calls in a second after its end",
    "waiting costs, $",
]


class Scenario(NamedTuple):
    """One simulated load. `seconds`: how much of it is drawn. `trouble_ends`: when the model has its full rate again,
    or fewer ask."""

    name: str
    run: Run
    seconds: float
    trouble_ends: float | None = None


def steady(rate: float, concurrency: int = 20, seconds: float = 900) -> Scenario:
    arrivals = poisson(lambda _: rate, rate, seconds, seed=1)
    run = Simulation(workers(concurrency=concurrency), Model(LATENCY), seed=2).run(arrivals)
    return Scenario(f"steady {rate:g}/s, {concurrency} workers", run, seconds)


def burst(concurrency: int, pollers: int = 5) -> Scenario:
    """A thousand chats in one second, each of its own session."""
    rng = random.Random(1)
    arrivals = sorted((rng.random(), str(number)) for number in range(1000))
    own = workers(concurrency=concurrency, first_pollers=pollers)
    name = f"1,000 at once, {concurrency} workers" + (", all pollers there" if pollers > 5 else "")
    return Scenario(name, Simulation(own, Model(LATENCY), seed=2).run(arrivals), 45)


def outage(kind: str, reply: Reply) -> Scenario:
    """The model is gone from minute 5 to 10 of 30, at 10 chats a second."""
    first_token = FIRST_TOKEN if "fallback" in kind else math.inf
    model = Model(LATENCY, outage=Outage(300, 600, reply), first_token=first_token)
    arrivals = poisson(lambda _: 10, 10, 1800, seed=1)
    return Scenario(f"model gone for 5 min, {kind}", Simulation(workers(), model, seed=2).run(arrivals), 1800, 600)


def quota(concurrency: int) -> Scenario:
    """500 requests a minute are granted, 8.3 a second; for 10 minutes of 40 there are 10, else 5."""

    def rate(now: float) -> float:
        return 10 if 600 <= now < 1200 else 5

    arrivals = poisson(rate, 10, 2400, seed=1)
    model = Model(LATENCY, a_minute=500)
    run = Simulation(workers(concurrency=concurrency), model, seed=2).run(arrivals)
    return Scenario(f"500 requests/min granted, 600 asked for, {concurrency} workers", run, 2400, 1200)


def day(concurrency: int) -> Scenario:
    """From 2 chats a second up to 38 and back: the curve of a day, pressed into two hours."""

    def rate(now: float) -> float:
        return 20 - 18 * math.cos(2 * math.pi * now / 7200)

    run = Simulation(workers(concurrency=concurrency), Model(LATENCY), seed=2).run(poisson(rate, 38, 7200, seed=1))
    return Scenario(f"a day's curve to 38/s, {concurrency} workers", run, 7200)


def one_session(messages: int = 50) -> Scenario:
    run = Simulation(workers(), Model(LATENCY), seed=2).run((0.0, "one") for _ in range(messages))
    return Scenario(f"{messages} messages in one session", run, 180)


OUTAGES = {
    "refuses at once": Reply(0.2, "model_unavailable"),
    "refuses, Retry-After 60": Reply(0.2, "model_unavailable", 60),
    "silent": Reply(FOR_EVER, "model_timeout"),
    f"silent, fallback after {FIRST_TOKEN} s": Reply(FOR_EVER, "model_timeout"),
}


def row(scenario: Scenario) -> list[str]:
    """Waits are of those that were answered."""
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
        f"{statistics.fmean(batch.turns for batch in run.batches):.1f}",
        f"{most(run.workers)}",
        number(most(run.waiting)),
    ]


def trouble_row(scenario: Scenario) -> list[str]:
    """The last answer is that of the chats from before the end of the trouble."""
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
        f"{run.deferred / chats:.3f}",
        f"{max(calls.values())}",
        f"{waiting_cost(run):.2f}",
    ]


def waiting_cost(run: Run) -> float:
    """Dollars for the deliveries that brought no answer, each as if it were alone in its batch: SQS hides the message
    twice; a deferred turn is read once; a refused one is claimed and released, with its history read."""
    cpu = workers().cpu * 256 / on_lambda.MB_OF_A_CPU
    cost = 0.0
    for deliveries, reads, writes in ((run.deferred, 1, 0), (run.refused, 1, 2)):
        seconds = on_lambda.seconds(cpu, 2 + reads + writes, 256)
        one = bill.dollars("sqs_fifo_request", 3) + bill.dollars("lambda_request", 1)
        one += bill.dollars("lambda_gb_second_arm64", seconds / 4)
        one += bill.dollars("dynamodb_read_unit", reads) + bill.dollars("dynamodb_write_unit", writes)
        cost += deliveries * one
    return cost


def percentile(ordered: Sequence[float], part: int) -> float:
    return ordered[min(len(ordered) * part // 100, len(ordered) - 1)]


def most(steps: Steps) -> int:
    return max(value for _, value in steps)


def wait_chart(title: str, cells: int, lines: dict[str, Scenario]) -> Chart:
    """The queue wait of those that came in each part of the time, its 95th percentile."""
    return Chart(
        title,
        "minutes",
        "queue wait p95, s",
        lines={name: _waits(scenario, scenario.seconds / cells) for name, scenario in lines.items()},
    )


def _waits(scenario: Scenario, every: float) -> list[tuple[float, float]]:
    cells: dict[int, list[float]] = {}
    for turn in scenario.run.turns:
        cells.setdefault(int(turn.arrived / every), []).append(turn.wait)
    return [((cell + 0.5) * every / 60, percentile(sorted(waits), 95)) for cell, waits in sorted(cells.items())]


def count_chart(title: str, y: str, of: str, cells: int, lines: dict[str, Scenario], unit: float = 60) -> Chart:
    """A count of the run (`of`: workers or waiting) over time; `unit`: seconds of one on the x-axis."""
    drawn = {}
    for name, scenario in lines.items():
        points = sampled(getattr(scenario.run, of), scenario.seconds / cells, scenario.seconds)
        drawn[name] = [(moment / unit, value) for moment, value in points]
    return Chart(title, "minutes" if unit == 60 else "seconds", y, lines=drawn)
