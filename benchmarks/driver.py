"""Calls a handler in this process and reports the CPU time. It runs under the runtime's interpreter, with the
function's environment, and imports nothing else of the repository.

Each line of standard input is {"event": ..., "times": N}. The response is a line {"cpu_ms": ..., "result": ...}: the
CPU time of all calls, and the result of the last. The handler's output is dropped.
"""

import importlib
import json
import os
import sys
import time
import uuid

from awslambdaric.lambda_context import LambdaContext  # type: ignore[import-not-found]


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.path[0] = os.environ["LAMBDA_TASK_ROOT"]
    module, name = os.environ["_HANDLER"].split(".")
    handler = getattr(importlib.import_module(module), name)
    for line in sys.stdin:
        asked = json.loads(line)
        payload = json.dumps(asked["event"])
        began = time.process_time()
        for _ in range(asked["times"]):
            call = uuid.uuid4()
            os.environ["_X_AMZN_TRACE_ID"] = f"Root=1-{call.hex[:8]}-{call.hex[8:]};Parent={call.hex[:16]};Sampled=0"
            ends_at = int(time.time() * 1000) + 899_000  # a function never reaches its timeout here
            context = LambdaContext(str(call), None, None, ends_at, "arn")
            result = json.dumps(handler(json.loads(payload), context))
        answers.write(json.dumps({"cpu_ms": (time.process_time() - began) * 1000, "result": result}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
