"""Measures sides alternately, so that a change of the machine's speed affects all sides equally."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Ratio(NamedTuple):
    """The ratio of one side to another: the median of the rounds' ratios, and their quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def alternate(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure each side once in each round; the first side of a round changes each time. Returns the results of each
    side."""
    names = list(sides)
    measured: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            measured[name].append(sides[name]())
    return measured


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The ratio of `ours` to `theirs`, round by round."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    low, median, high = _quartiles(ratios)
    return Ratio(median, low, high)


def spread(values: Sequence[float], digits: int = 1) -> str:
    """The median of some values and their quartiles, for a table: "3.1 (2.9-3.6)"."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    low, median, high = _quartiles(values)
    return f"{median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def _quartiles(values: Sequence[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
