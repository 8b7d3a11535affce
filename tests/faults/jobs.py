"""Runs in other processes, as many at a time as there are processors: each starts the simulation for itself."""

import multiprocessing
import os
import random
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass

from tests.faults.faults import WRITE_VARIANTS, Variant
from tests.faults.runs import Result, run
from tests.faults.stories import RACES, STORIES


@dataclass(frozen=True)
class Job:
    story: str
    faults: tuple[tuple[int, Variant], ...] = ()
    seed: int | None = None
    expected: str = ""
    """What the faulty call must be: a run that differs from the one in which the calls were counted proves nothing."""


SEED = int(os.environ.get("FAULT_SEED") or random.SystemRandom().randrange(10**6))
PAIRS = int(os.environ.get("FAULT_PAIRS") or 100)
RACE_SEEDS = int(os.environ.get("FAULT_RACES") or 6)
HISTORIES = int(os.environ.get("FAULT_HISTORIES") or 50)
STEPS = int(os.environ.get("FAULT_STEPS") or 40)
CHUNK = 8


def single_faults(counted: Result) -> list[Job]:
    """Every variant of a fault at every call of a story."""
    story = STORIES[counted.story]
    return [
        Job(counted.story, ((call.number, variant),), None, str(call))
        for call in counted.points(story)
        for variant in call.variants
    ]


def pairs(counted: dict[str, Result], seed: int, number: int) -> list[Job]:
    """Two faults at random calls of random stories. The second may come after the story, where the first is mended."""
    chance = random.Random(seed)
    jobs = []
    for index in range(number):
        story = chance.choice(sorted(STORIES))
        last = counted[story].last
        calls = sorted({chance.randrange(last), chance.randrange(last + 12)})
        faults = tuple((call, chance.choice(WRITE_VARIANTS)) for call in calls)
        jobs.append(Job(story, faults, chance.randrange(10**6) if index % 2 else None))
    return jobs


def races(seed: int, number: int) -> list[Job]:
    """The stories without faults, but each call as fast or slow as chance will have it."""
    names = [*STORIES, *RACES, *RACES]
    return [Job(name, (), seed + index) for index in range(number) for name in names]


def do(jobs: list[Job]) -> list[Result]:
    return [_do(job) for job in jobs]


def _do(job: Job) -> Result:
    result = run(job.story, job.faults, job.seed)
    if job.expected and str(result.calls[job.faults[0][0]]) != job.expected:
        result.broken = f"the run is not the one that was counted: {job.expected} was expected"
    if not result.broken:
        result.told = ""
        result.calls = []
    return result


class Sweep:
    """What is run of the stories, in processes of their own, and what came of it."""

    def __init__(self) -> None:
        self.counted = {name: run(name) for name in STORIES}
        self.results: dict[str, list[Result]] = {}
        self._pool = ProcessPoolExecutor(os.process_cpu_count(), mp_context=multiprocessing.get_context("spawn"))
        self._waiting: dict[str, list[Future[list[Result]]]] = {}

    def begin(self, name: str, jobs: list[Job]) -> None:
        chunks = (jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK))
        self._waiting[name] = [self._pool.submit(do, chunk) for chunk in chunks]

    def finish(self, name: str) -> list[Result]:
        self.results[name] = [result for future in self._waiting.pop(name) for result in future.result()]
        return self.results[name]

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
