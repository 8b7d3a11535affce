"""Runs MiniStack behind the guard. This module runs in MiniStack's virtual environment. LOCAL_GUARD has the guard's
rules as JSON."""

import importlib
import os
from typing import Any

from local.guard import Guard, Guarded

VARIABLE = "LOCAL_GUARD"


def main() -> None:
    functions: Any = importlib.import_module("ministack.services.lambda_svc")
    functions._ensure_poller = lambda: None  # MiniStack must not poll the queues, because event_source.py does.
    # MiniStack must not write the functions' logs, because its START and END lines are not JSON. cloudwatch.py writes
    # them.
    functions._emit_lambda_logs = lambda *_, **__: None
    ministack = importlib.import_module("ministack.app")
    ministack.app = Guarded(ministack.app, Guard.from_json(os.environ.pop(VARIABLE)))  # type: ignore[attr-defined]
    ministack.main()


if __name__ == "__main__":
    main()
