"""Turns in DynamoDB. Every change of a turn is one conditional write, so a worker that has lost its turn cannot change
it.

This module counts each turn that becomes final, so no outcome is missing from the metrics. Cache hits are not counted:
no worker ran them.
"""

import json
import re
import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, get_args, get_origin

from botocore.exceptions import BotoCoreError, ClientError

from turnqueue import aws
from turnqueue.attachments import own_references
from turnqueue.events import EventLog
from turnqueue.media import Uploads
from turnqueue.telemetry import error_name, logger, report_finished
from turnqueue.turn import FAILURES, MAX_ATTEMPTS, Key, Status, Turn, oldest_ulid, session_key
from turnqueue.usage import UsageStore, lost_attempt

_KINDS: dict[str, Any] = Turn.__annotations__
_JSON = {name for name, kind in _KINDS.items() if any(get_origin(each) is dict for each in (kind, *get_args(kind)))}
_WHOLE = {name for name, kind in _KINDS.items() if kind is int}
_COMPARED = ("attempt",)  # Conditions use this attribute, so it is stored even if it is 0.

# A page makes at most this number of overdue turns FAILURE. Each takes two writes of 10 ms, so the page takes less than
# a second.
_MOST_CLOSED_BY_A_PAGE = 10
_MAX_HISTORY_PAGES = 3

_OURS = "#status = :started AND #attempt = :attempt"
_OURS_UNCANCELLED = f"{_OURS} AND attribute_not_exists(#cancel_requested)"
_UNFINISHED = "(#status = :pending OR #status = :started)"
_UNCLAIMED = "#status = :pending AND #attempt = :zero"
_UNHELD = "(#status = :pending OR (#status = :started AND #lease_until < :now))"
# An item has `last_attempt` only after a replay, or after an attempt that did not count. Without it, the second
# comparison is false.
_BUDGETED = "(#attempt < :max_attempts OR #attempt < #last_attempt)"


class Refused(Exception):
    """DynamoDB refused a write, because its condition did not hold. `current`: the present turn, or None."""

    def __init__(self, current: Turn | None) -> None:
        super().__init__(current.status if current else "no such turn")
        self.current = current


class AlreadyAnswered(Exception):
    """Another turn has already brought the results of the same function calls."""


class TurnStore:
    """The turns table. `usage`: ends the reservation of turns that end without a worker; with None, the reservation
    stays. `log`: the event log, for callers that cancel a turn or delete its texts. `uploads`: the images, for callers
    that delete texts.

    Every method raises botocore's ClientError or BotoCoreError when DynamoDB does not answer or refuses. Then nobody
    knows whether the write took effect. The caller can safely repeat the call.
    """

    def __init__(
        self,
        table: str,
        *,
        attempts: int,
        read_timeout: float = 3,
        usage: UsageStore | None = None,
        log: EventLog | None = None,
        uploads: Uploads | None = None,
    ) -> None:
        self._table = table
        self._usage = usage
        self._log = log
        self._uploads = uploads
        self._client = aws.client("dynamodb", attempts=attempts, read_timeout=read_timeout)

    def create(self, turn: Turn) -> bool:
        """Record a turn unless it exists. Returns whether this call recorded it. Also returns False if this call's put
        succeeded, but botocore repeated it because the response was lost.

        If the turn has the results of another turn's function calls, the same transaction marks the calling turn. So no
        second turn can bring these results, unless the turn that brought them has failed. Raises AlreadyAnswered.
        """
        if answered := turn.request.get("answers"):
            return self._create_answer(turn, turn.key._replace(turn=answered))
        try:
            self._client.put_item(
                TableName=self._table,
                Item=_item(turn),
                ConditionExpression="attribute_not_exists(#session)",
                ExpressionAttributeNames={"#session": "session"},
            )
        except self._client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def _create_answer(self, turn: Turn, calling: Key) -> bool:
        earlier = ""  # a turn that has brought the results before, but has failed
        while True:
            try:
                self._client.transact_write_items(
                    TransactItems=[
                        {
                            "Put": {
                                "TableName": self._table,
                                "Item": _item(turn),
                                "ConditionExpression": "attribute_not_exists(#session)",
                                "ExpressionAttributeNames": {"#session": "session"},
                            }
                        },
                        {
                            "Update": {
                                "TableName": self._table,
                                "Key": _key(calling),
                                "UpdateExpression": "SET #answered_by = :turn",
                                "ConditionExpression": (
                                    "attribute_exists(#session) AND "
                                    "(attribute_not_exists(#answered_by) OR #answered_by IN (:turn, :earlier))"
                                ),
                                "ExpressionAttributeNames": {"#session": "session", "#answered_by": "answered_by"},
                                "ExpressionAttributeValues": _values(turn=turn.key.turn, earlier=earlier),
                                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                            }
                        },
                    ]
                )
                return True
            except self._client.exceptions.TransactionCanceledException as error:
                put, mark = error.response["CancellationReasons"]
                if put["Code"] == "ConditionalCheckFailed":
                    return False
                if mark["Code"] != "ConditionalCheckFailed":
                    # Another transaction is changing the calling turn now. The request gets a 503, so that the client
                    # tries again.
                    raise
                other = mark.get("Item", {}).get("answered_by", {}).get("S", "")
            there = self.read(turn.key._replace(turn=other), turn.created_at) if other else None
            if other in ("", earlier) or (there and there.status is not Status.FAILURE):
                raise AlreadyAnswered
            earlier = other

    def read(self, key: Key, now: float, *, consistent: bool = True) -> Turn | None:
        """The turn. None if it does not exist, if it was deleted, or if its retention is over. If an unfinished turn is
        past its deadline, this read makes it FAILURE."""
        answer = self._client.get_item(TableName=self._table, Key=_key(key), ConsistentRead=consistent)
        turn = _turn(answer.get("Item"))
        if turn is None or turn.expires_at <= now or turn.deleted:
            return None
        return self.close_overdue(turn, now)

    def close_overdue(self, turn: Turn, now: float) -> Turn:
        """The turn. If the turn is unfinished past its deadline, this method first makes it FAILURE."""
        if not turn.overdue(now):
            return turn
        try:
            return self.fail_overdue(turn, now)
        except Refused as refused:
            return refused.current or turn

    def page(
        self, owner: str, session_id: str, now: float, *, after: str | None, limit: int
    ) -> tuple[list[Turn], bool]:
        """A page of a session: up to `limit` turns in order, after the ULID `after`, and whether more turns can follow.
        A page stops after `_MOST_CLOSED_BY_A_PAGE` overdue turns, because this method ends each of them with a write.
        """
        answer = self._client.query(
            TableName=self._table,
            KeyConditionExpression="#session = :session AND #turn > :after",
            ExpressionAttributeNames={"#session": "session", "#turn": "turn"},
            # Skip the expired turns, because DynamoDB can delete them days later.
            ExpressionAttributeValues=_values(
                session=session_key(owner, session_id), after=max(after or "", oldest_ulid(now))
            ),
            ConsistentRead=True,
            Limit=limit,
        )
        turns = [turn for item in answer["Items"] if (turn := _turn(item)) and turn.expires_at > now]
        turns = [turn for turn in turns if not turn.deleted]
        overdue = [index for index, turn in enumerate(turns) if turn.overdue(now)]
        end = overdue[_MOST_CLOSED_BY_A_PAGE] if len(overdue) > _MOST_CLOSED_BY_A_PAGE else len(turns)
        return [self.close_overdue(turn, now) for turn in turns[:end]], end < len(turns) or "LastEvaluatedKey" in answer

    def history(self, key: Key, now: float, *, limit: int, previous: str | None = None) -> list[Turn]:
        """The last `limit` successful turns before this turn in its session, the oldest first. `previous`: the ULID of
        the turn that this turn continues. With `previous`, the result has only that turn and the turns that it
        continues. Usually one Query is enough. At most three Queries read up to 3 x `limit` turns."""
        found: list[Turn] = []
        start: dict[str, Any] = {}
        for _ in range(_MAX_HISTORY_PAGES):
            answer = self._client.query(
                TableName=self._table,
                KeyConditionExpression="#session = :session AND #turn < :turn",
                ExpressionAttributeNames={"#session": "session", "#turn": "turn"},
                ExpressionAttributeValues=_values(session=key.session, turn=key.turn),
                ConsistentRead=True,
                ScanIndexForward=False,
                Limit=limit,
                **start,
            )
            turns = [turn for item in answer["Items"] if (turn := _turn(item)) and turn.expires_at > now]
            thread, previous = _continued(turns, previous)
            found += [turn for turn in thread if turn.status is Status.SUCCESS and not turn.deleted]
            if len(found) >= limit or "LastEvaluatedKey" not in answer:
                break
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
        return found[:limit][::-1]

    def waits_for_another(self, key: Key) -> bool:
        """Whether the turn before this turn in its session is unfinished. This takes one Query of one item."""
        answer = self._client.query(
            TableName=self._table,
            KeyConditionExpression="#session = :session AND #turn < :turn",
            ExpressionAttributeNames={"#session": "session", "#turn": "turn"},
            ExpressionAttributeValues=_values(session=key.session, turn=key.turn),
            ScanIndexForward=False,
            Limit=1,
        )
        return any(turn and not turn.final for turn in map(_turn, answer["Items"]))

    def claim(self, key: Key, now: float, lease_until: float) -> Turn:
        """Claim the turn for one attempt, until `lease_until`. Returns the whole turn. Raises Refused if the turn does
        not exist, is final, is held by another worker, is past its deadline or has no attempts left."""
        claim_id = secrets.token_hex(8)
        try:
            return self._update(
                key,
                set_={"status": Status.STARTED, "lease_until": lease_until, "claim_id": claim_id},
                add={"attempt": 1},
                set_if_absent={"started_at": now},
                # The attribute exists only if a worker was killed, because an attempt that ends removes it.
                copy={"lost_lease": "lease_until"},
                remove=("progress", "partial", "next_try_at"),
                condition=f"{_UNHELD} AND {_BUDGETED} AND #deadline_at > :now",
                values={
                    "pending": Status.PENDING,
                    "started": Status.STARTED,
                    "now": now,
                    "max_attempts": MAX_ATTEMPTS,
                },
            )
        except Refused as refused:
            # The item can already have this change, because botocore repeats a write whose response was lost.
            if refused.current and refused.current.claim_id == claim_id:
                return refused.current
            raise

    def renew(self, claimed: Turn, lease_until: float) -> None:
        """Extend the lease of this attempt until `lease_until`. Raises Refused if another worker has the turn, or if a
        client asked to cancel it."""
        self._write(
            claimed.key,
            set_={"lease_until": lease_until},
            condition=_OURS_UNCANCELLED,
            values=_ours(claimed),
        )

    def succeed(
        self,
        claimed: Turn,
        result: dict[str, Any],
        usage: dict[str, Any],
        now: float,
        *,
        provider_request_id: str | None = None,
    ) -> Turn:
        """Record the answer of this attempt. Raises Refused if another worker has the turn, or if its deadline is
        past."""
        return self._finish(
            claimed,
            {"status": Status.SUCCESS, "result": result, "usage": usage, "finished_at": now},
            remove=("lease_until", "progress", "partial", "cancel_requested"),
            condition=f"{_OURS} AND #deadline_at > :now",
            values={"now": now},
            provider_request_id=provider_request_id,
        )

    def fail_attempt(self, claimed: Turn, code: str, partial: str, now: float) -> Turn:
        """End the turn of this attempt as FAILURE. `partial`: the readable text so far, "" for none. Raises Refused if
        another worker has the turn."""
        return self._finish(
            claimed,
            _failure(code, now) | {"partial": partial},
            remove=("lease_until", "progress", "cancel_requested"),
        )

    def _finish(
        self,
        claimed: Turn,
        end: dict[str, Any],
        *,
        remove: tuple[str, ...],
        condition: str = _OURS,
        values: Mapping[str, Any] = MappingProxyType({}),
        provider_request_id: str | None = None,
    ) -> Turn:
        try:
            turn = self._update(
                claimed.key, set_=end, remove=remove, condition=condition, values=_ours(claimed) | dict(values)
            )
        except Refused as refused:
            current = refused.current
            ours = (claimed.attempt, end["status"], end.get("error_code"), round(end["finished_at"], 3))
            if current is None or ours != (current.attempt, current.status, current.error_code, current.finished_at):
                raise
            turn = current
        report_finished(turn, provider_request_id)
        return turn

    def release(
        self,
        claimed: Turn,
        *,
        next_try_at: float | None = None,
        is_refund: bool = False,
        refusal: str | None = None,
        place_at: float | None = None,
    ) -> None:
        """End this attempt, so that the next delivery can claim the turn. `is_refund`: the attempt does not count.
        `refusal`: the error code, if the model's server refused the call. Raises Refused if another worker has the
        turn. Also raises Refused if a client asked to cancel the turn; the worker then ends the turn at once."""
        changes: dict[str, Any] = {"status": Status.PENDING}
        if next_try_at is not None:
            changes["next_try_at"] = next_try_at
        if is_refund:
            changes["last_attempt"] = claimed.last_attempt + 1
        if refusal:
            changes |= {"refusals": claimed.refusals + 1, "last_refusal": refusal}
        if place_at is not None:
            changes["place_at"] = place_at
        try:
            self._write(
                claimed.key,
                set_=changes,
                remove=("lease_until", "progress", *(() if place_at is not None else ("place_at",))),
                condition=_OURS_UNCANCELLED,
                values=_ours(claimed),
            )
        except Refused as refused:
            current = refused.current
            if current is None or (current.status, current.attempt) != (Status.PENDING, claimed.attempt):
                raise

    def fail_overdue(self, seen: Turn, now: float) -> Turn:
        """End an overdue turn as FAILURE, even if a worker holds it. Raises Refused if the turn has become final, or
        has a new deadline after a replay."""
        return self._fail(seen.key, seen.overdue_code, now, f"{_UNFINISHED} AND #deadline_at <= :now")

    def fail(self, key: Key, code: str, now: float) -> Turn:
        """End a turn as FAILURE without a claim. With the code `enqueue_failed`, this works only before the first
        claim. With every other code, it works only while no worker has a valid lease. Otherwise raises Refused."""
        return self._fail(key, code, now, _UNCLAIMED if code == "enqueue_failed" else _UNHELD)

    def _fail(self, key: Key, code: str, now: float, condition: str) -> Turn:
        possible = {"pending": Status.PENDING, "started": Status.STARTED, "now": now, "zero": 0}
        turn = self._update(
            key,
            set_=_failure(code, now),
            remove=("lease_until", "progress", "cancel_requested"),
            condition=condition,
            values={name: value for name, value in possible.items() if f":{name}" in condition},
        )
        report_finished(turn)
        self._settle(turn, now)
        return turn

    def _settle(self, turn: Turn, now: float) -> None:
        """End the reservation of a turn that no worker has finished. If a worker was killed during the turn, also add
        an estimate for the lost attempt. If the write fails, the reservation stays until the end of the day."""
        is_lost = turn.error_code == "worker_lost" and turn.attempt > 0
        if self._usage is None or not (is_lost or turn.reserved_tokens):
            return
        try:
            self._usage.settle(turn, lost_attempt(turn) if is_lost else None, now, is_final=True)
        except (BotoCoreError, ClientError) as error:
            logger.warning("usage not added", extra={"task_id": turn.key.task_id, "error": error_name(error)})

    def cancel(self, key: Key, now: float) -> Turn:
        """Cancel the turn. If no worker holds the turn, it ends at once. Otherwise this method marks the turn, and puts
        row 0 into the log for the worker. Returns the turn after these writes; a final turn is unchanged. Raises
        Refused if the turn does not exist."""
        while True:  # The loop repeats if a worker claims the turn, or returns it to the queue, between the two writes.
            try:
                return self.fail(key, "cancelled", now)
            except Refused as refused:
                if refused.current is None or refused.current.final:
                    return self._existing(refused)
            try:
                turn = self._update(
                    key,
                    set_={"cancel_requested": True},
                    condition="#status = :started",
                    values={"started": Status.STARTED},
                )
                if self._log:
                    self._log.ask_to_cancel(turn, now)
                return turn
            except Refused as refused:
                if refused.current is None or refused.current.final:
                    return self._existing(refused)

    def empty(self, key: Key) -> None:
        """Delete the texts of a final turn, its images and its log, but keep its link to the turns before it. Raises
        Refused if the turn is not final, or does not exist."""
        turn = _turn(self._client.get_item(TableName=self._table, Key=_key(key), ConsistentRead=True).get("Item"))
        if turn is None:
            raise Refused(None)
        if self._log and turn.final:
            self._log.delete(key)
        if self._uploads and turn.final:
            for upload_id in own_references(turn.request, key.turn):
                self._uploads.delete(key.owner, upload_id)
        kept = {name: turn.request[name] for name in ("role", "previous") if name in turn.request}
        self._write(
            key,
            set_={"deleted": True, "request": {"message": "", **kept}},
            remove=("result", "partial", "cache"),
            condition="(#status = :success OR #status = :failure)",
            values={"success": Status.SUCCESS, "failure": Status.FAILURE},
        )

    @staticmethod
    def _existing(refused: Refused) -> Turn:
        if refused.current is None:
            raise refused
        return refused.current

    def _update(self, key: Key, **write: Any) -> Turn:
        """Make one conditional write, and return the turn after it."""
        turn = _turn(self._write(key, returns="ALL_NEW", **write))
        assert turn is not None, "an update that is not refused leaves an item"
        return turn

    def _write(
        self,
        key: Key,
        *,
        set_: Mapping[str, Any],
        condition: str,
        values: Mapping[str, Any],
        add: Mapping[str, int] | None = None,
        set_if_absent: Mapping[str, Any] | None = None,
        copy: Mapping[str, str] = MappingProxyType({}),
        remove: tuple[str, ...] = (),
        returns: str = "NONE",
    ) -> dict[str, Any] | None:
        """One conditional UpdateItem. `condition`: #name stands for the attribute `name`, and :name for the entry
        `name` of `values`. `copy`: {attribute: source}; the attribute gets the old value of the source, or 0 if the
        source had none."""
        add, set_if_absent = add or {}, set_if_absent or {}
        changes = [f"#{name} = :set_{name}" for name in set_]
        changes += [f"#{name} = if_not_exists(#{name}, :set_{name})" for name in set_if_absent]
        changes += [f"#{name} = #{name} + :set_{name}" for name in add]
        changes += [f"#{name} = if_not_exists(#{source}, :none)" for name, source in copy.items()]
        expression = "SET " + ", ".join(changes)
        if remove:
            expression += " REMOVE " + ", ".join(f"#{name}" for name in remove)
        written = {**set_, **set_if_absent, **add}
        named = {*written, *copy, *copy.values(), *remove, *re.findall(r"#(\w+)", condition)}
        try:
            answer: dict[str, Any] = self._client.update_item(
                TableName=self._table,
                Key=_key(key),
                UpdateExpression=expression,
                ConditionExpression=condition,
                ExpressionAttributeNames={f"#{name}": name for name in named},
                ExpressionAttributeValues=_values(
                    **values,
                    **{f"set_{name}": value for name, value in written.items()},
                    **({"none": 0} if copy else {}),
                ),
                ReturnValues=returns,
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self._client.exceptions.ConditionalCheckFailedException as error:
            raise Refused(_turn(error.response.get("Item"))) from error
        return answer.get("Attributes")


def _continued(turns: list[Turn], previous: str | None) -> tuple[list[Turn], str | None]:
    """Select the turns of one conversation from `turns`. `turns` and the result are newest first. The newest turn of
    the conversation is `previous`, or the newest successful turn if `previous` is None. Each turn continues the turn
    that its request names, or else the next older successful turn. Also returns `previous` for the next older page."""
    found = []
    for turn in turns:
        if turn.key.turn == previous or (previous is None and turn.status is Status.SUCCESS):
            found.append(turn)
            previous = turn.request.get("previous")
    return found, previous


def _ours(claimed: Turn) -> dict[str, Any]:
    return {"started": Status.STARTED, "attempt": claimed.attempt}


def _failure(code: str, now: float) -> dict[str, Any]:
    return {"status": Status.FAILURE, "error": FAILURES[code].text, "error_code": code, "finished_at": now}


def _key(key: Key) -> dict[str, Any]:
    return {"session": {"S": key.session}, "turn": {"S": key.turn}}


def _values(**values: Any) -> dict[str, Any]:
    return {f":{name}": _value(name, value) for name, value in values.items()}


def _value(name: str, value: Any) -> dict[str, Any]:
    """A DynamoDB value. Nested values are stored as JSON text, because no query looks inside them."""
    if name.removeprefix("set_") in _JSON:
        return {"S": json.dumps(value, ensure_ascii=False, separators=(",", ":"))}
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, int | float):
        return {"N": repr(round(value, 3))}
    return {"S": value}


def _item(turn: Turn) -> dict[str, Any]:
    """The item of a turn: all fields whose value is not the default."""
    defaults = Turn._field_defaults
    values = {
        name: value
        for name, value in zip(turn._fields[1:], turn[1:], strict=True)
        if name in _COMPARED or (value and value != defaults.get(name))
    }
    return _key(turn.key) | {name: _value(name, value) for name, value in values.items()}


def _turn(item: dict[str, Any] | None) -> Turn | None:
    if not item:
        return None
    fields: dict[str, Any] = {"key": Key(item["session"]["S"], item["turn"]["S"])}
    for name in Turn._fields:
        if name in item:
            kind, value = next(iter(item[name].items()))
            if kind == "N":
                value = int(float(value)) if name in _WHOLE else float(value)
            fields[name] = json.loads(value) if name in _JSON else value
    fields["status"] = Status(fields["status"])
    return Turn(**fields)
