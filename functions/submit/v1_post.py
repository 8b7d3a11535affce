"""The POST requests of the OpenAI API: a response, a chat completion, a conversation, a cancellation."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from continuation import already_continued, call_ids, check_outputs, continue_calls
from preference import Preference
from submission import Submission
from turnqueue.http import Event, Problem, Response, body, owner, respond
from turnqueue.store import AlreadyAnswered, Refused, TurnStore
from turnqueue.turn import SESSION_ID, Key, Status, Turn, new_session_id, new_ulid, session_key
from turnqueue.usage import estimated_tokens
from turnqueue.v1.completions import completion
from turnqueue.v1.conversations import Conversation, Conversations
from turnqueue.v1.http import (
    NO_RETRY,
    failed,
    hand_over,
    is_streamed,
    no_such_conversation,
    no_such_response,
    serve,
    unfinished,
)
from turnqueue.v1.items import Entry, referred, referred_key, response_key, session_of
from turnqueue.v1.responses import polling, response
from turnqueue.v1.streams import CompletionStream, ResponseStream, Row, respond_stream, shows_growth
from v1_request import Parsed, parse_completions, parse_conversation, parse_responses

MAX_WAIT_SECONDS = 25
MAX_CANCEL_SECONDS = 5
"""The maximum number of seconds that a request waits for the worker of a cancelled turn to stop. A worker notices a
cancellation within two seconds."""

MAX_REFERRED = 100
"""The maximum number of earlier turns whose items one request may name. Each of these turns costs a read."""


LIVE = {"stream": True, "live": True}
"""The members of a request whose answer goes through the streams function. They make the worker write the text to the
event log from the first word on."""


class Desk(NamedTuple):
    """The objects, functions and settings of submit.py that this module uses."""

    store: TurnStore
    take: Callable[[Event, Submission], tuple[Turn, bool, dict[str, str]]]
    waited: Callable[[Event, Turn, int, float], Turn]
    conversations: Conversations
    rows: Callable[[Turn], Sequence[Row]]
    require_allowed_urls: Callable[[dict[str, object]], None]
    deadline_seconds: int
    history_tokens: int
    allow_instructions: bool


def post(event: Event, desk: Desk, idempotency_key: str | None, ends_at: float) -> Response:
    call = partial(_Call, event, desk, idempotency_key, ends_at)
    return serve(
        event,
        {
            "POST responses": lambda: call().create_response(),
            "POST chat/completions": lambda: call().create_completion(),
            "POST conversations": lambda: call().create_conversation(),
            "POST responses/([^/]+)/cancel": lambda response_id: call().cancel(response_id),
        },
    )


class _Call:
    def __init__(self, event: Event, desk: Desk, idempotency_key: str | None, ends_at: float) -> None:
        self._event = event
        self._desk = desk
        self._key = idempotency_key
        self._ends_at = ends_at
        self._owner = owner(event)
        self._referred: dict[Key, Turn | None] = {}

    def create_response(self) -> Response:
        parsed = parse_responses(body(self._event), instructions=self._desk.allow_instructions, refer=self._refer)
        sent = parsed.body
        if sent.conversation_id:
            session_id = session_of(sent.conversation_id)
            if not SESSION_ID.fullmatch(session_id):
                raise no_such_conversation("conversation")
            session, now = session_key(self._owner, session_id), time.time()
            continue_calls(self._desk.store, Key(session, new_ulid(now)), parsed.request, now, "input")
        else:
            session, calls = session_key(self._owner, new_session_id()), list[str]()
            if sent.previous_response_id:
                previous = self._previous(sent.previous_response_id)
                session, parsed.request["previous"] = previous.key.session, previous.key.turn
                if calls := call_ids(previous):
                    parsed.request["answers"] = previous.key.turn
            check_outputs(parsed.request.get("context", ()), calls, "input")
        is_handed_over = bool(sent.stream) and is_streamed(self._event)
        if is_handed_over:
            parsed.request.update(LIVE)
        elif sent.stream and sent.background:
            parsed.request["stream"] = True
        turn, headers = self._taken(parsed, session, wait=sent.stream or not sent.background)
        if is_handed_over:
            return hand_over(turn, headers)
        if sent.stream:
            turn = self._desk.waited(self._event, turn, MAX_WAIT_SECONDS, self._ends_at)
            rows = self._desk.rows(turn) if shows_growth(turn) else ()
            return respond_stream(ResponseStream(), turn, rows, headers)
        if sent.background:
            return respond(200, response(turn), headers | polling(turn, time.time()))
        return respond(200, response(self._answered(turn)), headers)

    def create_completion(self) -> Response:
        parsed = parse_completions(body(self._event), instructions=self._desk.allow_instructions)
        check_outputs(parsed.request.get("context", ()), [], "messages")
        is_handed_over = bool(parsed.body.stream) and is_streamed(self._event)
        if is_handed_over:
            parsed.request.update(LIVE)
        turn, headers = self._taken(parsed, session_key(self._owner, new_session_id()), wait=True)
        wanted = (parsed.body.stream_options or {}).get("include_usage") is True
        if is_handed_over:
            return hand_over(turn, headers, with_usage=wanted)
        turn = self._answered(turn)
        if parsed.body.stream:
            return respond_stream(CompletionStream(turn, with_usage=wanted), turn, (), headers)
        return respond(200, completion(turn), headers)

    def create_conversation(self) -> Response:
        sent = parse_conversation(body(self._event))
        made = Conversation(new_session_id(), int(time.time()), sent.metadata or {})
        self._desk.conversations.create(self._owner, made)
        return respond(200, made.shown())

    def cancel(self, response_id: str) -> Response:
        """Answers 200 with the response. If a worker holds the turn, waits up to MAX_CANCEL_SECONDS until the worker
        has stopped."""
        key, now = response_key(self._owner, response_id), time.time()
        if key is None or self._desk.store.read(key, now) is None:
            raise no_such_response()
        try:
            turn = self._desk.store.cancel(key, now)
        except Refused:
            raise no_such_response() from None
        turn = self._desk.waited(self._event, turn, MAX_CANCEL_SECONDS, self._ends_at)
        return respond(200, response(turn), polling(turn, time.time()))

    def _taken(self, parsed: Parsed, session: str, *, wait: bool | None) -> tuple[Turn, dict[str, str]]:
        """Record and queue the turn of the request. If an earlier request with the same Idempotency-Key did so, returns
        that turn. Also returns the response headers."""
        desk, request, now = self._desk, parsed.request, time.time()
        desk.require_allowed_urls(request)
        turn = Turn.submitted(Key(session, new_ulid(now)), request, now, desk.deadline_seconds)
        has_history = "previous" in request or "conversation" in request["v1"]
        tokens = estimated_tokens(request, desk.history_tokens if has_history else 0)
        turn = turn._replace(reserved_tokens=tokens, begins_session=not has_history)
        seconds = MAX_WAIT_SECONDS if wait else 0
        try:
            submission = Submission(turn, parsed.fingerprint, self._key, Preference(seconds, None))
            turn, replayed, headers = desk.take(self._event, submission)
        except AlreadyAnswered:
            raise already_continued("input") from None
        return turn, headers | ({"Idempotency-Replayed": "true"} if replayed else {})

    def _answered(self, turn: Turn) -> Turn:
        """Waits for the turn and returns it if it has succeeded. Raises a Problem if the turn failed or is not final in
        time."""
        turn = self._desk.waited(self._event, turn, MAX_WAIT_SECONDS, self._ends_at)
        if not turn.final:
            raise unfinished(turn)
        if turn.status is not Status.SUCCESS:
            raise failed(turn)
        return turn

    def _previous(self, response_id: str) -> Turn:
        """The turn of the response that the request continues. Raises a Problem if there is no such response, or if the
        response is unfinished."""
        key = response_key(self._owner, response_id)
        turn = self._desk.store.read(key, time.time()) if key else None
        if turn is None:
            raise no_such_response("previous_response_id")
        if not turn.final:
            raise Problem(
                "response_in_progress",
                param="previous_response_id",
                headers=NO_RETRY,
            )
        return turn

    def _refer(self, item_id: str, param: str) -> Entry:
        """The context entry for `item_id`, which names an item of one of the caller's earlier responses. Raises a 404
        Problem if there is no such item."""
        key = referred_key(self._owner, item_id)
        if key and key not in self._referred:
            if len(self._referred) == MAX_REFERRED:
                text = f"{param}: a request may refer to items of at most {MAX_REFERRED} responses."
                raise Problem("invalid_request", text, status=400, param=param)
            self._referred[key] = self._desk.store.read(key, time.time(), consistent=False)
        turn = self._referred.get(key) if key else None
        entry = referred(turn, item_id) if turn else None
        if entry is None:
            raise Problem(
                "item_not_found", f"{param}: there is no such item, or it has expired.", param=param, headers=NO_RETRY
            )
        return entry
