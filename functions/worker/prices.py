"""Computes the cost of an answer from a table of prices such as "gpt-4.1-mini:0.4/1.6,other:2/8/0.5".

Each entry has the name of a model and its prices in dollars per million tokens: of the prompt, of the completion and,
if it is cheaper, of the cached part of the prompt.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Price(NamedTuple):
    """Dollars per million tokens. The same numbers are micro-dollars per token."""

    prompt: float
    completion: float
    cached: float

    def dollars(self, usage: Mapping[str, Any]) -> float | None:
        """The cost of an answer in dollars, rounded to the micro-dollar. None if `usage` has no valid counts."""
        prompt, completion, cached = (usage.get(f"{name}_tokens") for name in ("prompt", "completion", "cached"))
        if not isinstance(prompt, int) or not isinstance(completion, int):
            return None
        cached = min(cached, prompt) if isinstance(cached, int) else 0
        micros = (prompt - cached) * self.prompt + cached * self.cached + completion * self.completion
        return round(micros) / 1_000_000


def parse_prices(table: str) -> dict[str, Price]:
    """The price of each model in the table. Raises ValueError for a malformed table (the template's pattern refuses
    one)."""
    prices = {}
    for entry in filter(None, table.split(",")):
        name, _, numbers = entry.rpartition(":")  # split at the last colon, because the name of a model can have colons
        prompt, completion, *cached = map(float, numbers.split("/"))
        prices[name] = Price(prompt, completion, cached[0] if cached else prompt)
    return prices
