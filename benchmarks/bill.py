"""Computes the dollars for a million chats from a chat's usage, by the list prices in prices.toml."""

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import on_lambda

CHATS = 1_000_000

EVENT_BYTES = 26
"""The bytes that CloudWatch adds to each log event, by its quotas of PutLogEvents."""

PRICES: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_name("prices.toml").read_text())


def dollars(price: str, units: float) -> float:
    """The dollars for `units`."""
    return float(PRICES[price]["usd"]) * units / float(PRICES[price]["per"])


class Line(NamedTuple):
    """A line of the bill: the units of a chat, as text, and the dollars for a million chats."""

    units: str
    usd: float


class Bill(dict[str, Line]):
    """The lines of the bill for a million chats in a month, by name."""

    @property
    def total(self) -> float:
        return sum(line.usd for line in self.values())

    def add(self, line: str, price: str, units: float, unit: str = "", digits: int = 1) -> None:
        """The line for `units` of the priced resource in each chat."""
        self[line] = Line(f"{units:.{digits}f} {unit}".strip(), dollars(price, units * CHATS))

    def add_logs(self, line: str, size: float, events: float) -> None:
        """The line for the log bytes and log events of each chat."""
        billed = size + events * EVENT_BYTES
        self[line] = Line(f"{billed:.0f} B", dollars("log_gigabyte", billed * CHATS / 2**30))


class Machine(NamedTuple):
    """A Lambda function's memory, and the price of its gigabyte-seconds."""

    megabytes: int
    price: str

    def seconds(self, cpu: float, calls: float) -> float:
        """The billed time of a function with this CPU time and these waits for AWS calls."""
        return on_lambda.seconds(cpu, calls, self.megabytes)

    def gigabyte_seconds(self, seconds: float) -> float:
        return self.megabytes / 1024 * seconds
