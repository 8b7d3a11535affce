"""The Lambda service: runs the deployed functions, one invocation at a time in each execution environment. It reuses
the environment that became idle last, and starts a new environment if no environment is idle. A function has at most
ReservedConcurrentExecutions environments, and further invocations are throttled. Without a reservation it has at most
`max_environments`, and further invocations wait."""

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from local import gateway
from local.environment import THROTTLED, Environment, InitFailed, NotInvoked, Result
from local.functions import Function
from local.loopback import LoopbackServer, Request, Response
from local.processes import Processes

MAX_ENVIRONMENTS = 40
"""The default of `max_environments`. Each environment takes about 60 MB. On AWS, each waiting request has an
environment, even if hundreds wait. Here, further requests wait for a free environment."""

_SECONDS_IDLE = 120
_SECONDS_OF_A_LIFE = 40 * 60
"""An environment that is older than this number of seconds gets no new invocation. Its last invocation can take 15
minutes more, and its credentials are valid for an hour."""

_INVOKE = re.compile(r"/2015-03-31/functions/([^/]+)/invocations")

_SECONDS_IN_LINE = 25
"""Maximum seconds that an invocation waits for an environment. The most frequent caller, API Gateway, waits only a
little longer."""


class LambdaHost:
    """Runs functions from construction until close. Safe to call from many threads."""

    def __init__(
        self,
        processes: Processes,
        runtime_python: Path,
        *,
        aws: Callable[[Function], Mapping[str, str]],
        logs: Path,
        max_environments: int = MAX_ENVIRONMENTS,
    ) -> None:
        """`aws` returns the variables that select the account for a function's AWS SDK. The host calls `aws` for each
        new environment, because the credentials in the variables are valid for only an hour. A function's output goes
        to `logs`/<label>.log."""
        self._processes = processes
        self._python = runtime_python
        self._aws = aws
        self._logs = logs
        self._max_environments = max_environments
        self._pools: dict[str, _Pool] = {}
        self._server = LoopbackServer(self._answer)

    def add(self, function: Function) -> None:
        """Make `function` available under its name."""

        def start() -> Environment:
            log = self._logs / f"{function.label}.log"
            return Environment(function, self._processes, self._python, aws=self._aws(function), log=log)

        self._pools[function.name] = _Pool(function, start, self._max_environments)

    def invoke(self, name: str, event: Any) -> Result:
        """Run the function `name` on `event` (any JSON value) and wait. Raises KeyError if there is no such
        function."""
        return self._pools[name].invoke(json.dumps(event).encode())

    def stream(self, name: str, event: Any, tell: Callable[[bytes], object]) -> Result:
        """Run the function `name` on `event`, and call `tell` with each piece of its streamed response."""
        return self._pools[name].invoke(json.dumps(event).encode(), tell)

    def function(self, name: str) -> Function:
        """The function of this name. Raises KeyError if there is no such function."""
        return self._pools[name].function

    def processes_of(self, name: str) -> list[int]:
        """The process ids of the function's environments, including idle ones."""
        return [environment.pid for environment in self._pools[name].environments()]

    def running(self, name: str) -> int:
        """The number of the function's running invocations."""
        return self._pools[name].running

    def kill(self, name: str) -> int:
        """Kill every environment of the function, to simulate a fault. Returns the number of killed environments. The
        running invocations fail at once."""
        environments = self._pools[name].environments()
        for environment in environments:
            environment.kill()
        return len(environments)

    def url(self, name: str) -> str:
        """The URL that runs the function: POST an event to it. The response is the function's response; an error has
        the status 500."""
        return f"{self._server.url}/invoke/{quote(name)}"

    @property
    def endpoint_url(self) -> str:
        """The endpoint URL for Lambda clients, as with `sam local start-lambda`. It supports only Invoke."""
        return self._server.url

    def close(self) -> None:
        """Kill all environments. Running invocations end with an error."""
        self._server.close()
        for pool in self._pools.values():
            pool.close()

    def _answer(self, request: Request) -> Response:
        by_api = _INVOKE.fullmatch(request.target)
        pool = self._pools.get(unquote(by_api[1] if by_api else request.target.removeprefix("/invoke/")))
        if pool is None:
            return Response(404, b'{"message":"Function not found"}')
        if by_api:
            result = pool.invoke(request.body)
            error = [("X-Amz-Function-Error", "Unhandled")] if result.error else []
            return Response(200, result.payload, [("Content-Type", "application/json"), *error])
        event = json.loads(request.body)
        if gateway.is_http_event(event):
            payload = json.dumps(gateway.as_on_aws(event)).encode()
            return Response(200, gateway.answer(lambda: pool.invoke(payload)))
        result = pool.invoke(request.body)
        return Response(500 if result.error else 200, result.payload)


type _Start = Callable[[], Environment]


class _Pool:
    """The environments of one function: finds or starts an environment for each invocation, and limits their number."""

    def __init__(self, function: Function, start: _Start, max_environments: int) -> None:
        self.function = function
        self._start = start
        self._reserved = function.reserved_concurrency is not None
        self._most = max_environments if function.reserved_concurrency is None else function.reserved_concurrency
        self._changed = threading.Condition()
        self._idle: list[Environment] = []
        self._taken = 0
        self._all: set[Environment] = set()
        self._closed = False

    @property
    def running(self) -> int:
        return self._taken

    def environments(self) -> list[Environment]:
        with self._changed:
            return [environment for environment in self._all if environment.alive]

    def invoke(self, payload: bytes, tell: Callable[[bytes], object] | None = None) -> Result:
        request_id = str(uuid.uuid4())
        while True:
            try:
                environment = self._take()
            except InitFailed as failed:
                return failed.result
            if environment is None:
                message = {"errorType": THROTTLED, "errorMessage": "Rate Exceeded."}
                return Result(json.dumps(message).encode(), THROTTLED)
            try:
                return environment.invoke(payload, request_id, tell)
            except NotInvoked:
                continue
            finally:
                self._give_back(environment)

    def _take(self) -> Environment | None:
        """A ready environment, or None if the function is throttled. Raises InitFailed."""
        give_up_at = time.monotonic() + (0 if self._reserved else _SECONDS_IN_LINE)
        with self._changed:
            while self._taken >= self._most:
                left = give_up_at - time.monotonic()
                if left <= 0 or self._closed:
                    return None
                self._changed.wait(left)
            self._taken += 1
            while self._idle:
                environment = self._idle.pop()
                if environment.alive and environment.started_at > time.monotonic() - _SECONDS_OF_A_LIFE:
                    return environment
                self._all.discard(environment)
                environment.kill()
        try:
            return self._started()
        except BaseException:
            self._give_back(None)
            raise

    def _started(self) -> Environment:
        environment = self._start()
        with self._changed:
            self._all.add(environment)
            if self._closed:
                environment.kill()
        try:
            environment.wait_until_ready()
        except InitFailed:
            with self._changed:
                self._all.discard(environment)
            raise
        return environment

    def _give_back(self, environment: Environment | None) -> None:
        with self._changed:
            self._taken -= 1
            if environment is not None:
                if environment.alive:
                    self._idle.append(environment)
                else:
                    self._all.discard(environment)
            # The environments at the beginning of the list have been idle longest.
            while self._idle and self._idle[0].idle_since < time.monotonic() - _SECONDS_IDLE:
                old = self._idle.pop(0)
                self._all.discard(old)
                old.kill()
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            for environment in self._all:
                environment.kill()
            self._changed.notify_all()
