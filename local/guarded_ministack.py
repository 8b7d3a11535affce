"""MiniStack behind the guard. It runs in MiniStack's own virtual environment, with the guard as JSON in LOCAL_GUARD."""

import importlib
import os
from typing import Any

from local.guard import Guard, Guarded

VARIABLE = "LOCAL_GUARD"


def main() -> None:
    functions: Any = importlib.import_module("ministack.services.lambda_svc")
    functions._ensure_poller = lambda: None  # event_source.py polls; its own poller would take the messages
    functions._emit_lambda_logs = lambda *_, **__: None  # cloudwatch.py does; its own START and END are no JSON
    ministack = importlib.import_module("ministack.app")
    ministack.app = Guarded(ministack.app, Guard.from_json(os.environ.pop(VARIABLE)))  # type: ignore[attr-defined]
    ministack.main()


if __name__ == "__main__":
    main()
