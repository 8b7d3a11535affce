"""Draws charts side by side into an SVG, by matplotlib, which .tools/bench has and .tools/dev has not: a program of its
own, that reads from its standard input what `report.draw` writes. The same charts make the same file."""

import json
import sys
from typing import Any

import matplotlib  # type: ignore[import-not-found]

matplotlib.use("svg")
# The ids in the file are hashes; text stays text. No date is written, see `main`.
matplotlib.rcParams.update({"svg.hashsalt": "turnqueue", "svg.fonttype": "none", "font.size": 9, "axes.grid": True})

from matplotlib import pyplot  # noqa: E402


def main() -> None:
    asked = json.load(sys.stdin)
    figure, axes = pyplot.subplots(1, len(asked["charts"]), figsize=(5 * len(asked["charts"]), 3.6), squeeze=False)
    for axis, chart in zip(axes[0], asked["charts"], strict=True):
        (draw_stacks if chart["stacks"] else draw_lines)(axis, chart)
        axis.set(title=chart["title"], xlabel=chart["x"], ylabel=chart["y"])
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(asked["file"], metadata={"Date": None})


def draw_lines(axis: Any, chart: dict[str, Any]) -> None:
    for name, points in chart["lines"].items():
        axis.plot(*zip(*thinned(points), strict=True), marker="." if len(points) < 30 else None, label=name)
    axis.set_ylim(bottom=0)
    if chart["log"]:
        axis.set_xscale("log")


def thinned(points: list[list[float]]) -> list[list[float]]:
    """At most 60 of the points: the lowest and the highest of each stretch, so that no peak is lost."""
    step = -(-len(points) // 30)
    if step < 3:
        return points
    stretches = (points[start : start + step] for start in range(0, len(points), step))
    ends = ((min(each, key=lambda point: point[1]), max(each, key=lambda point: point[1])) for each in stretches)
    return sorted(point for both in ends for point in both)


def draw_stacks(axis: Any, chart: dict[str, Any]) -> None:
    bars = chart["stacks"]
    below = [0.0] * len(bars)
    for part in next(iter(bars.values())):
        heights = [bar[part] for bar in bars.values()]
        axis.bar(list(bars), heights, bottom=below, label=part)
        below = [one + other for one, other in zip(below, heights, strict=True)]
    axis.set_axisbelow(True)
    axis.tick_params("x", labelsize=8)


if __name__ == "__main__":
    main()
