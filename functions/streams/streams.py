"""Sends streams of the OpenAI API, and a task's events, as one long response at a Function URL. This function only
reads the turn and its event log. The submit function makes the turns. All other requests of the OpenAI API are passed
on to the functions submit and status, so that a client needs only one URL.
"""

import os
import re
import time
from collections.abc import Generator, Iterator
from functools import partial
from itertools import chain
from typing import Any
from urllib.parse import unquote

from passing import Functions
from turnqueue.api_keys import ApiKeys
from turnqueue.callers import Callers, Tokens
from turnqueue.events import EventLog, with_text
from turnqueue.http import (
    Event,
    Problem,
    Response,
    body,
    dispatch,
    header,
    no_such_task,
    owner,
    query,
    task_key,
)
from turnqueue.limits import Limiter
from turnqueue.responses import task_status
from turnqueue.store import TurnStore
from turnqueue.stream import END, StreamEvent, as_text, cursor, done, news, pause_ms, snapshot
from turnqueue.telemetry import error_name, flush, logger, where
from turnqueue.turn import Key, Turn
from turnqueue.usage import UsageStore
from turnqueue.v1.http import no_such_response, serve
from turnqueue.v1.items import response_key
from turnqueue.v1.streams import HEADERS, CompletionStream, ResponseStream, Stream, starting_after
from watch import State, states

guards = os.environ["GUARDS_TABLE"]
submit, status = os.environ["SUBMIT_FUNCTION"], os.environ["STATUS_FUNCTION"]
log = EventLog(os.environ["EVENTS_TABLE"], attempts=2)
store = TurnStore(os.environ["TURNS_TABLE"], attempts=2, usage=UsageStore(guards, attempts=1))
limiter = Limiter.of(os.environ["OWNER_LIMITS"], os.environ["LIMIT_GROUP_CLAIM"], guards)
callers = Callers(
    ApiKeys(guards, attempts=2),
    Tokens(os.environ["JWT_ISSUER"], os.environ["JWT_AUDIENCE"]),
    os.environ["LIMIT_GROUP_CLAIM"],
)
functions = Functions()

_SECONDS_TO_END = 5
"""A stream ends this number of seconds before the function's timeout. The time is needed for a read that hangs and for
the last event."""

_SECONDS_OF_SILENCE = 15
"""After this number of seconds without an event, a comment shows proxies and the client that the stream is alive."""

_EVENTS_PATH = re.compile(r"/chat/task/([^/]+)/events")


def handler(event: Event, context: Any) -> Generator[Any]:
    """Yields the head of the response, {statusCode, headers}, and then the pieces of its body."""
    logger.append_keys(request_id=context.aws_request_id)
    ends_at = time.time() + context.get_remaining_time_in_millis() / 1000 - _SECONDS_TO_END
    try:
        response = dispatch({**event, "routeKey": "any"}, {"any": partial(answer, ends_at=ends_at)})
        content = response.pop("body", "")
        yield response
        yield from [content] if isinstance(content, str) else content
    finally:
        flush()


def answer(event: Event, ends_at: float) -> Response:
    """The response. If it is a stream, `body` is an iterator of its pieces."""
    method, path = event["requestContext"]["http"]["method"], event["rawPath"]
    if path.startswith("/v1/"):
        return _openai_api(_routed(event, f"{method} /v1/{{proxy+}}", {"proxy": unquote(path[4:])}), ends_at)
    if method == "GET" and (match := _EVENTS_PATH.fullmatch(path)):
        return _events(
            _routed(event, f"{method} /chat/task/{{task_id}}/events", {"task_id": unquote(match[1])}), ends_at
        )
    raise Problem("no_such_route", "This URL serves only streams. Send other requests to the URL of the API.")


def _routed(event: Event, route: str, parameters: dict[str, str]) -> Event:
    """The event in the form that API Gateway gives to functions behind an authorizer. Raises a 401 Problem if the
    caller is unknown."""
    is_openai = " /v1/" in route
    claims = callers.claims(header(event, "authorization") or "", by_key=is_openai)
    if claims is None:
        allowed = (
            "The request needs a bearer token or an API key." if is_openai else "The request needs a bearer token."
        )
        raise Problem("unauthenticated", allowed)
    told = {"lambda": claims} if is_openai else {"jwt": {"claims": claims}}
    context = {**event["requestContext"], "routeKey": route, "authorizer": told}
    return {**event, "routeKey": route, "pathParameters": parameters, "requestContext": context}


def _events(event: Event, ends_at: float) -> Response:
    key, after = task_key(event), cursor(event)
    turn = store.read(key, time.time())
    if turn is None:
        raise no_such_task()
    if after == END and turn.final:
        return {"statusCode": 204, "headers": {"Cache-Control": "no-store"}, "body": ""}
    # An operator replayed the task after the client had read the last event. So the client starts again with a
    # snapshot.
    after = None if after == END else after
    return _streamed(event, _TaskStream(after), turn, after or 0, ends_at)


def _openai_api(event: Event, ends_at: float) -> Response:
    return serve(
        event,
        {
            "POST (?:responses|chat/completions)": partial(_create, event, ends_at),
            "GET responses/([^/]+)": partial(_retrieve, event, ends_at),
            "POST .*": partial(functions.call, submit, event),
            ".*": partial(functions.call, status, event),
        },
    )


def _create(event: Event, ends_at: float) -> Response:
    body(event)  # raises a Problem if the body is too large to be passed on
    response = functions.call(submit, {**event, "requestContext": {**event["requestContext"], "streams": True}})
    handed = response.pop("stream", None)
    if handed is None:
        return response
    key = Key.of_task(owner(event), handed["task_id"])
    turn = store.read(key, time.time()) if key else None
    if turn is None:
        raise no_such_response()
    stream: Stream
    if "with_usage" in handed:
        stream = CompletionStream(turn, with_usage=handed["with_usage"])
    else:
        stream = ResponseStream(takes_back=bool(turn.request["v1"].get("background")))
    streamed = _streamed(event, stream, turn, 0, ends_at)
    return {**streamed, "headers": response["headers"] | streamed["headers"]}


def _retrieve(event: Event, ends_at: float, response_id: str) -> Response:
    if query(event, "stream") != "true":
        return functions.call(status, event)
    after = starting_after(query(event, "starting_after"))
    key = response_key(owner(event), response_id)
    turn = store.read(key, time.time()) if key else None
    if turn is None:
        raise no_such_response()
    return _streamed(event, ResponseStream(after=after), turn, 0, ends_at)


def _streamed(event: Event, stream: Stream, turn: Turn, after: int, ends_at: float) -> Response:
    """The stream of a turn. If the owner's rate limit for waits is reached, the stream sends the present events and
    ends. Raises an error that occurs before the first piece, so that the client gets an error response."""
    if not turn.final and limiter and not limiter.may_wait(event, turn.key.owner):
        ends_at = time.time()
    pieces = _pieces(stream, states(store, log, turn, after, ends_at))
    return {"statusCode": 200, "headers": HEADERS, "body": chain([next(pieces, "")], pieces)}


def _pieces(stream: Stream, seen: Iterator[State]) -> Iterator[str]:
    """The body of a stream. If the stream ends too early, `cut` makes its last event. Without this event, clients would
    take the text as the complete answer."""
    has_begun, told_at = False, time.time()
    turn: Turn | None = None
    try:
        for turn, rows in seen:
            piece = stream.told(turn, rows)
            if not piece and time.time() - told_at > _SECONDS_OF_SILENCE:
                piece = ": still there\n\n"
            if piece:
                has_begun, told_at = True, time.time()
                yield piece
            if stream.is_over:
                return
    except Exception as error:
        if turn is None or not has_begun:
            raise
        if not isinstance(error, Problem):
            logger.error("stream failed", extra={"error": error_name(error), "where": where(error)})
    assert turn is not None, "a turn has at least one state"
    yield stream.cut(turn)


class _TaskStream:
    """The events of a task. `after`: the id of the last event that the client has read."""

    def __init__(self, after: int | None) -> None:
        self.is_over = False
        self._after = after
        self._has_begun = False

    def told(self, turn: Turn, rows: Any) -> str:
        now = time.time()
        found: list[StreamEvent] = []
        if turn.final:
            self.is_over = True
            found = [done(task_status(with_text(turn, log.after(turn.key, 0)), now))]
        elif self._after is None:
            found = [snapshot(turn, rows, task_status(with_text(turn, rows), now))]
        else:
            found = news(rows)
        if self._has_begun and not found:
            return ""
        self._has_begun = True
        self._after = found[-1].id if found else self._after
        return as_text(found, pause_ms(turn, self._after or 0, now))

    def cut(self, turn: Turn) -> str:
        """Ends a stream before `done`: sends only the time after which the client asks again. The client then resumes
        the stream."""
        return as_text([], pause_ms(turn, self._after or 0, time.time()))
