"""Where the tools are that the emulated account is made of, each in a virtual environment of its own.

`make setup` makes them in `.tools/`; LOCAL_TOOLS names another folder of the same shape.
"""

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class ToolMissing(Exception):
    """A tool is not installed; the message says which, and what installs it."""


@dataclass(frozen=True)
class Tools:
    """The executables, as absolute paths."""

    emulator_python: Path  # has MiniStack, and cryptography: without it no token is ever valid
    sam: Path
    runtime_python: Path  # what the Lambda runtime brings: awslambdaric and boto3, and nothing else


def find_tools() -> Tools:
    """Raises ToolMissing if one of them is not there."""
    folder = Path(os.environ.get("LOCAL_TOOLS", ROOT / ".tools")).absolute()
    tools = Tools(
        emulator_python=folder / "ministack/bin/python",
        sam=folder / "sam/bin/sam",
        runtime_python=folder / "runtime/bin/python",
    )
    for path in (tools.emulator_python, tools.sam, tools.runtime_python):
        if not path.exists():
            raise ToolMissing(f"{path.relative_to(folder.parent)} is missing: run `make setup`.")
    return tools
