"""The baseline's processes: a Redis without persistence, the API as one uvicorn process, and workers."""

import http.client
import json
import os
import re
import shutil
import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from benchmarks.process import family
from local.loopback import HOST
from local.processes import Process, Processes
from local.tools import ROOT

_PYTHON = Path(os.environ.get("LOCAL_TOOLS", ROOT / ".tools"), "bench/bin/python")
_SECONDS_TO_ANSWER = 60.0

_WAITING = "waiting"
"""The list in Redis to which the API adds tasks. No worker takes from it."""


class NotInstalled(Exception):
    """Something that the baseline is made of is missing; the message says what, and how to get it."""


class Pool(NamedTuple):
    """Of a Celery worker: how it runs tasks, and how many at a time."""

    kind: str
    size: int

    def __str__(self) -> str:
        return f"Celery {self.kind} {self.size}"


class Workers:
    """Celery workers of one kind. A context manager: until its end."""

    def __init__(self, baseline: "Baseline", pool: Pool, count: int) -> None:
        self._baseline = baseline
        self._queue = f"{pool.kind}-{count}"
        self._running = [baseline.start_worker(pool, self._queue) for _ in range(count)]

    def fill(self, chats: int) -> None:
        """Submit so many, which no worker sees before `answer`."""
        self._baseline.forget()
        client = self._baseline.connect()
        for _ in range(chats):
            client.submit()

    def answer(self, chats: int) -> None:
        """Give the workers what was submitted, all at once. Returns when so many chats are answered.

        Raises RuntimeError if one fails, and TimeoutError if none is answered in a minute.
        """
        self._baseline.hand_over(self._queue, chats)

    def pids(self) -> list[int]:
        """Of their processes, the parents first."""
        return [pid for worker in self._running for pid in family(worker.pid)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._running:
            worker.kill()


class Baseline:
    """Redis and the API, running; workers are started when they are wanted."""

    def __init__(self, processes: Processes, model_url: str) -> None:
        """Raises NotInstalled."""
        redis = shutil.which("redis-server")
        if redis is None:
            raise NotInstalled("redis-server is not on PATH: install it (apt-get install redis-server, or brew).")
        if not _PYTHON.exists():
            raise NotInstalled(f"{_PYTHON} is missing: run `make bench`, which installs benchmarks/requirements.txt.")
        self._processes = processes
        self._redis_port = _free_port()
        self._variables = {
            "PATH": os.defpath,
            "HOME": "/tmp",
            "PYTHONPATH": str(ROOT),
            "REDIS_URL": f"redis://{HOST}:{self._redis_port}/0",
            "TASK_QUEUE": _WAITING,
            "MODEL_BASE_URL": model_url,
            "MODEL_NAME": "gpt-stub",
        }
        settings = {"bind": HOST, "port": self._redis_port, "save": "", "appendonly": "no"}
        options = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
        self.redis, _ = self._start(redis, *options, until=rb"Ready to accept connections")
        # uvloop and httptools, which uvicorn takes where they are, save a fifth of a submit's CPU.
        command: list[str | Path] = [
            _PYTHON,
            "-m",
            "uvicorn",
            "benchmarks.celery_baseline.api:app",
            "--host",
            HOST,
            "--port",
            "0",
        ]
        # A load balancer in front of it keeps its connections for a minute.
        command += ["--no-access-log", "--timeout-keep-alive", "75"]
        self.api, line = self._start(*command, until=rb"running on http://\S+:(\d+)")
        self._api_port = int(line[1])

    def start_worker(self, pool: Pool, queue: str) -> Process:
        options = ["--pool", pool.kind, "--concurrency", str(pool.size), "--queues", queue, "--loglevel", "info"]
        # What workers tell each other is of use with many of them, and costs.
        options += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        command = ("celery", "-A", "benchmarks.celery_baseline.tasks", "worker", *options)
        process, _ = self._start(_PYTHON, "-m", *command, until=rb"ready\.")
        return process

    def connect(self) -> "Client":
        return Client(self._api_port)

    def forget(self) -> None:
        """What was submitted and not given to workers."""
        self._redis(f"DEL {_WAITING}")

    def hand_over(self, queue: str, chats: int) -> None:
        """As Workers.answer, for the workers of a queue."""
        with socket.create_connection((HOST, self._redis_port), timeout=_SECONDS_TO_ANSWER) as news:
            replies = news.makefile("rb")
            # Celery tells each new state of a task, with its result, on a channel of the task's own.
            news.sendall(b"PSUBSCRIBE celery-task-meta-*\r\n")
            while b":1" not in replies.readline():
                pass
            if (waiting := self._redis(f"LLEN {_WAITING}")) != f":{chats}":
                raise RuntimeError(f"{chats} chats were to wait in Redis, not {waiting}")
            self._redis(f"RENAME {_WAITING} {queue}")
            while chats:
                line = replies.readline()
                if b'"FAILURE"' in line:
                    raise RuntimeError(f"a task of the baseline failed: {line.decode()}")
                chats -= b'"SUCCESS"' in line

    def _redis(self, command: str) -> str:
        """The reply, of one line."""
        with socket.create_connection((HOST, self._redis_port)) as connection:
            connection.sendall(f"{command}\r\n".encode())
            return connection.makefile("r").readline().rstrip()

    def _start(self, *command: str | Path, until: bytes) -> tuple[Process, re.Match[bytes]]:
        """Start a process, and return with the line of its output that tells that it is ready."""
        process = self._processes.start(command, env=self._variables, cwd=ROOT, log=None)
        seen = b""
        for line in process.output:
            if found := re.search(until, line):
                threading.Thread(target=_read_on, args=(process.output,), daemon=True).start()
                return process, found
            seen += line
        raise RuntimeError(f"{command} did not start:\n{seen.decode(errors='replace')}")


class Client:
    """A connection to the API. Raises RuntimeError for an answer that is not the one that was to come."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=_SECONDS_TO_ANSWER)

    def submit(self) -> str:
        """Returns the id of the task."""
        # As in events/submit.json, for the persona that answers with plain text.
        body = json.dumps({"message": "I need a haircut", "session_id": "session_123", "role": "general"})
        headers = {"Content-Type": "application/json"}
        return str(self._ask(202, "POST", "/chat/?async_mode=true", body, headers)["task_id"])

    def status(self, task_id: str) -> Any:
        return self._ask(200, "GET", f"/chat/task/{task_id}")["status"]

    def _ask(self, status: int, *request: Any) -> Any:
        self._connection.request(*request)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != status:
            raise RuntimeError(f"the baseline answered {answer.status}: {body.decode(errors='replace')}")
        return json.loads(body)


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        return int(server.getsockname()[1])


def _read_on(output: IO[bytes]) -> None:
    """So that the process is not stopped by a full pipe."""
    with suppress(ValueError):  # it was closed
        for _ in output:
            pass
