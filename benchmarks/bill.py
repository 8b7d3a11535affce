"""From what a chat uses to dollars for a million chats, by the list prices in prices.toml."""

import math
import tomllib
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

CHATS = 1_000_000
MONTH_SECONDS = 30 * 86_400

MB_OF_A_CPU = 1769
"""Lambda gives a function with so much memory one virtual CPU, and one with less its share."""

NETWORK_SECONDS = 0.005
"""What a function waits for one call of DynamoDB or SQS. Assumed: there is no AWS here."""

COLD_SHARE = 0.01
"""Of invocations that begin with an init, which is billed since August 2025. Assumed: AWS speaks of less than 1 %."""

EVENT_BYTES = 26
"""CloudWatch adds so much to each log event (its quotas of PutLogEvents count it)."""

PRICES: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_name("prices.toml").read_text())


def dollars(price: str, units: float) -> float:
    """What so many units cost."""
    return float(PRICES[price]["usd"]) * units / float(PRICES[price]["per"])


class Line(NamedTuple):
    """A line of the bill: `units` a chat, in words, and dollars for a million chats."""

    units: str
    usd: float


class Bill(dict[str, Line]):
    """For a million chats in a month, by the names of its lines."""

    @property
    def total(self) -> float:
        return sum(line.usd for line in self.values())

    def add(self, line: str, price: str, units: float, unit: str = "", digits: int = 1) -> None:
        """`units` a chat of what the price is for."""
        self[line] = Line(f"{units:.{digits}f} {unit}".strip(), dollars(price, units * CHATS))

    def add_logs(self, line: str, size: float, events: float) -> None:
        """Bytes and events a chat."""
        billed = size + events * EVENT_BYTES
        self[line] = Line(f"{billed:.0f} B", dollars("log_gigabyte", billed * CHATS / 2**30))


class Answers(NamedTuple):
    """How long the model takes: lognormally distributed, as such times are; `sigma` is that of the logarithm."""

    mean: float
    sigma: float

    def at(self, share: float) -> float:
        """The seconds that so large a share of the answers take at most."""
        return math.exp(self._log_mean + self.sigma * NormalDist().inv_cdf(share))

    def slowest_of(self, number: int) -> float:
        """The expected time of the slowest of so many: the integral of the chance that one of them still runs."""
        step, logarithm = self.mean / 1000, NormalDist(self._log_mean, self.sigma)
        over = sum(1 - logarithm.cdf(math.log(step * index)) ** number for index in range(1, 40_000))
        return step * (over + 0.5)

    @property
    def _log_mean(self) -> float:
        return math.log(self.mean) - self.sigma**2 / 2


class Machine(NamedTuple):
    """A Lambda function's memory, and the price of its gigabyte-seconds."""

    megabytes: int
    price: str

    def seconds(self, cpu: float, calls: float) -> float:
        """Billed for so many CPU seconds, of which it gets its share a second, and for the wait for AWS calls."""
        return cpu * MB_OF_A_CPU / self.megabytes + calls * NETWORK_SECONDS

    def gigabyte_seconds(self, seconds: float) -> float:
        return self.megabytes / 1024 * seconds
