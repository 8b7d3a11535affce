"""Converts between items of the Responses API and the parts of a turn's request or result.

A request's `context` has everything before its message, as a list of entries in order: {role, text, media?} for a
message, {call_id, name, arguments} for a function call, {call_id, output} for its result. An item's id contains the
task's id, so one read of that task finds the item.
"""

import re
from typing import Any

from turnqueue.turn import Key, Turn

type Entry = dict[str, Any]
type Item = dict[str, Any]

_RESPONSE = "resp_"
_COMPLETION = "chatcmpl-"
_CONVERSATION = "conv_"
_ITEM_ID = re.compile(r"(?:msg|fc|fco)_([A-Za-z0-9_-]{1,64}\.[0-9A-Z]{26})(?:_(in)?([0-9]{1,6})|_a[0-9]{1,3})?")
_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco"}


def response_id(key: Key) -> str:
    return _RESPONSE + key.task_id


def completion_id(key: Key) -> str:
    return _COMPLETION + key.task_id


def conversation_id(session_id: str) -> str:
    return _CONVERSATION + session_id


def response_key(owner: str, response: str) -> Key | None:
    """The key of the owner's turn with this response id. None if the id is malformed."""
    return Key.of_task(owner, response.removeprefix(_RESPONSE)) if response.startswith(_RESPONSE) else None


def session_of(conversation: str) -> str:
    """The session id in the id of a conversation. Empty if the conversation id is malformed."""
    return conversation.removeprefix(_CONVERSATION) if conversation.startswith(_CONVERSATION) else ""


def referred_key(owner: str, item_id: str) -> Key | None:
    """The key of the caller's turn that has the item with this id. None if the id is malformed."""
    match = _ITEM_ID.fullmatch(item_id)
    return Key.of_task(owner, match[1]) if match else None


def referred(turn: Turn, item_id: str) -> Entry | None:
    """The entry of the turn's request or result that an item id names. None if there is no such entry."""
    match = _ITEM_ID.fullmatch(item_id)
    if match is None:
        return None
    if match[2]:
        found, number = entries(turn.request), int(match[3])
    elif match[3]:
        found, number = (turn.result or {}).get("tool_calls") or [], int(match[3])
    else:
        found, number = [{"role": "assistant", "text": (turn.result or {}).get("message", "")}], 0
    return found[number] if number < len(found) else None


def entries(request: dict[str, Any]) -> list[Entry]:
    """All entries of a request for the model, in order: its context and its message."""
    context: list[Entry] = list(request.get("context") or ())
    if request["message"] or request.get("media"):
        media = {"media": request["media"]} if request.get("media") else {}
        context.append({"role": "user", "text": request["message"], **media})
    return context


def input_items(turn: Turn) -> list[Item]:
    """The turn's request as items, in order."""
    return [_item(turn.key, entry, f"_in{number}") for number, entry in enumerate(entries(turn.request))]


def output_items(turn: Turn) -> list[Item]:
    """The items of the model's answer: its message, if the answer has a message, and its function calls."""
    result = turn.result or {}
    calls = result.get("tool_calls") or []
    message = result.get("message", "")
    found = [_item(turn.key, call, f"_{number}") for number, call in enumerate(calls)]
    return [_item(turn.key, {"role": "assistant", "text": message}), *found] if message or not calls else found


def message_item(key: Key, text: str, status: str = "completed") -> Item:
    """The item for the text of the answer: the whole text, or the part that is written so far."""
    return _item(key, {"role": "assistant", "text": text}) | {"status": status}


def _item(key: Key, entry: Entry, suffix: str = "") -> Item:
    if "role" in entry:
        kind, rest = "message", {"role": entry["role"], "content": _content(entry)}
    elif "output" in entry:
        kind, rest = "function_call_output", {"call_id": entry["call_id"], "output": entry["output"]}
    else:
        kind, rest = "function_call", {name: entry[name] for name in ("call_id", "name", "arguments")}
    return {"type": kind, "id": f"{_PREFIXES[kind]}_{key.task_id}{suffix}", "status": "completed", **rest}


def _content(entry: Entry) -> list[dict[str, Any]]:
    if entry["role"] == "assistant":
        return [{"type": "output_text", "text": entry["text"], "annotations": [], "logprobs": []}]
    texts = [{"type": "input_text", "text": entry["text"]}] if entry["text"] else []
    return texts + [_image(each) for each in entry.get("media") or ()]


def _image(attachment: dict[str, Any]) -> dict[str, Any]:
    """An image as a part of an item's content. An upload has no URL that a client can open, so `file_id` names it. A
    reference to a data URL in S3 keeps its member `data_url`, by which `attachments.shown` finds the reference."""
    sources = {"image_url": attachment.get("url"), "file_id": attachment.get("upload_id")}
    moved = {name: attachment[name] for name in ("data_url",) if name in attachment}
    return {"type": "input_image", "detail": "auto", **sources, **moved}
