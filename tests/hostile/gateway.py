"""API Gateway's HTTP API in this process: it turns a request into AWS's event, and calls the handler. It is an ASGI
app; `request` sends requests that no HTTP client would send. One request at a time.
"""

import asyncio
import base64
import contextlib
import io
import json
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote

from development import cfn
from tests import summary
from tests.payloads import Context, api_event

type Json = dict[str, Any]

MAX_BODY_BYTES = 10_000_000

SECONDS = 29.0
"""The time-out of the functions behind it."""


class Answer(NamedTuple):
    """`function`: who answered; "" if it was API Gateway itself. `log`: all that the function has written meanwhile."""

    status: int
    headers: dict[str, str]
    body: bytes
    function: str
    log: str
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Route(NamedTuple):
    key: str
    method: str
    path: re.Pattern[str]
    function: str
    authorization: str


def routes() -> list[Route]:
    """The routes of template.yaml, each with the name of its module. API Gateway chooses the first that matches."""
    resources, found = cfn.template()["Resources"], []
    declared = cfn.resources("AWS::ApiGatewayV2::Route").values()
    for route in sorted(declared, key=lambda each: ("$" in each["RouteKey"], "+" in each["RouteKey"])):
        method, _, path = route["RouteKey"].partition(" ")
        integration = resources[route["Target"]["Fn::Sub"].removeprefix("integrations/${").removesuffix("}")]
        function = integration["Properties"]["IntegrationUri"]["Ref"].removesuffix(".Alias")
        handler = resources[function]["Properties"]["Handler"].removesuffix(".handler")
        pattern = re.sub(r"\{(\w+)\+\}", r"(?P<\1>.+)", re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)) or ".*"
        found.append(Route(route["RouteKey"], method, re.compile(pattern), handler, route["AuthorizationType"]))
    return found


class Gateway:
    """`watch` is given every answer of a function; what it raises, `request` raises."""

    answered = 0
    """The answers of functions to all gateways."""

    def __init__(self, functions: Mapping[str, ModuleType], watch: Callable[[Answer], None]) -> None:
        self.functions = functions
        self._watch = watch
        self._routes = routes()
        self._lock = threading.Lock()

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Iterable[tuple[str, str]] | Mapping[str, str] = (),
        body: bytes = b"",
        claims: Json | None = None,
    ) -> Answer:
        """Answer a request for `target`, path and query as they stand in the request line.

        `claims` stand for a valid token that holds them; without them the request's own Authorization counts.
        """
        joined = _joined(headers)
        raw_path, _, raw_query = target.partition("?")
        path = unquote(raw_path, errors="replace")
        for route in self._routes:
            match = route.path.fullmatch(path)
            if match and route.method in (method, "$default"):
                break
        else:
            return _refusal(404, "Not Found")
        if len(body) > MAX_BODY_BYTES:
            return _refusal(413, "Request Entity Too Large")
        event = api_event(route.key, path=match.groupdict())
        event |= {"rawPath": path, "rawQueryString": raw_query, "headers": joined}
        event["requestContext"]["http"] = {"method": method, "path": path}
        if route.authorization != "NONE":
            if claims is None:
                claims = read_token(joined.get("authorization", ""))
            if claims is None:
                return _refusal(401, "Unauthorized", {"www-authenticate": "Bearer"})
            told = {name: _claim(value) for name, value in claims.items()}
            by_jwt = route.authorization == "JWT"
            event["requestContext"]["authorizer"] = (
                {"jwt": {"claims": told, "scopes": None}} if by_jwt else {"lambda": told}
            )
        if raw_query:
            pairs = parse_qs(raw_query, keep_blank_values=True, errors="replace")
            event["queryStringParameters"] = {name: ",".join(values) for name, values in pairs.items()}
        if body and _is_text(joined.get("content-type", "")):
            event["body"] = body.decode(errors="replace")
        elif body:
            event |= {"body": base64.b64encode(body).decode(), "isBase64Encoded": True}
        return self.invoke(route.function, event)

    def invoke(self, function: str, event: Json) -> Answer:
        """Call the handler with an event and read its response, both as they come through JSON."""
        written = io.StringIO()
        event = json.loads(json.dumps(event))
        with self._lock, contextlib.redirect_stdout(written), contextlib.redirect_stderr(written):
            began = time.perf_counter()
            response = self.functions[function].handler(event, Context(SECONDS))
            seconds = time.perf_counter() - began
        Gateway.answered += 1
        summary.count("hostile input", "requests, each answered in good order or refused")
        response = json.loads(json.dumps(response))
        headers = {name.lower(): value for name, value in response["headers"].items()}
        body = response["body"].encode()
        answer = Answer(response["statusCode"], headers, body, function, written.getvalue(), seconds)
        self._watch(answer)
        return answer

    async def __call__(
        self, scope: Json, receive: Callable[[], Awaitable[Json]], send: Callable[[Json], Awaitable[None]]
    ) -> None:
        assert scope["type"] == "http", "there is nothing to start or to stop"
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        target = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            target += "?" + scope["query_string"].decode("latin-1")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        answer = await asyncio.to_thread(self.request, scope["method"], target, headers=headers, body=body)
        told = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": told})
        await send({"type": "http.response.body", "body": answer.body})


def token(claims: Json) -> str:
    """The Authorization of a client with a valid token."""
    return "Bearer " + base64.urlsafe_b64encode(json.dumps(claims).encode()).decode()


def read_token(authorization: str) -> Json | None:
    """The claims of the token, or None if it is not valid."""
    try:
        claims = json.loads(base64.urlsafe_b64decode(authorization.removeprefix("Bearer ")))
    except ValueError:
        return None
    return claims if isinstance(claims, dict) else None


def _claim(value: Any) -> str:
    """Every claim reaches a function as a string: a number as its digits, a list as its items in brackets."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return f"[{' '.join(map(_claim, value))}]"
    return json.dumps(value)


def _joined(headers: Iterable[tuple[str, str]] | Mapping[str, str]) -> dict[str, str]:
    joined: dict[str, list[str]] = {}
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        joined.setdefault(name.lower(), []).append(value)
    return {name: ",".join(values) for name, values in joined.items()}


def _is_text(content_type: str) -> bool:
    """Whether AWS hands a body over as text: tried against AWS in github.com/ministackorg/ministack/pull/766."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type.startswith("text/") or media_type in (
        "application/json",
        "application/xml",
        "application/javascript",
    )


def _refusal(status: int, message: str, headers: dict[str, str] | None = None) -> Answer:
    body = json.dumps({"message": message}).encode()
    return Answer(status, {"content-type": "application/json", **(headers or {})}, body, "", "", 0.0)
