"""Returns a growing answer as events, in Server-Sent Events or JSON. The events come from the rows of the event log,
and the last event from the turn. Each row makes one event, so every reader gets the same events.

API Gateway cannot stream. So a response of the status function ends at once, and tells the client when to ask again.
The streams function has a function URL, and keeps its responses open.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from turnqueue.events import Event as Row
from turnqueue.events import so_far
from turnqueue.http import Event, Response, header, integer, query, respond
from turnqueue.responses import TaskStatus
from turnqueue.turn import Status, Turn

END = 2**31 - 1
"""The id of the event `done`. It is greater than every row's number. It is a constant, so that it stays the same if a
worker that has lost the turn adds another row."""

# After this number of characters, a response of the status function ends. The client then asks again at once.
MOST_TEXT = 128 * 1024


class StreamEvent(NamedTuple):
    id: int
    event: str
    data: dict[str, Any]


def cursor(event: Event) -> int | None:
    """The id of the last event that the client has read: the parameter `after`, or else the header Last-Event-ID. None
    if the client sends neither. Raises a 422 Problem."""
    after = query(event, "after")
    text, name = (header(event, "last-event-id"), "Last-Event-ID") if after is None else (after, "after")
    return None if text is None else integer(text, name, default=0, low=0, high=END)


def done(task: TaskStatus) -> StreamEvent:
    """The final event. It has the whole answer, so no rows of a final turn are sent."""
    return StreamEvent(END, "done", {"task": task})


def snapshot(turn: Turn, rows: Sequence[Row], task: TaskStatus) -> StreamEvent:
    """The event for a client that has read no event: an unfinished turn and its text so far. `rows`: the whole log."""
    text, _ = so_far(rows, turn.attempt)
    last = rows[-1].n if rows else 0
    return StreamEvent(last, "snapshot", {"task": task, "attempt": turn.attempt, "text": text})


def news(rows: Sequence[Row], left: int | None = None) -> list[StreamEvent]:
    """The events for a client that has read all rows before `rows`. `left`: rows are included until their text has this
    number of characters; None for no limit."""
    found: list[StreamEvent] = []
    for row in rows:
        if left is not None:
            if left <= 0:
                break
            left -= len(row.text)
        if row.kind == "s":
            found.append(StreamEvent(row.n, "retract", {"attempt": row.attempt, "text": ""}))
        elif row.kind == "d":
            if row.n == 1:
                found.append(StreamEvent(0, "start", {"attempt": row.attempt}))
            found.append(StreamEvent(row.n, "delta", {"attempt": row.attempt, "text": row.text}))
    return found


def pause_ms(turn: Turn, reached: int, now: float) -> int:
    """The milliseconds until the client should ask again: about the time between two rows that the worker writes.
    `reached`: the number of the last row that the client has. A streamed answer has 8 rows after 2 s, and 24 after 10 s
    (worker/attempt.py), so this number tells the answer's age."""
    if turn.status is Status.PENDING:
        age = now - turn.queued_at
        return 300 if age < 1 else int(min(max(age / 5, 1.0), 5.0) * 1000)
    if not turn.request.get("stream"):
        return 1000
    if reached == 0:
        return 300 if now - (turn.started_at or now) < 10 else 1000
    return 300 if reached < 8 else 500 if reached < 24 else 700


def as_text(found: Sequence[StreamEvent], pause: int) -> str:
    """The events as server-sent events. `pause`: the milliseconds that the client should wait after the end of the
    response, before it asks again."""
    blocks = [
        f"id: {each.id}\nevent: {each.event}\ndata: {json.dumps(each.data, ensure_ascii=False)}\n\n" for each in found
    ]
    return "".join([f"retry: {pause}\n\n", *blocks])


def response(event: Event, found: Sequence[StreamEvent], after: int, pause: int) -> Response:
    """The response in Server-Sent Events if the client accepts them, otherwise in JSON. `after`: the cursor to return
    if there is no new event."""
    if "text/event-stream" in (header(event, "accept") or "").lower():
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}
        return {"statusCode": 200, "headers": headers, "body": as_text(found, pause)}
    is_done = bool(found) and found[-1].event == "done"
    document = {
        "events": [{"id": each.id, "event": each.event, **each.data} for each in found],
        "next": found[-1].id if found else after,
        "done": is_done,
        "poll_after_ms": None if is_done else pause,
    }
    return respond(200, document)
