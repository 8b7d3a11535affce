"""How much an owner may use: as the deployer has set it, counted, and told to the client.

The response fields are those of draft-ietf-httpapi-ratelimit-headers-10.
"""

import math
import re
import time
from collections.abc import Mapping
from typing import NamedTuple

from turnqueue.guards import Rate, RateLimiter
from turnqueue.http import Event, Problem, claim
from turnqueue.usage import UsageStore, day_of

DEFAULT_GROUP = "default"
DAY_SECONDS = 86_400

_GROUP = re.compile(r"([\w-]{1,32}):([1-9]\d{0,5})/([1-9]\d{0,4})(?:/([1-9]\d{0,11}))?")


class Limit(NamedTuple):
    """`rate` of messages; `tokens_per_day` of prompts and answers, None for any number."""

    rate: Rate
    tokens_per_day: int | None


def parse_limits(text: str) -> dict[str, Limit]:
    """The limits of groups of owners in "default:20/5/100000,pro:100/20": messages a minute, how many of them at once,
    and tokens a day. Raises ValueError, naming the part that is none."""
    limits: dict[str, Limit] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _GROUP.fullmatch(part)
        if not match:
            raise ValueError(f"not a limit (group:messages a minute/at once[/tokens a day]): {part}")
        tokens = int(match[4]) if match[4] else None
        limits[match[1]] = Limit(Rate(int(match[2]), int(match[3])), tokens)
    return limits


class Limiter:
    """Holds owners to the limits of their groups. The group of an owner is the first that the token's claim
    `group_claim` names, else "default"; without a limit for it there is none."""

    def __init__(self, limits: Mapping[str, Limit], group_claim: str, rates: RateLimiter, usage: UsageStore) -> None:
        self._limits = limits
        self._group_claim = group_claim
        self._rates = rates
        self._usage = usage

    def admit(self, event: Event, caller: str) -> dict[str, str]:
        """Count a message of the caller. Returns the fields for the response. Raises a 429 Problem if it is one too
        many."""
        named = re.findall(r"[\w-]+", claim(event, self._group_claim)) if self._group_claim else []
        limit = self._limits.get(next((group for group in named if group in self._limits), DEFAULT_GROUP))
        if limit is None:
            return {}
        now = time.time()
        policies, states = [], []
        if limit.tokens_per_day:
            policy, state = self._tokens(caller, limit.tokens_per_day, now)
            policies.append(policy)
            states.append(state)
        rate = limit.rate
        grant = self._rates.take(caller, rate, now)
        policies.append(f'"messages";q={rate.burst};w={math.ceil(rate.burst * rate.interval)}')
        states.append(f'"messages";r={grant.left};t={math.ceil(grant.full_after)}')
        fields = _fields(policies, states)
        if grant.wait:
            raise _too_many(
                f"You may send {rate.per_minute} messages a minute, {rate.burst} of them at once.", grant.wait, fields
            )
        return fields

    def _tokens(self, caller: str, quota: int, now: float) -> tuple[str, str]:
        """The policy and its state. What the turns under way will take is not known yet, and so is not counted."""
        used = self._usage.read(caller, day_of(now))
        left = quota - used["prompt_tokens"] - used["completion_tokens"]
        until_midnight = DAY_SECONDS - now % DAY_SECONDS
        policy = f'"tokens";q={quota};qu="tokens";w={DAY_SECONDS}'
        state = f'"tokens";r={max(left, 0)};t={math.ceil(until_midnight)}'
        if left <= 0:
            raise _too_many(f"You may use {quota} tokens a day (UTC).", until_midnight, _fields([policy], [state]))
        return policy, state


def _fields(policies: list[str], states: list[str]) -> dict[str, str]:
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}


def _too_many(limit: str, wait: float, fields: Mapping[str, str]) -> Problem:
    seconds = max(1, math.ceil(wait))
    return Problem(
        429,
        "rate_limited",
        f"{limit} Please try again in {seconds} s.",
        headers={**fields, "Retry-After": str(seconds)},
        retryable=True,
    )
