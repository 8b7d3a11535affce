"""Reads and cancels tasks, shows the conversation of a session, and reports the health of the service."""

import os
import re
import time
from datetime import date
from functools import partial
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from turnqueue import __version__
from turnqueue.attachments import shown
from turnqueue.circuit_breaker import ModelBreakers
from turnqueue.events import EventLog, has_text_in_log, with_text
from turnqueue.http import (
    Event,
    Problem,
    Response,
    dispatch,
    integer,
    no_such_task,
    owner,
    path,
    query,
    respond,
    task_key,
)
from turnqueue.limits import Limiter
from turnqueue.media import Unusable, Uploads
from turnqueue.personas import ROLES
from turnqueue.responses import Waiting, task_status
from turnqueue.store import Refused, TurnStore
from turnqueue.stream import END, MOST_TEXT, cursor, done, news, pause_ms, response, snapshot
from turnqueue.telemetry import error_name, logger, observed
from turnqueue.turn import SESSION_ID, Status, Turn, is_ulid
from turnqueue.usage import UsageStore, day_of
from turnqueue.wait import single_try_store, wait_until_final

table = os.environ["TURNS_TABLE"]
guards = os.environ["GUARDS_TABLE"]
breakers = ModelBreakers(guards, os.environ)
usages = UsageStore(guards, attempts=3)
log = EventLog(os.environ["EVENTS_TABLE"], attempts=3, read_timeout=3)
uploads = Uploads(os.environ["MEDIA_BUCKET"], attempts=2)
store = TurnStore(table, attempts=3, usage=UsageStore(guards, attempts=1), log=log, uploads=uploads)
limiter = Limiter.of(os.environ["OWNER_LIMITS"], os.environ["LIMIT_GROUP_CLAIM"], guards)

MAX_WAIT_SECONDS = 20
MAX_PAGE = 100
USUAL_WAIT_SECONDS = 2.0
"""If a turn has waited longer than this number of seconds, a client's poll also looks up the reason. Polls before that
cost only one read."""


@observed
def handler(event: Event, context: Any) -> Response:
    ends_at = time.time() + context.get_remaining_time_in_millis() / 1000
    return dispatch(
        event,
        {
            "GET /chat/task/{task_id}": partial(task, ends_at=ends_at),
            "GET /chat/task/{task_id}/events": events,
            "POST /chat/task/{task_id}/cancel": cancel,
            "GET /chat/session/{session_id}": session,
            "GET /chat/usage": usage,
            "GET /health": health,
            "HEAD /health": health_head,
            "OPTIONS /{proxy+}": preflight,
            "GET /v1/{proxy+}": partial(openai_api, ends_at=ends_at),
            "DELETE /v1/{proxy+}": partial(openai_api, ends_at=ends_at),
        },
    )


def task(event: Event, ends_at: float) -> Response:
    """Answers 200 with the task, whatever its state is. With `?wait=N`, the function first waits up to N seconds for
    the task to become final, unless the owner's rate limit for waits is reached."""
    key = task_key(event)
    seconds = integer(query(event, "wait"), "wait", default=0, low=0, high=MAX_WAIT_SECONDS)
    turn = store.read(key, time.time())
    if turn is None:
        raise no_such_task()
    turn = _waited(event, turn, seconds, ends_at)
    return _task(200, _with_text_so_far(turn), _waiting(turn))


def events(event: Event) -> Response:
    """Answers at once with the new events of a growing answer, and the time to ask again. Answers 204 if the client has
    already read the end."""
    key, after, now = task_key(event), cursor(event), time.time()
    # Read the rows first, and the turn second. If the turn is unfinished then, all these rows were written before its
    # end.
    rows = [] if after == END else log.after(key, after or 0)
    turn = store.read(key, now)
    if turn is None:
        raise no_such_task()
    if after == END:
        if turn.final:
            return {"statusCode": 204, "headers": {"Cache-Control": "no-store"}, "body": ""}
        # An operator replayed the task after the client had read `done`. So the client starts again with a snapshot.
        after, rows = None, log.after(key, 0)
    if turn.final:
        found = [done(task_status(_with_text_so_far(turn), now))]
    elif after is None:
        found = [snapshot(turn, rows, task_status(with_text(turn, rows), now, _waiting(turn)))]
    else:
        found = news(rows, MOST_TEXT)
    reached = found[-1].id if found else after or 0
    return response(event, found, reached, pause_ms(turn, reached, now))


def _with_text_so_far(turn: Turn) -> Turn:
    """The turn with its text so far. If the read fails, the response leaves the text out."""
    if not has_text_in_log(turn):
        return turn
    try:
        return with_text(turn, log.after(turn.key, 0))
    except (BotoCoreError, ClientError) as error:
        logger.warning("read failed", extra={"task_id": turn.key.task_id, "error": error_name(error)})
        return turn


def _waiting(turn: Turn) -> Waiting | None:
    """The reason why a turn waits longer than usual. No reason is given if the circuit breakers cannot be read."""
    now = time.time()
    if turn.status is not Status.PENDING or now - turn.queued_at < USUAL_WAIT_SECONDS:
        return None
    try:
        if store.waits_for_another(turn.key):
            return Waiting("turn_before", None)
    except (BotoCoreError, ClientError) as error:
        logger.warning("read failed", extra={"task_id": turn.key.task_id, "error": error_name(error)})
        return None
    if wait := breakers.wait(now):
        return Waiting.of(wait.code, max(now + wait.seconds, turn.next_try_at or 0))
    return Waiting.of(turn.last_refusal or "model_rate_limited", turn.next_try_at) if turn.next_try_at else None


def cancel(event: Event) -> Response:
    """Answers 200 with the task if the task is final now, cancelled or otherwise. Answers 202 if its worker has not
    seen the cancellation yet."""
    key, now = task_key(event), time.time()
    if store.read(key, now) is None:  # `read` makes an overdue task final, and treats an expired task as gone.
        raise no_such_task()
    try:
        turn = store.cancel(key, now)
    except Refused:
        raise no_such_task() from None
    return _task(200 if turn.final else 202, _with_text_so_far(turn))


def session(event: Event) -> Response:
    """The turns of a conversation in order. `?limit=N` sets the page size. `?cursor=` takes the `next_cursor` of the
    previous page."""
    session_id = path(event, "session_id")
    caller = owner(event)
    cursor = query(event, "cursor")
    if cursor is not None and not is_ulid(cursor):
        raise Problem("invalid_parameter", "cursor must be the next_cursor of an earlier page.", param="cursor")
    limit = integer(query(event, "limit"), "limit", default=50, low=1, high=MAX_PAGE)
    if not SESSION_ID.fullmatch(session_id):
        raise _no_such_session()
    now = time.time()
    turns, more = store.page(caller, session_id, now, after=cursor, limit=limit)
    if not turns and cursor is None:
        raise _no_such_session()
    media = [turn.request.get("media", []) for turn in turns]
    room = shown(partial(_data_url, caller), media, _as_sent)
    turns, more = turns[:room], more or room < len(turns)
    return respond(
        200,
        {
            "session_id": session_id,
            "turns": [_history_entry(_with_text_so_far(turn), now) for turn in turns],
            "next_cursor": turns[-1].key.turn if turns and more else None,
        },
    )


def _data_url(caller: str, upload_id: str) -> str | None:
    """The data URL of an image in a message of the caller. None if S3 cannot return the image; the response then shows
    the image's `upload_id`."""
    try:
        return uploads.data_url(caller, upload_id)
    except (BotoCoreError, ClientError, Unusable) as error:
        logger.warning("image not read", extra={"error": error_name(error)})
        return None


def _as_sent(attachment: dict[str, Any], url: str) -> None:
    del attachment["upload_id"]
    attachment["url"] = url


def usage(event: Event) -> Response:
    """The caller's usage of a day (UTC): `?day=YYYY-MM-DD`, today by default."""
    caller = owner(event)
    day = query(event, "day")
    if day is None:
        day = day_of(time.time())
    if not _is_date(day):
        raise Problem("invalid_parameter", "day must be an existing date in the form YYYY-MM-DD.", param="day")
    return respond(200, {"day": day, **usages.read(caller, day)})


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    # the pattern is needed, because date.fromisoformat also accepts 20261122
    return re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) is not None


def health(event: Event) -> Response:
    return respond(200, {"status": "ok", "version": __version__, "roles": sorted(ROLES)})


def health_head(event: Event) -> Response:
    """Like `health`, but without a body, because a response to HEAD has no body."""
    return {**health(event), "body": ""}


def preflight(event: Event) -> Response:
    """Answers 204 to a preflight that API Gateway forwards. Usually API Gateway answers preflights itself. API Gateway
    adds the CORS headers to either answer."""
    return {"statusCode": 204, "headers": {}, "body": ""}


def openai_api(event: Event, ends_at: float) -> Response:
    """A GET or DELETE of the OpenAI API. The imports are here, so that they do not slow down other requests."""
    from turnqueue.v1.conversations import Conversations
    from v1_read import Desk, answer

    def waited(event: Event, turn: Turn) -> Turn:
        return _waited(event, turn, MAX_WAIT_SECONDS, ends_at)

    desk = Desk(
        store,
        Conversations(guards, attempts=3),
        waited,
        _with_text_so_far,
        lambda turn: log.after(turn.key, 0, consistent=True),
        _data_url,
    )
    return answer(event, desk)


def _waited(event: Event, turn: Turn, seconds: int, ends_at: float) -> Turn:
    """Waits up to `seconds` for the turn to become final, and returns its last read state. Returns at once if the
    owner's rate limit for waits is reached."""
    if not seconds or turn.final or (limiter and not limiter.may_wait(event, turn.key.owner)):
        return turn
    return wait_until_final(single_try_store(table, guards), turn, seconds, ends_at)


def _history_entry(turn: Turn, now: float) -> dict[str, Any]:
    outputs = [entry for entry in turn.request.get("context", ()) if "output" in entry]
    return {
        "message": turn.request["message"],
        "role": turn.request["role"],
        "media": turn.request.get("media", []),
        "metadata": turn.request.get("metadata", {}),
        **({"tool_outputs": outputs} if outputs else {}),
        **task_status(turn, now),
    }


def _task(status: int, turn: Turn, waiting: Waiting | None = None) -> Response:
    document = task_status(turn, time.time(), waiting)
    wait_ms = document["poll_after_ms"]
    return respond(status, document, {} if wait_ms is None else {"Retry-After": str(max(1, round(wait_ms / 1000)))})


def _no_such_session() -> Problem:
    return Problem("session_not_found", param="session_id")
