"""`python -m operations forget` deletes an owner's data.

A worker that runs a deleted turn cannot restore it, because each write of the worker requires that the turn exists.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import batched
from typing import Any

from boto3.dynamodb.conditions import Attr

from operations import CommandFailed
from operations.stack import Reads, Stack
from turnqueue.turn import Key, guard_key, session_key, upload_key

_UPLOADS_AT_ONCE = 1000
"""The maximum number of keys in one DeleteObjects request."""


class NotDeleted(CommandFailed):
    """S3 did not delete some of the uploads."""


@dataclass
class Forgotten:
    """The deleted items, or in a dry run the items that would be deleted: the keys of turns, event rows, guards and
    uploads. `units`: the read units that the search used. Listing the uploads uses none."""

    turns: list[Key] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    guards: list[str] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    units: float = 0.0


def forget(stack: Stack, owner: str, *, dry_run: bool = False) -> Forgotten:
    """Delete the owner's turns, event logs, guards, usage counts and uploads.

    Items that are written during the run can remain, so repeat the run until it finds no items.
    """
    reads = Reads()
    found = Forgotten(turns=_turns(stack, owner, reads))
    found.guards = _guards(stack, owner, {key.task_id for key in found.turns}, reads)
    found.rows = _rows(stack, owner, reads)
    found.uploads = _uploads(stack, owner)
    found.units = reads.units
    if not dry_run:
        # Delete the guards before the turns. `forget` finds some guards only by the owner's turns. So if the command
        # dies between the two steps, the next run still finds these guards.
        with stack.guards.batch_writer() as batch:
            for guard in found.guards:
                batch.delete_item(Key={"guard": guard})
        with stack.turns.batch_writer() as batch:
            for key in found.turns:
                batch.delete_item(Key=key._asdict())
        with stack.events.batch_writer() as batch:
            for row in found.rows:
                batch.delete_item(Key=row)
        for keys in batched(found.uploads, _UPLOADS_AT_ONCE, strict=False):
            _delete(stack, keys)
    return found


def _uploads(stack: Stack, owner: str) -> list[str]:
    """The keys of the owner's uploads."""
    pages = stack.s3.get_paginator("list_objects_v2").paginate(
        Bucket=stack.outputs["MediaBucketName"], Prefix=upload_key(owner, "")
    )
    return [found["Key"] for page in pages for found in page.get("Contents", [])]


def _delete(stack: Stack, keys: Sequence[str]) -> None:
    """Delete up to 1,000 uploads. Raises NotDeleted if S3 could not delete some of them: S3 reports this in a response
    with status 200."""
    answer = stack.s3.delete_objects(
        Bucket=stack.outputs["MediaBucketName"], Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
    )
    if errors := answer.get("Errors"):
        raise NotDeleted(f"S3 did not delete {len(errors)} uploads ({errors[0]['Code']}): run the command again")


def _turns(stack: Stack, owner: str, reads: Reads) -> list[Key]:
    """The keys of the owner's turns. For owner "a", the filter also finds the turns of an owner "a#b". So compare the
    owner of each found turn."""
    items = reads.items(
        stack.turns.scan,
        FilterExpression=Attr("session").begins_with(session_key(owner, "")),
        ProjectionExpression="#session, #turn",
        ExpressionAttributeNames={"#session": "session", "#turn": "turn"},
        ConsistentRead=True,
    )
    keys = [Key(item["session"], item["turn"]) for item in items]
    return [key for key in keys if key.owner == owner]


def _rows(stack: Stack, owner: str, reads: Reads) -> list[dict[str, Any]]:
    """The keys of the rows of the owner's event logs, including those of deleted turns."""
    items = reads.items(
        stack.events.scan,
        FilterExpression=Attr("task").begins_with(session_key(owner, "")),
        ProjectionExpression="#task, n",
        ExpressionAttributeNames={"#task": "task"},
        ConsistentRead=True,
    )
    return [item for item in items if Key(*item["task"].rsplit(".", 1)).owner == owner]


def _is_one_of(value: object, names: set[str]) -> bool:
    """Whether the value is one of these texts. Check the type first: a malformed item can have a list here, and `in`
    fails for a list."""
    return isinstance(value, str) and value in names


def _guards(stack: Stack, owner: str, task_ids: set[str], reads: Reads) -> list[str]:
    """The guards that contain the owner or one of the tasks, and the guards whose keys begin with a hash of the
    owner."""
    items = reads.items(
        stack.guards.scan,
        ProjectionExpression="#guard, #task_id, #owner",
        ExpressionAttributeNames={f"#{name}": name for name in ("guard", "task_id", "owner")},
        ConsistentRead=True,
    )
    own = tuple(guard_key(kind, owner) for kind in ("rate", "uploads", "waits", "usage"))
    return [
        item["guard"]
        for item in items
        if _is_one_of(item.get("task_id"), task_ids) or item.get("owner") == owner or item["guard"].startswith(own)
    ]
