"""A turn as clients see it: the task of the HTTP API, in the members that the replaced system had and ours beside.

The types here are what the functions send, held by mypy, and what docs/openapi.yaml is generated from, words and all.
"""

from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict, cast, overload

from turnqueue.media import Form
from turnqueue.turn import FAILURES, Status, Turn

type ErrorCode = str
"""A key of FAILURES."""

type Timestamp = str
"""A time in UTC, to the millisecond, as in RFC 3339."""


class ChatResponse(TypedDict):
    """The answer to a message."""

    session_id: str
    """The conversation: send it with the next message to go on with it."""
    message: str
    """The answer, for the user to read."""
    data: dict[str, Any] | None
    """What the role found out, in the role's own form; null for a role that has none."""
    draft: dict[str, Any] | None
    """What the role has put together so far, growing over the turns; null for a role that has none."""
    task_id: str
    """The task that answered."""


class Accepted(TypedDict):
    """A message that is recorded and queued, and not answered yet: ask for the task."""

    session_id: str
    """The conversation: send it with the next message to go on with it."""
    message: Literal["Processing..."]
    data: None
    draft: None
    task_id: str
    """The task to ask for, at `Location`."""
    status: Status


class Usage(TypedDict):
    """The usage of an answer. A member that an older version did not record is null."""

    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    estimated: bool | None
    """Whether a count is an estimate from bytes, because the model's server sent none."""
    finish_reason: str
    """Why the model stopped, in its own words: `stop`, or `length` when the answer was cut."""
    first_token_ms: int | None
    """From the call of the model to its first words; null if served from the cache."""
    attempts: int | None
    """How many attempts the answer took."""
    queue_ms: int | None
    """From queueing to the first attempt."""
    total_ms: int | None
    """From queueing to the answer."""
    cost_usd: float | None
    """An estimate in dollars, by the deployer's prices; null if the model has none."""
    persona: str | None
    """The role that answered."""
    persona_version: str | None
    """Changes whenever the role's instructions or forms do."""
    cached: bool
    """Served from the cache: no model was asked, and the tokens are 0."""


class TaskStatus(TypedDict):
    """A task as it stands. `status`, `result` and `error` tell the outcome; the other members tell the way there."""

    task_id: str
    status: Status
    result: ChatResponse | None
    """Set when the status is SUCCESS."""
    error: str | None
    """Set when the status is FAILURE: a sentence that may be shown to the user."""
    progress: float | None
    """From 0 to 1, an estimate; null before the first words."""
    error_code: ErrorCode | None
    """Set when the status is FAILURE: for programs."""
    retryable: bool | None
    """Set when the status is FAILURE: whether the same message may succeed later."""
    partial: str | None
    """The answer as far as it has come; of a failed task, as far as it came. A new attempt begins with nothing."""
    attempt: int
    """How often the model has been tried."""
    session_id: str
    created_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    deadline_at: Timestamp
    """An unfinished task becomes FAILURE (`deadline_exceeded`) at this time."""
    expires_at: Timestamp
    """The task can be read until then."""
    waiting_for: Literal["turn_before", "model_unavailable", "rate_limit"] | None
    """Why a task that is PENDING for longer than usual waits; else null."""
    next_try_at: Timestamp | None
    """When a waiting task is tried next, if that is known."""
    poll_after_ms: int | None
    """When to ask again, in milliseconds; null when the status is final."""
    usage: Usage | None
    """Set when the status is SUCCESS."""
    retry_of: str | None
    """The failed task whose message this one sends again."""


class TaskEvent(TypedDict):
    """What is new of an answer. Which members it has beside the first two depends on `event`.

    `snapshot`: the task, and the `text` of its `attempt` so far. `start`: the first text comes. `delta`: `text` follows
    what was shown. `retract`: drop what was shown, because another attempt began. `done`: the task, final; its `result`
    or `partial` is the whole text and takes the place of what was shown.
    """

    id: int
    """Where to read on: the next request's `after`. Only to be compared for equality."""
    event: Literal["snapshot", "start", "delta", "retract", "done"]
    task: NotRequired[TaskStatus]
    attempt: NotRequired[int]
    text: NotRequired[str]


class TaskEvents(TypedDict):
    """What is new of an answer, in order."""

    events: list[TaskEvent]
    next: int
    """The `after` of the next request."""
    done: bool
    """Whether the last of these events is `done`."""
    poll_after_ms: int | None
    """When to ask again, in milliseconds; null behind the end."""


class Attachment(TypedDict):
    """An attachment, as it was sent."""

    type: Literal["image"]
    url: NotRequired[str]
    upload_id: NotRequired[str]


class Upload(TypedDict):
    """Where to put an image: post a form with these `fields`, and as its last field `file`, the image, to `url`."""

    upload_id: str
    """What a message's `media` names the image by, once it is there."""
    url: str
    fields: dict[str, str]
    expires_at: Timestamp
    """The form is good until then."""
    max_bytes: int
    """What S3 takes."""


class SessionTurn(TaskStatus):
    """A message with its task."""

    message: str
    """What the user said."""
    role: str
    media: list[Attachment]
    metadata: dict[str, str]


class SessionPage(TypedDict):
    """A part of a conversation, in the order in which its messages were sent."""

    session_id: str
    turns: list[SessionTurn]
    next_cursor: str | None
    """The `cursor` of the next page; null on the last."""


class UsageDay(TypedDict):
    """The caller's usage of a day, by every attempt of the model, however it ended."""

    day: str
    """YYYY-MM-DD, in UTC."""
    answers: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    """Of the prompt tokens, those that the model's provider had cached."""
    estimated_tokens: int
    """Of the prompt and completion tokens, those that the model's server did not report: an estimate."""
    reserved_tokens: int
    """For messages that are not answered yet, where the caller has a limit of tokens: an estimate."""
    cost_usd: float | None
    """An estimate in dollars, by the deployer's prices; null if no attempt's model has one."""


class Health(TypedDict):
    """The service answers."""

    status: Literal["ok"]
    version: str
    roles: list[str]
    """What `role` a message may have."""


class ProblemError(TypedDict):
    """The problem once more, in the form that OpenAI's SDKs read."""

    message: str
    type: str
    code: str
    param: str | None


class FieldError(TypedDict):
    """What is wrong with one field of the body."""

    field: str
    """Where: `media.0.url`, for example; empty for the body as a whole."""
    code: str
    detail: str


class ProblemDocument(TypedDict):
    """Why a request was refused, or a message not answered (RFC 9457)."""

    type: str
    """`urn:turnqueue:problem:` and the code."""
    title: str
    """The name of the HTTP status."""
    status: int
    detail: str
    """For people; may be shown."""
    code: str
    """For programs."""
    error: ProblemError
    task_id: NotRequired[str]
    """The task that failed: it can be read at `/chat/task/{task_id}`."""
    session_id: NotRequired[str]
    retryable: NotRequired[bool]
    """Of a task that failed: whether the same message may succeed later."""
    errors: NotRequired[list[FieldError]]
    """Of a body that does not fit: its first ten errors."""


def chat_response(turn: Turn) -> ChatResponse:
    """The ChatResponse of a successful turn: {session_id, message, data, draft, task_id}."""
    result = turn.result or {}
    return {
        "session_id": turn.key.session_id,
        "message": result.get("message", ""),
        "data": result.get("data"),
        "draft": result.get("draft"),
        "task_id": turn.key.task_id,
    }


def accepted(turn: Turn) -> Accepted:
    """The ChatResponse of a turn that is not answered yet."""
    return {
        "session_id": turn.key.session_id,
        "message": "Processing...",
        "data": None,
        "draft": None,
        "task_id": turn.key.task_id,
        "status": turn.status,
    }


def upload(form: Form) -> Upload:
    """The answer to who wants to upload an image."""
    return {
        "upload_id": form.upload_id,
        "url": form.url,
        "fields": form.fields,
        "expires_at": _iso(form.expires_at),
        "max_bytes": form.max_bytes,
    }


class Waiting(NamedTuple):
    """Why a task waits, and when it is tried next, if that is known."""

    reason: Literal["turn_before", "model_unavailable", "rate_limit"]
    next_try_at: float | None

    @classmethod
    def of(cls, code: str, next_try_at: float | None) -> "Waiting":
        """For a model that turned calls away with `code`."""
        return cls("rate_limit" if code == "model_rate_limited" else "model_unavailable", next_try_at)


def task_status(turn: Turn, now: float, waiting: Waiting | None = None) -> TaskStatus:
    """The ChatTaskStatusResponse. The first five members are those of the replaced system."""
    return {
        "task_id": turn.key.task_id,
        "status": turn.status,
        "result": chat_response(turn) if turn.status is Status.SUCCESS else None,
        "error": turn.error,
        "progress": 1.0 if turn.status is Status.SUCCESS else turn.progress,
        "error_code": turn.error_code,
        "retryable": FAILURES[turn.error_code].retryable if turn.error_code in FAILURES else None,
        "partial": turn.partial or None,
        "attempt": turn.attempt,
        "session_id": turn.key.session_id,
        "created_at": _iso(turn.created_at),
        "started_at": _iso(turn.started_at),
        "finished_at": _iso(turn.finished_at),
        "deadline_at": _iso(turn.deadline_at),
        "expires_at": _iso(turn.expires_at),
        "waiting_for": waiting.reason if waiting else None,
        "next_try_at": _iso(waiting.next_try_at if waiting else None),
        "poll_after_ms": None if turn.final else poll_after_ms(turn, now, waiting.next_try_at if waiting else None),
        "usage": _usage(turn),
        "retry_of": turn.retry_of,
    }


def poll_after_ms(turn: Turn, now: float, next_try_at: float | None = None) -> int:
    """When to ask again: soon for a young task, because most are short; up to 5 s later in the first minute, and up to
    15 s later for a long wait, or when the task is not tried before."""
    age = now - turn.created_at
    usual = min(max(age / 4, 0.5), 5.0) if age < 60 else min(age / 12, 15.0)
    return int(min(max(usual, (next_try_at or 0) - now), 15.0) * 1000)


def _usage(turn: Turn) -> Usage | None:
    """With every member, also of a turn that was answered before there was such a member."""
    if turn.usage is None:
        return None
    return cast("Usage", dict.fromkeys(Usage.__annotations__) | turn.usage | {"cached": turn.cached})


@overload
def _iso(seconds: float) -> Timestamp: ...
@overload
def _iso(seconds: None) -> None: ...
def _iso(seconds: float | None) -> Timestamp | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
