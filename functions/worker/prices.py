"""What an answer costs, by a table of prices: "gpt-4.1-mini:0.4/1.6,other:2/8/0.5".

Of a model, by the name it is asked for: dollars a million prompt tokens, completion tokens and, where they cost less
than the others, prompt tokens that the provider had cached.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Price(NamedTuple):
    """Dollars a million tokens, which are micro-dollars a token."""

    prompt: float
    completion: float
    cached: float

    def dollars(self, usage: Mapping[str, Any]) -> float | None:
        """The price of an answer, to the micro-dollar; None if its tokens were not counted."""
        prompt, completion, cached = (usage.get(f"{name}_tokens") for name in ("prompt", "completion", "cached"))
        if not isinstance(prompt, int) or not isinstance(completion, int):  # a sloppy server's
            return None
        cached = min(cached, prompt) if isinstance(cached, int) else 0
        micros = (prompt - cached) * self.prompt + cached * self.cached + completion * self.completion
        return round(micros) / 1_000_000


def parse_prices(table: str) -> dict[str, Price]:
    """The price of each model in the table. Raises ValueError for a table that is none (the template's pattern keeps
    such a one out)."""
    prices = {}
    for entry in filter(None, table.split(",")):
        name, _, numbers = entry.rpartition(":")  # a model's name may have colons
        prompt, completion, *cached = map(float, numbers.split("/"))
        prices[name] = Price(prompt, completion, cached[0] if cached else prompt)
    return prices
