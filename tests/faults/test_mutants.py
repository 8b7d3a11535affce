"""The planted bugs can be planted, and README.md names the check that caught each.
`python -m tests.faults.mutants --write` writes it."""

from pathlib import Path

import pytest

from tests.faults.mutants import MUTANTS, README, Mutant, plant


@pytest.mark.parametrize("planted", MUTANTS, ids=lambda planted: planted.name)
def test_a_planted_bug_applies_to_the_product_as_it_is(planted: Mutant, tmp_path: Path) -> None:
    plant(planted, tmp_path)


def test_the_readme_tells_what_caught_each() -> None:
    rows = [line.strip("| ").split(" | ") for line in README.read_text().splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == [planted.name for planted in MUTANTS]
    assert all(len(row) == 3 and row[1] and row[2] for row in rows)
