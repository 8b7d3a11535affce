"""A turn as a stream of server-sent events: the events of the Responses API, or the chunks of Chat Completions.

The events are computed from the turn's states and from the rows of its event log. The events and their numbers do not
depend on the times at which a reader looks. So a disconnected reader can resume after any event, at any time, and no
counter is stored.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from turnqueue.http import Problem, Response
from turnqueue.turn import Status, Turn
from turnqueue.v1.completions import finish_reason, message, usage
from turnqueue.v1.http import failed
from turnqueue.v1.items import completion_id, message_item, output_items, response_id
from turnqueue.v1.responses import is_cut, response, status_of

type Event = dict[str, Any]

HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}


class Row(Protocol):
    """A row of the event log. A row of kind "s" voids the text before it, and a row of kind "d" adds `text`."""

    @property
    def kind(self) -> str: ...
    @property
    def text(self) -> str: ...


class Stream(Protocol):
    """Writes the stream of one turn as server-sent events. `is_over`: whether the last event is written."""

    is_over: bool

    def told(self, turn: Turn, rows: Sequence[Row]) -> str:
        """The events that this state of the turn adds. `rows`: the rows after those of the previous state."""

    def cut(self, turn: Turn) -> str:
        """The last event of a stream that the function must end: an error that names the response."""


def shows_growth(turn: Turn) -> bool:
    """Whether the turn's stream shows the growing text. If not, the stream has the whole text at its end. The stream of
    an answer with a JSON format never shows the growing text, because the event log contains only the answer's
    `message` and not the whole document."""
    asked = turn.request
    is_wanted = asked.get("stream") or (asked.get("v1") or {}).get("background")
    return bool(is_wanted) and "format" not in asked


def respond_stream(stream: Stream, turn: Turn, rows: Sequence[Row], headers: dict[str, str]) -> Response:
    """The whole stream in one response. `rows`: the whole log of the turn. If the turn is not final, the stream ends
    with an error. Without the error, clients would take the text as the complete answer."""
    body = stream.told(turn, rows)
    if not stream.is_over:
        body += stream.cut(turn)
    return {"statusCode": 200, "headers": HEADERS | headers, "body": body}


def starting_after(text: str | None) -> int:
    """The number of the last event that the client has read, or -1 if it has read no event. Raises a 400 Problem."""
    if text is None:
        return -1
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise Problem("invalid_request", "starting_after must be a whole number.", status=400, param="starting_after")
    return int(text)


class CompletionStream:
    """The stream of a turn as chunks of Chat Completions."""

    def __init__(self, turn: Turn, *, with_usage: bool) -> None:
        self.is_over = False
        self._with_usage = with_usage
        self._text: str | None = None  # the text sent so far; None before the first chunk
        self._head = {
            "id": completion_id(turn.key),
            "object": "chat.completion.chunk",
            "created": int(turn.created_at),
            "model": turn.request["role"],
            **({"usage": None} if with_usage else {}),
        }

    def told(self, turn: Turn, rows: Sequence[Row]) -> str:
        """Raises a Problem if the turn failed before the first chunk."""
        return "".join(self._chunks(turn, rows))

    def cut(self, turn: Turn) -> str:
        self.is_over = True
        return _data({"error": _unfinished(turn)})

    def _chunks(self, turn: Turn, rows: Sequence[Row]) -> Iterator[str]:
        for row in rows if shows_growth(turn) else ():
            if row.kind == "d":
                yield from self._said(row.text)
            elif row.kind == "s" and self._text:
                self.is_over = True
                yield _data({"error": _void(turn)})
                return
        if not turn.final:
            return
        self.is_over = True
        if turn.status is not Status.SUCCESS:
            if self._text is None:
                raise failed(turn)
            yield _data({"error": failed(turn).error})
            return
        answer = message(turn)
        text, shown = answer["content"] or "", self._text or ""
        if not text.startswith(shown):
            yield _data({"error": _void(turn)})
            return
        yield from self._said(text[len(shown) :])
        for index, call in enumerate(answer.get("tool_calls", ())):
            function = call["function"]
            begun = {**call, "index": index, "function": {**function, "arguments": ""}}
            yield self._chunk({"tool_calls": [begun]})
            yield self._chunk({"tool_calls": [{"index": index, "function": {"arguments": function["arguments"]}}]})
        yield self._chunk({}, finish_reason(turn))
        if self._with_usage:
            yield _data(self._head | {"choices": [], "usage": usage(turn)})
        yield "data: [DONE]\n\n"

    def _said(self, text: str) -> Iterator[str]:
        if self._text is None:
            self._text = ""
            yield self._chunk({"role": "assistant", "content": ""})
        if text:
            self._text += text
            yield self._chunk({"content": text})

    def _chunk(self, delta: Event, reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return _data(self._head | {"choices": [choice]})


class ResponseStream:
    """The events of a response after the event with the number `after`. If a new attempt voids shown text and
    `takes_back` is set, the text's item ends as incomplete and another item follows. Without `takes_back`, the stream
    ends with an error, because few clients can remove shown text."""

    def __init__(self, *, after: int = -1, takes_back: bool = True) -> None:
        self.is_over = False
        self._after = after
        self._takes_back = takes_back
        self._number = 0
        self._begun = False
        self._index = -1  # the index of the open or last item
        self._item_id = ""
        self._text: str | None = None  # the text of the open item

    def told(self, turn: Turn, rows: Sequence[Row]) -> str:
        events = self._events(turn, rows)
        return "".join(
            _block(event) for event in events if event["sequence_number"] > self._after or event["type"] == "error"
        )

    def cut(self, turn: Turn) -> str:
        self.is_over = True
        return _block(self._error(_unfinished(turn)))

    def _events(self, turn: Turn, rows: Sequence[Row]) -> Iterator[Event]:
        now = response(turn)
        # Leave out every member that changes while the turn runs, because every reader must get the same events.
        fresh = now | dict.fromkeys(("completed_at", "error", "incomplete_details", "usage")) | {"output": []}
        fresh["x_turnqueue"] = {name: now["x_turnqueue"][name] for name in ("task_id", "session_id")}
        if self._number == 0:
            status = "queued" if now["background"] else "in_progress"
            yield self._event("response.created", response=fresh | {"status": status})
            if now["background"]:
                yield self._event("response.queued", response=fresh | {"status": "queued"})
        if not self._begun:
            if now["background"] and turn.status is Status.PENDING and not turn.attempt and not rows:
                return
            self._begun = True
            yield self._event("response.in_progress", response=fresh | {"status": "in_progress"})
        for row in rows if shows_growth(turn) else ():
            if row.kind == "s":
                yield from self._take_back(turn)
            elif row.kind == "d":
                yield from self._say(turn, row.text)
            if self.is_over:
                return
        if turn.final:
            yield from self._end(turn, now)
            self.is_over = True

    def _end(self, turn: Turn, now: dict[str, Any]) -> Iterator[Event]:
        if turn.status is not Status.SUCCESS:
            yield from self._close(turn, "incomplete")
            name = "response.failed" if status_of(turn) == "failed" else "response.incomplete"
            yield self._event(name, response=now)
            return
        status = "incomplete" if is_cut(turn) else "completed"
        output = []
        for item in output_items(turn):
            is_message = item["type"] == "message"
            text = item["content"][0]["text"] if is_message else ""
            if self._text is not None and not (is_message and text.startswith(self._text)):
                yield from self._take_back(turn)
                if self.is_over:
                    return
            if is_message:
                yield from self._say(turn, text[len(self._text or "") :])
                output.append(message_item(turn.key, text, status) | {"id": self._item_id})
                yield self._of_text("response.output_text.done", text=self._text, logprobs=[])
                yield self._of_text("response.content_part.done", part=self._part())
                yield from self._close(turn, status)
            else:
                yield from self._call(item)
                output.append(item)
        yield self._event(f"response.{status}", response=now | {"output": output})

    def _say(self, turn: Turn, text: str) -> Iterator[Event]:
        if self._text is None:
            self._index += 1
            # The text of earlier attempts is void, so their items have other ids than the items of the last attempt.
            suffix = f"_a{self._index + 1}" if self._index else ""
            self._item_id = message_item(turn.key, "")["id"] + suffix
            self._text = ""
            item = message_item(turn.key, "", "in_progress") | {"id": self._item_id, "content": []}
            yield self._event("response.output_item.added", output_index=self._index, item=item)
            yield self._of_text("response.content_part.added", part=self._part())
        if text:
            self._text += text
            yield self._of_text("response.output_text.delta", delta=text, logprobs=[])

    def _take_back(self, turn: Turn) -> Iterator[Event]:
        if self._text and not self._takes_back:
            self.is_over = True
            yield self._error(_void(turn))
        else:
            yield from self._close(turn, "incomplete")

    def _close(self, turn: Turn, status: str) -> Iterator[Event]:
        if self._text is None:
            return
        item = message_item(turn.key, self._text, status) | {"id": self._item_id}
        self._text = None
        yield self._event("response.output_item.done", output_index=self._index, item=item)

    def _call(self, item: dict[str, Any]) -> Iterator[Event]:
        self._index += 1
        place = {"output_index": self._index}
        named = place | {"item_id": item["id"]}
        begun = item | {"arguments": "", "status": "in_progress"}
        yield self._event("response.output_item.added", **place, item=begun)
        yield self._event("response.function_call_arguments.delta", **named, delta=item["arguments"])
        done = {"name": item["name"], "arguments": item["arguments"]}
        yield self._event("response.function_call_arguments.done", **named, **done)
        yield self._event("response.output_item.done", **place, item=item)

    def _part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": self._text, "annotations": [], "logprobs": []}

    def _of_text(self, kind: str, **members: Any) -> Event:
        place = {"item_id": self._item_id, "output_index": self._index, "content_index": 0}
        return self._event(kind, **place, **members)

    def _event(self, kind: str, **members: Any) -> Event:
        event = {"type": kind, "sequence_number": self._number, **members}
        self._number += 1
        return event

    def _error(self, error: Event) -> Event:
        """The error event has the number of the last event, so that a client that resumes after this number misses
        nothing."""
        return {**error, "type": "error", "sequence_number": self._number - 1, "error": error}


def _unfinished(turn: Turn) -> Event:
    return _problem(turn, "response_in_progress", "The answer takes longer than a request may last. Read it later")


def _void(turn: Turn) -> Event:
    return _problem(
        turn, "response_restarted", "A new attempt has begun, so discard the text so far. Read the new answer later"
    )


def _problem(turn: Turn, code: str, why: str) -> Event:
    text = f"{why}: GET /v1/responses/{response_id(turn.key)}."
    return {"type": "server_error", "code": code, "message": text, "param": None}


def _block(event: Event) -> str:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"


def _data(chunk: Event) -> str:
    return f"data: {json.dumps(chunk)}\n\n"
