"""Rate limits, each for one owner or for all callers. They use GCRA: for each limit, one item of the guards table has
the time at which the next request is due. Each request changes the item by one conditional write, so the limit is exact
under concurrency.

Methods raise botocore's ClientError or BotoCoreError, like those of `TurnStore`.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from turnqueue import aws
from turnqueue.turn import guard_key


class Rate(NamedTuple):
    """A rate: the requests a minute, and the requests that may come at once after a pause."""

    per_minute: float
    burst: int

    @property
    def interval(self) -> float:
        """Seconds from one request to the next, if they come evenly."""
        return 60 / self.per_minute

    def times(self, number: int) -> "Rate":
        """The same rate, multiplied by `factor`."""
        return Rate(self.per_minute * number, self.burst * number)


class Grant(NamedTuple):
    """The result of a request for a place under a rate limit. `wait`: seconds until a place is free, 0 if this request
    got a place. `left`: the number of requests that may follow at once. `full_after`: seconds until the whole burst is
    available again."""

    wait: float
    left: int
    full_after: float


class RateLimiter:
    """The rates of all owners, by GCRA, the generic cell rate algorithm (ATM Forum TM 4.0, 4.4.3). The table stores one
    number per owner: `tat`, the theoretical arrival time, at which the next request at the even rate is due. DynamoDB
    compares and adds in one step, so that concurrent requests get exactly the places that exist. If the response to a
    write is lost, botocore repeats the write, and the request takes two places.
    """

    def __init__(self, table: str, *, attempts: int, read_timeout: float) -> None:
        self._table = table
        self._client = aws.client("dynamodb", attempts=attempts, read_timeout=read_timeout)

    def take(self, owner: str, rate: Rate, now: float, *, kind: str = "rate") -> Grant:
        """Take a place under the owner's rate limit of this kind, if a place is free. This takes one write, or two for
        a request above the even rate but within the burst."""
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
        """Try to move the due time. Returns whether the write's condition held, and the due time after the write."""
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
