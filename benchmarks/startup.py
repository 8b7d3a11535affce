"""Init: what the start of an environment costs before its first event, of our functions, the floor and the conventional
ones."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from benchmarks import sides
from benchmarks.paired import alternate, ratio, spread
from benchmarks.report import Section, goal
from benchmarks.stub import AWS_VARIABLES
from local.environment import variables
from local.functions import Function

ROUNDS = 9

# What the runtime does with the handler's name. The process then ends without the clean-up that no environment does.
_INIT = """
import importlib, os
module, name = os.environ["_HANDLER"].split(".")
getattr(importlib.import_module(module), name)
os._exit(0)
"""
_NOTHING = "sys.exit"  # a handler that is there already: what is left is the interpreter

# Each a function, the one that it is measured by, and the most that it may be of that.
_GOALS = (
    ("ours submit", "floor submit", 1.10),
    ("ours status", "floor status", 0.80),
    ("ours worker", "floor submit", 1.8),
    ("ours submit", "conventional submit", round(1 / 3.5, 3)),
    ("ours worker", "conventional worker", round(1 / 3.5, 3)),
)


def run() -> Section:
    functions = [
        *(sides.ours(place) for place in ("submit", "status", "worker")),
        *(sides.floor(place) for place in ("submit", "status")),
        *(sides.conventional(place) for place in ("submit", "worker")),
    ]
    empty = sides.function("nothing for submit", _NOTHING, sides.OWN)
    timed = {function.name: partial(cpu_ms, function) for function in [*functions, empty]}
    for measure in timed.values():
        measure()  # so that every file is in the page cache
    measured = alternate(timed, ROUNDS)
    bare = measured.pop(empty.name)
    cpu = {name: [ms - without for ms, without in zip(rounds, bare, strict=True)] for name, rounds in measured.items()}
    counted = instructions([*functions, empty])
    if counted:
        without = counted.pop(empty.name)
        counted = {name: instructions - without for name, instructions in counted.items()}
    section = Section("startup", "Init, beside a bare boto3 handler and the conventional build")
    section.say(
        "The import of the handler in a fresh process, without what the interpreter alone takes "
        f"({spread(bare)} ms). Every side uses the boto3 and botocore {sides.RUNTIME_BOTO3} of the runtime, which have "
        "bytecode, but the conventional one, whose Tracer brings a botocore of its own. The floor has bytecode."
    )
    section.table(
        ("function", "CPU, ms", "instructions, million"),
        [
            (name, spread(rounds, 0), f"{counted[name] / 1e6:,.0f}" if counted else "no valgrind here")
            for name, rounds in cpu.items()
        ],
    )
    rows = []
    for name, other, limit in _GOALS:
        in_time = ratio(cpu[name], cpu[other])
        in_work = counted[name] / counted[other] if counted else None
        rows.append(
            (
                f"{name} / {other}",
                f"{in_work:.2f}" if in_work else "-",
                goal(in_work, limit) if in_work else "-",
                str(in_time),
                goal(in_time.median, limit),
            )
        )
    section.table(("ratio", "by instructions", "goal", "by CPU time", "goal"), rows)
    return section


def _command(function: Function) -> tuple[list[str], dict[str, str]]:
    """What imports the handler of the function, and its whole environment. An SDK that looked for AWS at once, in the
    init, would find that there is none."""
    environment = variables(function, sides.RUNTIME_PYTHON, AWS_VARIABLES) | {"PYTHONHASHSEED": "0"}
    return [str(sides.RUNTIME_PYTHON), "-c", _INIT], environment


def cpu_ms(function: Function) -> float:
    """Of one fresh process, user and system."""
    command, environment = _command(function)
    child = subprocess.Popen(command, env=environment, cwd=function.code)
    _, child.returncode, used = os.wait4(child.pid, 0)
    if child.returncode:
        raise RuntimeError(f"the init of {function.name} failed")
    return (used.ru_utime + used.ru_stime) * 1000


def instructions(functions: Sequence[Function]) -> dict[str, int]:
    """Executed until the handler is there, by the names of the functions; nothing if there is no valgrind."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        return {}

    def count(function: Function) -> int:
        command, environment = _command(function)
        tool = [valgrind, "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
        done = subprocess.run(
            [*tool, *command], env=environment, cwd=function.code, capture_output=True, text=True, check=True
        )
        found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
        assert found, done.stderr
        return int(found[1].replace(",", ""))

    with ThreadPoolExecutor(os.process_cpu_count()) as pool:
        return dict(zip((function.name for function in functions), pool.map(count, functions), strict=True))
