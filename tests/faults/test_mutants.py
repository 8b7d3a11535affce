"""The planted bugs can be planted, and README.md tells of no other. `make mutants` runs them."""

from pathlib import Path

import pytest

from tests.faults.mutants import MUTANTS, README, Mutant, plant


@pytest.mark.parametrize("planted", MUTANTS, ids=lambda planted: planted.name)
def test_a_planted_bug_applies_to_the_product_as_it_is(planted: Mutant, tmp_path: Path) -> None:
    plant(planted, tmp_path)


def test_the_readme_tells_of_no_bug_that_is_not_planted() -> None:
    rows = [line.removeprefix("| ").split(" | ") for line in README.read_text().splitlines() if line.startswith("| ")]
    told = {row[0] for row in rows} - {"planted bug", "---"}
    assert told
    assert told <= {planted.name for planted in MUTANTS}
