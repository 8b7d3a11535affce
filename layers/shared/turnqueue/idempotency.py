"""Idempotency keys. Each is an item of the guards table, which stores the task of the first request with the key.

Methods raise botocore's ClientError or BotoCoreError, like those of `TurnStore`.
"""

from typing import NamedTuple

from turnqueue import aws
from turnqueue.turn import guard_key

IDEMPOTENCY_SECONDS = 24 * 3600
"""Seconds for which an Idempotency-Key is kept."""


class Reservation(NamedTuple):
    """The task that a request with an Idempotency-Key made, and the fingerprint of this request."""

    task_id: str
    fingerprint: str


class IdempotencyKeys:
    """The Idempotency-Keys of all owners."""

    def __init__(self, table: str, *, attempts: int) -> None:
        self._table = table
        self._client = aws.client("dynamodb", attempts=attempts)

    def reserve(self, owner: str, key: str, wanted: Reservation, now: float) -> Reservation:
        """Bind the key to `wanted`, unless it is already bound. Returns the binding."""
        try:
            self._client.put_item(
                TableName=self._table,
                Item={
                    # One hash of owner and key, so that no owner can use another owner's key.
                    "guard": {"S": guard_key("idempotency", f"{owner}\n{key}")},
                    "task_id": {"S": wanted.task_id},
                    "fingerprint": {"S": wanted.fingerprint},
                    "expires_at": {"N": str(int(now) + IDEMPOTENCY_SECONDS)},
                },
                ConditionExpression="attribute_not_exists(guard) OR expires_at <= :now",
                ExpressionAttributeValues={":now": {"N": repr(now)}},
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self._client.exceptions.ConditionalCheckFailedException as error:
            bound = error.response["Item"]
            return Reservation(bound["task_id"]["S"], bound["fingerprint"]["S"])
        return wanted
