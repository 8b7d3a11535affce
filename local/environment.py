"""One execution environment of a function: a process of the real runtime client, and the Runtime API that it calls. As
on AWS, an environment runs one invocation at a time and is initialised once. The environment is frozen between
invocations, and ends after a timeout or a crash. Unlike on AWS, its memory has no limit, and its code folder is
writable.
"""

import base64
import json
import os
import queue
import secrets
import signal
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from local.functions import Function
from local.loopback import LoopbackServer, Request, Response
from local.processes import Processes

_API = "/2018-06-01/runtime"
_SECONDS_TO_INIT = 60
"""The maximum seconds of an init. AWS allows 10 s and gives a CPU to every environment. This limit is longer, because
dozens of environments can start together on two cores here."""


THROTTLED = "TooManyRequestsException"
"""The error of an invocation that got no environment."""


@dataclass(frozen=True)
class Result:
    """The result of an invocation. `payload`: the response of the function, or a description of the error.
    `error`: the type of the error, or None if the invocation succeeded."""

    payload: bytes
    error: str | None = None

    def json(self) -> Any:
        return json.loads(self.payload)


class NotInvoked(Exception):
    """The environment ended before the function began the invocation."""


class InitFailed(Exception):
    """The function's init failed. `result`: the result of the invocation that needed the environment."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.payload.decode(errors="replace"))
        self.result = result


@dataclass(frozen=True)
class _Invocation:
    request_id: str
    payload: bytes
    deadline_ms: int  # the time at which the invocation times out, in milliseconds since the epoch


@dataclass(frozen=True)
class _Event:
    """An event in the life of the process. `payload`: the response, a piece of it, or the error."""

    kind: Literal["idle", "taken", "piece", "response", "error", "init error", "exit"]
    payload: bytes = b""


class Environment:
    """The process starts at construction. Call `wait_until_ready` before the first `invoke`. From another thread, call
    only `kill`."""

    def __init__(
        self,
        function: Function,
        processes: Processes,
        python: Path,
        *,
        aws: Mapping[str, str],
        log: Path,
    ) -> None:
        """Start the process. `aws` selects the account for the function's AWS SDK. Raises OSError if the process cannot
        start."""
        self._function = function
        self._log = log
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._invocations: queue.SimpleQueue[_Invocation | None] = queue.SimpleQueue()
        self._exit_code: int | None = None
        self.started_at = time.monotonic()
        self._init_seconds: float | None = None  # the duration of the init in seconds; None after it was logged
        self.idle_since = self.started_at
        self._server = LoopbackServer(self._runtime_api)
        command: list[str | Path] = [python, "-m", "awslambdaric", function.handler]
        if wrapper := function.variables.get("AWS_LAMBDA_EXEC_WRAPPER"):
            # The wrapper gets the command as its arguments (docs.aws.amazon.com/lambda/latest/dg/runtimes-modify.html).
            command = [function.code / wrapper.removeprefix("/var/task/"), *command]
        self._process = processes.start(
            command,
            env={**variables(function, python, aws), "AWS_LAMBDA_RUNTIME_API": self._server.address},
            cwd=function.code,
            log=log,
        )
        self.pid = self._process.pid
        threading.Thread(target=self._watch, name=f"{function.label} {self.pid}", daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._exit_code is None

    def kill(self) -> None:
        self._process.signal(signal.SIGKILL)

    def wait_until_ready(self) -> None:
        """Wait until the function's init has ended. Raises InitFailed."""
        try:
            event = self._events.get(timeout=_SECONDS_TO_INIT)
        except queue.Empty:
            self.kill()
            message = f"Init did not finish in {_SECONDS_TO_INIT} s"
            raise InitFailed(_failure("Sandbox.Timedout", message)) from None
        if event.kind == "init error":
            self.kill()
            raise InitFailed(Result(event.payload, _error_type(event.payload)))
        if event.kind == "exit":
            raise InitFailed(_failure("Runtime.ExitError", self._exit_reason()))
        self._init_seconds = time.monotonic() - self.started_at

    def invoke(self, payload: bytes, request_id: str, tell: Callable[[bytes], object] | None = None) -> Result:
        """Run the function on the event `payload`. If the function streams its response, `tell` gets the pieces, and
        the payload of the result is empty. Raises NotInvoked."""
        started = time.monotonic()
        timeout = self._function.timeout
        deadline_ms = int((time.time() + timeout) * 1000)
        self._invocations.put(_Invocation(request_id, payload, deadline_ms))
        taken = False
        while True:
            try:
                event = self._events.get(timeout=max(0.0, started + timeout - time.monotonic()))
            except queue.Empty:
                self.kill()
                message = f"RequestId: {request_id} Error: Task timed out after {timeout:.2f} seconds"
                result = _failure("Sandbox.Timedout", message)
                break
            if event.kind == "taken":
                taken = True
            elif event.kind == "piece":
                if tell:
                    tell(event.payload)
            elif event.kind == "response":
                result = Result(event.payload)
                break
            elif event.kind == "error":
                result = Result(event.payload, _error_type(event.payload))
                break
            elif event.kind == "exit":
                if not taken:
                    raise NotInvoked
                result = _failure("Runtime.ExitError", f"RequestId: {request_id} Error: {self._exit_reason()}")
                break
        self.idle_since = time.monotonic()
        if result.error:
            self._report(request_id, result, self.idle_since - started)
        return result

    def _watch(self) -> None:
        self._exit_code = self._process.wait()
        self._events.put(_Event("exit"))
        self._invocations.put(None)
        self._server.close()

    def _exit_reason(self) -> str:
        code = self._exit_code or 0
        if code == 0:
            return "Runtime exited without providing a reason"
        cause = f"signal: {signal.strsignal(-code)}" if code < 0 else f"exit status {code}"
        return f"Runtime exited with error: {cause}"

    # ---- The Runtime API, called by the process

    def _runtime_api(self, request: Request) -> Response:
        accepted = Response(202, b'{"status":"OK"}')
        match request.target.removeprefix(_API).split("/")[1:]:
            case ["invocation", "next"]:
                return self._next()
            case ["invocation", _, "response"]:
                self._take_response(request)
                return accepted
            case ["invocation", _, "error"]:
                self._events.put(_Event("error", request.body))
                return accepted
            case ["init", "error"]:
                self._events.put(_Event("init error", request.body))
                return accepted
        return Response(404)

    def _take_response(self, request: Request) -> None:
        if request.chunks is None:
            self._events.put(_Event("response", request.body))
            return
        for piece in request.chunks:
            self._events.put(_Event("piece", piece))
        body = request.chunks.trailers.get("lambda-runtime-function-error-body")
        self._events.put(_Event("response") if body is None else _Event("error", base64.b64decode(body)))

    def _next(self) -> Response:
        self._events.put(_Event("idle"))
        self._process.signal(signal.SIGSTOP)
        invocation = self._invocations.get()
        self._process.signal(signal.SIGCONT)
        if invocation is None or not self._process.alive:
            return Response(500)  # the process has ended, so nobody reads this response
        self._events.put(_Event("taken"))
        headers = (
            ("Content-Type", "application/json"),
            ("Lambda-Runtime-Aws-Request-Id", invocation.request_id),
            ("Lambda-Runtime-Deadline-Ms", str(invocation.deadline_ms)),
            ("Lambda-Runtime-Invoked-Function-Arn", self._function.arn),
            ("Lambda-Runtime-Trace-Id", _trace_id()),
        )
        return Response(200, invocation.payload, headers)

    # ---- The log of the process

    def _report(self, request_id: str, result: Result, seconds: float) -> None:
        """Log a failed invocation as Lambda does, because a killed function could not log its end."""
        record = {
            "requestId": request_id,
            "status": "timeout" if result.error == "Sandbox.Timedout" else "error",
            "errorType": result.error,
            "metrics": {"durationMs": round(seconds * 1000, 1), "memorySizeMB": self._function.memory},
        }
        line = {"time": datetime.now(UTC).isoformat(), "type": "platform.report", "record": record}
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")


def variables(function: Function, python: Path, aws: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a function's process, except the address of its Runtime API. It has no variable of this
    process, because this process's environment can contain a developer's keys."""
    folders = [
        folder
        # if two layers have a file of the same name, the later layer's file is used
        for layer in reversed(function.layers)
        for folder in (layer / "python/lib/python3.13/site-packages", layer / "python")
    ]
    log_settings = {
        "AWS_LAMBDA_LOG_FORMAT": function.log_format,
        "AWS_LAMBDA_LOG_LEVEL": function.log_level,
    }
    return {
        **function.variables,
        **aws,
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "TZ": ":UTC",
        "PYTHONPATH": os.pathsep.join(str(folder) for folder in folders if folder.is_dir()),
        # On AWS, Python cannot write bytecode either, because the code folders are read-only.
        "PYTHONDONTWRITEBYTECODE": "1",
        "LAMBDA_TASK_ROOT": str(function.code),
        "LAMBDA_RUNTIME_DIR": str(python.parent.parent),
        "_HANDLER": function.handler,
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory),
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": function.log_group,
        "AWS_LAMBDA_LOG_STREAM_NAME": f"{datetime.now(UTC):%Y/%m/%d}/[$LATEST]{uuid.uuid4().hex}",
        **{name: value for name, value in log_settings.items() if value},
    }


def _failure(kind: str, message: str) -> Result:
    return Result(json.dumps({"errorType": kind, "errorMessage": message}).encode(), kind)


def _error_type(payload: bytes) -> str:
    try:
        return str(json.loads(payload)["errorType"])
    except (ValueError, KeyError, TypeError):
        return "Unhandled"


def _trace_id() -> str:
    return f"Root=1-{int(time.time()):08x}-{secrets.token_hex(12)};Parent={secrets.token_hex(8)};Sampled=0"
