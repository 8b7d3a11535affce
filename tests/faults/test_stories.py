"""No guarantee breaks in any story: without faults, with one fault at any call, with two random faults, and with slow
calls."""

from collections.abc import Iterable

import pytest

from tests.faults.jobs import PARTS, SEED, counted, pairs, races, single_faults
from tests.faults.runs import Result, run
from tests.faults.stories import RACES, STORIES

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("name", STORIES)
def test_a_story_goes_well_and_the_same_way_twice(name: str) -> None:
    assert not counted(name).broken, counted(name).report()
    assert run(name).told == counted(name).told


@pytest.mark.parametrize("name", STORIES)
def test_a_single_fault_breaks_no_guarantee(name: str) -> None:
    _expect_none_broken(single_faults(name))


@pytest.mark.parametrize("part", range(PARTS))
def test_two_faults_break_no_guarantee(part: int) -> None:
    _expect_none_broken(pairs(part))


@pytest.mark.parametrize("name", [*STORIES, *RACES])
def test_a_race_breaks_no_guarantee(name: str) -> None:
    _expect_none_broken(races(name))


def _expect_none_broken(results: Iterable[Result]) -> None:
    broken = sorted((result for result in results if result.broken), key=lambda result: len(result.told))
    if broken:
        others = "\n".join(result.report().partition("\n\n")[0] for result in broken[1:20])
        pytest.fail(
            f"{len(broken)} runs broke a guarantee (FAULT_SEED={SEED}), the shortest:\n\n{broken[0].report()}\n{others}",
            pytrace=False,
        )
