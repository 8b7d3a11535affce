"""Rate limits, each for one owner or for all callers.

They use GCRA, the generic cell rate algorithm (ATM Forum TM 4.0, 4.4.3). For each limit, one item of the guards table
has `tat`, the theoretical arrival time: the time at which the next request is due if requests come evenly. Each request
moves `tat` by one conditional write. DynamoDB compares and adds in one step, so the limit is exact for concurrent
requests too.

Methods raise botocore's ClientError or BotoCoreError, like those of `TurnStore`.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from turnqueue import aws
from turnqueue.turn import guard_key


class Rate(NamedTuple):
    """A rate: the number of requests a minute, and the number of requests that may come together after a pause."""

    per_minute: float
    burst: int

    @property
    def interval(self) -> float:
        """Seconds from one request to the next, if they come evenly."""
        return 60 / self.per_minute

    def times(self, number: int) -> "Rate":
        """This rate, multiplied by `number`."""
        return Rate(self.per_minute * number, self.burst * number)


class Grant(NamedTuple):
    """The decision about a request. `wait`: 0 if the request is allowed, otherwise the seconds until a request would be
    allowed. `left`: the number of requests that may follow without a wait. `full_after`: seconds until the whole burst
    is allowed again."""

    wait: float
    left: int
    full_after: float


class RateLimiter:
    """Counts requests against their rate limits. `attempts` should be 1: if botocore repeats a write whose response was
    lost, the request counts twice."""

    def __init__(self, table: str, *, attempts: int, read_timeout: float) -> None:
        self._table = table
        self._client = aws.client("dynamodb", attempts=attempts, read_timeout=read_timeout)

    def take(self, owner: str, rate: Rate, now: float, *, kind: str = "rate") -> Grant:
        """Count a request of the owner against the limit of this kind, if `rate` allows the request. This takes one
        write, or two if the request comes sooner than the even rate allows, but within the burst."""
        latest = now + (rate.burst - 1) * rate.interval
        steps = {":interval": rate.interval, ":expires_at": int(latest + rate.interval) + 60}
        key = guard_key(kind, owner)
        taken, due = self._move(
            key, "tat = :now + :interval", "attribute_not_exists(guard) OR tat <= :now", steps | {":now": now}
        )
        if not taken and due <= latest:
            taken, due = self._move(key, "tat = tat + :interval", "tat <= :latest", steps | {":latest": latest})
        if not taken:
            return Grant(due - latest, 0, due - now)
        left = math.floor((latest - due) / rate.interval + 1 + 1e-6)  # 1e-6 covers rounding errors of floats
        return Grant(0, max(left, 0), due - now)

    def _move(self, key: str, update: str, condition: str, values: Mapping[str, float]) -> tuple[bool, float]:
        """Try to move `tat`. Returns whether the write's condition held, and the stored `tat` after the try."""
        try:
            answer = self._client.update_item(
                TableName=self._table,
                Key={"guard": {"S": key}},
                UpdateExpression=f"SET {update}, expires_at = :expires_at",
                ConditionExpression=condition,
                ExpressionAttributeValues={name: {"N": repr(round(value, 6))} for name, value in values.items()},
                ReturnValues="ALL_NEW",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self._client.exceptions.ConditionalCheckFailedException as error:
            return False, float(error.response["Item"]["tat"]["N"])
        return True, float(answer["Attributes"]["tat"]["N"])
