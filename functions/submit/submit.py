"""POST /chat and a failed task's retry: record the turn, queue it, and answer at once or when the turn is final. POST
/chat/media: sign a form with which the client uploads an image to S3. A later message names the upload by its id."""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from caching import caching
from continuation import already_continued, continue_calls
from preference import preference
from request import MAX_MEDIA, UploadRequest, invalid, parse, parse_chat
from submission import Submission, idempotency_key, require_json
from turnqueue.attachments import moved
from turnqueue.circuit_breaker import ModelBreakers
from turnqueue.events import EventLog
from turnqueue.http import Event, Problem, Response, body, dispatch, no_such_task, owner, respond, task_key
from turnqueue.idempotency import IdempotencyKeys, Reservation
from turnqueue.limits import Limiter, Verdict, joined, whole_seconds
from turnqueue.media import MediaUrls, Uploads
from turnqueue.queue import TurnQueue
from turnqueue.replies import KeptReplies, reply_key
from turnqueue.responses import accepted, chat_response, poll_after_ms, upload
from turnqueue.store import AlreadyAnswered, Refused, TurnStore
from turnqueue.telemetry import count, error_name, logger, observed
from turnqueue.turn import FAILURES, Key, Status, Turn, new_session_id, new_ulid, session_key
from turnqueue.usage import UsageStore, estimated_tokens
from turnqueue.wait import single_try_store, wait_until_final

# Each call to AWS is tried at most twice. So even a request with an Idempotency-Key, which makes more calls than
# others, ends within the function's 29 s.
table = os.environ["TURNS_TABLE"]
guards = os.environ["GUARDS_TABLE"]
events_table = os.environ["EVENTS_TABLE"]
usage = UsageStore(guards, attempts=1, read_timeout=1)
log = EventLog(os.environ["EVENTS_TABLE"], attempts=2)
store = TurnStore(table, attempts=2, usage=usage, log=log)
keys = IdempotencyKeys(guards, attempts=2)
limiter = Limiter.of(os.environ["OWNER_LIMITS"], os.environ["LIMIT_GROUP_CLAIM"], guards)
queue = TurnQueue(os.environ["QUEUE_URL"], attempts=2)
# A read of the cache is tried once, with a short timeout. If the cache does not answer quickly, the model answers.
replies = KeptReplies(guards, attempts=1, read_timeout=1)
cache = {"seconds": int(os.environ["CACHE_SECONDS"]), "shared": os.environ["CACHE_SHARED"] == "true"}
model = (os.environ["MODEL_BASE_URL"], os.environ["MODEL_NAME"])
media_urls = MediaUrls(os.environ["MEDIA_URLS"])
uploads = Uploads(os.environ["MEDIA_BUCKET"], attempts=2)
breakers = ModelBreakers(guards, os.environ)
deadline_seconds = 60 * int(os.environ["DEADLINE_MINUTES"])
history_tokens = int(os.environ["HISTORY_TOKENS"])
allow_instructions = os.environ["ALLOW_INSTRUCTIONS"] == "true"
async_by_default = os.environ["FEATURE_ASYNC_CHAT_ENABLED"] == "true"


@observed
def handler(event: Event, context: Any) -> Response:
    ends_at = time.time() + context.get_remaining_time_in_millis() / 1000
    answer = partial(chat, ends_at=ends_at)
    again = partial(retry, ends_at=ends_at)
    return dispatch(
        event,
        {
            "POST /chat": answer,
            "POST /chat/": answer,  # old clients use this path; API Gateway sends it to the route $default
            "POST /chat/task/{task_id}/retry": again,
            "POST /chat/media": offer_upload,
            "POST /v1/{proxy+}": partial(openai_api, ends_at=ends_at),
        },
    )


def chat(event: Event, ends_at: float) -> Response:
    return _accepted(event, _message(event), ends_at)


def _message(event: Event) -> Submission:
    caller = owner(event)
    require_json(event)
    wanted = preference(event, async_by_default=async_by_default)
    key_of_client = idempotency_key(event)
    request = parse_chat(body(event))
    if request.deadline_seconds and request.deadline_seconds > deadline_seconds:
        limit = f"Input should be less than or equal to {deadline_seconds}"
        raise invalid("deadline_seconds", "deadline_too_long", limit)
    stored = request.stored()
    _require_allowed_urls(stored)
    allowed = caching(event, cache["seconds"])

    now = time.time()
    key = Key(session_key(caller, request.session_id or new_session_id()), new_ulid(now))
    if request.tool_outputs:
        continue_calls(store, key, stored, now, "tool_outputs", numbered=True)
    turn = Turn.submitted(key, stored, now, request.deadline_seconds or deadline_seconds)
    begins = request.session_id is None
    tokens = estimated_tokens(turn.request, 0 if begins else history_tokens)
    turn = turn._replace(begins_session=begins, reserved_tokens=tokens)
    if allowed.keeps and begins:  # The first answer of a session depends on no earlier turn, so it can be cached.
        turn = turn._replace(cache=cache)
    return Submission(turn, request.fingerprint(), key_of_client, wanted, allowed.max_age)


def retry(event: Event, ends_at: float) -> Response:
    """Send the message of a failed task again, as a new task at the end of its session."""
    return _accepted(event, _repetition(event), ends_at)


def _repetition(event: Event) -> Submission:
    old = task_key(event)
    wanted = preference(event, async_by_default=True)
    # By default, all retries of a task share a key, so a second click on "retry" makes no second task. A client that
    # wants two retries sends two keys. Clients' keys have no blank, so none of them equals the default key.
    key_of_client = idempotency_key(event) or f"retry {old.task_id}"
    now = time.time()
    failed = store.read(old, now)
    if failed is None:
        raise no_such_task()
    if failed.status is not Status.FAILURE:
        raise Problem("not_failed", param="task_id")
    _require_allowed_urls(failed.request)

    key = Key(old.session, new_ulid(now))
    tokens = estimated_tokens(failed.request, history_tokens)
    turn = Turn.submitted(key, failed.request, now, deadline_seconds)
    turn = turn._replace(retry_of=old.task_id, reserved_tokens=tokens)
    return Submission(turn, f"retry of {old.task_id}", key_of_client, wanted)


def openai_api(event: Event, ends_at: float) -> Response:
    """A POST of the OpenAI API. The imports are here, so that they do not slow down a cold start for /chat."""
    from turnqueue.events import EventLog
    from turnqueue.v1.conversations import Conversations
    from v1_post import Desk, post

    require_json(event)
    desk = Desk(
        store,
        take,
        waited,
        Conversations(guards, attempts=2),
        lambda turn: EventLog(events_table, attempts=2).after(turn.key, 0, consistent=True),
        _require_allowed_urls,
        deadline_seconds,
        history_tokens,
        allow_instructions,
    )
    return post(event, desk, idempotency_key(event), ends_at)


def take(event: Event, submission: Submission) -> tuple[Turn, bool, dict[str, str]]:
    """Submit a turn if the owner's limits allow it. Returns the turn, whether an earlier request made it, and the
    response headers of the limits."""
    headers = _admitted(limiter.take_message(event, submission.turn.key.owner)) if limiter else {}
    turn, replayed = submit(submission, partial(_reserved, event, headers))
    wait = submission.preference.wait
    if replayed:
        count("TaskReplayed")
        logger.info("task replayed", extra={"task_id": turn.key.task_id, "wait": wait})
    elif turn.cached:
        logger.info("task answered at once", extra={"task_id": turn.key.task_id, "wait": wait})
    else:
        count("TaskSubmitted")
        logger.info("task submitted", extra={"task_id": turn.key.task_id, "wait": wait})
    return turn, replayed, headers


def waited(event: Event, turn: Turn, seconds: int, ends_at: float) -> Turn:
    """Waits up to `seconds` for the turn to become final, and returns its last read state. Returns at once if the
    owner's rate limit for waits is reached."""
    if turn.final or (limiter and not limiter.may_wait(event, turn.key.owner)):
        return turn
    return wait_until_final(single_try_store(table, guards), turn, seconds, ends_at, breakers)


def _accepted(event: Event, submission: Submission, ends_at: float) -> Response:
    """Record and queue the message. If the client waits, the response comes when the turn is final or the wait is
    over."""
    try:
        turn, replayed, headers = take(event, submission)
    except AlreadyAnswered:
        raise already_continued("tool_outputs") from None
    wanted = submission.preference
    if wanted.wait and not turn.final and limiter and not limiter.may_wait(event, turn.key.owner):
        wanted = wanted.without_wait()
    if wanted.applied:
        headers["Preference-Applied"] = wanted.applied
    if replayed:
        headers["Idempotency-Replayed"] = "true"
    if turn.cached:
        headers["Cache-Status"] = "turnqueue; hit"
    if wanted.wait:
        turn = wait_until_final(single_try_store(table, guards), turn, wanted.wait, ends_at, breakers)
        if turn.final:
            return _answer(turn, headers)
        count("SyncWaitTimedOut")
    retry_after = max(1, round(poll_after_ms(turn, time.time()) / 1000))
    headers |= {"Location": f"/chat/task/{turn.key.task_id}", "Retry-After": str(retry_after)}
    return respond(202, accepted(turn), headers)


def offer_upload(event: Event) -> Response:
    caller = owner(event)
    require_json(event)
    request = parse(UploadRequest, body(event))
    headers = _admitted(limiter.take_uploads(event, caller, MAX_MEDIA)) if limiter else {}
    form = uploads.offer(caller, request.content_type, request.size, time.time())
    return respond(201, upload(form), headers)


def _admitted(verdict: Verdict) -> dict[str, str]:
    """The response headers with the caller's limits. Raises a 429 Problem if the request exceeds a limit."""
    if not verdict.wait:
        return verdict.fields
    count("RateLimited")
    seconds = max(1, whole_seconds(verdict.wait))
    raise Problem(
        "rate_limited",
        f"{verdict.limit} Please try again in {seconds} s.",
        headers={**verdict.fields, "Retry-After": str(seconds)},
    )


def _reserved(event: Event, headers: dict[str, str], turn: Turn) -> Turn:
    """Reserve the turn's estimated tokens from the owner's daily limit. Returns the turn with its reserved tokens, 0 if
    the owner has no daily limit. Adds the limit to `headers`. Raises a 429 Problem if no tokens are left today."""
    if limiter is None:
        return turn._replace(reserved_tokens=0)
    verdict = limiter.reserve(event, turn.key.owner, turn.reserved_tokens, turn.created_at)
    headers |= joined(verdict.fields, headers)
    _admitted(verdict._replace(fields=headers))
    return turn._replace(reserved_tokens=verdict.reserved)


def submit(submission: Submission, admit: Callable[[Turn], Turn]) -> tuple[Turn, bool]:
    """Record and queue the turn of a request, or answer it from the cache. Returns the turn, and whether an earlier
    request with the same key made it. `admit` reserves the turn's tokens.

    All requests with one Idempotency-Key work on the same task, and each step is safe to repeat. So these requests may
    run at the same time, and each may crash between two steps.
    """
    turn, max_age = submission.turn, submission.max_age
    if submission.idempotency_key is None:
        turn = _record(turn, max_age, admit)
        return turn if turn.final else _queue_or_close(turn), False

    wanted = Reservation(turn.key.task_id, submission.fingerprint)
    bound = keys.reserve(turn.key.owner, submission.idempotency_key, wanted, turn.created_at)
    if bound != wanted:
        if bound.fingerprint != wanted.fingerprint:
            raise Problem("idempotency_key_reused", param="Idempotency-Key")
        turn = turn._replace(key=_bound_key(turn.key.owner, bound))
        earlier = store.read(turn.key, turn.created_at)
        if earlier and earlier.status is not Status.PENDING:
            return earlier, True
    else:
        earlier = None
    turn = earlier or _record(turn, max_age, admit)
    if turn.final:
        return turn, bound != wanted
    try:
        queue.send(turn.key)
    except (BotoCoreError, ClientError) as error:
        # The turn stays PENDING, because another request with the key may have queued it. If not, the client's next
        # request queues it.
        raise _not_queued(turn, error) from error
    return turn, bound != wanted


def _record(turn: Turn, max_age: float, admit: Callable[[Turn], Turn]) -> Turn:
    """Record the turn unless it exists, and put its large data URLs into S3. If a cached reply is recent enough, record
    the turn with this reply as its answer.

    Returns a final turn only if this call recorded the cached reply. Otherwise the caller must queue the turn, even if
    an earlier request recorded it. The bucket's lifecycle deletes the data URLs of a request that crashes before it
    records its turn.
    """
    kept = _kept_reply(turn, max_age)
    request, data_urls = moved(turn.request, turn.key.turn)
    for upload_id, url in data_urls.items():
        uploads.put_data_url(turn.key.owner, upload_id, url)
    turn = turn._replace(request=request)
    if kept:
        replied = turn.answered_as(kept)
        if store.create(replied):
            count("CacheHit")
            return replied
    turn = admit(turn)
    try:
        created = store.create(turn)
    except AlreadyAnswered:
        if turn.reserved_tokens:
            _give_back(turn)
        raise
    if not created and turn.reserved_tokens:
        _give_back(turn)
    return turn


def _give_back(turn: Turn) -> None:
    """Release the reserved tokens of a turn that this call did not record, for example because another request with the
    same key has recorded it. If that fails, the tokens stay reserved until the end of the day."""
    try:
        there = store.read(turn.key, turn.created_at)
        # If another request recorded the turn, its `created_at` differs. An equal `created_at` means that this call
        # recorded the turn: the response of the first put was lost, and botocore repeated the put.
        if there is None or there.created_at != turn.created_at:
            usage.release(turn)
    except (BotoCoreError, ClientError) as error:
        logger.warning("tokens stay reserved", extra={"task_id": turn.key.task_id, "error": error_name(error)})


def _kept_reply(turn: Turn, max_age: float) -> Turn | None:
    """The turn whose reply answers this turn from the cache. None if no reply is recent enough, or if the cache does
    not answer."""
    if not (turn.cache and max_age):
        return None
    reply = reply_key(turn.key.owner, turn.request, model, shared=bool(cache["shared"]))
    now, kept = time.time(), None
    try:
        key = replies.find(reply)
        kept = key and single_try_store(table, guards).read(key, now, consistent=False)
    except (BotoCoreError, ClientError) as error:
        logger.warning("reply not looked for", extra={"task_id": turn.key.task_id, "error": error_name(error)})
    if kept and kept.status is Status.SUCCESS and now - (kept.finished_at or 0) < max_age:
        return kept
    count("CacheHit", 0)
    return None


def _bound_key(caller: str, bound: Reservation) -> Key:
    key = Key.of_task(caller, bound.task_id)
    assert key is not None, "a guard holds the id of a task that we made"
    return key


def _queue_or_close(turn: Turn) -> Turn:
    """Queue the turn of a request without a key. If the send fails, closes the turn and raises a 503 Problem."""
    try:
        queue.send(turn.key)
    except (BotoCoreError, ClientError) as error:
        try:
            store.fail(turn.key, "enqueue_failed", time.time())
        except Refused as refused:
            if refused.current and refused.current.error_code != "enqueue_failed":
                # A worker has already claimed the turn, so SQS did get the message, although the send failed.
                return refused.current
        except (BotoCoreError, ClientError) as second:
            # The turn stays PENDING, because this write failed too. The client learns that its message was not
            # accepted. The turn becomes FAILURE after its deadline.
            logger.error("task not closed", extra={"task_id": turn.key.task_id, "error": error_name(second)})
        raise _not_queued(turn, error) from error
    return turn


def _answer(turn: Turn, headers: dict[str, str]) -> Response:
    if turn.status is Status.SUCCESS:
        return respond(200, chat_response(turn), headers)
    raise _failed(turn, headers)


def _failed(turn: Turn, headers: dict[str, str]) -> Problem:
    code = turn.error_code or "internal_error"
    failure = FAILURES.get(code, FAILURES["internal_error"])
    if failure.http_status == 503:
        headers = headers | {"Retry-After": "5"}
    return Problem(
        code,
        turn.error or failure.text,
        status=failure.http_status,
        headers=headers,
        task_id=turn.key.task_id,
        session_id=turn.key.session_id,
        retryable=failure.retryable,
    )


def _not_queued(turn: Turn, error: BotoCoreError | ClientError) -> Problem:
    logger.error("task not queued", extra={"task_id": turn.key.task_id, "error": error_name(error)})
    count("EnqueueFailed")
    failure = FAILURES["enqueue_failed"]
    return Problem(
        "enqueue_failed",
        failure.text,
        status=failure.http_status,
        headers={"Retry-After": "2"},
        task_id=turn.key.task_id,
        retryable=True,
    )


def _require_allowed_urls(stored: dict[str, Any]) -> None:
    """Raises a 422 Problem for the first image whose URL the model's server must not fetch."""
    context = (item for entry in stored.get("context") or () for item in entry.get("media") or ())
    for index, item in enumerate([*(stored.get("media") or ()), *context]):
        if "url" in item and not media_urls.allows(item["url"]):
            detail = f"media.{index}.url: this service accepts {media_urls}."
            raise Problem("media_url_not_allowed", detail, param=f"media.{index}.url")
