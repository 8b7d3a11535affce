"""A piece of a streamed answer, as Chat Completions sends it.

The SDK would make objects of it, at more CPU than all else that the worker does. So it is read from plain JSON, and
what a sloppy server leaves out, or sends in another form, is not there.
"""

from typing import Any, NamedTuple


class Chunk(NamedTuple):
    """`usage`: {prompt_tokens, completion_tokens, cached_tokens}, each as the server sent it, null included; empty in
    all chunks but, as a rule, the last."""

    model: str
    content: str
    refused: bool
    finish_reason: str | None
    usage: dict[str, Any]

    @classmethod
    def of(cls, data: object) -> "Chunk":
        chunk = _object(data)
        found = chunk.get("choices")
        choices = [_object(choice) for choice in found] if isinstance(found, list) else []
        deltas = [_object(choice.get("delta")) for choice in choices]
        reasons = [reason for choice in choices if isinstance(reason := choice.get("finish_reason"), str) and reason]
        return cls(
            model=_text(chunk.get("model")),
            content="".join(_text(delta.get("content")) for delta in deltas),
            refused=any(delta.get("refusal") for delta in deltas),
            finish_reason=reasons[-1] if reasons else None,
            usage=_usage(_object(chunk.get("usage"))),
        )


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    if not usage:
        return {}
    return {
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "cached_tokens": _object(usage.get("prompt_tokens_details")).get("cached_tokens"),
    }


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
