"""The limits of owners. This module reads the parameter OwnerLimits, counts requests, and reports the limits to the
client. The response headers follow draft-ietf-httpapi-ratelimit-headers-10."""

import math
import re
import time
from collections.abc import Mapping
from typing import NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from turnqueue.http import Event, claim
from turnqueue.rate_limits import Grant, Rate, RateLimiter
from turnqueue.telemetry import error_name, logger
from turnqueue.usage import UsageStore

DEFAULT_GROUP = "default"
DAY_SECONDS = 86_400

WAITS_OF_A_MESSAGE = 3
"""For each message that the rate allows, an owner may send this number of requests that wait for an answer (long
polls). Three waits of 20 s cover an answer that takes a minute."""

_GROUP = r"([\w-]{1,32}):([1-9]\d{0,5})/([1-9]\d{0,4})(?:/([1-9]\d{0,11}))?"

# Seconds after which a client should try again if reservations take all tokens. Other turns of the owner usually end
# soon, and then free their reserved tokens.
_RESERVED_SECONDS = 30


class Limit(NamedTuple):
    """The limits of an owner. `rate`: the rate of messages. `tokens_per_day`: the tokens of prompts and answers
    together; None for no limit."""

    rate: Rate
    tokens_per_day: int | None


def parse_limits(text: str) -> dict[str, Limit]:
    """Parse the limits of groups, as in "default:20/5/100000,pro:100/20": messages a minute, messages in a burst, and
    tokens a day. An empty text means no limits. Raises a ValueError that names the wrong part. The group "default" is
    required, so that every owner has limits.
    """
    limits: dict[str, Limit] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(_GROUP, part)
        if not match:
            raise ValueError(
                f"OwnerLimits: must be group:messages a minute/messages at once[/tokens a day], not {part}"
            )
        if match[1] in limits:
            raise ValueError(f"OwnerLimits: names the group {match[1]} twice")
        tokens = int(match[4]) if match[4] else None
        limits[match[1]] = Limit(Rate(int(match[2]), int(match[3])), tokens)
    if text and DEFAULT_GROUP not in limits:
        raise ValueError(
            f"OwnerLimits: must have the group {DEFAULT_GROUP}, which has all owners without another group"
        )
    return limits


class Verdict(NamedTuple):
    """The decision of a limiter. `fields`: the response headers. A refused request has `wait`, the seconds to wait, and
    `limit`, the exceeded limit as text for people. `reserved`: the tokens that are now reserved for the request."""

    fields: dict[str, str]
    limit: str = ""
    wait: float = 0
    reserved: int = 0


class Limiter:
    """Applies each group's limits to its owners. The caller's groups are in the token's claim `group_claim`. The first
    group that has limits counts; if no group has limits, "default" counts. Methods raise botocore's ClientError or
    BotoCoreError, unless their docstring says otherwise."""

    def __init__(self, limits: Mapping[str, Limit], group_claim: str, rates: RateLimiter, usage: UsageStore) -> None:
        self._limits = limits
        self._group_claim = group_claim
        self._rates = rates
        self._usage = usage

    @classmethod
    def of(cls, limits: str, group_claim: str, guards: str) -> "Limiter | None":
        """The limiter for the parameter OwnerLimits, with the guards table of that name; None without limits.

        The limiter tries each call to DynamoDB once, for at most a second. If DynamoDB does not answer, a message or an
        upload gets a 503, because a limiter that accepts every request does not stop a flood. Raises the ValueError of
        `parse_limits`.
        """
        if not (parsed := parse_limits(limits)):
            return None
        rates = RateLimiter(guards, attempts=1, read_timeout=1)
        return cls(parsed, group_claim, rates, UsageStore(guards, attempts=1, read_timeout=1))

    def take_message(self, event: Event, caller: str) -> Verdict:
        """Count a message against the owner's rate, if the rate allows it."""
        rate = self._limit(event).rate
        text = f"You may send {rate.per_minute} messages a minute, {rate.burst} of them at once."
        return self._take("messages", caller, rate, text, kind="rate")

    def take_uploads(self, event: Event, caller: str, each_message: int) -> Verdict:
        """Count an upload against the owner's rate of uploads, if the rate allows it. That rate is `each_message` times
        the rate of messages."""
        rate = self._limit(event).rate.times(each_message)
        text = f"You may upload {rate.per_minute} images a minute, {rate.burst} of them at once."
        return self._take("uploads", caller, rate, text, kind="uploads")

    def may_wait(self, event: Event, caller: str) -> bool:
        """Count a wait against the owner's rate, if the rate allows it. Waits are limited, because a waiting request
        keeps a function busy. False if DynamoDB does not answer: the request is then answered without a wait."""
        rate = self._limit(event).rate.times(WAITS_OF_A_MESSAGE)
        try:
            return not self._rates.take(caller, rate, time.time(), kind="waits").wait
        except (BotoCoreError, ClientError) as error:
            logger.warning("no place to wait", extra={"error": error_name(error)})
            return False

    def reserve(self, event: Event, caller: str, tokens: int, now: float) -> Verdict:
        """Reserve tokens of the owner's day, if any are left. `now` gives the day. Does nothing if the owner has no
        limit of tokens."""
        quota = self._limit(event).tokens_per_day
        if quota is None:
            return Verdict({})
        day = self._usage.reserve(caller, tokens, quota, now)
        midnight = DAY_SECONDS - now % DAY_SECONDS
        fields = {
            "RateLimit-Policy": f'"tokens";q={quota};qu="tokens";w={DAY_SECONDS}',
            "RateLimit": _state("tokens", quota - day.charged, midnight),
        }
        if day.taken:
            return Verdict(fields, reserved=tokens)
        if day.used >= quota:
            return Verdict(fields, f"You may use {quota} tokens a day (UTC).", midnight)
        text = f"You may use {quota} tokens a day (UTC), and your unanswered messages may need the rest."
        return Verdict(fields, text, min(_RESERVED_SECONDS, midnight))

    def _take(self, name: str, caller: str, rate: Rate, text: str, *, kind: str) -> Verdict:
        grant = self._rates.take(caller, rate, time.time(), kind=kind)
        return Verdict(_rate_fields(name, rate, grant), text, grant.wait)

    def _limit(self, event: Event) -> Limit:
        """The limits of the caller's group."""
        named = re.findall(r"[\w-]+", claim(event, self._group_claim)) if self._group_claim else []
        return self._limits[next((group for group in named if group in self._limits), DEFAULT_GROUP)]


def joined(*several: Mapping[str, str]) -> dict[str, str]:
    """The response headers of several limits together. If two limits have the same header, their values are joined by
    commas."""
    names = dict.fromkeys(name for fields in several for name in fields)
    return {name: ", ".join(fields[name] for fields in several if name in fields) for name in names}


def whole_seconds(seconds: float) -> int:
    """The seconds, rounded up. Rounding errors of floats do not count: 2.0000001 becomes 2."""
    return math.ceil(round(seconds, 3))


def _rate_fields(name: str, rate: Rate, grant: Grant) -> dict[str, str]:
    window = whole_seconds(rate.burst * rate.interval)
    return {
        "RateLimit-Policy": f'"{name}";q={rate.burst};w={window}',
        "RateLimit": _state(name, grant.left, grant.full_after),
    }


def _state(policy: str, left: int, full_after: float) -> str:
    return f'"{policy}";r={max(left, 0)};t={whole_seconds(full_after)}'
