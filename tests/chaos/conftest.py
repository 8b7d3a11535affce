"""Runs the whole stack as real processes, and makes them fail. It takes minutes, so only `pytest tests/chaos` runs it.
An answer may take 60 s instead of 180, and the worker 80 s instead of 400, so that the waits for a hanging model are
shorter. Everything else is as deployed.
"""

import dataclasses
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.processes import Process, Processes
from local.stack import LocalStack, Model
from local.tools import ROOT
from tests.e2e.conftest import Api
from tests.stand_in import StandIn

WORKER_SECONDS = 80
LEASE_SECONDS = 50  # leases.py
_SECONDS_TO_DEPLOY = 240

type Task = dict[str, Any]

_rows: list[tuple[str, str, str]] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(_SECONDS_TO_DEPLOY + 600))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _rows:
        return
    terminalreporter.section("times to recover")
    widths = [max(len(row[column]) for row in _rows) for column in range(2)]
    for fault, what, measured in _rows:
        terminalreporter.line(f"{fault:{widths[0]}}  {what:{widths[1]}}  {measured}")


class ModelServer:
    """The stand-in model as a process that tests can kill and start again at the same address."""

    def __init__(self, processes: Processes, log: Path) -> None:
        self._processes, self._log = processes, log
        self._port = 0
        self._process: Process | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def start(self) -> None:
        command = [sys.executable, "-m", "local.model_server", "--port", str(self._port)]
        environment = {"PATH": "/usr/bin:/bin"}
        self._process = self._processes.start(command, env=environment, cwd=ROOT, log=self._log, announces=True)
        self._port = httpx.URL(self._process.first_line()).port or 0

    def kill(self) -> None:
        assert self._process
        self._process.kill()

    def faults(self, **fault: Any) -> None:
        """Set the model's fault for every call (see local/model_server.py); no argument ends it."""
        StandIn(self.url).faults(**fault)


class Bystander:
    """A user without trouble: sends one message after the other, each in a new session."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.seconds: list[float] = []

    def chat(self) -> None:
        """Send a message, and wait for the answer."""
        task = self._api.finished(self._api.submit("what is the time?"), seconds=60)
        assert task["status"] == "SUCCESS", task
        self.seconds.append(at(task["finished_at"]) - at(task["created_at"]))

    def until(self, done: Callable[[], bool]) -> None:
        while not done():
            self.chat()
            time.sleep(0.5)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Lab:
    """The running stack, and the user whose tasks meet the trouble."""

    def __init__(self, stack: LocalStack, model: ModelServer, api: Api, bystander_api: Api) -> None:
        self.stack, self.model, self.api = stack, model, api
        deployed = stack.functions["WorkerFunction"]
        environment = dict(deployed.variables) | {"LONGEST_ANSWER_MINUTES": "1"}
        self._function = dataclasses.replace(deployed, timeout=WORKER_SECONDS, variables=environment)
        self.worker = deployed.name
        self.source = stack.event_sources["WorkerFunction"]
        self._bystander_api = bystander_api
        self._sessions = 0
        self._visibility = round(self._queue_attribute("VisibilityTimeout") * WORKER_SECONDS / deployed.timeout)
        self.calm()

    def calm(self) -> None:
        """End all trouble: everything is as deployed, except for the worker's shorter times."""
        self.mend_the_deployment()
        self.hide_for(self._visibility)
        self.model.faults()

    def break_the_deployment(self) -> None:
        """Make the worker's init fail from now on."""
        self.stack.host.kill(self.worker)
        self.stack.host.add(dataclasses.replace(self._function, handler="absent.handler"))

    def mend_the_deployment(self) -> None:
        if self.stack.host.function(self.worker) == self._function:
            return
        self.stack.host.kill(self.worker)
        self.stack.host.add(self._function)

    def hide_for(self, seconds: int) -> None:
        """The seconds for which SQS hides a delivered message, unless the worker changes them."""
        self.source.stop()  # messages in flight would keep the old timeout
        self.stack.client("sqs").set_queue_attributes(
            QueueUrl=self.stack.outputs["QueueUrl"], Attributes={"VisibilityTimeout": str(seconds)}
        )
        self.source.start()

    def stop_consuming(self) -> None:
        """Stop the delivery of messages. Waits until running workers have ended, because they poll too."""
        self.source.stop(drain=True)

    def session(self) -> str:
        """A new one."""
        self._sessions += 1
        return f"chaos-{self._sessions}"

    def bystander(self) -> Bystander:
        return Bystander(self._bystander_api)

    def started(self, task_ids: Iterable[str], seconds: float = 60) -> None:
        """Wait until the model answers all tasks: each has some text."""
        for task_id in task_ids:
            self.api.until(task_id, lambda task: bool(task["partial"]), seconds)

    def ended(self, task_ids: Iterable[str], seconds: float) -> list[Task]:
        """Wait for the final tasks. Fails if one does not end within `seconds`."""
        end = time.monotonic() + seconds
        return [self.api.finished(task_id, max(1.0, end - time.monotonic())) for task_id in task_ids]

    def busy_workers(self) -> list[int]:
        """The processes with a running invocation. The others are frozen."""
        pids = self.stack.host.processes_of(self.worker)
        return [pid for pid in pids if not _state(pid).startswith("T")]

    def item(self, task_id: str) -> dict[str, Any]:
        """The turn as it is in the table."""
        item: dict[str, Any] = self._dynamodb.get_item(**self._where(task_id), ConsistentRead=True)["Item"]
        return item

    def lease_until(self, task_id: str) -> float:
        return float(self.item(task_id)["lease_until"]["N"])

    def let_it_end_at(self, task_id: str, deadline_at: float) -> None:
        """Change the deadline of the turn."""
        self._dynamodb.update_item(
            **self._where(task_id),
            UpdateExpression="SET deadline_at = :deadline_at",
            ExpressionAttributeValues={":deadline_at": {"N": repr(round(deadline_at, 3))}},
        )

    def _queue_attribute(self, name: str) -> float:
        answer = self.stack.client("sqs").get_queue_attributes(
            QueueUrl=self.stack.outputs["QueueUrl"], AttributeNames=[name]
        )
        return float(answer["Attributes"][name])

    @property
    def _dynamodb(self) -> Any:
        return self.stack.client("dynamodb")

    def _where(self, task_id: str) -> dict[str, Any]:
        session_id, _, turn = task_id.rpartition(".")
        key = {"session": {"S": f"alice#{session_id}"}, "turn": {"S": turn}}
        return {"TableName": self.stack.outputs["TurnsTableName"], "Key": key}


def row(fault: str, what: str, measured: str) -> None:
    """A line of the table that is printed at the end."""
    _rows.append((fault, what, measured))


def at(timestamp: str) -> float:
    """A time of the API in seconds since the epoch."""
    return datetime.fromisoformat(timestamp).timestamp()


def last(tasks: Iterable[Task]) -> float:
    """The time at which the last task ended."""
    return max(at(task["finished_at"]) for task in tasks)


def outcomes(tasks: Iterable[Task]) -> str:
    """The outcomes as text, for example "8 SUCCESS, 2 model_timeout"."""
    counts = Counter(task["error_code"] or task["status"] for task in tasks)
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())


def _state(pid: int) -> str:
    """The state of a process by `ps`: T means stopped."""
    return subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()


@contextmanager
def running(folder: Path) -> Iterator[tuple[LocalStack, ModelServer]]:
    """A stack, and its model."""
    with Processes() as processes:
        model = ModelServer(processes, folder / "model.log")
        served = Model(model.url, "stand-in-key", "", stand_in=True)
        with LocalStack(model=served, parameters={"WorkerConcurrency": "6"}) as stack:
            yield stack, model


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running(tmp_path_factory.mktemp("chaos")) as (stack, model):
        alice, bob = (Api(stack.api_url, stack.token(owner)) for owner in ("alice", "bob"))
        with alice.http, bob.http:
            yield Lab(stack, model, alice, bob)


@pytest.fixture(autouse=True)
def quiet(lab: Lab) -> Iterator[None]:
    """End the trouble, so that the next test starts without it."""
    yield
    lab.calm()
