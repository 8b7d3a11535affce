"""The runtime client of streamed responses, against a Runtime API that takes what comes as Lambda does."""

import base64
import importlib
import json
import queue
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest

from local.loopback import LoopbackServer, Request, Response

runtime = importlib.import_module("runtime_client")
API = "/2018-06-01/runtime"
EVENT = {"rawPath": "/"}

type Handler = Callable[[dict[str, Any], Any], Generator[Any]]


class RuntimeApi:
    """One invocation. `told`: what the client has sent, in order: (path, bytes), a piece of a response as "piece"."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.told: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self.headers: dict[str, str] = {}
        self.trailers: dict[str, str] = {}
        self._refuses = refuses
        self._left = 1
        self._server = LoopbackServer(self._answer)
        self.address = self._server.address

    def _answer(self, request: Request) -> Response:
        path = request.target.removeprefix(f"{API}/")
        if path == "invocation/next":
            if not self._left:
                time.sleep(60)  # as Lambda, which answers with the next invocation; the thread is a daemon
            self._left -= 1
            deadline = str(int(time.time() * 1000) + 9000)
            headers = [("Lambda-Runtime-Aws-Request-Id", "id-1"), ("Lambda-Runtime-Deadline-Ms", deadline)]
            return Response(200, json.dumps(EVENT).encode(), headers)
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        if request.chunks is None:
            self.told.put((path, request.body))
            return Response(202)
        for piece in request.chunks:
            self.told.put(("piece", piece))
            if self._refuses:
                raise ConnectionError
        self.trailers = request.chunks.trailers
        self.told.put((path, b""))
        return Response(202)

    def next(self) -> tuple[str, bytes]:
        return self.told.get(timeout=20)


def run(api: RuntimeApi, handler: Handler) -> None:
    runtime.answer(api.address, handler, EVENT, runtime.Context("id-1", int(time.time() * 1000) + 9000))


def test_each_piece_is_sent_when_it_is_made() -> None:
    api, go_on = RuntimeApi(), threading.Event()

    def handler(event: dict[str, Any], context: Any) -> Generator[Any]:
        assert event == EVENT and 0 < context.get_remaining_time_in_millis() <= 9000
        yield {"statusCode": 200, "headers": {"Content-Type": "text/plain"}}
        yield ""
        yield "grüße"
        assert go_on.wait(20)
        yield "end"

    thread = threading.Thread(target=run, args=(api, handler))
    thread.start()

    head, piece = api.next(), api.next()
    go_on.set()

    assert json.loads(head[1].removesuffix(bytes(8))) == {"statusCode": 200, "headers": {"Content-Type": "text/plain"}}
    assert head[1].endswith(bytes(8)) and piece == ("piece", "grüße".encode())
    assert [api.next(), api.next()] == [("piece", b"end"), ("invocation/id-1/response", b"")]
    thread.join(20)
    assert api.headers["lambda-runtime-function-response-mode"] == "streaming"
    assert api.headers["content-type"] == "application/vnd.awslambda.http-integration-response"
    assert api.trailers == {}


def test_a_mistake_before_the_head_is_an_error() -> None:
    api = RuntimeApi()

    def handler(event: dict[str, Any], context: Any) -> Generator[Any]:
        raise ValueError("a secret")
        yield

    run(api, handler)

    path, body = api.next()
    assert path == "invocation/id-1/error"
    assert json.loads(body)["errorType"] == "ValueError"
    assert api.headers["lambda-runtime-function-error-type"] == "Function.ValueError"
    assert b"secret" not in body


def test_a_mistake_in_the_middle_is_in_the_trailers() -> None:
    api = RuntimeApi()

    def handler(event: dict[str, Any], context: Any) -> Generator[Any]:
        yield {"statusCode": 200, "headers": {}}
        yield "begun"
        raise ValueError("a secret")

    run(api, handler)

    assert [api.next()[0] for _ in range(3)] == ["piece", "piece", "invocation/id-1/response"]
    assert api.trailers["lambda-runtime-function-error-type"] == "Function.ValueError"
    error = json.loads(base64.b64decode(api.trailers["lambda-runtime-function-error-body"]))
    assert error == {"errorType": "ValueError", "errorMessage": "", "stackTrace": []}


def test_a_response_that_nobody_takes_ends() -> None:
    api, closed = RuntimeApi(refuses=True), threading.Event()

    def handler(event: dict[str, Any], context: Any) -> Generator[Any]:
        try:
            yield {"statusCode": 200, "headers": {}}
            while True:
                yield "x" * 100_000
        finally:
            closed.set()

    with pytest.raises(OSError):
        run(api, handler)

    assert closed.wait(20)


def test_an_init_that_fails_is_reported() -> None:
    api = RuntimeApi()

    with pytest.raises(ModuleNotFoundError):
        runtime.main(api.address, "no_such_module.handler")

    path, body = api.next()
    assert (path, json.loads(body)["errorType"]) == ("init/error", "ModuleNotFoundError")
