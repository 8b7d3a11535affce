"""A turn (one message of a user and its answer) and the rules of its life. Plain data: no AWS, no clock.

All times are seconds since the epoch, with milliseconds.
"""

import hashlib
import re
import secrets
from enum import StrEnum
from typing import Any, NamedTuple

DEADLINE_SECONDS = 15 * 60
"""Seconds from a turn's submission to its deadline, unless the stack or the request sets another deadline."""

RETENTION_SECONDS = 7 * 24 * 3600
"""A turn can be read for this number of seconds after its submission: a week."""

MAX_ATTEMPTS = 3
"""The maximum number of attempts of a turn since it was queued. When all have failed, the turn fails. A refusal
does not count as an attempt."""

# An item in DynamoDB has at most 400 KB (409,600 bytes). A request and a result of these sizes leave 16 KB for
# everything else.
MAX_REQUEST_BYTES = 256 * 1024
MAX_RESULT_BYTES = 128 * 1024

SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Status(StrEnum):
    """The states that a task has in the system that Turnqueue replaces. There is no fifth state, because that system's
    clients would poll a task in an unknown state forever."""

    PENDING = "PENDING"  # recorded and queued, or returned for another attempt; no worker holds the turn
    STARTED = "STARTED"  # a worker holds the turn until `lease_until`
    SUCCESS = "SUCCESS"  # `result` is set; this state is final
    FAILURE = "FAILURE"  # `error` and `error_code` are set; only a replay by an operator can end this state


FINAL = (Status.SUCCESS, Status.FAILURE)


class Failure(NamedTuple):
    """The error that a client gets for a failed turn. `http_status`: the status of the response to a sync request.
    `retryable`: whether the same message can succeed later."""

    text: str
    http_status: int
    retryable: bool


FAILURES = {
    "enqueue_failed": Failure("The message could not be queued. Please send it again.", 503, True),
    "cancelled": Failure("The task was cancelled.", 409, False),
    "deadline_exceeded": Failure("The task was not finished before its deadline.", 504, True),
    "worker_lost": Failure("The task was lost. Please send the message again.", 503, True),
    "internal_error": Failure("Something went wrong on our side. Please try again.", 502, True),
    "model_unavailable": Failure("The model could not be reached. Please send the message again.", 503, True),
    "model_rate_limited": Failure("The model is busy. Please try again in a moment.", 503, True),
    "model_timeout": Failure("The model did not answer in time. Please send the message again.", 503, True),
    "model_quota": Failure("The quota with the model provider is exhausted.", 502, False),
    "model_auth": Failure("The model provider refused our key.", 502, False),
    "model_rejected": Failure("The model provider refused the request.", 502, False),
    "output_invalid": Failure("The model's answer had the wrong form. Please try again.", 502, True),
    "result_too_large": Failure(
        "The model's answer was too large to store. Please ask for a shorter answer.", 502, False
    ),
    "prompt_refused": Failure("The model declined to answer this message.", 422, False),
    "context_too_long": Failure("The conversation is too long for the model. Please start a new one.", 422, False),
    "media_missing": Failure(
        "An attached image was not uploaded, or it has expired. Please attach it again.", 422, False
    ),
    "media_invalid": Failure(
        "An attached image is too large, or its file is not an image. Please attach another.", 422, False
    ),
}
"""Every `error_code` of a failed task."""


class Key(NamedTuple):
    """The primary key of a turn. The caller and the task id determine the key, so a read needs no index."""

    session: str  # the owner, then "#", then the session id
    turn: str  # the ULID of the turn

    @classmethod
    def of_task(cls, owner: str, task_id: str) -> "Key | None":
        """The key of the task `task_id` of this owner. None if the id is malformed."""
        session_id, _, turn = task_id.rpartition(".")
        if SESSION_ID.fullmatch(session_id) and _ULID.fullmatch(turn):
            return cls(session_key(owner, session_id), turn)
        return None

    @property
    def owner(self) -> str:
        return self.session.rpartition("#")[0]

    @property
    def session_id(self) -> str:
        return self.session.rpartition("#")[2]

    @property
    def task_id(self) -> str:
        return f"{self.session_id}.{self.turn}"

    @property
    def group(self) -> str:
        """The SQS message group of the session. A hash, because an owner's id can have any characters and any
        length."""
        return hashlib.sha256(self.session.encode()).hexdigest()


def session_key(owner: str, session_id: str) -> str:
    # The key is unambiguous for every owner, because a session id has no "#": the last "#" is the separator.
    return f"{owner}#{session_id}"


def guard_key(kind: str, name: str) -> str:
    """The key of an item in the guards table. A hash, because owners' ids and their inputs can have any characters and
    any length."""
    return f"{kind}#{hashlib.sha256(name.encode()).hexdigest()}"


def upload_key(owner: str, upload_id: str) -> str:
    """The key of an image in the bucket. Its prefix belongs to the owner, so that no owner can use another owner's
    image. The prefix is a hash, because an owner's id can have any characters, and operators can see keys."""
    return f"uploads/{hashlib.sha256(owner.encode()).hexdigest()}/{upload_id}"


def new_session_id() -> str:
    return secrets.token_urlsafe(16)


def new_ulid(now: float) -> str:
    """An id of 26 characters that sorts by time, to the millisecond, and ends with 80 random bits
    (github.com/ulid/spec)."""
    return _ulid(now, secrets.randbits(80))


def oldest_ulid(now: float) -> str:
    """A ULID that sorts before the ids of all turns that can still be read."""
    return _ulid(now - RETENTION_SECONDS, 0)


def _ulid(seconds: float, low_bits: int) -> str:
    value = int(seconds * 1000) << 80 | low_bits
    return "".join(_CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5))


def is_utf8(text: str) -> bool:
    """Whether the text is valid UTF-8. JSON allows half a surrogate pair, DynamoDB does not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_ulid(text: str) -> bool:
    return _ULID.fullmatch(text) is not None


class Turn(NamedTuple):
    """A turn as it stands in the table.

    - `request`: {message, role, media?, metadata?, stream?}. A request with functions, or of the OpenAI API, can also
      have `tools`, `tool_choice`, `options` and `context` (turnqueue/v1/items.py).
    - `request.answers`: the ULID of the turn whose function calls have their results in this request.
    - Only a `request` of the OpenAI API can have: `previous` (the ULID of the turn that this turn continues, if the
      client named it), `instructions`, `format`, `live` (the streams function sends the answer), and `v1` (the members
      that the response repeats).
    - `result`: {message, data, draft, tool_calls?}.
    - `usage`: {model, prompt_tokens, completion_tokens, cached_tokens, ...}.
    - `attempt`: counts the claims, and is the fencing token. The worker that claimed attempt n may write only while
      `attempt` is still n, so `attempt` is never reset.
    - `last_attempt`: the last allowed attempt. A replay (operations/replay.py) raises it. An attempt that does not
      count raises it by one: a refusal, or a wait for the turn's slot under the model's rate limit.
    - `refusals`: counts the refusals since the turn was queued. `last_refusal`: the error code of the last refusal.
    - `next_try_at`: when SQS delivers a returned turn again.
    - `place_at`: the turn's reserved slot under the model's rate limit.
    - `partial`: the last readable text of a failed turn, "" for none. The event log has the text of unfinished turns
      (turnqueue/events.py).
    - `cache`: {seconds, shared}, how the reply may be cached. None if it may not be cached.
    - `retry_of`: the id of the task whose message this turn repeats.
    - `reserved_tokens`: tokens of its owner's day, reserved until the turn is final (turnqueue/usage.py). 0 without a
      limit of tokens.
    """

    key: Key
    status: Status
    request: dict[str, Any]
    created_at: float
    deadline_at: float
    expires_at: int
    attempt: int = 0
    last_attempt: int = MAX_ATTEMPTS
    replayed_at: float | None = None  # the time of the last replay by an operator
    lease_until: float | None = None
    lost_lease: float | None = None  # if the worker of the previous attempt was killed: the end of its lease
    claim_id: str | None = None  # a random id of the last claim; a worker recognises its claim by this id
    started_at: float | None = None
    finished_at: float | None = None
    cancel_requested: bool = False
    refusals: int = 0
    last_refusal: str | None = None
    next_try_at: float | None = None
    place_at: float | None = None
    progress: float | None = None
    partial: str | None = None
    result: dict[str, Any] | None = None
    error: str | None = None
    error_code: str | None = None
    usage: dict[str, Any] | None = None
    cache: dict[str, Any] | None = None
    retry_of: str | None = None
    reserved_tokens: int = 0
    answered_by: str | None = None  # the ULID of the turn that brought the results of this turn's function calls
    begins_session: bool = False  # whether `submit` made the turn's session, so that no earlier turn exists
    deleted: bool = False  # whether the owner deleted the turn: its texts are gone, and readers find no turn

    @classmethod
    def submitted(
        cls, key: Key, request: dict[str, Any], now: float, deadline_seconds: float = DEADLINE_SECONDS
    ) -> "Turn":
        now = round(now, 3)
        return cls(
            key=key,
            status=Status.PENDING,
            request=request,
            created_at=now,
            deadline_at=round(now + deadline_seconds, 3),
            expires_at=int(now) + RETENTION_SECONDS,
        )

    def answered_as(self, kept: "Turn") -> "Turn":
        """This turn, answered at once and at no cost by the cached reply of the turn `kept`."""
        usage = {**(kept.usage or {}), "first_token_ms": None, "cached": True}
        tokens, times = ("prompt_tokens", "completion_tokens", "cached_tokens"), ("attempts", "queue_ms", "total_ms")
        free = dict.fromkeys((*tokens, *times, "cost_usd"), 0)
        return self._replace(
            status=Status.SUCCESS,
            result=kept.result,
            usage=usage | free,
            finished_at=self.created_at,
            cache=None,
            reserved_tokens=0,
        )

    @property
    def cached(self) -> bool:
        """Whether the turn was answered from the cache."""
        return bool(self.usage and self.usage.get("cached"))

    @property
    def tries(self) -> int:
        """The number of attempts since the turn was queued. Attempts that do not count are left out."""
        return self.attempt - (self.last_attempt - MAX_ATTEMPTS)

    @property
    def is_first_claim(self) -> bool:
        """Whether this claim is the first claim since the turn was queued."""
        return self.tries == 1 and not self.refusals and self.place_at is None

    @property
    def queued_at(self) -> float:
        return self.replayed_at or self.created_at

    @property
    def final(self) -> bool:
        return self.status in FINAL

    def held(self, now: float) -> bool:
        """Whether a worker holds the turn by a valid lease."""
        return self.status is Status.STARTED and self.lease_until is not None and self.lease_until >= now

    def overdue(self, now: float) -> bool:
        return not self.final and self.deadline_at <= now

    @property
    def overdue_code(self) -> str:
        """The error code of this turn if it ends at its deadline: the reason why it waited, if known."""
        return self.last_refusal or "deadline_exceeded"
