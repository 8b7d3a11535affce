"""The time of a model's answer: lognormally distributed, as such times usually are."""

import math
from statistics import NormalDist
from typing import NamedTuple


class Lognormal(NamedTuple):
    """`mean`: seconds. `sigma`: the standard deviation of the logarithm."""

    mean: float
    sigma: float

    @property
    def log_mean(self) -> float:
        return math.log(self.mean) - self.sigma**2 / 2

    def at(self, share: float) -> float:
        """The seconds that this share of the answers does not exceed."""
        return math.exp(NormalDist(self.log_mean, self.sigma).inv_cdf(share))
