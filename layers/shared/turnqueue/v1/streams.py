"""A turn as a stream of events: those of the Responses API and the chunks of Chat Completions, as server-sent events.

The events of a response and their numbers are computed from the turn and the rows of its event log. So a disconnected
reader can resume after any number, at any time, and no counter is stored.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from turnqueue.http import Problem, Response
from turnqueue.turn import Status, Turn
from turnqueue.v1.completions import finish_reason, message, usage
from turnqueue.v1.items import completion_id, message_item, output_items, response_id
from turnqueue.v1.responses import is_cut, response, status_of

type Event = dict[str, Any]


class Row(Protocol):
    """A row of the event log: of kind "s" it voids the text before it, of kind "d" it adds `text`."""

    @property
    def kind(self) -> str: ...
    @property
    def text(self) -> str: ...


def is_in_background(turn: Turn) -> bool:
    """Whether the turn's stream shows the growing text. A foreground stream has the whole text at its end, because few
    clients can show text that a later attempt takes back."""
    return bool((turn.request.get("v1") or {}).get("background"))


def respond_stream(body: str, headers: dict[str, str]) -> Response:
    more = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}
    return {"statusCode": 200, "headers": more | headers, "body": body}


def response_stream(turn: Turn, rows: Iterable[Row], *, after: int = -1) -> str:
    """The events of a response after number `after`. If the turn is not final they end with an error, because clients
    take a stream without one for a complete answer."""
    events = list(_Writer(turn).events(rows))
    body = "".join(_block(event["type"], event) for event in events if event["sequence_number"] > after)
    if turn.final:
        return body
    text = f"The answer takes longer than a request may. It goes on: GET /v1/responses/{response_id(turn.key)} has it."
    error = {"type": "server_error", "code": "response_in_progress", "message": text, "param": None}
    # The number of the last event, so that a client that resumes after it misses nothing.
    number = events[-1]["sequence_number"]
    return body + _block("error", {**error, "type": "error", "sequence_number": number, "error": error})


def completion_stream(turn: Turn, *, with_usage: bool) -> str:
    """The chunks of an answered turn."""
    head = {
        "id": completion_id(turn.key),
        "object": "chat.completion.chunk",
        "created": int(turn.created_at),
        "model": turn.request["role"],
        **({"usage": None} if with_usage else {}),
    }
    said = message(turn)
    deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
    if said["content"]:
        deltas.append(({"content": said["content"]}, None))
    for index, call in enumerate(said.get("tool_calls", ())):
        function = call["function"]
        begun = {**call, "index": index, "function": {**function, "arguments": ""}}
        deltas.append(({"tool_calls": [begun]}, None))
        deltas.append(({"tool_calls": [{"index": index, "function": {"arguments": function["arguments"]}}]}, None))
    deltas.append(({}, finish_reason(turn)))
    chunks = [
        head | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}]}
        for delta, reason in deltas
    ]
    if with_usage:
        chunks.append(head | {"choices": [], "usage": usage(turn)})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


def starting_after(text: str | None) -> int:
    """The number of the last event that the client has read; -1 for none. Raises a 400 Problem."""
    if text is None:
        return -1
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise Problem("invalid_request", "starting_after must be a whole number.", status=400, param="starting_after")
    return int(text)


def _block(name: str, data: Event) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


class _Writer:
    """Writes the events of one turn, once."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._number = 0
        self._index = -1  # the index of the open or last item
        self._item_id = ""
        self._text: str | None = None  # the text of the open item

    def events(self, rows: Iterable[Row]) -> Iterator[Event]:
        turn = self._turn
        whole = response(turn)
        fresh = whole | dict.fromkeys(("completed_at", "error", "incomplete_details", "usage")) | {"output": []}
        yield self._event(
            "response.created", response=fresh | {"status": "queued" if whole["background"] else "in_progress"}
        )
        if whole["background"]:
            yield self._event("response.queued", response=fresh | {"status": "queued"})
            if turn.status is Status.PENDING and not turn.attempt:
                return
        yield self._event("response.in_progress", response=fresh | {"status": "in_progress"})
        for row in rows:
            if row.kind == "s":
                yield from self._close("incomplete")
            else:
                yield from self._say(row.text)
        if turn.final:
            yield from self._end(whole)

    def _end(self, whole: dict[str, Any]) -> Iterator[Event]:
        turn = self._turn
        if turn.status is not Status.SUCCESS:
            yield from self._close("incomplete")
            name = "response.failed" if status_of(turn) == "failed" else "response.incomplete"
            yield self._event(name, response=whole)
            return
        status = "incomplete" if is_cut(turn) else "completed"
        output = []
        for item in output_items(turn):
            if item["type"] == "message":
                text = item["content"][0]["text"]
                if self._text is not None and not text.startswith(self._text):
                    yield from self._close("incomplete")
                yield from self._say(text[len(self._text or "") :])
                output.append(message_item(turn.key, text, status) | {"id": self._item_id})
                yield from self._close(status)
            else:
                yield from self._close("incomplete")
                yield from self._call(item)
                output.append(item)
        yield self._event(f"response.{status}", response=whole | {"output": output})

    def _say(self, text: str) -> Iterator[Event]:
        if self._text is None:
            self._index += 1
            # Items of earlier attempts, whose text is void, have different ids from those of the last.
            suffix = f"_a{self._index + 1}" if self._index else ""
            self._item_id = message_item(self._turn.key, "")["id"] + suffix
            self._text = ""
            item = message_item(self._turn.key, "", "in_progress") | {"id": self._item_id, "content": []}
            yield self._event("response.output_item.added", output_index=self._index, item=item)
            yield self._of_text("response.content_part.added", part=self._part())
        if text:
            self._text += text
            yield self._of_text("response.output_text.delta", delta=text, logprobs=[])

    def _close(self, status: str) -> Iterator[Event]:
        if self._text is None:
            return
        if status != "incomplete" or (self._turn.status is Status.SUCCESS and is_cut(self._turn)):
            yield self._of_text("response.output_text.done", text=self._text, logprobs=[])
            yield self._of_text("response.content_part.done", part=self._part())
        item = message_item(self._turn.key, self._text, status) | {"id": self._item_id}
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
