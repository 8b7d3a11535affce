"""How much an owner may use: as the deployer has set it, counted, and told to the client.

The response fields are those of draft-ietf-httpapi-ratelimit-headers-10.
"""

import math
import re
import time
from collections.abc import Mapping
from typing import NamedTuple

from request import MAX_MEDIA
from turnqueue.guards import Grant, Rate, RateLimiter
from turnqueue.http import Event, claim
from turnqueue.usage import UsageStore, day_of

DEFAULT_GROUP = "default"
DAY_SECONDS = 86_400

_GROUP = r"([\w-]{1,32}):([1-9]\d{0,5})/([1-9]\d{0,4})(?:/([1-9]\d{0,11}))?"


class Limit(NamedTuple):
    """`rate` of messages; `tokens_per_day` of prompts and answers, None for any number."""

    rate: Rate
    tokens_per_day: int | None


def parse_limits(text: str) -> dict[str, Limit]:
    """The limits of groups of owners in "default:20/5/100000,pro:100/20": messages a minute, how many of them at once,
    and tokens a day. An empty text has no limits.

    Raises ValueError, which names the part that is wrong. There must be a group "default": an owner whose token names
    no group that has limits belongs to it, and must not be without any.
    """
    limits: dict[str, Limit] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(_GROUP, part)
        if not match:
            raise ValueError(f"not a limit (group:messages a minute/at once[/tokens a day]): {part}")
        if match[1] in limits:
            raise ValueError(f"a group has limits twice: {match[1]}")
        tokens = int(match[4]) if match[4] else None
        limits[match[1]] = Limit(Rate(int(match[2]), int(match[3])), tokens)
    if text and DEFAULT_GROUP not in limits:
        raise ValueError(f"no limits for the group {DEFAULT_GROUP}, of which everybody is who has no other")
    return limits


class Verdict(NamedTuple):
    """What a limiter says of a message: the `fields` for the response, and of one too many the `limit` that it breaks,
    for people, and the seconds to `wait`."""

    fields: dict[str, str]
    limit: str = ""
    wait: float = 0


class Limiter:
    """Holds owners to the limits of their groups. The group of an owner is the first with limits that the token's claim
    `group_claim` names, else "default"."""

    def __init__(self, limits: Mapping[str, Limit], group_claim: str, rates: RateLimiter, usage: UsageStore) -> None:
        self._limits = limits
        self._group_claim = group_claim
        self._rates = rates
        self._usage = usage

    def check(self, event: Event, caller: str) -> Verdict:
        """Count a message of the caller, unless it is one too many."""
        limit = self._limit(event)
        now = time.time()
        fields: list[tuple[str, str]] = []
        if quota := limit.tokens_per_day:
            used = self._usage.read(caller, day_of(now))
            # What the turns under way will take is not known, and so is not counted.
            left = quota - used["prompt_tokens"] - used["completion_tokens"]
            midnight = DAY_SECONDS - now % DAY_SECONDS
            fields.append((f'"tokens";q={quota};qu="tokens";w={DAY_SECONDS}', _state("tokens", left, midnight)))
            if left <= 0:
                return Verdict(_joined(fields), f"You may use {quota} tokens a day (UTC).", midnight)
        rate = limit.rate
        grant = self._rates.take(caller, rate, now)
        fields.append(_field("messages", rate, grant))
        text = f"You may send {rate.per_minute} messages a minute, {rate.burst} of them at once."
        return Verdict(_joined(fields), text, grant.wait)

    def check_upload(self, event: Event, caller: str) -> Verdict:
        """Count an upload of the caller, unless it is one too many: as many are allowed as go with the messages."""
        limit = self._limit(event)
        rate = Rate(limit.rate.per_minute * MAX_MEDIA, limit.rate.burst * MAX_MEDIA)
        grant = self._rates.take(caller, rate, time.time(), kind="uploads")
        text = f"You may upload {rate.per_minute} images a minute, {rate.burst} of them at once."
        return Verdict(_joined([_field("uploads", rate, grant)]), text, grant.wait)

    def _limit(self, event: Event) -> Limit:
        """That of the caller's group."""
        named = re.findall(r"[\w-]+", claim(event, self._group_claim)) if self._group_claim else []
        return self._limits[next((group for group in named if group in self._limits), DEFAULT_GROUP)]


def _field(name: str, rate: Rate, grant: Grant) -> tuple[str, str]:
    """A policy, and how it stands."""
    window = whole_seconds(rate.burst * rate.interval)
    return f'"{name}";q={rate.burst};w={window}', _state(name, grant.left, grant.full_after)


def _state(policy: str, left: int, full_after: float) -> str:
    return f'"{policy}";r={max(left, 0)};t={whole_seconds(full_after)}'


def whole_seconds(seconds: float) -> int:
    """Rounded up, but for what a sum of floats may have added."""
    return math.ceil(round(seconds, 3))


def _joined(fields: list[tuple[str, str]]) -> dict[str, str]:
    policies, states = zip(*fields, strict=True)
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}
