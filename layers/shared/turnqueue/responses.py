"""The JSON documents of the HTTP API, for example a turn as a task. They keep all members of the system that Turnqueue
replaces, and add others. mypy checks that the functions send these types. docs/openapi.yaml is generated from these
types and their docstrings."""

from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict, cast, overload

from turnqueue.media import Form
from turnqueue.turn import FAILURES, Status, Turn

type ErrorCode = str
"""The error code of a failed task, a key of FAILURES."""

type Timestamp = str
"""A time in UTC, to the millisecond, in the form of RFC 3339."""


class ToolCall(TypedDict):
    """A function that the model asks the client to run."""

    call_id: str
    """The id of the call. Send it back with the result."""
    name: str
    arguments: str
    """The arguments as a JSON document. The model wrote it, so check it."""


class ChatResponse(TypedDict):
    """The answer to a message."""

    session_id: str
    """The id of the conversation. Send it with the next message to continue the conversation."""
    message: str
    """The answer that the user reads."""
    data: dict[str, Any] | None
    """Structured facts, in the role's own form. Null for a role without such a form."""
    draft: dict[str, Any] | None
    """The draft that the role extends turn by turn. Null for a role without a draft."""
    task_id: str
    """The id of the task that answered."""
    tool_calls: NotRequired[list[ToolCall]]
    """Present if the model asks for functions. Send their results in `tool_outputs` of the session's next message."""


class Accepted(TypedDict):
    """A message that is recorded and queued, but not answered yet. Poll its task."""

    session_id: str
    """The id of the conversation. Send it with the next message to continue the conversation."""
    message: Literal["Processing..."]
    data: None
    draft: None
    task_id: str
    """The task to poll; its address is in `Location`."""
    status: Status


class Usage(TypedDict):
    """The usage of an answer. A member is null if an older version of the service answered and did not record it."""

    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    estimated: bool | None
    """Whether a count is an estimate from bytes, because the model's server reported none."""
    finish_reason: str
    """The server's reason for the end of the answer: `stop`, or `length` if the answer was cut at its token limit."""
    first_token_ms: int | None
    """Milliseconds from the call of the model to its first text. Null if the answer is from the cache."""
    attempts: int | None
    """The number of attempts that the answer took."""
    queue_ms: int | None
    """Milliseconds from queueing to the first attempt."""
    total_ms: int | None
    """Milliseconds from queueing to the answer."""
    cost_usd: float | None
    """Estimated cost in dollars, by the deployer's prices. Null if the model has no price."""
    persona: str | None
    """The role that answered."""
    persona_version: str | None
    """The version of the role's file. It changes when the file changes."""
    cached: bool
    """Whether the answer is from the cache. If so, no model was called, and the token counts are 0."""


class TaskStatus(TypedDict):
    """A task in its present state. `status`, `result` and `error` are the outcome."""

    task_id: str
    status: Status
    result: ChatResponse | None
    """Set when the status is SUCCESS."""
    error: str | None
    """Set when the status is FAILURE: a sentence for the user."""
    progress: float | None
    """From 0 to 1, an estimate. Null before the first text."""
    error_code: ErrorCode | None
    """Set when the status is FAILURE: a stable code for programs."""
    retryable: bool | None
    """Set when the status is FAILURE: whether the same message may succeed later."""
    partial: str | None
    """The text of the answer so far. A new attempt begins without text. A failed task keeps the text of its last
    attempt."""
    attempt: int
    """The number of attempts so far, including those that the model's server refused."""
    session_id: str
    created_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    deadline_at: Timestamp
    """An unfinished task becomes FAILURE at this time. Its `error_code` is then that of the model's last refusal, or
    `deadline_exceeded`."""
    expires_at: Timestamp
    """The end of the retention: the task can be read until then."""
    waiting_for: Literal["turn_before", "model_unavailable", "rate_limit"] | None
    """Why a PENDING task waits longer than usual; otherwise null."""
    next_try_at: Timestamp | None
    """The time of a waiting task's next attempt. Null if unknown."""
    poll_after_ms: int | None
    """Poll the task again after this number of milliseconds. Null when the status is final."""
    usage: Usage | None
    """Set when the status is SUCCESS."""
    retry_of: str | None
    """The failed task whose message this task sends again."""


class TaskEvent(TypedDict):
    """An event of a growing answer. The members after the first two depend on `event`.

    `snapshot`: the task, and the `text` of its `attempt` so far. `start`: the first text follows. `delta`: append
    `text` to the shown text. `retract`: drop the shown text, because another attempt began. `done`: the final task; its
    `result` or `partial` replaces the shown text.
    """

    id: int
    """The position of this event. Send it as `after` of the next request. It grows with each `delta`, `retract` and
    `done`."""
    event: Literal["snapshot", "start", "delta", "retract", "done"]
    task: NotRequired[TaskStatus]
    attempt: NotRequired[int]
    text: NotRequired[str]


class TaskEvents(TypedDict):
    """The new events of an answer, in order."""

    events: list[TaskEvent]
    next: int
    """Send this as `after` of the next request."""
    done: bool
    """Whether the last of these events is `done`."""
    poll_after_ms: int | None
    """Send the next request after this number of milliseconds. Null after the end."""


class Attachment(TypedDict):
    """An attachment, as the client sent it. If a data URL cannot be read at present, the attachment has an `upload_id`
    instead."""

    type: Literal["image"]
    url: NotRequired[str]
    upload_id: NotRequired[str]


class Upload(TypedDict):
    """The form to upload an image. Post these `fields` to `url`, with the image as the last field, `file`."""

    upload_id: str
    """The name of the upload in a message's `media`."""
    url: str
    fields: dict[str, str]
    expires_at: Timestamp
    """The form can be used until this time."""
    max_bytes: int
    """The largest image that S3 accepts, in bytes."""


class ToolResult(TypedDict):
    """The result of a function call."""

    call_id: str
    output: str


class SessionTurn(TaskStatus):
    """A message with its task."""

    message: str
    """The user's message. Empty if the client sent only results of function calls."""
    role: str
    media: list[Attachment]
    metadata: dict[str, str]
    tool_outputs: NotRequired[list[ToolResult]]
    """Present if the client sent results of function calls."""


class SessionPage(TypedDict):
    """A part of a conversation. Its turns are in the order of their submission."""

    session_id: str
    turns: list[SessionTurn]
    next_cursor: str | None
    """Send this as `cursor` to get the next page. Null on the last page."""


class UsageDay(TypedDict):
    """The caller's usage of a day. It counts every attempt, however the attempt ended."""

    day: str
    """The day as YYYY-MM-DD, in UTC."""
    answers: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    """The number of prompt tokens that the model's provider read from its cache."""
    estimated_tokens: int
    """The part of the prompt and completion tokens that is an estimate, because the model's server did not report the
    tokens."""
    reserved_tokens: int
    """Tokens reserved for unanswered messages, if the caller has a token limit. The number is an estimate."""
    cost_usd: float | None
    """Estimated cost in dollars, by the deployer's prices. Null if none of the called models has a price."""


class Health(TypedDict):
    """The service is up."""

    status: Literal["ok"]
    version: str
    roles: list[str]
    """The roles that a message may have."""


class ProblemError(TypedDict):
    """The same problem in the form that OpenAI's SDKs read."""

    message: str
    type: str
    code: str
    param: str | None


class FieldError(TypedDict):
    """The error in one field of the body."""

    field: str
    """The place in the body, for example `media.0.url`. Empty for the body as a whole."""
    code: str
    detail: str


class ProblemDocument(TypedDict):
    """The reason why a request was refused, or a message was not answered (RFC 9457)."""

    type: str
    """The type is `urn:turnqueue:problem:` and the code."""
    title: str
    """The name of the HTTP status."""
    status: int
    detail: str
    """A sentence for people. You can show it to the user."""
    code: str
    """A stable code for programs."""
    error: ProblemError
    task_id: NotRequired[str]
    """The failed task. Read it at `/chat/task/{task_id}`."""
    session_id: NotRequired[str]
    retryable: NotRequired[bool]
    """Present if a task failed: whether the same message may succeed later."""
    errors: NotRequired[list[FieldError]]
    """Present if the body is malformed: its first ten errors."""


def chat_response(turn: Turn) -> ChatResponse:
    """The ChatResponse of a successful turn: {session_id, message, data, draft, task_id, tool_calls?}."""
    result = turn.result or {}
    response: ChatResponse = {
        "session_id": turn.key.session_id,
        "message": result.get("message", ""),
        "data": result.get("data"),
        "draft": result.get("draft"),
        "task_id": turn.key.task_id,
    }
    if calls := result.get("tool_calls"):
        response["tool_calls"] = calls
    return response


def accepted(turn: Turn) -> Accepted:
    """The response for a turn that is queued, but not answered."""
    return {
        "session_id": turn.key.session_id,
        "message": "Processing...",
        "data": None,
        "draft": None,
        "task_id": turn.key.task_id,
        "status": turn.status,
    }


def upload(form: Form) -> Upload:
    """The response with the form for an upload."""
    return {
        "upload_id": form.upload_id,
        "url": form.url,
        "fields": form.fields,
        "expires_at": _iso(form.expires_at),
        "max_bytes": form.max_bytes,
    }


class Waiting(NamedTuple):
    """The reason why a task waits, and the time of its next attempt. The time is None if unknown."""

    reason: Literal["turn_before", "model_unavailable", "rate_limit"]
    next_try_at: float | None

    @classmethod
    def of(cls, code: str, next_try_at: float | None) -> "Waiting":
        """The reason to wait after the model's server refused calls. `code`: the error code of the refusals."""
        return cls("rate_limit" if code == "model_rate_limited" else "model_unavailable", next_try_at)


def task_status(turn: Turn, now: float, waiting: Waiting | None = None) -> TaskStatus:
    """The turn as a task. The first five members are those of the system that Turnqueue replaces."""
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
    """The milliseconds until the client should poll again. They grow with the task's age, because most tasks are short:
    from 0.5 to 5 s in the first minute, and later to 15 s. If the turn's next attempt is later than that, the client
    polls at the time of this attempt, but at most 15 s from now.
    """
    age = now - turn.created_at
    usual = min(max(age / 4, 0.5), 5.0) if age < 60 else min(age / 12, 15.0)
    return int(min(max(usual, (next_try_at or 0) - now), 15.0) * 1000)


def _usage(turn: Turn) -> Usage | None:
    """The usage with every member. An earlier version may have stored fewer members."""
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
