"""The usage of each owner on a day (UTC). One item of the guards table has the sums of all attempts.

A limit of tokens must also count queued messages, but nobody knows their tokens yet. So `submit` reserves an estimate.
At the end of the turn, the used tokens replace the estimate. The attribute `charged_tokens` is the sum of the used and
the reserved tokens. One conditional write compares this sum with the limit and adds the estimate.

After a crash or a failed write, the sum is wrong until the end of the day, but by a bounded number of tokens:

- `submit` dies after the reservation, before it records the turn: one estimate stays reserved.
- The turn is final, but its usage is not added: its estimate stays reserved, and the usage of its last attempt is
  missing.
- The worker is killed in an attempt: the next claim adds an estimate for the lost attempt.
- Another function ends the turn (cancelled, overdue): its reservation ends. A worker that still runs adds its usage.

All writes use attempts=1, because a repeated write would add its numbers twice.
"""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple

from turnqueue import aws
from turnqueue.turn import Turn, guard_key

RETENTION_DAYS = 40
"""Days for which the usage of a day is kept. So the whole previous month can be read until the 9th of a month."""

COUNTS = ("answers", "prompt_tokens", "completion_tokens", "cached_tokens", "estimated_tokens")

BYTES_OF_A_TOKEN = 4
"""The bytes of a token in English: OpenAI's help counts 4 characters for a token. Other scripts need more tokens for a
letter, but also more bytes."""

TOKENS_OF_AN_IMAGE = 1000
"""The tokens of an image: about the highest number that an OpenAI model counts."""

TOKENS_OF_AN_ANSWER = 2000
"""Tokens reserved for an answer. Most answers have fewer. An answer with more tokens counts with its real number when
it ends."""

_MOST_TOKENS = 10**9
_MOST_DOLLARS = 10_000.0  # the maximum cost of one attempt; a greater number is a mistake
_COST = "cost_micros"  # millionths of a dollar, because whole numbers add up exactly
_CHARGED = "charged_tokens"


def day_of(now: float) -> str:
    """The day in UTC, YYYY-MM-DD."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def estimated_tokens(request: Mapping[str, Any], history_tokens: int = 0) -> int:
    """The estimated tokens of a turn with this request {message, media?, …}, answer included. `history_tokens`: the
    maximum number of history tokens that the model gets."""
    said = request["message"] + request.get("instructions", "")
    prompt = len(said.encode("utf-8", "surrogatepass")) // BYTES_OF_A_TOKEN + 1
    prompt += TOKENS_OF_AN_IMAGE * len(request.get("media") or ())
    for entry in (*request.get("context", ()), *request.get("tools", ())):
        entry, images = dict(entry), entry.get("media") or ()
        entry.pop("media", None)
        prompt += len(json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogatepass")) // BYTES_OF_A_TOKEN + 1
        prompt += TOKENS_OF_AN_IMAGE * len(images)
    return prompt + TOKENS_OF_AN_ANSWER + history_tokens


def lost_attempt(turn: Turn) -> dict[str, Any]:
    """The estimated usage of an attempt whose worker was killed: {prompt_tokens, completion_tokens, estimated}."""
    whole = turn.reserved_tokens or estimated_tokens(turn.request)
    return {
        "prompt_tokens": max(whole - TOKENS_OF_AN_ANSWER, 0),
        "completion_tokens": min(whole, TOKENS_OF_AN_ANSWER),
        "estimated": True,
    }


class Charged(NamedTuple):
    """The state of a day after a reservation. `taken`: whether the reservation was made. `used`: tokens of ended
    attempts. `charged`: used and reserved tokens together."""

    taken: bool
    used: int
    charged: int


class UsageStore:
    """The usage of all owners, by day. Every method raises botocore's ClientError or BotoCoreError."""

    def __init__(self, table: str, *, attempts: int, read_timeout: float = 3) -> None:
        self._table = table
        self._attempts = attempts
        self._read_timeout = read_timeout

    @cached_property
    def _client(self) -> Any:
        # The client is made at its first use, because the status function seldom changes a usage.
        return aws.client("dynamodb", attempts=self._attempts, read_timeout=self._read_timeout)

    def reserve(self, owner: str, tokens: int, quota: int, now: float) -> Charged:
        """Reserve tokens of the day, unless `quota` tokens are used or reserved already. The last reservation may
        exceed the quota, because otherwise a message that needs more tokens than are left would wait until tomorrow.
        """
        try:
            answer = self._client.update_item(
                TableName=self._table,
                Key=self._key(owner, day_of(now)),
                UpdateExpression=(
                    f"SET expires_at = :expires_at, {_CHARGED} = if_not_exists({_CHARGED}, :zero) + :tokens"
                ),
                ConditionExpression=f"attribute_not_exists({_CHARGED}) OR {_CHARGED} < :quota",
                ExpressionAttributeValues={
                    ":zero": {"N": "0"},
                    ":tokens": {"N": str(tokens)},
                    ":quota": {"N": str(quota)},
                    ":expires_at": {"N": str(_expiry(now))},
                },
                ReturnValues="ALL_NEW",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self._client.exceptions.ConditionalCheckFailedException as error:
            return _charged(False, error.response["Item"])
        day = _charged(True, answer["Attributes"])
        if day.used < quota:
            return day
        # The stored `charged_tokens` was too small (see `_charged`). So take the reservation back.
        self._add(owner, day_of(now), {_CHARGED: -tokens}, now)
        return day._replace(taken=False)

    def settle(
        self, turn: Turn, used: Mapping[str, Any] | None, now: float, *, is_final: bool, answers: int = 0
    ) -> None:
        """Add the usage of an attempt: {prompt_tokens, completion_tokens, cached_tokens, cost_usd, estimated}, each
        optional.

        `is_final`: whether the turn needs no further attempt, so that its reservation ends. Call this method once for
        each attempt, because a second call would add the usage again. A malformed count counts as 0, so that it cannot
        lower the day's usage. This takes one write, or two if the reservation was made on an earlier day.
        """
        reserved = turn.reserved_tokens if is_final else 0
        today, day = day_of(now), day_of(turn.created_at)
        if reserved and day != today:
            self._add(turn.key.owner, day, {_CHARGED: -reserved}, turn.created_at)
            reserved = 0
        counts = _counts(used or {}) | {"answers": answers}
        charge = counts["prompt_tokens"] + counts["completion_tokens"] - reserved
        if charge or any(counts.values()):
            self._add(turn.key.owner, today, counts | {_CHARGED: charge}, now)

    def release(self, turn: Turn) -> None:
        """End the reservation of a turn that had no attempt."""
        if turn.reserved_tokens:
            self._add(turn.key.owner, day_of(turn.created_at), {_CHARGED: -turn.reserved_tokens}, turn.created_at)

    def read(self, owner: str, day: str) -> dict[str, Any]:
        """The usage of a day: the counts in COUNTS, `reserved_tokens`, and `cost_usd` (None if no model had a price).
        The read is eventually consistent."""
        item = self._client.get_item(TableName=self._table, Key=self._key(owner, day)).get("Item", {})
        charged = _charged(True, item)
        return {
            **{name: _number(item, name) for name in COUNTS},
            "reserved_tokens": charged.charged - charged.used,
            "cost_usd": _number(item, _COST) / 1_000_000 if _COST in item else None,
        }

    def _add(self, owner: str, day: str, numbers: Mapping[str, int], at: float) -> None:
        self._client.update_item(
            TableName=self._table,
            Key=self._key(owner, day),
            UpdateExpression="SET expires_at = :expires_at, "
            + ", ".join(f"{name} = if_not_exists({name}, :zero) + :{name}" for name in numbers),
            ExpressionAttributeValues={
                ":zero": {"N": "0"},
                ":expires_at": {"N": str(_expiry(at))},
                **{f":{name}": {"N": str(number)} for name, number in numbers.items()},
            },
        )

    @staticmethod
    def _key(owner: str, day: str) -> dict[str, Any]:
        return {"guard": {"S": f"{guard_key('usage', owner)}#{day}"}}


def _expiry(at: float) -> int:
    return int(at) + RETENTION_DAYS * 86_400


def _number(item: Mapping[str, Any], name: str) -> int:
    return max(int(item[name]["N"]), 0) if name in item else 0


def _charged(taken: bool, item: Mapping[str, Any]) -> Charged:
    used = _number(item, "prompt_tokens") + _number(item, "completion_tokens")
    # `charged_tokens` is too small if an earlier version wrote the item, or if one reservation was ended twice.
    return Charged(taken, used, max(_number(item, _CHARGED), used))


def _counts(used: Mapping[str, Any]) -> dict[str, int]:
    """The counts of an attempt as valid numbers, even if the server reported malformed counts."""
    prompt, completion = _tokens(used.get("prompt_tokens")), _tokens(used.get("completion_tokens"))
    counts = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "cached_tokens": min(_tokens(used.get("cached_tokens")), prompt),
        "estimated_tokens": prompt + completion if used.get("estimated") is True else 0,
    }
    cost: Any = used.get("cost_usd")
    if type(cost) in (int, float) and math.isfinite(cost) and 0 <= cost <= _MOST_DOLLARS:
        counts[_COST] = round(cost * 1_000_000)
    return counts


def _tokens(value: Any) -> int:
    return value if type(value) is int and 0 <= value < _MOST_TOKENS else 0
