"""Measures the functions' own time and CPU without the model, and estimates them for Lambda."""

import json
import statistics
import time
import uuid
from typing import NamedTuple

from benchmarks import sides
from benchmarks.on_lambda import seconds
from benchmarks.process import cpu_seconds
from benchmarks.stub import Settings, Stub
from local.environment import Environment
from local.processes import Processes

BATCH = 10
STARTS = 3
CALLS_BEFORE, CALLS_AFTER = 2, 3
"""The AWS calls of a turn in the worker: claim and history; answer, usage and deletion."""


class Cost(NamedTuple):
    """A function's seconds: of a start (the median of several), and of CPU for a message, a poll or a turn."""

    init: float
    cpu: float


ASSUMED = {"submit": Cost(0.5, 0.0025), "status": Cost(0.3, 0.0015), "worker": Cost(1.0, 0.01)}
"""The rounded results of `measured`, so that the simulation is always the same. The benchmark prints both."""


def on_lambda(cpu: float, calls: int, memory: int = 256) -> float:
    """The seconds of a function with the template's memory for this CPU time and number of calls."""
    return seconds(cpu, calls, memory)


def measured() -> dict[str, Cost]:
    """Run each function with the real runtime client, and with services that answer at once."""
    with Processes() as processes, Stub(processes) as stub:
        asked = {
            "submit": (sides.submit_event(), 300, 1),
            "status": (sides.status_event(), 300, 1),
            "worker": (sides.worker_event(BATCH), 40, BATCH),
        }
        measured = {}
        for place, what in asked.items():
            # claimed, as in most polls of a chat of 3 s; for a turn that has waited long, status also reads the reason
            stub.set(Settings(item=sides.turn_item(attempt=1 if place == "status" else 0)))
            measured[place] = _measured(place, *what, processes, stub)
        return measured


def _measured(place: str, event: sides.Event, times: int, items: int, processes: Processes, stub: Stub) -> Cost:
    started = [_start(place, processes, stub) for _ in range(STARTS)]
    environment, payload = started[-1][0], json.dumps(event).encode()
    for one, _ in started[:-1]:
        one.kill()

    def invoke(times: int) -> float:
        """Run the function. Returns the CPU seconds."""
        before = cpu_seconds(environment.pid)
        for _ in range(times):
            result = environment.invoke(payload, str(uuid.uuid4()))
            if result.error:
                raise RuntimeError(f"{place}: {result.payload.decode()}")
        return cpu_seconds(environment.pid) - before

    invoke(3)
    spent = invoke(times)
    environment.kill()
    return Cost(statistics.median(seconds for _, seconds in started), spent / times / items)


def _start(place: str, processes: Processes, stub: Stub) -> tuple[Environment, float]:
    """A ready environment, and the seconds of its start."""
    environment = Environment(
        sides.ours(place),
        processes,
        sides.RUNTIME_PYTHON,
        aws=stub.variables(),
        log=sides.OWN / f"scale-{place}.log",
        freeze=False,
    )
    environment.wait_until_ready()
    return environment, time.monotonic() - environment.started_at
