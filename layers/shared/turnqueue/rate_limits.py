"""Rate limits, for one owner or for all. They use GCRA: one item of the guards table has the time at which the next
request is due. One conditional write per request is exact under concurrency.

Methods raise botocore's ClientError or BotoCoreError, like those of `TurnStore`.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from turnqueue import aws
from turnqueue.turn import guard_key


class Rate(NamedTuple):
    """A rate: requests a minute, and how many of them at once after a pause."""

    per_minute: float
    burst: int

    @property
    def interval(self) -> float:
        """Seconds from one request to the next, at an even rate."""
        return 60 / self.per_minute

    def times(self, number: int) -> "Rate":
        """This rate, `factor` times as high."""
        return Rate(self.per_minute * number, self.burst * number)


class Grant(NamedTuple):
    """The result of a request for a place in a rate. `wait`: seconds until a place is free, 0 if this request got one.
    `left`: how many more requests may follow at once. `full_after`: seconds until the whole burst is available
    again."""

    wait: float
    left: int
    full_after: float


class RateLimiter:
    """The rates of all owners, by GCRA, the generic cell rate algorithm (ATM Forum TM 4.0, 4.4.3). One number per owner
    is stored: `tat`, the theoretical arrival time, at which the next request at the even rate is due.

    DynamoDB compares and adds in one step, so that concurrent requests get exactly the places that exist. A request
    whose response was lost may take two places.
    """

    def __init__(self, table: str, *, attempts: int, read_timeout: float) -> None:
        self._table = table
        self._client = aws.client("dynamodb", attempts=attempts, read_timeout=read_timeout)

    def take(self, owner: str, rate: Rate, now: float, *, kind: str = "rate") -> Grant:
        """Take a place in the owner's rate of this kind, if one is free. One write, or two for a request above the even
        rate but within the burst."""
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
        left = math.floor((latest - due) / rate.interval + 1 + 1e-6)  # 1e-6 for rounding errors of floats
        return Grant(0, max(left, 0), due - now)

    def _move(self, key: str, update: str, condition: str, values: Mapping[str, float]) -> tuple[bool, float]:
        """Whether the condition held, and the due time after the write."""
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
