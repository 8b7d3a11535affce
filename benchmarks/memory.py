"""What a function takes of memory and of the upload: the high-water mark of its process, and the size of its package
with that of its layer."""

import json
import tempfile
import zipfile
from functools import cache
from pathlib import Path

from benchmarks import sides
from benchmarks.process import peak_mib
from benchmarks.report import Section, goal
from benchmarks.stub import Settings, Stub
from local.environment import Environment
from local.functions import Function
from local.processes import Processes

CALLS = 20
_TURNS = 40
_SECONDS = 3
_FULL_MIB = 90
_MIB_GOALS = {"submit": 50, "status": 42, "worker": 70}
_MB_GOALS = {"submit": 3, "status": 3, "worker": 12}


def run() -> Section:
    section = Section("memory", "Memory and packages")
    section.say(
        f"The high-water mark (VmHWM) of a process of the real runtime client after a call over TLS and after {CALLS} "
        "- of our worker with batches of 10, of the conventional one with one message each - and the package as it "
        "is uploaded, with the layer. Lambda's own part of an environment's memory is not in it."
    )
    functions = [
        *(sides.ours(place) for place in _MIB_GOALS),
        *(sides.floor(place) for place in ("submit", "status")),
        *(sides.conventional(place) for place in _MIB_GOALS),
    ]
    rows = []
    with Processes() as processes, Stub(processes, tls=sides.OWN / "tls") as stub:
        stub.set(Settings(item=sides.turn_item()))
        for function in functions:
            side, place = function.name.split()
            first, last = _high_water_mib(function, sides.event_for(function), processes, stub)
            size = sum(_zipped_mb(folder) for folder in (function.code, *function.layers))
            goals = (goal(first, _MIB_GOALS[place]), goal(size, _MB_GOALS[place])) if side == "ours" else ("-", "-")
            rows.append((function.name, f"{first:.1f}", goals[0], f"{last:.1f}", f"{size:.1f}", goals[1]))
        stub.set(Settings(item=sides.turn_item(), latency=_SECONDS))
        full, _ = _high_water_mib(sides.ours("worker"), sides.worker_event(_TURNS), processes, stub)
    section.table(("function", "MiB after a call", "goal", f"after {CALLS}", "package, MB", "goal"), rows)
    section.say(
        f"A worker with {_TURNS} turns at a time, each of which waits {_SECONDS} s for the model: {full:.1f} MiB "
        f"({goal(full, _FULL_MIB)})."
    )
    submit = sides.ours("submit")
    whole, core, sources = (
        sum(_zipped_mb(folder, pattern) for folder in (submit.code, *submit.layers))
        for pattern in ("*", "*.so", "*.py")
    )
    section.say(
        f"Of submit's {whole:.1f} MB pydantic's compiled core is {core:.1f}. Without the sources, which Lambda does "
        f"not run, it would be {whole - sources:.1f}; that is not done, for tracebacks would have no lines. What would "
        "reach the goal is a validator without a compiled core of that size."
    )
    return section


def _high_water_mib(function: Function, event: sides.Event, processes: Processes, stub: Stub) -> tuple[float, float]:
    """After the first call, and after the last."""
    with tempfile.NamedTemporaryFile() as log:
        environment = Environment(
            function,
            processes,
            sides.RUNTIME_PYTHON,
            aws=sides.over_tls(function, stub),
            log=Path(log.name),
            freeze=False,
        )
        environment.wait_until_ready()
        payload = json.dumps(event).encode()
        marks = []
        for number in range(CALLS):
            result = environment.invoke(payload, f"request-{number}")
            sides.check(function, result.json())
            marks.append(peak_mib(environment.pid))
        environment.kill()
    return marks[0], marks[-1]


@cache
def _zipped_mb(folder: Path, pattern: str = "*") -> float:
    """The size of its files in millions of bytes, zipped as SAM does it."""
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in folder.rglob(pattern):
                archive.write(path, path.relative_to(folder))
        return file.tell() / 1e6
