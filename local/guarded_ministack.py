"""MiniStack behind the guard. Runs in MiniStack's virtual environment, with the guard as JSON in LOCAL_GUARD."""

import importlib
import os
from typing import Any

from local.guard import Guard, Guarded

VARIABLE = "LOCAL_GUARD"


def main() -> None:
    functions: Any = importlib.import_module("ministack.services.lambda_svc")
    functions._ensure_poller = lambda: None  # it would take the messages that event_source.py polls
    # cloudwatch.py writes the logs, because MiniStack's START and END lines are not JSON.
    functions._emit_lambda_logs = lambda *_, **__: None
    ministack = importlib.import_module("ministack.app")
    ministack.app = Guarded(ministack.app, Guard.from_json(os.environ.pop(VARIABLE)))  # type: ignore[attr-defined]
    ministack.main()


if __name__ == "__main__":
    main()
