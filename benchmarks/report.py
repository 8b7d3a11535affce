"""benchmarks/results.md: a section for each benchmark, replaced when that benchmark has run."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from local.tools import ROOT

RESULTS = Path(__file__).with_name("results.md")
PLOTS = RESULTS.with_name("plots")
_HEAD = """# Results

Written by `make bench`; `make bench ONLY=<name>` replaces one section. Ratios compare sides that were measured in
alternation in one run on one machine: the median of the rounds, and in brackets their quartiles. Absolute figures are
of the machine named in the section and only there to give the ratio a size.
"""


class NotMeasured(Exception):
    """A benchmark cannot run here; the message says why, and what to do about it."""


@dataclass
class Section:
    """What one benchmark has to say: `name` is that of its module."""

    name: str
    title: str
    body: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Add a paragraph."""
        self.body.append(text.strip())

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        lines = [head, ["---"] * len(head), *rows]
        self.body.append("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines))

    def plot(self, file: str, caption: str) -> None:
        """Show an SVG that lies in benchmarks/plots."""
        self.body.append(f"![{caption}](plots/{file})")

    def write(self, file: Path = RESULTS) -> None:
        """Put the section in its place in the file, behind the others if it is new there."""
        text = file.read_text() if file.exists() else _HEAD
        body = "\n\n".join([f"## {self.title}", f"<!-- {self.name} -->", machine(), *self.body])
        old = re.compile(rf"## [^\n]*\n\n<!-- {self.name} -->\n.*?(?=\n## |\Z)", re.DOTALL)
        file.write_text(old.sub(lambda _: f"{body}\n", text) if old.search(text) else f"{text.rstrip()}\n\n{body}\n")


@dataclass
class Chart:
    """`lines`: points (x, y) by the name of the line. Or `stacks`: of bars by their names, heights by the names of the
    parts, the same for each. `x`, `y`: what is on the axes, and in what unit; `log`: the x-axis is logarithmic."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    stacks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    log: bool = False


def draw(file: str, *charts: Chart) -> None:
    """Draw charts side by side into an SVG in benchmarks/plots. Raises subprocess.CalledProcessError."""
    PLOTS.mkdir(exist_ok=True)
    python = Path(os.environ.get("LOCAL_TOOLS", ROOT / ".tools"), "bench/bin/python")
    asked = {"file": str(PLOTS / file), "charts": [asdict(chart) for chart in charts]}
    subprocess.run([python, PLOTS.with_name("plot.py")], input=json.dumps(asked), text=True, check=True)


def goal(measured: float, limit: float, *, at_least: bool = False) -> str:
    """A goal and whether it was reached, for a table."""
    reached = measured >= limit if at_least else measured <= limit
    return f"{'≥' if at_least else '≤'} {limit:g}, {'reached' if reached else '**not reached**'}"


def machine() -> str:
    """When, on what, and with which versions."""
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
