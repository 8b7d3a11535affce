"""The event log: the text of a growing answer, one small row per piece, for any number of readers.

The rows of a turn have numbers from 1 without gaps, and a worker puts a row only if its number is free. So a worker
that has lost its turn can add no row after the first row of the next attempt: the number of its next row is taken. No
row says that the answer is complete. Only the turn says so. Row 0 is the request to cancel the turn, and readers do not
see it.
"""

from collections.abc import Collection, Iterable
from functools import cached_property
from typing import Any, NamedTuple

from turnqueue import aws
from turnqueue.turn import Key, Status, Turn

RETENTION_SECONDS = 24 * 3600
"""Seconds for which a row is kept: a day. A turn ends within 12 h, and then the turn itself has the answer."""


class Event(NamedTuple):
    """One row of the log. `kind`: "s" when the attempt `attempt` starts, which voids all earlier text; "d" if `text`
    follows the text so far. Later versions may add kinds, which readers skip. `progress`: from 0 to 0.95, an estimate.
    """

    n: int
    kind: str
    attempt: int
    text: str = ""
    progress: float = 0.0


class Superseded(Exception):
    """A later attempt has written to the log, so another worker has the turn."""


class EventLog:
    """The events table. Every method raises botocore's ClientError or BotoCoreError when DynamoDB does not answer or
    refuses; repeating a put is safe."""

    def __init__(self, table: str, *, attempts: int, read_timeout: float = 1) -> None:
        self._table = table
        self._attempts = attempts
        self._read_timeout = read_timeout

    @cached_property
    def _client(self) -> Any:
        # The client is made at its first use, because a short answer needs no log.
        return aws.client("dynamodb", attempts=self._attempts, read_timeout=self._read_timeout)

    def put(self, key: Key, event: Event, now: float) -> Event:
        """Put a row if its number is free. Returns the row that has the number now: this row, or an earlier row. If
        botocore repeats a put whose response was lost, the repeated put finds the row of the first put and returns
        it."""
        try:
            self._client.put_item(
                TableName=self._table,
                Item={
                    "task": {"S": _task(key)},
                    "n": {"N": str(event.n)},
                    "k": {"S": event.kind},
                    "a": {"N": str(event.attempt)},
                    "t": {"S": event.text},
                    "p": {"N": str(event.progress)},
                    "expires_at": {"N": str(int(now) + RETENTION_SECONDS)},
                },
                ConditionExpression="attribute_not_exists(#task)",
                ExpressionAttributeNames={"#task": "task"},
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self._client.exceptions.ConditionalCheckFailedException as error:
            return _event(error.response["Item"])
        return event

    def after(self, key: Key, n: int, *, consistent: bool = False) -> list[Event]:
        """The rows after row `n`, up to the first gap. The read is eventually consistent, unless `consistent`."""
        items: list[dict[str, Any]] = []
        start: dict[str, Any] = {}
        while True:
            answer = self._query(key, n, ConsistentRead=consistent, **start)
            items += answer["Items"]
            if "LastEvaluatedKey" not in answer:
                break
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
        # Stop at the first gap, because a replica of DynamoDB can have a row but not yet the previous row.
        return [row for number, row in enumerate(map(_event, items), n + 1) if row.n == number]

    def last(self, key: Key) -> Event | None:
        """The last row; None if the log is empty."""
        items = self._query(key, 0, ConsistentRead=True, ScanIndexForward=False, Limit=1)["Items"]
        return _event(items[0]) if items else None

    def _query(self, key: Key, n: int, **how: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._client.query(
            TableName=self._table,
            KeyConditionExpression="#task = :task AND #n > :n",
            ExpressionAttributeNames={"#task": "task", "#n": "n"},
            ExpressionAttributeValues={":task": {"S": _task(key)}, ":n": {"N": str(n)}},
            **how,
        )
        return answer

    def delete(self, key: Key) -> None:
        """Delete all rows of a turn, one by one, because deletions are rare. A worker that has lost the turn can still
        add a row, but no reader gets that row."""
        for n in (0, *(event.n for event in self.after(key, 0))):
            self._client.delete_item(TableName=self._table, Key={"task": {"S": _task(key)}, "n": {"N": str(n)}})

    def ask_to_cancel(self, turn: Turn, now: float) -> None:
        """Write row 0 for the turn's present attempt. The worker reads this row within 2 s, and then checks the turn
        for a cancellation."""
        self._client.put_item(
            TableName=self._table,
            Item={
                "task": {"S": _task(turn.key)},
                "n": {"N": "0"},
                "a": {"N": str(turn.attempt)},
                "expires_at": {"N": str(int(now) + RETENTION_SECONDS)},
            },
        )

    def cancellations(self, turns: Collection[Turn]) -> set[Key]:
        """The keys of those `turns` (at most 100) whose row 0 asks to cancel the turn's present attempt. Makes one
        call, which costs half a read unit a turn. If DynamoDB does not process a row, the result lacks its turn."""
        answer = self._client.batch_get_item(
            RequestItems={
                self._table: {
                    "Keys": [{"task": {"S": _task(turn.key)}, "n": {"N": "0"}} for turn in turns],
                    "ProjectionExpression": "task, a",
                }
            }
        )
        asked = {(item["task"]["S"], int(item["a"]["N"])) for item in answer["Responses"].get(self._table, [])}
        return {turn.key for turn in turns if (_task(turn.key), turn.attempt) in asked}


class Growing:
    """Writes the event log of one attempt. `claimed`: the turn, as this attempt has claimed it."""

    def __init__(self, log: EventLog, claimed: Turn) -> None:
        self._log = log
        self._turn = claimed
        # The first attempt finds an empty log. A later attempt must read the number of the last row.
        self._next = 1 if claimed.attempt == 1 else 0
        self._is_void = False
        self._text = ""

    def show(self, text: str, progress: float, now: float) -> None:
        """Append the part of `text` that the log lacks. `text` is the whole readable text of this attempt so far. If
        the log shows a different text, a row first voids that text. Raises Superseded."""
        if not self._next:
            last = self._log.last(self._turn.key)
            self._next, self._is_void = (last.n + 1, True) if last else (1, False)
        attempt = self._turn.attempt
        while True:
            # Void the shown text if neither text begins with the other. A `text` that is shorter than the shown text is
            # no reason to void it: the end of `text` is only unreadable for a moment (half a character, or half a JSON
            # escape).
            if not text.startswith(self._text) and not self._text.startswith(text):
                self._is_void = True
            if self._is_void:
                event = Event(self._next, "s", attempt)
            elif len(text) > len(self._text):
                event = Event(self._next, "d", attempt, text[len(self._text) :], progress)
            else:
                return
            self._take(self._log.put(self._turn.key, event, now))

    def _take(self, there: Event) -> None:
        """Continue after `there`, the row that has the next number now. Usually this attempt has just written it. If an
        earlier attempt wrote it, the next row must void the text of that attempt. If a later attempt wrote it, this
        worker has lost the turn. Raises Superseded."""
        if there.attempt > self._turn.attempt:
            raise Superseded
        self._next += 1
        # The row is of an earlier attempt, whose worker does not know yet that it has lost the turn.
        if there.attempt < self._turn.attempt:
            self._is_void = True
        elif there.kind == "s":
            self._is_void, self._text = False, ""
        else:
            self._text += there.text


def so_far(events: Iterable[Event], attempt: int) -> tuple[str, float | None]:
    """The text of an attempt so far, and its progress. The progress is None before the first text."""
    text, progress = "", None
    for event in events:
        if event.attempt == attempt and event.kind in ("s", "d"):
            text, progress = ("", None) if event.kind == "s" else (text + event.text, event.progress)
    return text, progress


def has_text_in_log(turn: Turn) -> bool:
    """Whether the log has the turn's text so far. False before the first claim, and if the turn itself has the text."""
    return turn.status is not Status.SUCCESS and turn.tries > 0 and turn.partial is None


def with_text(turn: Turn, events: Iterable[Event]) -> Turn:
    """The turn with `partial` and `progress` from all rows of its log."""
    if not has_text_in_log(turn):
        return turn
    text, progress = so_far(events, turn.attempt)
    return turn._replace(partial=text or None, progress=progress if turn.status is Status.STARTED else None)


def _task(key: Key) -> str:
    return f"{key.session}.{key.turn}"


def _event(item: dict[str, Any]) -> Event:
    text, progress = item.get("t", {"S": ""})["S"], float(item.get("p", {"N": "0"})["N"])
    return Event(int(item["n"]["N"]), item["k"]["S"], int(item["a"]["N"]), text, progress)
