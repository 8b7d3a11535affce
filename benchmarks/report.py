"""Writes benchmarks/results.md: a section for each benchmark, replaced when that benchmark runs."""

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).with_name("results.md")
_HEAD = """# Results

Written by `make bench`; `make bench ONLY=<name>` replaces one section. Ratios compare sides that were measured in
alternation in one run on one machine: the median of the rounds, and in brackets their quartiles. Absolute figures are
of the machine named in the section and only there to give the ratio a size.
"""


class NotMeasured(Exception):
    """A benchmark cannot run here. The message says why, and what to do."""


@dataclass
class Section:
    """The section of one benchmark. `name`: the name of its module."""

    name: str
    title: str
    body: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Add a paragraph."""
        self.body.append(text.strip())

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        lines = [head, ["---"] * len(head), *rows]
        self.body.append("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines))

    def write(self, file: Path = RESULTS) -> None:
        """Replace the section in the file, or append it if it is new."""
        text = file.read_text() if file.exists() else _HEAD
        body = "\n\n".join([f"## {self.title}", f"<!-- {self.name} -->", machine(), *self.body])
        old = re.compile(rf"## [^\n]*\n\n<!-- {self.name} -->\n.*?(?=\n## |\Z)", re.DOTALL)
        file.write_text(old.sub(lambda _: f"{body}\n", text) if old.search(text) else f"{text.rstrip()}\n\n{body}\n")


def goal(measured: float, limit: float, *, at_least: bool = False) -> str:
    """A goal and whether it was reached, for a table."""
    reached = measured >= limit if at_least else measured <= limit
    return f"{'≥' if at_least else '≤'} {limit:g}, {'reached' if reached else '**not reached**'}"


def machine() -> str:
    """The date, the machine, and the versions."""
    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("boto3", "aws-lambda-powertools", "openai", "pydantic")
    )
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.process_cpu_count()} cores {_processor()}, {platform.system()}, "
        f"Python {platform.python_version()}, {libraries}."
    )


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.machine()
