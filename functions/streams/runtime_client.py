"""A runtime client for Lambda that can stream responses; AWS's client for Python cannot. When AWS's client can stream,
delete this file, `wrapper` and AWS_LAMBDA_EXEC_WRAPPER in the template (github.com/aws/aws-lambda-roadmap/issues/39).

The protocol is in docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html. The handler returns an iterator: first the
head of the response, {statusCode, headers}, then the pieces of the body as text.
"""

import base64
import http.client
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any

_API = "/2018-06-01/runtime"
_HEAD_TYPE = "application/vnd.awslambda.http-integration-response"
_ERROR_TYPE, _ERROR_BODY = "Lambda-Runtime-Function-Error-Type", "Lambda-Runtime-Function-Error-Body"

type Handler = Callable[[dict[str, Any], "Context"], Generator[Any]]


class Context:
    def __init__(self, request_id: str, deadline_ms: int) -> None:
        self.aws_request_id = request_id
        self._deadline_ms = deadline_ms

    def get_remaining_time_in_millis(self) -> int:
        return max(0, self._deadline_ms - int(time.time() * 1000))


def main(address: str, handler_name: str) -> None:
    """Serves invocations in an endless loop. `address`: the Runtime API's "host:port"."""
    try:
        module, _, function = handler_name.rpartition(".")
        handler: Handler = getattr(importlib.import_module(module), function)
    except BaseException as error:
        _report(address, "init/error", error)
        raise
    while True:
        with closing(http.client.HTTPConnection(address)) as connection:
            connection.request("GET", f"{_API}/invocation/next")
            told = connection.getresponse()
            event, headers = json.loads(told.read()), told.headers
        context = Context(headers["Lambda-Runtime-Aws-Request-Id"], int(headers["Lambda-Runtime-Deadline-Ms"]))
        try:
            answer(address, handler, event, context)
        except OSError:  # Lambda no longer accepts this response, so take the next invocation.
            continue


def answer(address: str, handler: Handler, event: dict[str, Any], context: Context) -> None:
    """Run the handler once. Raises OSError if Lambda does not accept the response."""
    try:
        pieces = handler(event, context)
        head = next(pieces)
    except Exception as error:
        _report(address, f"invocation/{context.aws_request_id}/error", error)
        return
    with closing(http.client.HTTPConnection(address)) as connection, closing(pieces):
        _send(connection, context.aws_request_id, head, pieces)


def _send(connection: http.client.HTTPConnection, request_id: str, head: Any, pieces: Generator[str]) -> None:
    connection.putrequest("POST", f"{_API}/invocation/{request_id}/response")
    connection.putheader("Content-Type", _HEAD_TYPE)
    connection.putheader("Lambda-Runtime-Function-Response-Mode", "streaming")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.putheader("Trailer", f"{_ERROR_TYPE}, {_ERROR_BODY}")
    connection.endheaders(_chunk(json.dumps(head).encode() + bytes(8)))
    trailers = b""
    try:
        for piece in filter(None, pieces):
            connection.send(_chunk(piece.encode()))
    except Exception as error:
        body = base64.b64encode(_told(error))
        trailers = b"%s: %s\r\n%s: %s\r\n" % (_ERROR_TYPE.encode(), _kind(error).encode(), _ERROR_BODY.encode(), body)
    connection.send(b"0\r\n" + trailers + b"\r\n")
    connection.getresponse().read()


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def _report(address: str, path: str, error: BaseException) -> None:
    with closing(http.client.HTTPConnection(address)) as connection:
        connection.request("POST", f"{_API}/{path}", _told(error), {_ERROR_TYPE: _kind(error)})
        connection.getresponse().read()


def _told(error: BaseException) -> bytes:
    """The report of an error, without the error's text, because the text can quote a user's message."""
    return json.dumps({"errorType": type(error).__name__, "errorMessage": "", "stackTrace": []}).encode()


def _kind(error: BaseException) -> str:
    return f"Function.{type(error).__name__}"


if __name__ == "__main__":
    # Add the layer and the runtime's botocore to sys.path, as AWS's client does.
    sys.path[1:1] = ["/opt/python"]
    sys.path.append(os.environ["LAMBDA_RUNTIME_DIR"])
    main(os.environ["AWS_LAMBDA_RUNTIME_API"], os.environ["_HANDLER"])
