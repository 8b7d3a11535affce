"""Failed tasks, queued once more: `python -m operations replay`.

The dead letters themselves are no use for it: the deadletter function has closed their turns and dropped them, and the
claim refuses a turn that is final. So it begins with the turn: one conditional write makes it PENDING again, with a new
deadline and a new budget of attempts, and then its message is sent. Between the two the command may die. The turn is
PENDING then and untouched since its replay; the next run sends the message of every such turn again, which is harmless
if it was sent before. If nobody runs it again, the turn becomes FAILURE(deadline_exceeded) like any other.

`attempt` is not set back: it is the fencing token, and a worker that was thought lost may still hold attempt 1.
"""

import functools
import operator
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from boto3.dynamodb.conditions import Attr, ConditionBase
from boto3.dynamodb.conditions import Key as KeyCondition
from botocore.exceptions import ClientError

from operations.stack import Reads, Stack
from turnqueue.queue import encode
from turnqueue.turn import (
    DEADLINE_SECONDS,
    FAILURES,
    FINAL,
    MAX_ATTEMPTS,
    RETENTION_SECONDS,
    Key,
    Status,
    session_key,
)

CODES = tuple(code for code, failure in FAILURES.items() if failure.retryable)
"""Those of which a repetition may come out better."""

# No prompt and no answer leaves the table: not one of them is read.
_ATTRIBUTES = (
    "session",
    "turn",
    "status",
    "attempt",
    "last_attempt",
    "lease_until",
    "deadline_at",
    "expires_at",
    "finished_at",
    "replayed_at",
    "error_code",
)
_REMOVED = (
    "error",
    "error_code",
    "finished_at",
    "started_at",
    "lease_until",
    "cancel_requested",
    "progress",
    "partial",
    "result",
    "usage",
)

type Item = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """Which tasks to replay: failed with one of `codes`, at `since` (seconds since the epoch) or later; only those of
    `owner`, of `session_id`, and of `task_ids`, where these are given. At most `limit`."""

    codes: Collection[str] = ("worker_lost",)
    since: float = 0.0
    owner: str | None = None
    session_id: str | None = None
    task_ids: Collection[str] = ()
    limit: int | None = None


@dataclass
class Replayed:
    """What came of it; `task_ids` are those that were queued, or would be."""

    task_ids: list[str] = field(default_factory=list)
    changed: int = 0  # by somebody else, between our look and our write
    units: float = 0.0  # read units


def replay(stack: Stack, wanted: Wanted, say: Any = print, *, dry_run: bool = False) -> Replayed:
    """Replay what is wanted, each told by `say`. The turns of a session go in their order."""
    done, reads = Replayed(), Reads()
    for item in _candidates(stack, wanted, reads):
        done.units = reads.units
        if wanted.limit is not None and len(done.task_ids) >= wanted.limit:
            break
        now = time.time()
        key = Key(item["session"], item["turn"])
        why = _reason(item, wanted, now)
        if why is None:
            continue
        if not dry_run:
            replayed_at = item["replayed_at"] if _is_under_way(item, now) else _reset(stack, item, now)
            if replayed_at is None:
                say(f"{key.task_id}  {why}: changed meanwhile, left alone")
                done.changed += 1
                continue
            _send(stack, key, replayed_at)
        say(f"{key.task_id}  {why}: {'would be queued' if dry_run else 'queued'}")
        done.task_ids.append(key.task_id)
    done.units = reads.units
    return done


def _candidates(stack: Stack, wanted: Wanted, reads: Reads) -> Iterator[Item]:
    """The turns that may be meant, each session's in order: from where they must be if the owner and the session are
    known, else from the whole table."""
    places: list[tuple[str, str | None]] = []
    if wanted.owner and wanted.task_ids:
        tasks = [Key.of_task(wanted.owner, task_id) for task_id in wanted.task_ids]
        places = sorted((task.session, task.turn) for task in tasks if task)
    elif wanted.owner and wanted.session_id:
        places = [(session_key(wanted.owner, wanted.session_id), None)]
    request: dict[str, Any] = {
        "FilterExpression": _filter(wanted),
        "ProjectionExpression": ", ".join(f"#{name}" for name in _ATTRIBUTES),
        "ExpressionAttributeNames": {f"#{name}": name for name in _ATTRIBUTES},
        "ConsistentRead": bool(places),  # half the price for a Scan; what it sees too late the condition refuses
    }
    if not places:
        yield from (item for item in reads.items(stack.turns.scan, **request) if _is_meant(item, wanted))
    for session, turn in places:
        condition: ConditionBase = KeyCondition("session").eq(session)
        if turn:
            condition &= KeyCondition("turn").eq(turn)
        found = reads.items(stack.turns.query, KeyConditionExpression=condition, **request)
        yield from (item for item in found if _is_meant(item, wanted))


def _filter(wanted: Wanted) -> ConditionBase:
    """A coarse one, which saves transfer and no read units."""
    codes = Attr("error_code").is_in(sorted(wanted.codes)) | Attr("error_code").not_exists()
    return Attr("status").ne(Status.SUCCESS) & codes


def _is_meant(item: Item, wanted: Wanted) -> bool:
    key = Key(item["session"], item["turn"])
    return (
        wanted.owner in (None, key.owner)
        and wanted.session_id in (None, key.session_id)
        and (not wanted.task_ids or key.task_id in wanted.task_ids)
    )


def _reason(item: Item, wanted: Wanted, now: float) -> str | None:
    """Why the turn is replayed, or None if it is not to be."""
    if item["expires_at"] <= now:
        return None
    if item["status"] == Status.FAILURE:
        code = str(item["error_code"])
        return code if code in wanted.codes and item["finished_at"] >= wanted.since else None
    if _is_untouched(item):
        return "replayed and not begun"
    # Nobody has read it since its deadline. The next reader would close it.
    is_held = item["status"] == Status.STARTED and item["lease_until"] >= now
    is_meant = "deadline_exceeded" in wanted.codes and item["deadline_at"] >= wanted.since
    return "deadline_exceeded" if is_meant and item["deadline_at"] <= now and not is_held else None


def _is_untouched(item: Item) -> bool:
    """Whether nobody has claimed the turn since its replay: its message may never have been sent."""
    return bool(
        item["status"] == Status.PENDING
        and "replayed_at" in item
        and item["attempt"] == item["last_attempt"] - MAX_ATTEMPTS
    )


def _is_under_way(item: Item, now: float) -> bool:
    return _is_untouched(item) and bool(item["deadline_at"] > now)


def _reset(stack: Stack, item: Item, now: float) -> Decimal | None:
    """Make the turn PENDING if it still is as it was seen. Returns the time of the replay, or None if it is not."""
    at = Decimal(str(round(now, 3)))
    written = {
        "status": Status.PENDING.value,
        "replayed_at": at,
        "last_attempt": item["attempt"] + MAX_ATTEMPTS,
        "deadline_at": at + DEADLINE_SECONDS,
        "expires_at": int(now) + RETENTION_SECONDS,
    }
    # The attempt changes with each claim, the deadline with each replay, the time of the end with each failure.
    names = ("status", "attempt", "deadline_at", *(("finished_at", "error_code") if item["status"] in FINAL else ()))
    seen = functools.reduce(operator.and_, (Attr(name).eq(item[name]) for name in names))
    try:
        stack.turns.update_item(
            Key={"session": item["session"], "turn": item["turn"]},
            UpdateExpression="SET "
            + ", ".join(f"#{name} = :{name}" for name in written)
            + " REMOVE "
            + ", ".join(f"#{name}" for name in _REMOVED),
            ConditionExpression=seen,
            ExpressionAttributeNames={f"#{name}": name for name in (*written, *_REMOVED)},
            ExpressionAttributeValues={f":{name}": value for name, value in written.items()},
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
            raise
        # botocore repeats a write whose answer was lost, and that one meets itself.
        current = error.response.get("Item", {}).get("replayed_at")  # type: ignore[attr-defined]
        return at if current == {"N": str(at)} else None
    return at


def _send(stack: Stack, key: Key, replayed_at: Decimal) -> None:
    """Queue the turn. SQS drops what it has had within 5 minutes: this message is another than that of the submission,
    and the same whenever one replay is sent again."""
    stack.sqs.send_message(
        QueueUrl=stack.outputs["QueueUrl"],
        MessageBody=encode(key),
        MessageGroupId=key.group,
        MessageDeduplicationId=f"{key.task_id}.{int(replayed_at * 1000)}",
    )
