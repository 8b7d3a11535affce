"""No guarantee breaks in any story: as it is, with one fault at any call, with two at random, and however slow its calls."""

import pytest

from tests.faults.jobs import SEED, Sweep
from tests.faults.runs import Result, run
from tests.faults.stories import STORIES

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("name", STORIES)
def test_a_story_goes_well_and_the_same_way_twice(sweep: Sweep, name: str) -> None:
    counted = sweep.counted[name]
    assert not counted.broken, counted.report()
    assert run(name).told == counted.told


@pytest.mark.parametrize("name", STORIES)
def test_a_single_fault_breaks_no_guarantee(sweep: Sweep, name: str) -> None:
    _expect_none_broken(sweep.finish(name))


def test_two_faults_break_no_guarantee(sweep: Sweep) -> None:
    _expect_none_broken(sweep.finish("pairs"))


def test_a_race_breaks_no_guarantee(sweep: Sweep) -> None:
    _expect_none_broken(sweep.finish("races"))


def _expect_none_broken(results: list[Result]) -> None:
    broken = sorted((result for result in results if result.broken), key=lambda result: len(result.told))
    if broken:
        others = "\n".join(result.report().partition("\n\n")[0] for result in broken[1:20])
        pytest.fail(
            f"{len(broken)} of {len(results)} runs (FAULT_SEED={SEED}), the shortest:\n\n{broken[0].report()}\n{others}",
            pytrace=False,
        )
