"""`python -m operations restore` puts missing turns back from a restored table."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from boto3.dynamodb.conditions import Attr
from botocore.exceptions import ClientError

from operations.items import Item, Malformed, number, text, turn_key
from operations.output import say as print_line
from operations.stack import Reads, Stack


@dataclass
class Restored:
    """The number of turns for each outcome: put back (in a dry run: would be put back), already in the stack's table,
    expired, and malformed."""

    turns: int = 0
    present: int = 0
    expired: int = 0
    malformed: int = 0
    units: float = 0.0  # the read units of the Scan


def restore(
    stack: Stack,
    source: str,
    say: Callable[[str], object] = print_line,
    *,
    owner: str | None = None,
    dry_run: bool = False,
) -> Restored:
    """Put each turn of the table `source` into the stack's table, unless its key exists there. Safe to run again. Does
    not copy malformed items, but calls `say` with a line for each of them.
    """
    done, reads, now = Restored(), Reads(), time.time()
    for item in reads.items(stack.table(source).scan):
        try:
            if owner not in (None, text(item, "session").rpartition("#")[0]):
                continue
            key = turn_key(item)
            if number(item, "expires_at") <= now:
                done.expired += 1
            elif dry_run and "Item" in stack.turns.get_item(Key=key._asdict(), ProjectionExpression="turn"):
                done.present += 1
            elif dry_run or _put(stack, item):
                done.turns += 1
            else:
                done.present += 1
        except Malformed as malformed:
            done.malformed += 1
            say(f"{item.get('session')} {item.get('turn')}  malformed: {malformed}; not restored")
    done.units = reads.units
    return done


def _put(stack: Stack, item: Item) -> bool:
    """Put the item if it is missing. Returns whether it was missing. Raises Malformed if DynamoDB refuses the item."""
    try:
        stack.turns.put_item(Item=item, ConditionExpression=Attr("session").not_exists())
    except ClientError as error:
        match error.response["Error"]["Code"]:
            case "ConditionalCheckFailedException":
                return False
            case "ValidationException":
                raise Malformed("DynamoDB refuses the item") from error
        raise
    return True
