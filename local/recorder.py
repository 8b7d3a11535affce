"""A proxy between the functions and MiniStack that records each call. Each caller gets a separate address, so that the
recorder knows who calls."""

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from local.emulator import Emulator
from local.guard import Guard
from local.loopback import Handle, LoopbackServer, Request, Response, forward


@dataclass(frozen=True)
class Call:
    """One call of an AWS API, successful or not."""

    caller: str
    action: str  # the operation in the form of a policy's action: dynamodb:GetItem, sqs:DeleteMessageBatch
    parameters: dict[str, Any]
    status: int


class Recorder:
    """Serves from the first call of `endpoint` until close. It understands the AWS JSON and query protocols, and the S3
    calls that read an object or post a form. A page posts a form to the address of the function that signed the form,
    so the function counts as the caller."""

    def __init__(self, emulator: Emulator, upload_origins: frozenset[str] = frozenset()) -> None:
        """`upload_origins`: the origins of pages that may post forms to S3 through the recorder."""
        self._address = urlsplit(emulator.account.endpoint_url).netloc
        self._pass = emulator.pass_
        self._guard = Guard(upload_origins=upload_origins)
        self._servers: dict[str, LoopbackServer] = {}
        self._calls: list[Call] = []

    def endpoint(self, caller: str) -> str:
        """The URL at which `caller` reaches the account."""
        if caller not in self._servers:
            self._servers[caller] = LoopbackServer(self._handle(caller), guard=self._guard)
        return self._servers[caller].url

    def calls(self) -> list[Call]:
        """All calls so far."""
        return list(self._calls)

    def close(self) -> None:
        for server in self._servers.values():
            server.close()

    def _handle(self, caller: str) -> Handle:
        def record(request: Request) -> Response:
            # Keep the Host header, because the caller's signature covers it.
            response = forward(self._address, request, pass_=self._pass)
            self._calls.append(Call(caller, _action(request), _parameters(request), response.status))
            return response

        return record


_INVOKE = re.compile(r"/2015-03-31/functions/([^/]+)/invocations")


def _action(request: Request) -> str:
    """The call's operation, as `Call.action` has it."""
    if of_s3 := _action_of_s3(request):
        return of_s3
    if _INVOKE.fullmatch(request.target):
        return "lambda:InvokeFunction"
    operation = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
    return f"{_service(request)}:{operation or _parameters(request).get('Action', request.target)}"


def _action_of_s3(request: Request) -> str | None:
    """The operation of an S3 call, by its method and path. None for other services. The header Authorization names the
    service. A posted form does not have this header, but only S3 accepts forms."""
    if request.method == "POST" and request.headers.get("Content-Type", "").startswith("multipart/form-data"):
        return "s3:PutObject"
    operations = {"GET": "s3:GetObject", "PUT": "s3:PutObject", "DELETE": "s3:DeleteObject"}
    return operations.get(request.method) if _service(request) == "s3" else None


def _service(request: Request) -> str:
    scope = request.headers.get("Authorization", "").partition("Credential=")[2].partition(",")[0].split("/")
    return scope[3] if len(scope) > 3 else "unsigned"


def _parameters(request: Request) -> dict[str, Any]:
    if _action_of_s3(request):
        bucket, _, key = request.target.partition("?")[0].removeprefix("/").partition("/")
        return {"Bucket": bucket, "Key": key}
    if invoked := _INVOKE.fullmatch(request.target):
        return {"FunctionName": unquote(invoked[1]).split(":")[6]}  # the function's name in the ARN of its alias
    try:
        document = json.loads(request.body)
    except ValueError:
        return {name: values[0] for name, values in parse_qs(request.body.decode(errors="replace")).items()}
    return document if isinstance(document, dict) else {}
