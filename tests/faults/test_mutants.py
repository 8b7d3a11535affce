"""The planted bugs can be planted, and README.md tells what caught each. `make mutants` runs them."""

from pathlib import Path

import pytest

from tests.faults.mutants import MUTANTS, README, Mutant, plant


@pytest.mark.parametrize("planted", MUTANTS, ids=lambda planted: planted.name)
def test_a_planted_bug_applies_to_the_product_as_it_is(planted: Mutant, tmp_path: Path) -> None:
    plant(planted, tmp_path)


def test_the_readme_tells_what_caught_each() -> None:
    rows = [line.split(" | ") for line in README.read_text().splitlines() if line.startswith("| ")]
    caught = {name.removeprefix("| "): by for name, by, *_ in rows}
    assert [planted.name for planted in MUTANTS if not caught.get(planted.name)] == []
    assert caught.keys() - {planted.name for planted in MUTANTS} == {"planted bug", "---"}
