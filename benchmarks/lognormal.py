"""How long a model takes: lognormally distributed, as such times are."""

import math
from statistics import NormalDist
from typing import NamedTuple


class Lognormal(NamedTuple):
    """`mean` in seconds; `sigma` is that of the logarithm."""

    mean: float
    sigma: float

    @property
    def log_mean(self) -> float:
        return math.log(self.mean) - self.sigma**2 / 2

    def at(self, share: float) -> float:
        """The seconds that so large a share of the answers take at most."""
        return math.exp(NormalDist(self.log_mean, self.sigma).inv_cdf(share))

    def slowest_of(self, number: int) -> float:
        """The expected time of the slowest of so many: the integral of the chance that one of them still runs."""
        step, logarithm = self.mean / 1000, NormalDist(self.log_mean, self.sigma)
        over = sum(1 - logarithm.cdf(math.log(step * index)) ** number for index in range(1, 40_000))
        return step * (over + 0.5)
