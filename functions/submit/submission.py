"""A request for a turn, parsed from the event of `submit`. Every field is checked before anything is written."""

import re
from typing import NamedTuple

from preference import Preference
from turnqueue.http import Event, Problem, header
from turnqueue.turn import Turn


class Submission(NamedTuple):
    """A checked request for a turn. `fingerprint`: requests with the same Idempotency-Key must have the same
    fingerprint. `max_age`: the maximum age in seconds of a cached reply that the request accepts; 0 for no cached
    reply."""

    turn: Turn
    fingerprint: str
    idempotency_key: str | None
    preference: Preference
    max_age: float = 0


def require_json(event: Event) -> None:
    media_type = (header(event, "content-type") or "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Problem("unsupported_media_type", param="Content-Type")


def idempotency_key(event: Event) -> str | None:
    """The Idempotency-Key: quoted, as in the IETF draft (a structured field), or unquoted, as most clients send it."""
    value = header(event, "idempotency-key")
    if value is None:
        return None
    bare = re.sub(r'^"(.*)"$', r"\1", value.strip())
    if not re.fullmatch(r"[\x21-\x7e]{1,255}", bare):
        raise Problem("invalid_idempotency_key", param="Idempotency-Key")
    return bare
