"""CPU time of a call, of our functions, the floor and the conventional ones: of a warm one, and of the first after the
init over TLS."""

import json
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks import sides
from benchmarks.paired import alternate, ratio, spread
from benchmarks.report import Section, goal
from benchmarks.stub import Settings, Stub
from local.environment import variables
from local.functions import Function
from local.processes import Processes

ROUNDS = 20
CALLS = 50
FIRST_ROUNDS = 11

_EVENTS = {"submit": sides.submit_event, "status": sides.status_event}
_SIDES: Mapping[str, Callable[[str], Function]] = {
    "ours": sides.ours,
    "floor": sides.floor,
    "conventional": sides.conventional,
}
_GOALS = {"submit": 1.15, "status": 1.05}
_FIRST_GOAL = 0.5


def run() -> Section:
    section = Section("warm", "CPU of a call, beside a bare boto3 handler and the conventional one")
    with Processes() as processes, Stub(processes, tls=sides.OWN / "tls") as stub:
        stub.set(Settings(item=sides.turn_item()))
        _warm(section, stub)
        _first(section, stub)
    return section


def _warm(section: Section, stub: Stub) -> None:
    section.say(
        f"**Warm**: milliseconds of CPU a call, in blocks of {CALLS} calls without a pause, {ROUNDS} blocks of each "
        "side in turn; the services are answered by the stub. No request of the conventional side is sampled for X-Ray."
    )
    rows, ratios = [], []
    for place, event in _EVENTS.items():
        with ExitStack() as stack:
            called = {
                side: stack.enter_context(Called(function(place), stub.variables()))
                for side, function in _SIDES.items()
            }
            made = {side: _calls_made(stub, process, event()) for side, process in called.items()}
            if len({frozenset(calls.items()) for calls in made.values()}) != 1:
                raise RuntimeError(f"the sides do not make the same calls: {made}")
            measured = alternate(
                {side: partial(process.cpu_ms, event(), CALLS) for side, process in called.items()}, ROUNDS
            )
        for side, rounds in measured.items():
            rows.append((f"{side} {place}", spread(rounds, 2)))
        to_floor = ratio(measured["ours"], measured["floor"])
        to_other = ratio(measured["ours"], measured["conventional"])
        ratios.append((f"{place}, ours / floor", to_floor, goal(to_floor.median, _GOALS[place])))
        ratios.append((f"{place}, ours / conventional", to_other, "-"))
    section.table(("function", "CPU, ms"), rows)
    section.table(("ratio", "CPU", "goal"), ratios)


def _first(section: Section, stub: Stub) -> None:
    """A new process for each call: the connections are made in it, or in the init before."""
    section.say(
        "**First call** after the init, over TLS: milliseconds of CPU of that call in a fresh process. botocore reads "
        'the authorities for each connection: ours the few that it tries first, the others all. "ours, every '
        'authority" is ours if it read them all.'
    )

    def first(function: Function, event: Mapping[str, Any], every: bool = False) -> float:
        with Called(function, sides.over_tls(function, stub, every=every)) as called:
            return called.cpu_ms(event, 1)

    rows, ratios = [], []
    for place, event in _EVENTS.items():
        measures: dict[str, Callable[[], float]] = {
            side: partial(first, function(place), event()) for side, function in _SIDES.items()
        }
        measures["ours, every authority"] = partial(first, sides.ours(place), event(), every=True)
        measured = alternate(measures, FIRST_ROUNDS)
        for side, rounds in measured.items():
            rows.append((f"{side} {place}", spread(rounds)))
        to_other = ratio(measured["ours"], measured["conventional"])
        ratios.append((f"{place}, ours / conventional", to_other, goal(to_other.median, _FIRST_GOAL)))
        ratios.append((f"{place}, ours / floor", ratio(measured["ours"], measured["floor"]), "-"))
    section.table(("function", "CPU of the first call, ms"), rows)
    section.table(("ratio", "CPU", "goal"), ratios)


def _calls_made(stub: Stub, process: "Called", event: Mapping[str, Any]) -> Mapping[str, int]:
    process.cpu_ms(event, 1)  # the first, which may have more to do
    stub.clear()
    process.cpu_ms(event, 1)
    return stub.calls()


class Called:
    """A process that has imported the handler of a function and calls it when it is told to. A context manager."""

    def __init__(self, function: Function, aws: Mapping[str, str]) -> None:
        self._function = function
        self._process = subprocess.Popen(
            [sides.RUNTIME_PYTHON, Path(__file__).with_name("driver.py")],
            env=variables(function, sides.RUNTIME_PYTHON, aws),
            cwd=function.code,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def cpu_ms(self, event: Mapping[str, Any], times: int) -> float:
        """Of a call, on average of so many. Raises RuntimeError if it does not answer as it should."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"event": event, "times": times}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"result": "null"}')
        sides.check(self._function, json.loads(answer["result"]))
        per_call: float = answer["cpu_ms"] / times
        return per_call

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
