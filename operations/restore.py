"""Turns that are missing, put back from a restored table: `python -m operations restore`."""

import time
from dataclasses import dataclass

from boto3.dynamodb.conditions import Attr
from botocore.exceptions import ClientError

from operations.stack import Reads, Stack
from turnqueue.turn import Key


@dataclass
class Restored:
    """How many turns were put back, or would be; were there; and were not wanted, for they have expired."""

    turns: int = 0
    present: int = 0
    expired: int = 0
    units: float = 0.0


def restore(stack: Stack, source: str, *, owner: str | None = None, dry_run: bool = False) -> Restored:
    """Put each turn of the table `source` into the stack's, unless there is one with its key. It may be repeated."""
    done, reads, now = Restored(), Reads(), time.time()
    for item in reads.items(stack.table(source).scan):
        key = Key(item["session"], item["turn"])
        if owner not in (None, key.owner):
            continue
        if item["expires_at"] <= now:
            done.expired += 1
        elif dry_run and "Item" in stack.turns.get_item(Key=key._asdict(), ProjectionExpression="turn"):
            done.present += 1
        elif dry_run or _put(stack, item):
            done.turns += 1
        else:
            done.present += 1
    done.units = reads.units
    return done


def _put(stack: Stack, item: dict[str, object]) -> bool:
    try:
        stack.turns.put_item(Item=item, ConditionExpression=Attr("session").not_exists())
    except ClientError as error:
        if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
            raise
        return False
    return True
