"""The conversation as Chat Completions wants it, cut to what the model may be given."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from persona import Persona
from reply import BYTES_OF_A_TOKEN
from turnqueue.turn import Turn

MAX_HISTORY_TOKENS = 16_000
"""How much of the conversation the model is given, by estimate; older turns are left out, whole turns at a time."""

_TOKENS_OF_AN_IMAGE = 1000  # about the most that one of OpenAI's models counts for an image of some size

_NOT_SHOWN = {"type": "text", "text": "[An image was attached here. It is not shown again.]"}


def messages(persona: Persona, history: Sequence[Turn], turn: Turn, images: Mapping[str, str]) -> list[dict[str, Any]]:
    """The conversation as Chat Completions wants it: the instructions, the turns before, and this message."""
    earlier: list[dict[str, Any]] = []
    budget = MAX_HISTORY_TOKENS
    for past in reversed(history):
        spoken = _spoken(past)
        budget -= _tokens(past.request["message"]) + _tokens(spoken)
        budget -= _TOKENS_OF_AN_IMAGE * len(past.request.get("media") or ())
        if budget < 0:
            break
        earlier = [_user(past, images), {"role": "assistant", "content": spoken}, *earlier]
    return [{"role": "system", "content": persona.instructions}, *earlier, _user(turn, images)]


def tokens_of(told: Sequence[Mapping[str, Any]]) -> int:
    """The tokens of messages in the form of Chat Completions, by estimate."""
    return sum(map(_tokens_of_content, (message["content"] for message in told)))


def _tokens_of_content(content: str | Sequence[Mapping[str, Any]]) -> int:
    if isinstance(content, str):
        return _tokens(content)
    return sum(_tokens(part["text"]) if part["type"] == "text" else _TOKENS_OF_AN_IMAGE for part in content)


def _tokens(text: str) -> int:
    return len(text.encode()) // BYTES_OF_A_TOKEN + 1


def _user(turn: Turn, images: Mapping[str, str]) -> dict[str, Any]:
    media = turn.request.get("media")
    if not media:
        return {"role": "user", "content": turn.request["message"]}
    urls = [item.get("url") or images.get(item["upload_id"]) for item in media]
    shown = [{"type": "image_url", "image_url": {"url": url}} if url else _NOT_SHOWN for url in urls]
    return {"role": "user", "content": [{"type": "text", "text": turn.request["message"]}, *shown]}


def _spoken(turn: Turn) -> str:
    """What the model had answered: the text, or the whole document, so that a draft goes on growing."""
    result = turn.result or {}
    members = {name: result[name] for name in ("message", "draft", "data") if result.get(name) is not None}
    return json.dumps(members, ensure_ascii=False) if len(members) > 1 else str(members.get("message", ""))
