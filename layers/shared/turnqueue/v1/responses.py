"""A turn in the form of the Responses API. The form has every member that strict clients require, and null for a
missing value."""

from typing import Any

from turnqueue.responses import poll_after_ms
from turnqueue.turn import FAILURES, Status, Turn
from turnqueue.v1.items import conversation_id, message_item, output_items, response_id

_STATUSES = {Status.PENDING: "queued", Status.STARTED: "in_progress", Status.SUCCESS: "completed"}

# Strict clients accept only the codes of OpenAI's list. `x_turnqueue` has Turnqueue's code.
_ERROR_CODES = {
    "model_rate_limited": "rate_limit_exceeded",
    "model_quota": "rate_limit_exceeded",
    "prompt_refused": "invalid_prompt",
    "context_too_long": "invalid_prompt",
    "model_rejected": "invalid_prompt",
    "media_missing": "image_file_not_found",
    "media_invalid": "invalid_image",
}


def status_of(turn: Turn) -> str:
    """The status in OpenAI's words."""
    if turn.status is Status.FAILURE:
        return "cancelled" if turn.error_code == "cancelled" else "failed"
    return "incomplete" if is_cut(turn) else _STATUSES[turn.status]


def is_cut(turn: Turn) -> bool:
    """Whether the answer was cut at its token limit."""
    return turn.status is Status.SUCCESS and (turn.usage or {}).get("finish_reason") == "length"


def response(turn: Turn) -> dict[str, Any]:
    """The Response object of a turn."""
    asked = turn.request
    options, echoed = asked.get("options") or {}, asked.get("v1") or {}
    previous = None if echoed.get("conversation") else asked.get("previous")
    shown: dict[str, Any] = {
        "id": response_id(turn.key),
        "object": "response",
        "created_at": int(turn.created_at),
        "status": status_of(turn),
        "background": bool(echoed.get("background")),
        "completed_at": int(turn.finished_at) if turn.status is Status.SUCCESS and turn.finished_at else None,
        "error": _error(turn),
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut(turn) else None,
        "instructions": asked.get("instructions"),
        "max_output_tokens": options.get("max_completion_tokens"),
        "max_tool_calls": None,
        "model": asked["role"],
        "output": _output(turn),
        "parallel_tool_calls": options.get("parallel_tool_calls", True),
        "previous_response_id": response_id(turn.key._replace(turn=previous)) if previous else None,
        "prompt_cache_key": None,
        "reasoning": {"effort": options.get("reasoning_effort"), "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": True,
        "temperature": options.get("temperature"),
        "text": {"format": asked.get("format") or {"type": "text"}},
        "tool_choice": asked.get("tool_choice", "auto"),
        "tools": asked.get("tools") or [],
        "top_logprobs": 0,
        "top_p": options.get("top_p"),
        "truncation": "disabled",
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "usage": usage(turn),
        "user": None,
        "metadata": asked.get("metadata") or {},
        "x_turnqueue": _more(turn),
    }
    if echoed.get("conversation"):
        shown["conversation"] = {"id": conversation_id(turn.key.session_id)}
    return shown


def usage(turn: Turn) -> dict[str, Any] | None:
    """The tokens of an answer, with the names of the Responses API."""
    if turn.usage is None:
        return None
    prompt, completion = turn.usage.get("prompt_tokens") or 0, turn.usage.get("completion_tokens") or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": turn.usage.get("cached_tokens") or 0, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + completion,
    }


def polling(turn: Turn, now: float) -> dict[str, str]:
    """The response headers that tell when to ask again. Empty for a final turn."""
    if turn.final:
        return {}
    wait_ms = poll_after_ms(turn, now)
    return {"Retry-After": str(max(1, round(wait_ms / 1000))), "openai-poll-after-ms": str(wait_ms)}


def _output(turn: Turn) -> list[dict[str, Any]]:
    if turn.status is Status.SUCCESS:
        found = output_items(turn)
        return [each | {"status": "incomplete"} if is_cut(turn) else each for each in found]
    return [message_item(turn.key, turn.partial, "incomplete")] if turn.final and turn.partial else []


def _error(turn: Turn) -> dict[str, str] | None:
    if turn.status is not Status.FAILURE or turn.error_code == "cancelled":
        return None
    text = turn.error or FAILURES["internal_error"].text
    return {"code": _ERROR_CODES.get(turn.error_code or "", "server_error"), "message": text}


def _more(turn: Turn) -> dict[str, Any]:
    result = turn.result or {}
    return {
        "task_id": turn.key.task_id,
        "session_id": turn.key.session_id,
        "data": result.get("data"),
        "draft": result.get("draft"),
        "progress": 1.0 if turn.status is Status.SUCCESS else turn.progress,
        "attempt": turn.attempt,
        "error_code": turn.error_code,
        "retryable": FAILURES[turn.error_code].retryable if turn.error_code in FAILURES else None,
        "cost_usd": (turn.usage or {}).get("cost_usd"),
        "retry_of": turn.retry_of,
    }
