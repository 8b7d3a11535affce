"""Corrects the differences between MiniStack's API Gateway and AWS's, in the calls from the HTTP API to a function."""

import concurrent.futures
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from local.environment import THROTTLED, Result

SECONDS_TO_ANSWER = 30
"""API Gateway waits this number of seconds for a function, whatever the function's timeout."""

_SECONDS_BETWEEN_SIGNS = 1


def is_http_event(event: Any) -> bool:
    """Whether the event was made by an HTTP API (payload format 2.0)."""
    return isinstance(event, dict) and "http" in (event.get("requestContext") or {})


def chosen_route(routes: Iterable[Mapping[str, Any]], method: str, path: str) -> Mapping[str, Any] | None:
    """The route that an HTTP API chooses for a request. `routes`: the items of GetRoutes. A route that matches the
    whole path has priority over a route with a greedy parameter ({proxy+}), and `$default` comes last."""
    matching = [route for route in routes if _matches(route["RouteKey"], method, path)]
    return min(matching, key=lambda route: ("$" in route["RouteKey"], "+}" in route["RouteKey"]), default=None)


def _matches(key: str, method: str, path: str) -> bool:
    if key == "$default":
        return True
    wanted, _, pattern = key.partition(" ")
    parts = [re.escape(part) if "{" not in part else ".+" if "+" in part else "[^/]+" for part in pattern.split("/")]
    return wanted in (method, "ANY") and re.fullmatch("/".join(parts), path) is not None


def as_on_aws(event: dict[str, Any]) -> dict[str, Any]:
    """The event without the members that are null. MiniStack writes null where AWS leaves the member out."""
    return {name: value for name, value in event.items() if value is not None}


def answer(invoke: Callable[[], Result]) -> Iterator[bytes]:
    """Yields the response of the function that `invoke` runs, in payload format 2.0, or API Gateway's response if the
    function fails. Yields a blank each second before the response, because MiniStack would answer 502 if no byte came
    for a while."""
    future: concurrent.futures.Future[Result] = concurrent.futures.Future()
    threading.Thread(target=_run, args=(invoke, future), name="invocation", daemon=True).start()
    give_up_at = time.monotonic() + SECONDS_TO_ANSWER
    while time.monotonic() < give_up_at:
        try:
            result = future.result(timeout=min(_SECONDS_BETWEEN_SIGNS, give_up_at - time.monotonic()))
        except TimeoutError:
            yield b" "
        else:
            if result.error is None:
                yield result.payload
                return
            if result.error != THROTTLED:
                yield _refusal(500, "Internal Server Error")
                return
            break
    yield _refusal(503, "Service Unavailable")


def _run(invoke: Callable[[], Result], future: concurrent.futures.Future[Result]) -> None:
    try:
        future.set_result(invoke())
    except BaseException as error:
        future.set_exception(error)


def _refusal(status: int, message: str) -> bytes:
    body = json.dumps({"message": message})
    response = {"statusCode": status, "headers": {"content-type": "application/json"}, "body": body}
    return json.dumps(response).encode()
