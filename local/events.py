"""Replaces the turn in an example event of events/ by a turn that exists.

This module makes the turn in the table but sends no message, so no worker takes the turn before the event is used. Call
env_file.lead_here before you import this module, because the functions' store finds the account from environment
variables.
"""

import json
import time
import urllib.request
from pathlib import Path

from turnqueue.store import TurnStore
from turnqueue.turn import Key, Turn, new_session_id, new_ulid, session_key

NAMED = Key("alice#session_123", "01KANEC0X00000000000000000")
"""The turn to which the example events refer."""


def with_turn(text: str, variables: dict[str, str]) -> str:
    """The event `text`, in which a new turn of alice replaces the example turn. The turn is PENDING, or
    cancelled if the event is a retry. An event that needs no existing turn stays unchanged. `variables` are those of
    local/env_file.py. Raises ValueError if the text is not JSON."""
    event = json.loads(text)
    route = event.get("routeKey", "") if isinstance(event, dict) else ""
    if NAMED.turn not in text and not ("{session_id}" in route and NAMED.session_id in text):
        return text
    key = _waiting_turn(variables["TURNS_TABLE_NAME"])
    if route.endswith("/retry"):
        _cancel(key, variables["API"], variables["TOKEN_ALICE"])
    for old, new in ((NAMED.group, key.group), (NAMED.session_id, key.session_id), (NAMED.turn, key.turn)):
        text = text.replace(old, new)
    return text


def _waiting_turn(table: str) -> Key:
    now = time.time()
    key = Key(session_key(NAMED.owner, new_session_id()), new_ulid(now))
    request = {"message": "I need a haircut", "role": "booking"}
    TurnStore(table, attempts=3).create(Turn.submitted(key, request, now))
    return key


def _cancel(key: Key, api: str, token: str) -> None:
    request = urllib.request.Request(
        f"{api}/chat/task/{key.task_id}/cancel", method="POST", headers={"Authorization": f"Bearer {token}"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30):
        pass


def leave(examples: Path, folder: Path, variables: dict[str, str]) -> None:
    """Write each of the `examples` to `folder`, with a new turn in each."""
    folder.mkdir(exist_ok=True)
    for example in examples.glob("*.json"):
        (folder / example.name).write_text(with_turn(example.read_text(), variables))
