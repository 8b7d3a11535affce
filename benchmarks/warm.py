"""Measures the CPU time of a function's calls in a process."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from benchmarks import sides
from local.environment import variables
from local.functions import Function


class Called:
    """A process that has imported a function's handler and calls it on demand. A context manager."""

    def __init__(self, function: Function, aws: Mapping[str, str]) -> None:
        self._function = function
        self._process = subprocess.Popen(
            [sides.RUNTIME_PYTHON, Path(__file__).with_name("driver.py")],
            env=variables(function, sides.RUNTIME_PYTHON, aws),
            cwd=function.code,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def cpu_ms(self, event: Mapping[str, Any], times: int) -> float:
        """The mean CPU time of a call. Raises RuntimeError if the handler fails."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"event": event, "times": times}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"result": "null"}')
        sides.check(self._function, json.loads(answer["result"]))
        per_call: float = answer["cpu_ms"] / times
        return per_call

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
