"""Reads and checks items of a turns table, because everybody with write access can have changed them."""

from decimal import Decimal
from typing import Any

from turnqueue.turn import Key

type Item = dict[str, Any]

_LATEST = 10**11
"""The maximum for a time in seconds since the epoch: the year 5138."""


class Malformed(Exception):
    """No function can have written this item. The error's text names the attribute, and never its value."""


def turn_key(item: Item) -> Key:
    """The primary key of a turn. Raises Malformed."""
    session, turn = text(item, "session"), text(item, "turn")
    key = Key(session, turn)
    if not key.owner or Key.of_task(key.owner, key.task_id) != key:
        raise Malformed("session and turn are not the key of a turn")
    return key


def text(item: Item, name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise Malformed(f"{name} is not a string")
    return value


def number(item: Item, name: str) -> Decimal:
    """A time in seconds since the epoch, or another number that is not negative. Raises Malformed."""
    value = item.get(name)
    if not (isinstance(value, Decimal) and 0 <= value < _LATEST):
        raise Malformed(f"{name} is not a time")
    return value


def whole(item: Item, name: str) -> int:
    value = item.get(name)
    if not (isinstance(value, Decimal) and 0 <= value < _LATEST and value == int(value)):
        raise Malformed(f"{name} is not a whole number")
    return int(value)
