"""Serves the URL of a function that streams its responses, as Lambda does. It handles CORS and makes the event. It
sends the head of the response first, and then each piece of the body when the function has written the piece. Callers
need no signature."""

import base64
import json
import queue
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from local.environment import THROTTLED, Result
from local.guard import Guard
from local.lambda_host import LambdaHost
from local.loopback import LoopbackServer, Request, Response

_END_OF_HEAD = bytes(8)
_TEXT = ("application/json", "text/", "application/x-www-form-urlencoded")


def serve_url(host: LambdaHost, function: str, cors: Mapping[str, Any], port: int) -> LoopbackServer:
    """Serve the function at a URL on `port`. Only the function's CORS rules decide which pages may call it, as on AWS.
    `cors`: the rules as GetFunctionUrlConfig returns them. Raises OSError if the port is taken."""

    def answer(request: Request) -> Response:
        allowed = _cors(cors, request)
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            return Response(200, b"", list(allowed.items()))
        return _invoked(host, function, request, allowed)

    return LoopbackServer(answer, port, guard=Guard(any_origin=True))


def _invoked(host: LambdaHost, function: str, request: Request, allowed: Mapping[str, str]) -> Response:
    told: queue.SimpleQueue[bytes | Result] = queue.SimpleQueue()

    def run() -> None:
        try:
            told.put(host.stream(function, _event(request), told.put))
        except BaseException:
            told.put(Result(b"", "Sandbox"))
            raise

    # Use a thread, because the function continues when the client disconnects, as on AWS.
    threading.Thread(target=run, name=f"stream of {function}", daemon=True).start()
    begun = b""
    while _END_OF_HEAD not in begun:
        piece = told.get()
        if isinstance(piece, Result):
            return _failed(piece)
        begun += piece
    head_text, _, rest = begun.partition(_END_OF_HEAD)
    head = json.loads(head_text)
    headers = [*head.get("headers", {}).items(), *allowed.items()]
    body = _pieces(told, rest)
    return Response(head["statusCode"], b"".join(body) if head["statusCode"] == 204 else body, headers)


def _pieces(told: "queue.SimpleQueue[bytes | Result]", rest: bytes) -> Iterator[bytes]:
    """The pieces of the body. If the function fails before the end, raises ConnectionError, which breaks the
    connection."""
    if rest:
        yield rest
    while not isinstance(piece := told.get(), Result):
        yield piece
    if piece.error:
        raise ConnectionError


def _failed(result: Result) -> Response:
    if result.error == THROTTLED:
        return Response(429, b'{"Message":"Rate Exceeded.","Reason":"ConcurrentInvocationLimitExceeded"}')
    return Response(502, b"Internal Server Error", [("Content-Type", "text/plain")])


def _cors(configuration: Mapping[str, Any], request: Request) -> dict[str, str]:
    origin, origins = request.headers.get("Origin"), configuration.get("AllowOrigins", [])
    if origin is None or not {origin, "*"} & set(origins):
        return {}
    return {
        "Access-Control-Allow-Origin": "*" if "*" in origins else origin,
        "Access-Control-Allow-Methods": ",".join(configuration.get("AllowMethods", [])),
        "Access-Control-Allow-Headers": ",".join(configuration.get("AllowHeaders", [])),
        "Access-Control-Expose-Headers": ",".join(configuration.get("ExposeHeaders", [])),
        "Access-Control-Max-Age": str(configuration.get("MaxAge", 0)),
    }


def _event(request: Request) -> dict[str, Any]:
    """The function's event for the request, in payload format 2.0."""
    url, now = urlsplit(request.target), time.time()
    is_text = request.headers.get("Content-Type", "text/").startswith(_TEXT)
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": url.path,
        "rawQueryString": url.query,
        "headers": {name.lower(): value for name, value in request.headers.items()},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "local",
            "domainName": request.headers.get("Host", ""),
            "http": {"method": request.method, "path": url.path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"},
            "requestId": str(uuid.uuid4()),
            "routeKey": "$default",
            "stage": "$default",
            "timeEpoch": int(now * 1000),
        },
        "isBase64Encoded": not is_text,
    }
    if url.query:
        event["queryStringParameters"] = dict(parse_qsl(url.query, keep_blank_values=True))
    if request.body:
        event["body"] = request.body.decode() if is_text else base64.b64encode(request.body).decode()
    return event
