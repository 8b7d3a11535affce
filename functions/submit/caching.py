"""Reads a request's Cache-Control (RFC 9111, 5.2.1). The header says how old a cached reply may be, and whether the new
reply may be cached."""

import re
from typing import NamedTuple

from turnqueue.http import Event, header


class Caching(NamedTuple):
    """How a request may use the cache of replies. `keeps`: whether the reply may be cached. `max_age`: the maximum age
    in seconds of a cached reply that the request accepts; 0 for no cached reply."""

    keeps: bool
    max_age: float


def caching(event: Event, seconds: int) -> Caching:
    """The caching that the request allows, in a stack that caches replies for `seconds`. Unknown directives and a
    malformed `max-age` are ignored."""
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
