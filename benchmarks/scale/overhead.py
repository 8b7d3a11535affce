"""What our functions take beside the model: measured here, and what is assumed of it for Lambda."""

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
"""Of a turn in the worker: claim and history; answer, usage and deletion."""


class Cost(NamedTuple):
    """Of a function, in seconds: to start (the median of several), and CPU for a message, a poll or a turn."""

    init: float
    cpu: float


ASSUMED = {"submit": Cost(0.5, 0.0025), "status": Cost(0.3, 0.0015), "worker": Cost(1.0, 0.01)}
"""What `measured` gives, rounded, so that the simulation is the same each time. The benchmark prints both."""


def on_lambda(cpu: float, calls: int, memory: int = 256) -> float:
    """Seconds that so much CPU and so many calls take in a function of so many MB, the template's."""
    return seconds(cpu, calls, memory)


def measured() -> dict[str, Cost]:
    """Run each function under the real runtime client, with services that answer at once."""
    with Processes() as processes, Stub(processes) as stub:
        asked = {
            "submit": (sides.submit_event(), 300, 1),
            "status": (sides.status_event(), 300, 1),
            "worker": (sides.worker_event(BATCH), 40, BATCH),
        }
        measured = {}
        for place, what in asked.items():
            # Who polls a chat of 3 s finds it claimed. A status that finds it waiting for longer asks why.
            stub.set(Settings(item=sides.turn_item(attempt=1 if place == "status" else 0)))
            measured[place] = _measured(place, *what, processes, stub)
        return measured


def _measured(place: str, event: sides.Event, times: int, items: int, processes: Processes, stub: Stub) -> Cost:
    started = [_start(place, processes, stub) for _ in range(STARTS)]
    environment, payload = started[-1][0], json.dumps(event).encode()
    for one, _ in started[:-1]:
        one.kill()

    def invoke(times: int) -> float:
        """Returns the seconds of CPU."""
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
    """An environment that is ready, and the seconds that it took."""
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
