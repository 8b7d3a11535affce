"""Measures a task without errors, beside an earlier commit: each function's warm CPU, init and AWS calls.

`python -m benchmarks.before COMMIT [--rounds N]` builds that commit in a temporary folder and prints a table. Both
sides run in alternation against one stub of AWS and of the model.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks import sides, startup
from benchmarks.checkout import checkout
from benchmarks.paired import alternate, ratio, spread
from benchmarks.stub import Stub
from benchmarks.warm import Called
from local.deploy import Sam, architecture
from local.functions import Function
from local.processes import Processes
from local.tools import find_tools

_CALLS = {"submit": 50, "status": 50, "worker": 5}  # in a block; the worker's are batches of ten
_EVENTS: dict[str, Callable[[], sides.Event]] = {
    "submit": sides.submit_event,
    "status": sides.status_event,
    "worker": partial(sides.worker_event, 10),
}
_INIT_ROUNDS = 9


@contextlib.contextmanager
def built(commit: str) -> Iterator[Path]:
    """The folder of the artefacts that `sam build` makes of `commit`."""
    with checkout(commit) as root, Processes() as processes:
        Sam(processes, find_tools().sam, root=root, log=root / "build.log").build(architecture(), lambda _: None)
        yield root / ".aws-sam/build"


def _of(artefacts: Path, place: str) -> Function:
    now = sides.ours(place)
    return replace(now, code=artefacts / f"{place.title()}Function", layers=(artefacts / "SharedLayer",))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("--rounds", type=int, default=20)
    chosen = parser.parse_args(arguments)
    print(f"| | {chosen.commit} | now | ratio |\n| --- | --- | --- | --- |")
    with ExitStack() as stack:
        before = stack.enter_context(built(chosen.commit))
        processes = stack.enter_context(Processes())
        stub = stack.enter_context(Stub(processes))
        stub.set(sides.turn_item(attempt=1))
        for place, event in _EVENTS.items():
            both = {"before": _of(before, place), "now": sides.ours(place)}
            with ExitStack() as running:
                called = {
                    side: running.enter_context(Called(function, stub.variables())) for side, function in both.items()
                }
                calls = {}
                for side, process in called.items():
                    process.cpu_ms(event(), 1)  # the first may have more to do
                    stub.clear()
                    process.cpu_ms(event(), 1)
                    calls[side] = stub.calls()
                measured = alternate(
                    {side: partial(process.cpu_ms, event(), _CALLS[place]) for side, process in called.items()},
                    chosen.rounds,
                )
            _row(f"{place}: warm CPU of a call, ms", measured)
            totals = [sum(made.values()) for made in calls.values()]
            print(f"| {place}: calls | {totals[0]} | {totals[1]} | {totals[1] / totals[0]:.2f} |", flush=True)
            inits = alternate(
                {side: partial(startup.cpu_ms, function) for side, function in both.items()}, _INIT_ROUNDS
            )
            _row(f"{place}: init, ms of CPU", inits)
            counted = startup.instructions([replace(function, name=side) for side, function in both.items()])
            if counted:
                _row(f"{place}: init, million instructions", {k: [v / 1e6] for k, v in counted.items()})


def _row(name: str, measured: dict[str, list[float]]) -> None:
    before, now = measured["before"], measured["now"]
    print(f"| {name} | {spread(before)} | {spread(now)} | {ratio(now, before)} |", flush=True)


if __name__ == "__main__":
    main()
