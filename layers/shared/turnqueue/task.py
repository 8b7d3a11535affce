"""A turn as clients see it: the task of the HTTP API, in the members that the replaced system had and ours beside."""

from datetime import UTC, datetime
from typing import Any

from turnqueue.turn import FAILURES, Status, Turn


def chat_response(turn: Turn) -> dict[str, Any]:
    """The ChatResponse of a successful turn: {session_id, message, data, draft, task_id}."""
    result = turn.result or {}
    return {
        "session_id": turn.key.session_id,
        "message": result.get("message"),
        "data": result.get("data"),
        "draft": result.get("draft"),
        "task_id": turn.key.task_id,
    }


def accepted(turn: Turn) -> dict[str, Any]:
    """The ChatResponse of a turn that is not answered yet."""
    return {
        "session_id": turn.key.session_id,
        "message": "Processing...",
        "data": None,
        "draft": None,
        "task_id": turn.key.task_id,
        "status": turn.status,
    }


def task_status(turn: Turn, now: float) -> dict[str, Any]:
    """The ChatTaskStatusResponse. The first five members are those of the replaced system."""
    return {
        "task_id": turn.key.task_id,
        "status": turn.status,
        "result": chat_response(turn) if turn.status is Status.SUCCESS else None,
        "error": turn.error,
        "progress": 1.0 if turn.status is Status.SUCCESS else turn.progress,
        "error_code": turn.error_code,
        "retryable": FAILURES[turn.error_code].retryable if turn.error_code in FAILURES else None,
        "partial": turn.partial,
        "attempt": turn.attempt,
        "session_id": turn.key.session_id,
        "created_at": _iso(turn.created_at),
        "started_at": _iso(turn.started_at),
        "finished_at": _iso(turn.finished_at),
        "deadline_at": _iso(turn.deadline_at),
        "expires_at": _iso(turn.expires_at),
        "poll_after_ms": None if turn.final else poll_after_ms(turn, now),
        "usage": turn.usage,
    }


def poll_after_ms(turn: Turn, now: float) -> int:
    """When to ask again: soon for a young task, for most are short; seldom for an old one."""
    return int(min(max((now - turn.created_at) / 4, 0.5), 5.0) * 1000)


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
