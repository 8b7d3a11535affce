"""What Lambda gives a handler: events of the triggers, made from the files of events/, and the context."""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from development import cfn

type Event = dict[str, Any]


@dataclass
class Context:
    """The part of a Lambda context that the handlers use. `seconds`: the time that is left, or a function that knows
    it."""

    seconds: float | Callable[[], float] = 400.0
    aws_request_id: str = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self.seconds() if callable(self.seconds) else self.seconds) * 1000))


def api_event(
    route: str,
    *,
    owner: str = "alice",
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
    path: Mapping[str, str] | None = None,
) -> Event:
    """A request of `owner` as API Gateway hands it over (payload format 2.0). `body`: text, or an object to be sent as
    JSON; `path`: the values of the route's parameters. As on AWS, a member that would be empty is absent."""
    # The routes without a file: POST /chat/ comes by $default, and HEAD and OPTIONS carry what GET /health carries.
    event = event_file(_files().get(route, "submit" if route == "$default" else "health"))
    method, _, target = (route if route != "$default" else "POST /chat/").partition(" ")
    for name, value in (path or {}).items():
        target = target.replace(f"{{{name}}}", value).replace(f"{{{name}+}}", value)
    context = event["requestContext"]
    context["http"] |= {"method": method, "path": target}
    event |= {"routeKey": route, "rawPath": target, "isBase64Encoded": False}
    context["routeKey"] = route
    authorizer = context.get("authorizer", {})
    for claims in (authorizer.get("lambda"), authorizer.get("jwt", {}).get("claims")):
        if claims:
            claims["sub"] = owner
    event["headers"].pop("idempotency-key", None)
    lowered = {name.lower(): value for name, value in (headers or {}).items()}
    event["headers"] |= {"accept": "application/json"} | lowered
    text = body if body is None or isinstance(body, str) else json.dumps(body)
    for name, member in (("queryStringParameters", query), ("pathParameters", path), ("body", text)):
        event.pop(name, None)
        if member:
            event[name] = member if isinstance(member, str) else dict(member)
    return event


def event_file(name: str) -> Event:
    """The event of events/NAME.json."""
    event: Event = json.loads(_event_text(name))
    return event


@functools.cache
def _event_text(name: str) -> str:
    return (cfn.ROOT / "events" / f"{name}.json").read_text()


@functools.cache
def _files() -> dict[str, str]:
    """The files of events/ by their routes."""
    names = [path.stem for path in (cfn.ROOT / "events").glob("*.json")]
    return {event_file(name).get("routeKey", ""): name for name in names}
