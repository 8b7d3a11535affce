"""Which kept replies a client takes, and whether its own may be kept: Cache-Control of a request (RFC 9111, 5.2.1)."""

import re
from typing import NamedTuple

from turnqueue.http import Event, header


class Caching(NamedTuple):
    """`keeps`: the reply may be kept; `max_age`: the seconds that a kept one may be old, 0 to take none."""

    keeps: bool
    max_age: float


def caching(event: Event, seconds: int) -> Caching:
    """What the request allows, where replies are kept for so many seconds. Directives that we do not know, and a
    `max-age` that is no number, are ignored."""
    max_age = seconds
    for item in (header(event, "cache-control") or "").lower().split(","):
        name, _, value = (part.strip() for part in item.partition("="))
        if name == "no-store":
            return Caching(False, 0)
        if name == "no-cache":
            max_age = 0
        elif name == "max-age" and re.fullmatch(r'"?[0-9]{1,9}"?', value):
            max_age = min(max_age, int(value.strip('"')))
    return Caching(seconds > 0, max_age)
