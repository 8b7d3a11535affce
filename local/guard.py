"""The guard of every local server. It refuses requests of web pages, unless the server allows them.

A browser lets any page send requests to loopback, so a page could do all that local programs can do. But the browser
adds headers that name the page's origin. The guard refuses:

- a `Host` other than this machine: the page's server gave its own name the address 127.0.0.1 (DNS rebinding);
- an `Origin` other than this server: a form or script of another page;
- a `Sec-Fetch-Site` other than `none` or `same-origin`: a link, image or script tag of another page.

Programs send neither `Origin` nor `Sec-Fetch-Site`.

This module imports only the standard library, because it also runs in MiniStack's virtual environment.
"""

import json
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Self

OUR_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]", "host.docker.internal"})
"""This machine's names, which no other web server can have. Containers of Docker Desktop call this machine
host.docker.internal."""

PASS_HEADER = "X-Turnqueue-Local-Pass"
"""A request with this header comes from another local server. Its value is a secret that only the local servers
know."""

_SITES = {"none", "same-origin"}

type Headers = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Guard:
    """The rules by which one server accepts requests."""

    any_origin: bool = False
    """Whether the guard accepts pages of every origin. True for the API and the function URL, because their CORS rules
    tell the browser which origins may call."""
    upload_origins: frozenset[str] = frozenset()
    """The origins of pages that may post a form to S3."""
    pass_: str | None = field(default=None, repr=False)
    """The secret of PASS_HEADER. A request with the secret is accepted, because another local server has already
    checked it."""

    def refusal(self, method: str, target: str, headers: Headers) -> str | None:
        """Why the request is refused, as a text for people. None if it is accepted. `target`: the request's path and
        query."""
        fields: dict[str, list[str]] = {}
        for name, value in headers:
            fields.setdefault(name.lower(), []).append(value)
        given = fields.get(PASS_HEADER.lower(), [])
        if self.pass_ and any(secrets.compare_digest(one.encode(), self.pass_.encode()) for one in given):
            return None
        hosts = fields.get("host", [])
        if len(hosts) != 1 or _name(hosts[0]) not in OUR_NAMES:
            return "Host: this server answers to 127.0.0.1 and localhost only."
        if self.any_origin:
            return None
        origins = fields.get("origin", [])
        if self.upload_origins.issuperset(origins) and origins and _is_upload(method, target, fields):
            return None
        if any(origin != f"http://{hosts[0]}" for origin in origins):
            return "Origin: this server refuses requests from pages of other origins."
        if not _SITES.issuperset(fields.get("sec-fetch-site", [])):
            return "Sec-Fetch-Site: this server refuses requests from other sites. Type the address into the browser."
        return None

    def to_json(self) -> str:
        """The guard's rules as JSON: a child process gets them in a variable."""
        return json.dumps({"upload_origins": sorted(self.upload_origins), "pass": self.pass_})

    @classmethod
    def from_json(cls, text: str) -> Self:
        document = json.loads(text)
        return cls(upload_origins=frozenset(document["upload_origins"]), pass_=document["pass"])


def new_pass() -> str:
    return secrets.token_urlsafe()


def _name(host: str) -> str:
    """The host without its port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def _is_upload(method: str, target: str, fields: dict[str, list[str]]) -> bool:
    """Whether the request posts a form to a bucket. S3 checks the form's signature. The target must have no query,
    because a query would select another operation."""
    content_types = fields.get("content-type", [])
    bucket = target.strip("/")
    return (
        method == "POST"
        and len(content_types) == 1
        and content_types[0].startswith("multipart/form-data")
        and bool(bucket)
        and not set("/?").intersection(bucket)
        and not bucket.startswith("_")  # names with "_" are MiniStack's own paths
    )


type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]
type App = Callable[[Message, Receive, Send], Awaitable[None]]


class Guarded:
    """An ASGI application behind a guard. The application does not see the pass."""

    def __init__(self, app: App, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        raw: list[tuple[bytes, bytes]] = list(scope["headers"])
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]
        target = scope["path"] + ("?" if scope.get("query_string") else "")
        refusal = self._guard.refusal(scope.get("method", "GET"), target, headers)
        if refusal is None:
            passed = [(name, value) for name, value in raw if name.lower() != PASS_HEADER.lower().encode()]
            return await self._app({**scope, "headers": passed}, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})  # a close before the accept becomes a 403
        body = refused_body(refusal)
        sent = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 403, "headers": sent})
        await send({"type": "http.response.body", "body": body})


def refused_body(refusal: str) -> bytes:
    return f"Refused. {refusal}\n".encode()
