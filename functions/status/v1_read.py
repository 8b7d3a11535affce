"""The GET and DELETE requests of the OpenAI API."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from turnqueue.attachments import shown
from turnqueue.http import Event, Problem, Response, integer, owner, query, respond
from turnqueue.personas import ROLES
from turnqueue.store import Refused, TurnStore
from turnqueue.turn import SESSION_ID, Status, Turn
from turnqueue.v1.conversations import Conversation, Conversations
from turnqueue.v1.http import no_such_conversation, no_such_response, serve
from turnqueue.v1.items import Item, input_items, output_items, response_key, session_of
from turnqueue.v1.responses import polling, response
from turnqueue.v1.streams import ResponseStream, Row, respond_stream, shows_growth, starting_after

MAX_PAGE = 100
MAX_TURNS = 500
"""A list of a conversation's items covers at most this number of turns. Each page of the list reads all these turns."""


class Desk(NamedTuple):
    """The objects and functions of status.py that this module uses."""

    store: TurnStore
    conversations: Conversations
    waited: Callable[[Event, Turn], Turn]
    with_text_so_far: Callable[[Turn], Turn]
    rows: Callable[[Turn], Sequence[Row]]
    data_url: Callable[[str, str], str | None]


def answer(event: Event, desk: Desk) -> Response:
    store = desk.store
    return serve(
        event,
        {
            "GET responses/([^/]+)": partial(retrieve, event, desk),
            "DELETE responses/([^/]+)": partial(delete, event, store),
            "GET responses/([^/]+)/input_items": partial(list_input_items, event, desk),
            "GET conversations/([^/]+)": partial(retrieve_conversation, event, desk),
            "GET conversations/([^/]+)/items": partial(list_conversation_items, event, desk),
            "GET models": list_models,
            "GET models/([^/]+)": retrieve_model,
        },
    )


def retrieve(event: Event, desk: Desk, response_id: str) -> Response:
    turn = _turn(event, desk.store, response_id)
    if query(event, "stream") == "true":
        after = starting_after(query(event, "starting_after"))
        turn = desk.waited(event, turn)
        rows = desk.rows(turn) if shows_growth(turn) else ()
        return respond_stream(ResponseStream(after=after), turn, rows, {})
    turn = desk.with_text_so_far(turn)
    return respond(200, response(turn), polling(turn, time.time()))


def delete(event: Event, store: TurnStore, response_id: str) -> Response:
    """Delete the texts of the turn, then answer 200. Answers 409 if a worker must first stop an unfinished turn; the
    client can ask again in two seconds."""
    turn = _turn(event, store, response_id)
    try:
        if not turn.final:
            store.cancel(turn.key, time.time())
        store.empty(turn.key)
    except Refused as refused:
        if refused.current is None:
            raise no_such_response() from None
        text = "The response is being cancelled. Delete it again in two seconds."
        raise Problem("response_in_progress", text, headers={"Retry-After": "2"}) from None
    return respond(200, {"id": response_id, "object": "response", "deleted": True})


def list_input_items(event: Event, desk: Desk, response_id: str) -> Response:
    return respond(200, _page(event, desk, input_items(_turn(event, desk.store, response_id))))


def retrieve_conversation(event: Event, desk: Desk, conversation: str) -> Response:
    return respond(200, _conversation(event, desk, conversation).shown())


def list_conversation_items(event: Event, desk: Desk, conversation: str) -> Response:
    """The items of a conversation's first turns, up to MAX_TURNS."""
    session_id = _conversation(event, desk, conversation).session_id
    items: list[Item] = []
    after: str | None = None
    for _ in range(MAX_TURNS // MAX_PAGE):
        turns, more = desk.store.page(owner(event), session_id, time.time(), after=after, limit=MAX_PAGE)
        for turn in turns:
            items += input_items(turn) + (output_items(turn) if turn.status is Status.SUCCESS else [])
        if not more or not turns:
            break
        after = turns[-1].key.turn
    return respond(200, _page(event, desk, items))


def _conversation(event: Event, desk: Desk, conversation: str) -> Conversation:
    caller, session_id, now = owner(event), session_of(conversation), time.time()
    if not SESSION_ID.fullmatch(session_id):
        raise no_such_conversation()
    if made := desk.conversations.find(caller, session_id, now):
        return made
    turns, _ = desk.store.page(caller, session_id, now, after=None, limit=1)
    if not turns:
        raise no_such_conversation()
    return Conversation.of_first(turns[0])


def list_models() -> Response:
    """List the models that this API offers: its personas."""
    return respond(200, {"object": "list", "data": [_model(role) for role in sorted(ROLES)]})


def retrieve_model(name: str) -> Response:
    if name not in ROLES:
        raise Problem("model_not_found", param="model")
    return respond(200, _model(name))


def _model(role: str) -> dict[str, Any]:
    return {"id": role, "object": "model", "created": 0, "owned_by": "turnqueue"}


def _turn(event: Event, store: TurnStore, response_id: str) -> Turn:
    key = response_key(owner(event), response_id)
    turn = store.read(key, time.time()) if key else None
    if turn is None:
        raise no_such_response()
    return turn


def _page(event: Event, desk: Desk, items: list[Item]) -> dict[str, Any]:
    """The page of a list that the query asks for: `limit`, `order` (desc or asc), and `after` (the id of an item)."""
    limit = integer(query(event, "limit"), "limit", default=20, low=1, high=MAX_PAGE)
    if (order := query(event, "order") or "desc") not in ("asc", "desc"):
        raise Problem("invalid_request", "order must be asc or desc.", status=400, param="order")
    ordered = items if order == "asc" else items[::-1]
    if after := query(event, "after"):
        ids = [item["id"] for item in ordered]
        if after not in ids:
            raise Problem("invalid_request", "after must be the id of an item in this list.", status=400, param="after")
        ordered = ordered[ids.index(after) + 1 :]
    data = ordered[:limit]
    read, contents = partial(desk.data_url, owner(event)), [item.get("content", ()) for item in data]
    data = data[: shown(read, contents, _as_sent, name="file_id")]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(ordered) > len(data),
    }


def _as_sent(part: dict[str, Any], url: str) -> None:
    part |= {"image_url": url, "file_id": None}
