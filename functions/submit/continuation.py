"""Continues a turn whose answer calls functions. Only one later turn may bring the results of these calls."""

from collections.abc import Mapping, Sequence
from typing import Any

from turnqueue.http import Problem
from turnqueue.store import TurnStore
from turnqueue.turn import Key, Turn

MOST_TURNS = 20
"""Only this number of the session's last answered turns is searched for the function calls. The model gets no older
turns."""


def continue_calls(
    store: TurnStore, key: Key, request: dict[str, Any], now: float, param: str, *, numbered: bool = False
) -> None:
    """Check the request's function results. If they answer the calls of an earlier turn, link the request to that turn.
    `key`: the key of the new turn.

    Raises a 400 Problem if calls and results do not match, and a 409 Problem if the session has gone on without these
    results. Only TurnStore.create checks that no other request brings results for the same turn.
    """
    context = request.get("context", ())
    own = {entry["call_id"] for entry in context if "name" in entry}
    wanted = {entry["call_id"] for entry in context if "output" in entry} - own
    waiting: list[str] = []
    if wanted and (calling := _calling(store, key, wanted, now, param)):
        request["answers"] = calling.key.turn
        waiting = call_ids(calling)
    check_outputs(context, waiting, param, numbered=numbered)


def check_outputs(
    context: Sequence[Mapping[str, Any]], waiting: list[str], param: str, *, numbered: bool = False
) -> None:
    """Raises a 400 Problem unless each function call is followed by exactly one result. `waiting`: the ids of earlier
    calls that still need results. `numbered`: whether entry N of `context` comes from entry N of the client's `param`.
    If so, an error names the entry."""
    for number, entry in enumerate(context):
        if "output" in entry:
            if entry["call_id"] not in waiting:
                where = f"{param}.{number}.call_id" if numbered else param
                raise _mismatch(where, "has a result, but no function call waits for it")
            waiting.remove(entry["call_id"])
        elif "name" in entry:
            waiting.append(entry["call_id"])
    if waiting:
        raise _mismatch(param, f"lacks the results of {len(waiting)} function calls")


def _calling(store: TurnStore, key: Key, wanted: set[str], now: float, param: str) -> Turn | None:
    """The newest turn that made one of the `wanted` calls. The turn may already have the results of its calls: a
    repeated request with an Idempotency-Key must find the same turn as the first request."""
    history = store.history(key, now, limit=MOST_TURNS)
    found = next((turn for turn in reversed(history) if wanted & set(call_ids(turn))), None)
    if found and found is not history[-1] and found.answered_by is None:
        raise already_continued(param)
    return found


def call_ids(turn: Turn) -> list[str]:
    """The ids of the function calls in the turn's answer."""
    return [call["call_id"] for call in (turn.result or {}).get("tool_calls") or ()]


def already_continued(param: str) -> Problem:
    """The 409 Problem for results that come too late or a second time. `x-should-retry` keeps OpenAI's clients from
    repeating the request."""
    return Problem("already_continued", param=param, headers={"x-should-retry": "false"})


def _mismatch(param: str, why: str) -> Problem:
    return Problem("tool_outputs_mismatch", f"{param}: {why}.", param=param)
