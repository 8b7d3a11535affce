"""Our functions as they run in Lambda: processes of the real runtime client, not frozen between invocations."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import sides
from local.environment import Environment
from local.functions import Function
from local.processes import Processes


@contextmanager
def running(
    processes: Processes, function: Function, count: int, aws: Mapping[str, str]
) -> Iterator[list[Environment]]:
    """So many environments of a function, initialised, until the end of the context. `aws` leads them to the services.

    Raises local.environment.InitFailed.
    """
    with ExitStack() as stack:
        log = Path(stack.enter_context(tempfile.TemporaryDirectory()), "log")
        environments = []
        for _ in range(count):
            environment = Environment(function, processes, sides.RUNTIME_PYTHON, aws=aws, log=log, freeze=False)
            stack.callback(environment.kill)
            environments.append(environment)
        for environment in environments:
            environment.wait_until_ready()
        yield environments


def invoke(environment: Environment, event: Mapping[str, Any], *, status: int | None = None) -> Any:
    """What the function answers. Raises RuntimeError if it fails, or for an answer with another status code."""
    result = environment.invoke(json.dumps(event).encode(), "benchmark")
    answer = result.json()
    if result.error or (status and answer["statusCode"] != status):
        raise RuntimeError(f"our function answered {answer}")
    return answer
