"""What the functions call in the account: a server between them and MiniStack that hands each call on and writes it
down.

Each caller has an address of its own, so that it is known whose call it is.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from local.emulator import Emulator
from local.guard import Guard
from local.loopback import Handle, LoopbackServer, Request, Response, forward


@dataclass(frozen=True)
class Call:
    """One call of an AWS API, whatever came of it."""

    caller: str
    action: str  # as in a policy, but of one operation: dynamodb:GetItem, sqs:DeleteMessageBatch
    parameters: dict[str, Any]
    status: int


class Recorder:
    """Serves from the first `endpoint` until close. Understood are calls of the AWS JSON and query protocols, and of S3
    those that read an object, or put one by a form (which whoever has it posts to the address of who signed it).

    `watch` is told of each call and the body of its answer, in the thread of its caller, before that has it.
    """

    watch: Callable[[Call, bytes], object]

    def __init__(self, emulator: Emulator, upload_origins: frozenset[str] = frozenset()) -> None:
        """Pages of `upload_origins` may post forms to S3 through it."""
        self._address = urlsplit(emulator.account.endpoint_url).netloc
        self._pass = emulator.pass_
        self._guard = Guard(upload_origins=upload_origins)
        self._servers: dict[str, LoopbackServer] = {}
        self._calls: list[Call] = []
        self.watch = lambda call, answer: None

    def endpoint(self, caller: str) -> str:
        """The URL under which `caller` finds the account."""
        if caller not in self._servers:
            self._servers[caller] = LoopbackServer(self._handle(caller), guard=self._guard)
        return self._servers[caller].url

    def calls(self) -> list[Call]:
        """All so far."""
        return list(self._calls)

    def close(self) -> None:
        for server in self._servers.values():
            server.close()

    def _handle(self, caller: str) -> Handle:
        def record(request: Request) -> Response:
            # It keeps the Host header, because the caller has signed it.
            response = forward(self._address, request, pass_=self._pass)
            call = Call(caller, _action(request), _parameters(request), response.status)
            self._calls.append(call)
            assert isinstance(response.body, bytes), "what is forwarded comes whole"
            self.watch(call, response.body)
            return response

        return record


def _action(request: Request) -> str:
    """The service for which the call is signed, and the operation."""
    if of_s3 := _action_of_s3(request):
        return of_s3
    operation = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
    return f"{_service(request)}:{operation or _parameters(request).get('Action', request.target)}"


def _action_of_s3(request: Request) -> str | None:
    """S3 tells the operation by method and path, and a form is not signed as other calls are."""
    if request.method == "POST" and request.headers.get("Content-Type", "").startswith("multipart/form-data"):
        return "s3:PutObject"
    return "s3:GetObject" if request.method == "GET" and _service(request) == "s3" else None


def _service(request: Request) -> str:
    scope = request.headers.get("Authorization", "").partition("Credential=")[2].partition(",")[0].split("/")
    return scope[3] if len(scope) > 3 else "unsigned"


def _parameters(request: Request) -> dict[str, Any]:
    if _action_of_s3(request):
        bucket, _, key = request.target.partition("?")[0].removeprefix("/").partition("/")
        return {"Bucket": bucket, "Key": key}
    try:
        document = json.loads(request.body)
    except ValueError:
        return {name: values[0] for name, values in parse_qs(request.body.decode(errors="replace")).items()}
    return document if isinstance(document, dict) else {}
