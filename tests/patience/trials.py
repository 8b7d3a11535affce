"""The trials: the trouble of the model, the submitted tasks, and the printed table."""

import dataclasses
import time
from collections import Counter
from typing import Any

from local.stack import LocalStack
from tests.chaos.conftest import ModelServer, at
from tests.e2e.conftest import FINAL, Api
from tests.stand_in import StandIn

type Task = dict[str, Any]

_rows: list[str] = []


def report() -> list[str]:
    head = "| at the model | tasks | answered | last answer after its return | calls refused for each task |"
    return [head, "| --- | --- | --- | --- | --- |", *_rows] if _rows else []


class Stack:
    def __init__(self, local: LocalStack, model: ModelServer, api: Api) -> None:
        self.local, self.model, self.api = local, model, api
        self._deployed = local.functions["WorkerFunction"]

    def calm(self, **environment: str) -> None:
        """Start a trial: a model without trouble, workers with these changed variables, and closed circuit breakers."""
        self.model.faults()
        self.local.host.kill(self._deployed.name)
        changed = dict(self._deployed.variables) | environment
        self.local.host.add(dataclasses.replace(self._deployed, variables=changed))
        dynamodb, table = self.local.client("dynamodb"), self.local.outputs["GuardsTableName"]
        for item in dynamodb.scan(TableName=table)["Items"]:
            if item["guard"]["S"].startswith(("circuit-breaker#", "pace#", "learned-pace#")):
                dynamodb.delete_item(TableName=table, Key={"guard": item["guard"]})
        StandIn(self.model.url).forget()

    def refused(self) -> int:
        """The calls that the model has refused since the trial began."""
        count: int = StandIn(self.model.url).calls()["refused"]
        return count

    def submit(self, number: int, sessions: int) -> str:
        task_id: str = self.api.submit(f"question {number}", session_id=f"patient-{id(self)}-{number % sessions}")
        return task_id

    def ended(self, task_ids: list[str], within: float) -> list[Task]:
        """The tasks, once all are final."""
        end, left, tasks = time.monotonic() + within, list(task_ids), dict[str, Task]()
        while left and time.monotonic() < end:
            time.sleep(0.5)
            tasks |= {task_id: self.api.task(task_id) for task_id in left}
            left = [task_id for task_id in left if tasks[task_id]["status"] not in FINAL]
        return [tasks[task_id] for task_id in task_ids]


def check(what: str, tasks: list[Task], returned_at: float, refused: int, *, within: float) -> None:
    """Every task is SUCCESS, each session in order, and the last answer in time. Adds a row to the table."""
    outcomes = Counter(task["error_code"] or task["status"] for task in tasks)
    last = max((at(task["finished_at"]) for task in tasks if task["finished_at"]), default=0) - returned_at
    wasted = refused / len(tasks)
    _rows.append(f"| {what} | {len(tasks)} | {outcomes['SUCCESS']} | {max(last, 0):.0f} s | {wasted:.2f} |")
    assert set(outcomes) == {"SUCCESS"}, outcomes
    sessions: dict[str, list[Task]] = {}
    for task in tasks:
        sessions.setdefault(task["session_id"], []).append(task)
    for session in sessions.values():
        ends = [at(task["finished_at"]) for task in session]
        assert ends == sorted(ends), "a session out of order"
    assert last <= within
