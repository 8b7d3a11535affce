"""From what a chat uses to dollars for a million chats, by the list prices in prices.toml."""

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import on_lambda

CHATS = 1_000_000

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


class Machine(NamedTuple):
    """A Lambda function's memory, and the price of its gigabyte-seconds."""

    megabytes: int
    price: str

    def seconds(self, cpu: float, calls: float) -> float:
        """Billed for so many CPU seconds, of which it gets its share a second, and for the wait for AWS calls."""
        return on_lambda.seconds(cpu, calls, self.megabytes)

    def gigabyte_seconds(self, seconds: float) -> float:
        return self.megabytes / 1024 * seconds
