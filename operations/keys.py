"""`python -m operations keys` makes, lists and revokes API keys for the OpenAI API. The command prints a key only once,
when it makes it. The guards table stores the key's hash. The beginning of the hash is the key's id.
"""

import secrets
import time
from typing import Any, NamedTuple

from operations import CommandFailed
from operations.stack import Reads, Stack
from turnqueue.api_keys import API_KEY_PREFIX, api_key_guard

_GUARD = api_key_guard("").partition("#")[0] + "#"
_ID_DIGITS = 12


class NoSuchKey(CommandFailed):
    """No key has this id, or several keys have it."""


class Made(NamedTuple):
    """A new key. `key`: the bearer token of the client."""

    key_id: str
    key: str


class Listed(NamedTuple):
    """The data of a key, without the key itself. `expires_at`: in seconds since the epoch, None for never."""

    key_id: str
    owner: str
    label: str
    group: str
    created_at: float
    expires_at: float | None


def create(stack: Stack, owner: str, *, label: str = "", group: str = "", seconds: float | None = None) -> Made:
    """Make a key for `owner`. The key works for `seconds`; if `seconds` is None, until an operator revokes the key.
    `group`: the owner's group in OwnerLimits."""
    key, now = API_KEY_PREFIX + secrets.token_urlsafe(32), int(time.time())
    item: dict[str, Any] = {"guard": api_key_guard(key), "owner": owner, "created_at": now}
    item |= {name: value for name, value in (("label", label), ("group", group)) if value}
    if seconds is not None:
        item["expires_at"] = now + int(seconds)
    stack.guards.put_item(Item=item)
    return Made(_id(item["guard"]), key)


def listed(stack: Stack, owner: str | None = None) -> list[Listed]:
    """All keys, or the keys of one owner, the oldest first."""
    found = []
    for item in _items(stack):
        expires_at = float(item["expires_at"]) if "expires_at" in item else None
        if owner in (None, item["owner"]) and (expires_at is None or expires_at > time.time()):
            label, group = (str(item.get(name, "")) for name in ("label", "group"))
            found.append(Listed(_id(item["guard"]), item["owner"], label, group, float(item["created_at"]), expires_at))
    return sorted(found, key=lambda key: key.created_at)


def revoke(stack: Stack, key_id: str) -> None:
    """Delete the key with this id. API Gateway may accept the key for up to 60 s more. Raises NoSuchKey."""
    guards = [item["guard"] for item in _items(stack) if _id(item["guard"]) == key_id]
    if len(guards) != 1:
        raise NoSuchKey(f"no key has the id {key_id}; `keys list` shows them")
    stack.guards.delete_item(Key={"guard": guards[0]})


def _items(stack: Stack) -> list[dict[str, Any]]:
    items = Reads().items(
        stack.guards.scan,
        FilterExpression="begins_with(#guard, :keys)",
        ExpressionAttributeNames={"#guard": "guard"},
        ExpressionAttributeValues={":keys": _GUARD},
        ConsistentRead=True,
    )
    return list(items)


def _id(guard: str) -> str:
    return guard.removeprefix(_GUARD)[:_ID_DIGITS]
