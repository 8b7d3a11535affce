"""Computes the units that DynamoDB bills for an access, by the rules in its developer guide (read and write capacity;
item sizes). The emulator's figures ignore the size of the items that it reads."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

type Item = Mapping[str, Mapping[str, Any]]
"""An item in the form of the API: {"name": {"S": "text"}}."""


def write_units(*items: Item) -> int:
    """The write units of a write. If the write changes an item, pass the item before and after the write, because the
    larger size counts."""
    return max(1, *(math.ceil(size(item) / 1024) for item in items))


def read_units(items: Iterable[Item], *, consistent: bool) -> float:
    """Read units of a GetItem, or of a Query that has read these items."""
    blocks = max(1, math.ceil(sum(map(size, items)) / 4096))
    return blocks if consistent else blocks / 2


def size(item: Item) -> int:
    """The size of an item in bytes: names and text in UTF-8, and for a number half its digits and one byte."""
    return sum(len(name) + _value_size(*next(iter(value.items()))) for name, value in item.items())


def _value_size(kind: str, value: Any) -> int:
    if kind not in ("S", "N", "BOOL"):
        raise ValueError(f"nothing here writes a value of the kind {kind}")
    return len(value.encode()) if kind == "S" else math.ceil(len(value) / 2) + 1 if kind == "N" else 1
