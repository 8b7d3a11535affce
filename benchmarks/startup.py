"""Measures the init: the cost of an environment's start before its first event."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks import sides
from benchmarks.stub import AWS_VARIABLES
from local.environment import variables
from local.functions import Function

# Import the handler by name, like the runtime. The process then ends without clean-up, because a Lambda environment
# does none.
_INIT = """
import importlib, os
module, name = os.environ["_HANDLER"].split(".")
getattr(importlib.import_module(module), name)
os._exit(0)
"""


def _command(function: Function) -> tuple[list[str], dict[str, str]]:
    """The command that imports the function's handler, and its whole environment. An SDK that called AWS during the
    init would fail."""
    environment = variables(function, sides.RUNTIME_PYTHON, AWS_VARIABLES) | {"PYTHONHASHSEED": "0"}
    return [str(sides.RUNTIME_PYTHON), "-c", _INIT], environment


def cpu_ms(function: Function) -> float:
    """The CPU seconds of one new process, user and system."""
    command, environment = _command(function)
    child = subprocess.Popen(command, env=environment, cwd=function.code)
    _, child.returncode, used = os.wait4(child.pid, 0)
    if child.returncode:
        raise RuntimeError(f"the init of {function.name} failed")
    return (used.ru_utime + used.ru_stime) * 1000


def instructions(functions: Sequence[Function]) -> dict[str, int]:
    """The instructions until the handler is imported, by function; empty without valgrind."""
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
