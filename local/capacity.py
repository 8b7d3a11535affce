"""What DynamoDB bills for an access, by the rules of its developer guide (read and write capacity; item sizes): the
emulator's own figures do not heed the size of what is read."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

type Item = Mapping[str, Mapping[str, Any]]
"""An item as the API has it: {"name": {"S": "text"}}."""


def write_units(*items: Item) -> int:
    """Of a write; of one that replaces an item, or changes it, give it as it was and as it is: the larger counts."""
    return max(1, *(math.ceil(size(item) / 1024) for item in items))


def read_units(items: Iterable[Item], *, consistent: bool) -> float:
    """Of a GetItem, or of a Query that has read these."""
    blocks = max(1, math.ceil(sum(map(size, items)) / 4096))
    return blocks if consistent else blocks / 2


def size(item: Item) -> int:
    """In bytes: names, text in UTF-8, a number as half its digits and a byte."""
    return sum(len(name) + _value_size(*next(iter(value.items()))) for name, value in item.items())


def _value_size(kind: str, value: Any) -> int:
    if kind not in ("S", "N", "BOOL"):
        raise ValueError(f"nothing here writes a value of the kind {kind}")
    return len(value.encode()) if kind == "S" else math.ceil(len(value) / 2) + 1 if kind == "N" else 1
