"""The jobs of the stories: how many, and with which seeds."""

import os
import random
from collections.abc import Iterator
from functools import cache

from tests import summary
from tests.faults.faults import WRITE_VARIANTS
from tests.faults.runs import Result, run
from tests.faults.stories import RACES, STORIES

SEED = int(os.environ["FAULT_SEED"])  # tests/conftest.py draws one
PAIRS = int(os.environ.get("FAULT_PAIRS") or 100)
RACE_SEEDS = int(os.environ.get("FAULT_RACES") or 6)
HISTORIES = int(os.environ.get("FAULT_HISTORIES") or 50)
STEPS = int(os.environ.get("FAULT_STEPS") or 40)
PARTS = 5
"""Pairs and histories are tests of about the same length each, so that several processes can share them."""
SUBJECT = f"faults (FAULT_SEED={SEED})"


@cache
def counted(name: str) -> Result:
    """A story as it is, with its calls numbered."""
    return run(name)


def single_faults(name: str) -> Iterator[Result]:
    """Every variant of a fault at every call of a story."""
    points = list(counted(name).points(STORIES[name]))
    summary.count(SUBJECT, "calls of stories", len({call.number for call, _ in points}))
    for call, variant in points:
        result = run(name, [(call.number, variant)])
        if not result.broken and str(result.calls[call.number]) != str(call):
            result.broken = f"the run is not the one that was counted: {call} was expected"
        yield _tallied("single faults", result)


def pairs(part: int) -> Iterator[Result]:
    """Two faults at random calls of random stories. The second may come after the story, where the first is mended."""
    chance = random.Random(f"{SEED} {part}")
    for index in range(part, PAIRS, PARTS):
        story = chance.choice(sorted(STORIES))
        last = counted(story).last
        calls = sorted({chance.randrange(last), chance.randrange(last + 12)})
        faults = [(call, chance.choice(WRITE_VARIANTS)) for call in calls]
        yield _tallied("pairs", run(story, faults, chance.randrange(10**6) if index % 2 else None))


def races(name: str) -> Iterator[Result]:
    """A story without faults, but each call as fast or slow as chance will have it. Those about races run twice as often."""
    for index in range(RACE_SEEDS * (2 if name in RACES else 1)):
        yield _tallied("races", run(name, seed=SEED + index))


def _tallied(kind: str, result: Result) -> Result:
    summary.count(SUBJECT, kind)
    summary.count(SUBJECT, "deaths", result.deaths)
    return result
