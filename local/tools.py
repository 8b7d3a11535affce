"""Finds the tools of the emulated account, each in a separate virtual environment.

`make setup` makes them in `.tools/`; LOCAL_TOOLS names another folder with the same layout.
"""

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class ToolMissing(Exception):
    """A tool is not installed. The message names the tool and the command that installs it."""


@dataclass(frozen=True)
class Tools:
    """The executables, as absolute paths."""

    emulator_python: Path  # the Python that has MiniStack, and cryptography, without which MiniStack accepts no token
    sam: Path
    # the Python that has the packages of the Lambda runtime, awslambdaric and boto3, and nothing else
    runtime_python: Path


def find_tools() -> Tools:
    """Find the tools. Raises ToolMissing if a tool is not installed."""
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
