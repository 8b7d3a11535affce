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
