"""An owner's data, deleted: `python -m operations forget`.

A worker that is on one of the turns at that moment cannot bring it back: each of its writes is conditional on the turn.
"""

from dataclasses import dataclass, field

from boto3.dynamodb.conditions import Attr

from operations.stack import Reads, Stack
from turnqueue.turn import Key, guard_key, session_key


@dataclass
class Forgotten:
    """What was deleted, or would be: the keys of the turns, those of the guards, and the read units to find them."""

    turns: list[Key] = field(default_factory=list)
    guards: list[str] = field(default_factory=list)
    units: float = 0.0


def forget(stack: Stack, owner: str, *, dry_run: bool = False) -> Forgotten:
    """Delete the turns of `owner`, the guards that lead to one of them, and the counts of usage.

    What comes in meanwhile may remain: repeat it until nothing is found.
    """
    reads = Reads()
    found = Forgotten(turns=_turns(stack, owner, reads))
    found.guards = _guards(stack, owner, {key.task_id for key in found.turns}, reads)
    found.units = reads.units
    if not dry_run:
        # The guards first: they are found by their turns, so that a run that was interrupted can be repeated.
        with stack.guards.batch_writer() as batch:  # 25 at a time, and again what was not processed
            for guard in found.guards:
                batch.delete_item(Key={"guard": guard})
        with stack.turns.batch_writer() as batch:
            for key in found.turns:
                batch.delete_item(Key=key._asdict())
    return found


def _turns(stack: Stack, owner: str, reads: Reads) -> list[Key]:
    """The keys of the owner's turns. "a#" begins the keys of owner "a#b" too: the last "#" divides."""
    items = reads.items(
        stack.turns.scan,
        FilterExpression=Attr("session").begins_with(session_key(owner, "")),
        ProjectionExpression="#session, #turn",
        ExpressionAttributeNames={"#session": "session", "#turn": "turn"},
        ConsistentRead=True,
    )
    keys = [Key(item["session"], item["turn"]) for item in items]
    return [key for key in keys if key.owner == owner]


def _guards(stack: Stack, owner: str, task_ids: set[str], reads: Reads) -> list[str]:
    """The guards that name the owner or one of the tasks, and those whose keys begin with a hash of the owner."""
    items = reads.items(
        stack.guards.scan,
        ProjectionExpression="#guard, #task_id, #owner",
        ExpressionAttributeNames={f"#{name}": name for name in ("guard", "task_id", "owner")},
        ConsistentRead=True,
    )
    own = (guard_key("rate", owner), guard_key("usage", owner))
    return [
        item["guard"]
        for item in items
        if item.get("task_id") in task_ids or item.get("owner") == owner or item["guard"].startswith(own)
    ]
