"""`python -m operations replay` queues failed tasks again.

A replay cannot use the messages of the dead-letter queue, because the deadletter function has deleted them. So a replay
first makes the turn PENDING in the table, with a new deadline and new attempts. Then it sends a new message. Both steps
are safe to repeat.

If the command dies between the two steps, the turn is PENDING without a message. The next run finds such turns and
sends their messages. It cannot know whether a message was sent before, but a second message does no harm. Without
another run, the turn ends as FAILURE(deadline_exceeded).

A replay does not set `attempt` back, because `attempt` is the fencing token: a worker that seemed lost may still run
attempt 1, and must not be able to write into the new attempt.
"""

import functools
import operator
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from boto3.dynamodb.conditions import Attr, ConditionBase
from boto3.dynamodb.conditions import Key as KeyCondition
from botocore.exceptions import ClientError

from operations.items import Item, Malformed, number, text, turn_key, whole
from operations.output import say as print_line
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
"""The error codes for which a retry can succeed."""

# The attributes to read. They contain no prompt and no answer.
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
    "refusals",
    "place_at",
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
    "lost_lease",
    "reserved_tokens",  # a failed task reserves no tokens
    "refusals",
    "last_refusal",
    "next_try_at",
    "place_at",
)


@dataclass(frozen=True)
class Wanted:
    """Which tasks to replay: tasks that failed with one of `codes`, at `since` (seconds since the epoch) or later.
    `owner`, `session_id` and `task_ids` restrict them further. `limit`: the maximum number of tasks."""

    codes: Collection[str] = ("worker_lost",)
    since: float = 0.0
    owner: str | None = None
    session_id: str | None = None
    task_ids: Collection[str] = ()
    limit: int | None = None


@dataclass
class Replayed:
    """The result of a run. `task_ids`: the queued tasks, or in a dry run the tasks that would be queued."""

    task_ids: list[str] = field(default_factory=list)
    changed: int = 0  # tasks that another process changed between our read and our write
    malformed: int = 0
    units: float = 0.0  # the read units of the search


@dataclass(frozen=True)
class _Seen:
    """The attributes that a replay needs of an unanswered turn, under the names that they have in the table."""

    key: Key
    status: Status
    attempt: int
    deadline_at: Decimal
    expires_at: Decimal
    last_attempt: int = MAX_ATTEMPTS
    replayed_at: Decimal | None = None
    lease_until: Decimal | None = None  # set only for a STARTED turn
    finished_at: Decimal | None = None  # set only for a FAILURE
    error_code: str | None = None  # set only for a FAILURE
    # Whether a worker has put the turn back since the last replay, because the model's server refused the call or the
    # rate limit left no place for the call. `last_attempt - attempt` does not show this, because these two numbers grow
    # together.
    has_waited: bool = False

    @classmethod
    def of(cls, item: Item) -> "_Seen":
        """The turn that the item describes. Raises Malformed if no function can have written the item."""
        try:
            status = Status(text(item, "status"))
        except ValueError:
            raise Malformed("status is unknown") from None
        failed = status in FINAL
        return cls(
            key=turn_key(item),
            status=status,
            attempt=whole(item, "attempt"),
            deadline_at=number(item, "deadline_at"),
            expires_at=number(item, "expires_at"),
            last_attempt=whole(item, "last_attempt") if "last_attempt" in item else MAX_ATTEMPTS,
            replayed_at=number(item, "replayed_at") if "replayed_at" in item else None,
            lease_until=number(item, "lease_until") if "lease_until" in item else None,
            finished_at=number(item, "finished_at") if failed else None,
            error_code=text(item, "error_code") if failed else None,
            has_waited="refusals" in item or "place_at" in item,
        )


def replay(
    stack: Stack, wanted: Wanted, say: Callable[[str], object] = print_line, *, dry_run: bool = False
) -> Replayed:
    """Replay the wanted tasks. The turns of one session are replayed in their order. Malformed items stay unchanged.
    Calls `say` with a line for each task and each malformed item."""
    done, reads = Replayed(), Reads()
    for item in _candidates(stack, wanted, reads):
        done.units = reads.units
        if wanted.limit is not None and len(done.task_ids) >= wanted.limit:
            break
        try:
            _replay(stack, _Seen.of(item), wanted, say, done, dry_run=dry_run)
        except Malformed as malformed:
            say(f"{item['session']} {item['turn']}  malformed: {malformed}; left alone")
            done.malformed += 1
    done.units = reads.units
    return done


def _replay(
    stack: Stack, turn: _Seen, wanted: Wanted, say: Callable[[str], object], done: Replayed, *, dry_run: bool
) -> None:
    now = time.time()
    task_id, why = turn.key.task_id, _reason(turn, wanted, now)
    if why is None:
        return
    if not dry_run:
        replayed_at = turn.replayed_at if _is_under_way(turn, now) else _reset(stack, turn, now)
        if replayed_at is None:
            say(f"{task_id}  {why}: changed meanwhile, left alone")
            done.changed += 1
            return
        _send(stack, turn.key, replayed_at)
    say(f"{task_id}  {why}: {'would be queued' if dry_run else 'queued'}")
    done.task_ids.append(task_id)


def _candidates(stack: Stack, wanted: Wanted, reads: Reads) -> Iterator[Item]:
    """The turns that may have to be replayed. The turns of one session come in their order. Queries the table if owner
    and session are known, and otherwise scans it."""
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
        # The scan uses eventually consistent reads, because they cost half as much as consistent reads. If a turn has
        # changed since the scan, the condition of the write fails.
        "ConsistentRead": bool(places),
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
    """The filter of the search. It reduces the transferred data, but not the read units. It leaves out deleted turns,
    because their requests are deleted too."""
    codes = Attr("error_code").is_in(sorted(wanted.codes)) | Attr("error_code").not_exists()
    return Attr("status").ne(Status.SUCCESS) & codes & Attr("deleted").not_exists()


def _is_meant(item: Item, wanted: Wanted) -> bool:
    key = Key(item["session"], item["turn"])
    return (
        wanted.owner in (None, key.owner)
        and wanted.session_id in (None, key.session_id)
        and (not wanted.task_ids or key.task_id in wanted.task_ids)
    )


def _reason(turn: _Seen, wanted: Wanted, now: float) -> str | None:
    """The reason to replay the turn, or None."""
    if turn.expires_at <= now:
        return None
    if turn.error_code is not None and turn.finished_at is not None:
        return turn.error_code if turn.error_code in wanted.codes and turn.finished_at >= wanted.since else None
    if _is_untouched(turn):
        return "replayed earlier, but not started"
    # A turn past its deadline becomes FAILURE only when somebody reads it. Replay it like a failed turn even before
    # that, unless a worker holds it.
    is_held = turn.status == Status.STARTED and turn.lease_until is not None and turn.lease_until >= now
    is_meant = "deadline_exceeded" in wanted.codes and turn.deadline_at >= wanted.since
    return "deadline_exceeded" if is_meant and turn.deadline_at <= now and not is_held else None


def _is_untouched(turn: _Seen) -> bool:
    """Whether the turn was replayed, and no worker has claimed it since. Perhaps its message was never sent."""
    return (
        turn.status == Status.PENDING
        and turn.replayed_at is not None
        and turn.attempt == turn.last_attempt - MAX_ATTEMPTS
        and not turn.has_waited
    )


def _is_under_way(turn: _Seen, now: float) -> bool:
    return _is_untouched(turn) and turn.deadline_at > now


def _reset(stack: Stack, turn: _Seen, now: float) -> Decimal | None:
    """Make the turn PENDING if it has not changed since it was read. Returns the time of the replay, or None if the
    turn has changed. Raises Malformed if DynamoDB refuses the item."""
    at = Decimal(str(round(now, 3)))
    written = {
        "status": Status.PENDING.value,
        "replayed_at": at,
        "last_attempt": turn.attempt + MAX_ATTEMPTS,
        "deadline_at": at + DEADLINE_SECONDS,
        "expires_at": int(now) + RETENTION_SECONDS,
    }
    # Each change of the turn changes one of these attributes: a claim changes `attempt`, a replay `deadline_at`, and a
    # failure `finished_at`.
    names = ("status", "attempt", "deadline_at", *(("finished_at", "error_code") if turn.status in FINAL else ()))
    seen = functools.reduce(operator.and_, (Attr(name).eq(getattr(turn, name)) for name in names))
    try:
        stack.turns.update_item(
            Key=turn.key._asdict(),
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
        if error.response["Error"]["Code"] == "ValidationException":
            raise Malformed("DynamoDB refuses the item") from error
        if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
            raise
        # If the response to the write was lost, botocore has repeated the write. The repetition fails, because the
        # first write has changed the turn. So look whether the turn has the time of this replay.
        current = error.response.get("Item", {}).get("replayed_at")  # type: ignore[attr-defined]
        return at if current == {"N": str(at)} else None
    return at


def _send(stack: Stack, key: Key, replayed_at: Decimal) -> None:
    """Send the message of the turn. Its deduplication id differs from that of the first submission, because SQS drops a
    message whose id it received in the last 5 minutes. The id is the same if the same replay is sent again."""
    stack.sqs.send_message(
        QueueUrl=stack.outputs["QueueUrl"],
        MessageBody=encode(key),
        MessageGroupId=key.group,
        MessageDeduplicationId=f"{key.task_id}.{int(replayed_at * 1000)}",
    )
