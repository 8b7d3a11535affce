"""MiniStack behind the guard. It runs in MiniStack's own virtual environment, with the guard as JSON in LOCAL_GUARD."""

import importlib
import os

from local.guard import Guard, Guarded

VARIABLE = "LOCAL_GUARD"


def main() -> None:
    ministack = importlib.import_module("ministack.app")
    ministack.app = Guarded(ministack.app, Guard.from_json(os.environ.pop(VARIABLE)))  # type: ignore[attr-defined]
    ministack.main()


if __name__ == "__main__":
    main()
