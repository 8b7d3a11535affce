"""How much the tests have done, for the end of the run: counts by subject, from all processes of the run."""

from collections import Counter
from collections.abc import Iterator, Mapping

_counts: dict[str, Counter[str]] = {}


def of(subject: str) -> Counter[str]:
    """The counts of a subject, to add to."""
    return _counts.setdefault(subject, Counter())


def count(subject: str, what: str, number: int = 1) -> None:
    """Count, for example, 3 more "deaths" of the subject "faults"."""
    of(subject)[what] += number


def exported() -> dict[str, dict[str, int]]:
    """All counts of this process, as plain data."""
    return {subject: dict(counts) for subject, counts in _counts.items()}


def add(counts: Mapping[str, Mapping[str, int]]) -> None:
    """Add what another process has exported."""
    for subject, each in counts.items():
        of(subject).update(each)


def lines() -> Iterator[str]:
    """ "faults (FAULT_SEED=1): 4,568 single faults, 1,775 deaths" """
    for subject, counts in sorted(_counts.items()):
        yield f"{subject}: {', '.join(f'{number:,} {what}' for what, number in counts.most_common())}"
