"""The event log: the text of a growing answer, one small row per piece, for as many readers as like.

The rows of a turn have dense numbers from 1, and each is put only if its number is free. So the log fences itself: a
worker that has lost its turn meets the row of the next attempt. No row says that the answer is whole: that is told by
the turn alone. Row 0, which no reader is shown, carries the cancellation of the turn.
"""

from collections.abc import Collection, Iterable
from functools import cached_property
from typing import Any, Literal, NamedTuple

from turnqueue import aws
from turnqueue.turn import Key, Status, Turn

RETENTION_SECONDS = 24 * 3600
"""How long a row can be read. No turn runs longer than 12 h, and then the answer is in the turn."""


class Event(NamedTuple):
    """One row. `kind`: "s" (attempt `attempt` starts, all earlier text is void) or "d" (`text` follows the text before
    it). `progress`: from 0 to 0.95, an estimate."""

    n: int
    kind: Literal["s", "d"]
    attempt: int
    text: str = ""
    progress: float = 0.0


class Superseded(Exception):
    """A later attempt has written to the log: the turn is no longer ours."""


class EventLog:
    """The events table. Every method raises botocore's ClientError or BotoCoreError when DynamoDB does not answer or
    refuses; to repeat a put is safe."""

    def __init__(self, table: str, *, attempts: int, read_timeout: float = 1) -> None:
        self._table = table
        self._attempts = attempts
        self._read_timeout = read_timeout

    @cached_property
    def _client(self) -> Any:
        # Made when it is needed first: a short answer needs no log.
        return aws.client("dynamodb", attempts=self._attempts, read_timeout=self._read_timeout)

    def put(self, key: Key, event: Event, now: float) -> Event:
        """Put a row if its number is free. Returns the row that has the number now: this one, or that which was there.
        When botocore repeats a put whose answer was lost, the row meets itself, and is returned as it is."""
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
        """The rows behind row `n`, without a gap; as they were a moment ago, unless `consistent`."""
        items: list[dict[str, Any]] = []
        start: dict[str, Any] = {}
        while True:
            answer = self._query(key, n, ConsistentRead=consistent, **start)
            items += answer["Items"]
            if "LastEvaluatedKey" not in answer:
                break
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
        # DynamoDB does not promise that a replica which has a row has the one before it.
        return [row for number, row in enumerate(map(_event, items), n + 1) if row.n == number]

    def last(self, key: Key) -> Event | None:
        """The last row; None if there is none."""
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

    def ask_to_cancel(self, turn: Turn, now: float) -> None:
        """Tell the worker that runs this attempt of a turn to look at the turn's mark now."""
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
        """Which of up to 100 turns, each claimed, were told to look. One call, at half a read unit a turn. A turn whose
        row DynamoDB did not come to is left out."""
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
    """The log of a claimed turn, as the attempt that claimed it writes it."""

    def __init__(self, log: EventLog, claimed: Turn) -> None:
        self._log = log
        self._turn = claimed
        # The first claim of all finds an empty log. A later one must look, because its rows begin behind the others.
        self._next = 1 if claimed.attempt == 1 else 0
        self._is_void = False
        self._text = ""

    def begin(self, now: float) -> None:
        """Tell the readers that the text of earlier attempts is void, if there is any. Raises Superseded."""
        self.show("", 0.0, now)

    def show(self, text: str, progress: float, now: float) -> None:
        """Append what the log lacks of `text`, the whole readable text of this attempt so far. A text that does not
        begin with what was shown voids that. Raises Superseded."""
        if not self._next:
            last = self._log.last(self._turn.key)
            self._next, self._is_void = (last.n + 1, True) if last else (1, False)
        attempt = self._turn.attempt
        while True:
            # A shorter one that begins alike is not whole: half a character, or half an escape of JSON.
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
        """The row `there` has our next number. Another attempt has another number, so its attempt tells whose it is:
        ours also if we were never told that our put took effect."""
        if there.attempt > self._turn.attempt:
            raise Superseded
        self._next += 1
        if there.attempt < self._turn.attempt:  # of a worker that does not know yet that it has lost the turn
            self._is_void = True
        elif there.kind == "s":
            self._is_void, self._text = False, ""
        else:
            self._text += there.text


def so_far(events: Iterable[Event], attempt: int) -> tuple[str, float | None]:
    """The text of an attempt so far, and its progress; None before the first words."""
    text, progress = "", None
    for event in events:
        if event.attempt == attempt:
            text, progress = ("", None) if event.kind == "s" else (text + event.text, event.progress)
    return text, progress


def is_told_by_log(turn: Turn) -> bool:
    """Whether the text of the turn, so far, is in its log: not if it is not begun, nor if the turn has it itself."""
    return turn.status is not Status.SUCCESS and turn.tries > 0 and turn.partial is None


def with_text(turn: Turn, events: Iterable[Event]) -> Turn:
    """The turn with the `partial` and `progress` that the rows of its log, from the first on, tell."""
    if not is_told_by_log(turn):
        return turn
    text, progress = so_far(events, turn.attempt)
    return turn._replace(partial=text or None, progress=progress if turn.status is Status.STARTED else None)


def _task(key: Key) -> str:
    return f"{key.session}.{key.turn}"


def _event(item: dict[str, Any]) -> Event:
    return Event(int(item["n"]["N"]), item["k"]["S"], int(item["a"]["N"]), item["t"]["S"], float(item["p"]["N"]))
