"""Small guards in DynamoDB, each an item with a time to live under one key. Now: idempotency keys."""

import hashlib
from typing import NamedTuple

from turnqueue import aws

IDEMPOTENCY_SECONDS = 24 * 3600
"""How long an Idempotency-Key is remembered."""


class Reservation(NamedTuple):
    """What an Idempotency-Key stands for: the task it made, and the fingerprint of the request that made it."""

    task_id: str
    fingerprint: str


class IdempotencyKeys:
    """The Idempotency-Keys of all owners. Raises botocore's ClientError or BotoCoreError as `TurnStore` does."""

    def __init__(self, table: str, *, attempts: int) -> None:
        self._table = table
        self._client = aws.client("dynamodb", attempts=attempts)

    def reserve(self, owner: str, key: str, wanted: Reservation, now: float) -> Reservation:
        """Bind the key to `wanted`, unless it is bound. Returns what it is bound to then."""
        try:
            self._client.put_item(
                TableName=self._table,
                Item={
                    # A hash: keys are the client's, of any length up to 255, and an owner must not reach another's.
                    "guard": {"S": "idempotency#" + hashlib.sha256(f"{owner}\n{key}".encode()).hexdigest()},
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
