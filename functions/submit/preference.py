"""Reads whether the client waits for its answer or polls. The sources are the header Prefer (RFC 7240), a query
parameter and the feature flag."""

import re
from typing import NamedTuple

from turnqueue.http import Event, Problem, header, integer, query

MAX_WAIT_SECONDS = 25
"""The maximum number of seconds that a request waits. API Gateway gives up after 30 s."""

# The system that Turnqueue replaces was built with FastAPI, which accepts these texts as booleans in a query.
_TRUE = frozenset({"true", "1", "yes", "on", "t", "y"})
_FALSE = frozenset({"false", "0", "no", "off", "f", "n"})


class Preference(NamedTuple):
    """How the client wants its answer. `wait`: the seconds to wait for the result, 0 to answer at once. `applied`: the
    value of the header Preference-Applied, or None."""

    wait: int
    applied: str | None

    def without_wait(self) -> "Preference":
        """This preference, but with an answer at once."""
        return Preference(0, "respond-async" if (self.applied or "").startswith("respond-async") else None)


def preference(event: Event, *, async_by_default: bool) -> Preference:
    """The query overrides the header, and the header overrides the flag. Raises Problem for a malformed value."""
    respond_async, wait = _prefer(header(event, "prefer") or "")
    asked = query(event, "async_mode")
    if asked is not None:
        if asked.lower() in _TRUE:
            return Preference(0, "respond-async" if respond_async else None)
        if asked.lower() not in _FALSE:
            raise Problem("invalid_parameter", "async_mode must be true or false.", param="async_mode")
        return Preference(MAX_WAIT_SECONDS if wait is None else wait, None if wait is None else f"wait={wait}")
    # With respond-async, wait=N means: answer asynchronously only after N seconds (RFC 7240, section 4.3).
    if wait is not None:
        return Preference(wait, f"respond-async, wait={wait}" if respond_async else f"wait={wait}")
    if respond_async:
        return Preference(0, "respond-async")
    return Preference(0 if async_by_default else MAX_WAIT_SECONDS, None)


def _prefer(text: str) -> tuple[bool, int | None]:
    """Whether the header has `respond-async`, and the N of its first `wait=N`. Unknown preferences are ignored."""
    respond_async, wait = False, None
    for item in text.split(","):
        name, _, value = (part.strip() for part in item.partition(";")[0].partition("="))
        if name.lower() == "respond-async":
            respond_async = True
        elif name.lower() == "wait" and wait is None:
            wait = integer(re.sub(r'^"(.*)"$', r"\1", value), "Prefer: wait", default=0, low=0, high=MAX_WAIT_SECONDS)
    return respond_async, wait
