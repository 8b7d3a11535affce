"""Runs all checks on the product at FAULTS_SOURCE until one fails, and prints which: `python -m tests.faults.hunt`.

The cheapest checks come first: the stories as they are, the races, single faults, one of each kind first, then
histories.
"""

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from itertools import zip_longest

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.faults import Variant
from tests.faults.guarantees import GUARANTEES
from tests.faults.histories import History
from tests.faults.runs import Result, run
from tests.faults.stories import RACES, STORIES

SEEDS = 12
HISTORIES = 60


def results() -> Iterator[Result]:
    kinds: dict[tuple[str, str, Variant], list[tuple[str, int, Variant]]] = defaultdict(list)
    for name, story in STORIES.items():
        result = run(name)
        yield result
        for call, variant in result.points(story):
            kinds[call.process.rstrip("0123456789"), call.operation, variant].append((name, call.number, variant))
    for number in range(SEEDS):
        for name in RACES:
            yield run(name, seed=number)
    for alike in kinds.values():
        random.Random(0).shuffle(alike)
    # One of each kind, then another of each: so a function that is seldom called is not left to the end.
    for several in zip_longest(*kinds.values()):
        for one in filter(None, several):
            name, number, variant = one
            yield run(name, [(number, variant)])


def main() -> None:
    for result in results():
        if result.broken:
            say(result.guarantee, result.story)
            return
    try:
        run_state_machine_as_test(
            seed(0)(History),
            settings=settings(
                max_examples=HISTORIES,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
    except AssertionError as error:
        number = getattr(error, "number", None)
        say(number, "a history")
        return
    print(json.dumps({"by": "", "in": ""}))


def say(number: int | None, where: str) -> None:
    by = f"{number}: {GUARANTEES[number]}" if number else "a single fault loses no task and delays no session for long"
    print(json.dumps({"by": by, "in": where}))


if __name__ == "__main__":
    main()
