"""Draws the dashboard as a picture (SVG): each widget at its x, y, width and height, on a grid of 24 columns. It needs
no package and no fonts, and the file is small enough for the repository."""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from local.dashboard import alarms, widgets
from local.dashboard.load import Load
from local.dashboard.metrics import log_lines
from local.dashboard.widgets import Line
from local.deploy import STACK_NAME

_COLUMN, _ROW, _GAP, _HEAD = 60, 48, 5, 64
_INK, _DIM, _RULE, _PAPER = "#16191f", "#5f6b7a", "#e9ebed", "#f2f3f3"
_STATES = {"OK": ("#1d8102", "#f2fcf3"), "ALARM": ("#d13212", "#fdf3f1")}
_SECONDS_OF_A_POINT = 5
_POINTS_OF_AN_HOUR = 2  # Points of a line, for a widget with a period of an hour.

type Draw = Callable[[dict[str, Any], float, float], str]
"""(properties, width, height of the card in pixels) -> SVG below the title, from the card's corner on"""


class Picture:
    """`body`: the deployed dashboard. `described`: its alarms, from DescribeAlarms. `load`: a finished run."""

    def __init__(self, body: dict[str, Any], described: list[dict[str, Any]], load: Load) -> None:
        self._widgets = body["widgets"]
        self._alarms = {alarm["AlarmArn"]: alarm for alarm in described}
        self._load = load
        self._metrics = load.metrics()
        self._failures = widgets.failures(log_lines(load.logs), limit=20)

    def svg(self) -> str:
        width = 24 * _COLUMN + 2 * _GAP
        height = max(widget["y"] + widget["height"] for widget in self._widgets) * _ROW + _HEAD + 2 * _GAP
        span = self._load.end - self._load.start
        note = (
            f"Drawn by “make dashboard” from a load run of {span:.0f} s on the emulated account, "
            f"with the stand-in model. A point here is {_SECONDS_OF_A_POINT} s, "
            "at the pace of a minute (of an hour for tokens)."
        )
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
            f'<rect width="{width}" height="{height}" fill="{_PAPER}"/>',
            _text(16, 29, "Turnqueue", size=20, weight=600),
            _text(16, 50, note, size=12.5, colour=_DIM),
            *(self._card(widget) for widget in self._widgets),
            "</svg>\n",
        ]
        return "\n".join(parts)

    def _card(self, widget: dict[str, Any]) -> str:
        x, y = widget["x"] * _COLUMN + 2 * _GAP, widget["y"] * _ROW + _HEAD + _GAP
        width, height = widget["width"] * _COLUMN - 2 * _GAP, widget["height"] * _ROW - 2 * _GAP
        properties = widget["properties"]
        draw: dict[str, Draw] = {
            "alarm": self._alarm_states,
            "log": self._table,
            "singleValue": self._numbers,
            "timeSeries": self._series,
        }
        kind = properties["view"] if widget["type"] == "metric" else widget["type"]
        return (
            f'<g transform="translate({x},{y})">'
            f'<rect width="{width}" height="{height}" rx="8" fill="#fff" stroke="#d5dbdb"/>'
            + _text(14, 22, properties["title"], size=13.5, weight=600)
            + draw[kind](properties, width, height)
            + "</g>"
        )

    def _points(self, seconds: float) -> list[tuple[float, float]]:
        count = int((self._load.end - self._load.start) / seconds)
        return [(self._load.start + n * seconds, self._load.start + (n + 1) * seconds) for n in range(count)]

    # ---- Each kind of widget

    def _alarm_states(self, properties: dict[str, Any], width: float, height: float) -> str:
        columns, parts = 3, []
        cell = (width - 28 + 8) / columns
        tall = (height - 44) / math.ceil(len(properties["alarms"]) / columns)
        for number, arn in enumerate(properties["alarms"]):
            alarm = self._alarms[arn]
            state = alarms.state(alarm, self._metrics, self._load.end)
            colour, ground = _STATES[state]
            x, y = 14 + number % columns * cell, 38 + number // columns * tall
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{cell - 8:.1f}" height="{tall - 8:.1f}" rx="5" fill="{ground}" '
                f'stroke="{colour}" stroke-opacity=".45"/>'
                + _text(
                    x + 11, y + tall / 2 - 8, alarm["AlarmName"].removeprefix(f"{STACK_NAME}-"), size=12, weight=600
                )
                + f'<circle cx="{x + 15:.1f}" cy="{y + tall / 2 + 6:.1f}" r="4" fill="{colour}"/>'
                + _text(x + 24, y + tall / 2 + 10, state, size=11.5, colour=colour)
            )
        return "".join(parts)

    def _numbers(self, properties: dict[str, Any], width: float, height: float) -> str:
        whole = properties.get("setPeriodToTimeRange")
        points = [(self._load.start, self._load.end)] if whole else self._points(_SECONDS_OF_A_POINT)
        shown = widgets.lines(properties, self._metrics, points)
        cell, parts = (width - 28) / len(shown), []
        for number, line in enumerate(shown):
            known = [value for value in line.values if value is not None]
            x, middle = 14 + number * cell, (height + 30) / 2
            parts.append(
                _text(x, middle + 10, _number(known[-1]) if known else "-", size=32)
                + f'<rect x="{x:.1f}" y="{middle + 24:.1f}" width="10" height="10" rx="2" fill="{line.colour}"/>'
                + _text(x + 16, middle + 33, line.label, size=12.5, colour=_DIM)
            )
        return "".join(parts)

    def _series(self, properties: dict[str, Any], width: float, height: float) -> str:
        seconds = _SECONDS_OF_A_POINT * (_POINTS_OF_AN_HOUR if properties["period"] == 3600 else 1)
        points = self._points(seconds)
        shown = widgets.lines(properties, self._metrics, points)
        stacked = properties.get("stacked", False)
        has_right = any(line.right for line in shown)
        legend, legend_height = _legend(shown, width, height)
        left, right, top, bottom = 52, width - (52 if has_right else 18), 40, height - legend_height - 30

        def x_of(number: int) -> float:
            return left + (right - left) * number / max(1, len(points) - 1)

        parts = []
        heights = {False: _Scale(_highest(shown, False, stacked)), True: _Scale(_highest(shown, True, stacked))}
        for tick in heights[False].ticks:
            y = heights[False].place(tick, top, bottom)
            parts.append(f'<path d="M{left} {y:.1f}H{right}" stroke="{_RULE}"/>')
            parts.append(_text(left - 7, y + 4, _number(tick), size=11, colour=_DIM, anchor="end"))
        for tick in heights[True].ticks if has_right else ():
            y = heights[True].place(tick, top, bottom)
            parts.append(_text(right + 7, y + 4, _number(tick), size=11, colour=_DIM))
        for share in (0, 0.25, 0.5, 0.75, 1):
            at = datetime.fromtimestamp(self._load.start + share * (points[-1][0] - self._load.start), UTC)
            anchor = "start" if share == 0 else "end" if share == 1 else "middle"
            x = left + share * (right - left)
            parts.append(_text(x, bottom + 17, f"{at:%H:%M:%S}", size=11, colour=_DIM, anchor=anchor))
        floor = [0.0] * len(points)
        for line in shown:
            scale = heights[line.right]
            if stacked and not line.right:
                roof = [low + (value or 0) for low, value in zip(floor, line.values, strict=True)]
                edges = [(x_of(n), scale.place(value, top, bottom)) for n, value in enumerate(roof)]
                back = [(x_of(n), scale.place(value, top, bottom)) for n, value in enumerate(floor)]
                parts.append(f'<path d="{_path([*edges, *reversed(back)])}Z" fill="{line.colour}" fill-opacity=".55"/>')
                parts.append(f'<path d="{_path(edges)}" fill="none" stroke="{line.colour}" stroke-width="1.5"/>')
                floor = roof
            else:
                for run in _runs(line.values):
                    places = [(x_of(n), scale.place(line.values[n] or 0, top, bottom)) for n in run]
                    parts.append(_drawn(places, line.colour))
        return "".join(parts) + legend

    def _table(self, properties: dict[str, Any], width: float, height: float) -> str:
        places = (14, 190, 470, 830, 1040, 1150)
        parts = [
            _text(x, 46, name, size=11.5, weight=600, colour=_DIM)
            for x, name in zip(places, widgets.COLUMNS, strict=True)
        ]
        parts.append(f'<path d="M14 54H{width - 14}" stroke="#d5dbdb"/>')
        for number, row in enumerate(self._failures[: int((height - 62) / 24)]):
            y = 72 + number * 24
            cells = zip(places, widgets.COLUMNS, strict=True)
            parts += [_text(x, y, _clipped(row[name]), size=12, mono=True) for x, name in cells]
            parts.append(f'<path d="M14 {y + 8}H{width - 14}" stroke="{_RULE}"/>')
        return "".join(parts)


class _Scale:
    """An axis from 0 to a round number of at least `highest`, with its ticks."""

    def __init__(self, highest: float) -> None:
        step = _round_up(max(highest, 1e-9) / 4)
        self._top = step * max(1, math.ceil(highest / step))
        self.ticks = [step * n for n in range(round(self._top / step) + 1)]

    def place(self, value: float, top: float, bottom: float) -> float:
        return bottom - (bottom - top) * value / self._top


def _round_up(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= value * 0.999)


def _highest(shown: Sequence[Line], right: bool, stacked: bool) -> float:
    values = [[value or 0.0 for value in line.values] for line in shown if line.right == right]
    if stacked and not right:
        return max(map(sum, zip(*values, strict=True)), default=0) or 1
    return max((max(line, default=0) for line in values), default=0) or 1


def _runs(values: Sequence[float | None]) -> list[list[int]]:
    """The indexes of the existing values, in runs without a gap."""
    runs: list[list[int]] = [[]]
    for number, value in enumerate(values):
        if value is not None:
            runs[-1].append(number)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _drawn(places: Sequence[tuple[float, float]], colour: str) -> str:
    if len(places) == 1:
        return f'<circle cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="2.5" fill="{colour}"/>'
    return f'<path d="{_path(places)}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"/>'


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _legend(shown: Sequence[Line], width: float, height: float) -> tuple[str, float]:
    """The legend at the bottom of a card, and its height."""
    rows: list[list[Line]] = [[]]
    taken = 0.0
    for line in shown:
        if taken + _wide(line) > width - 28 and rows[-1]:
            rows.append([])
            taken = 0
        rows[-1].append(line)
        taken += _wide(line)
    parts = []
    for number, row in enumerate(rows):
        x, y = 14.0, height - 14 - (len(rows) - 1 - number) * 18
        for line in row:
            parts.append(f'<rect x="{x:.1f}" y="{y - 9:.1f}" width="10" height="10" rx="2" fill="{line.colour}"/>')
            parts.append(_text(x + 15, y, line.label, size=11.5, colour=_DIM))
            x += _wide(line)
    return "".join(parts), 18 * len(rows)


def _wide(line: Line) -> float:
    """About the width of a line's legend, in pixels."""
    return 32 + 6.1 * len(line.label)


def _number(value: float) -> str:
    """A number in the form that people read: 12,345, 12.3 or 0.12."""
    if abs(value) >= 1_000_000:
        return f"{value / 1e6:,.3g}M"
    if abs(value) >= 100_000:
        return f"{value / 1000:,.0f}k"
    if value == round(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}".rstrip("0").rstrip(".")


def _clipped(text: str) -> str:
    return text if len(text) <= 44 else text[:43] + "…"


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    weight: int = 400,
    colour: str = _INK,
    anchor: str = "start",
    mono: bool = False,
) -> str:
    more = "" if weight == 400 else f' font-weight="{weight}"'
    more += "" if anchor == "start" else f' text-anchor="{anchor}"'
    more += ' font-family="ui-monospace, Menlo, Consolas, monospace"' if mono else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{colour}"{more}>{escape(text)}</text>'
