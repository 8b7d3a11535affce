"""An answered turn in the form of Chat Completions."""

from typing import Any

from turnqueue.turn import Turn
from turnqueue.v1.items import completion_id
from turnqueue.v1.responses import is_cut


def finish_reason(turn: Turn) -> str:
    if (turn.result or {}).get("tool_calls"):
        return "tool_calls"
    return "length" if is_cut(turn) else "stop"


def message(turn: Turn) -> dict[str, Any]:
    """The answer: {role, content, refusal, tool_calls?}."""
    result = turn.result or {}
    calls = [
        {
            "id": call["call_id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": call["arguments"]},
        }
        for call in result.get("tool_calls") or ()
    ]
    said = {"role": "assistant", "content": result.get("message") or (None if calls else ""), "refusal": None}
    return said | ({"tool_calls": calls} if calls else {})


def completion(turn: Turn) -> dict[str, Any]:
    """The chat.completion object of an answered turn."""
    choice = {"index": 0, "message": message(turn), "finish_reason": finish_reason(turn), "logprobs": None}
    return {
        "id": completion_id(turn.key),
        "object": "chat.completion",
        "created": int(turn.created_at),
        "model": turn.request["role"],
        "choices": [choice],
        "usage": usage(turn),
        "service_tier": None,
        "x_turnqueue": {"task_id": turn.key.task_id, "session_id": turn.key.session_id},
    }


def usage(turn: Turn) -> dict[str, Any]:
    """The tokens of an answer, with the names of Chat Completions."""
    used = turn.usage or {}
    prompt, completion_tokens = used.get("prompt_tokens") or 0, used.get("completion_tokens") or 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.get("cached_tokens") or 0},
    }
