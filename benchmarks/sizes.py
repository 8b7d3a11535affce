"""What each function takes at each memory size, and so what it costs: the table by which the sizes were chosen."""

import json
import math
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from benchmarks import cpu_share, sides
from benchmarks.report import Section
from benchmarks.stub import Settings, Stub
from local.environment import Environment
from local.functions import Function
from local.processes import Processes

SIZES = (128, 256, 512, 1024)
ROUNDS = 2  # a new environment each, for the first call
_CALLS = {"submit": 40, "status": 40, "worker": 4}
_PAUSE_SECONDS = 0.045
"""Between two calls: longer than a period of the share of a CPU, so that none pays for the one before."""
_LATENCY = 0.5
LOG = sides.OWN / "sizes.log"


def run() -> Section:
    section = Section("sizes", "Memory sizes")
    if not cpu_share.POSSIBLE:
        section.say("Not measured: on this machine no process can be given a share of a CPU.")
        return section
    section.say(
        "Our functions with the share of a CPU that Lambda gives to each size, over TLS, under the real runtime "
        f"client: the worker with batches of ten and a model of {_LATENCY} s. What AWS and the network take is not in "
        "it. GB-s are of a million calls of submit and status, and of 1,000 chats of the worker, by the median of the "
        "calls after the first; in the 95th percentile are the other processes of this machine, too."
    )
    rows = []
    for place, calls in _CALLS.items():
        function = sides.ours(place)
        for size, (firsts, seconds) in zip(SIZES, _measure(function, calls), strict=True):
            median = statistics.median(seconds)
            billed = math.ceil(median * 1000) / 1000 * size / 1024  # GB-s of a call; Lambda counts whole milliseconds
            rows.append(
                (
                    place,
                    f"**{size}**" if size == function.memory else size,
                    f"{statistics.median(firsts) * 1000:,.0f}",
                    f"{median * 1000:,.1f}",
                    f"{statistics.quantiles(seconds, n=20)[-1] * 1000:,.1f}",
                    f"{billed * (100 if place == 'worker' else 1e6):,.0f}",
                )
            )
    section.table(("function", "MB", "first call, ms", "median, ms", "95th percentile, ms", "GB-s"), rows)
    return section


def _measure(function: Function, calls: int) -> list[tuple[list[float], list[float]]]:
    """For each size, side by side: the seconds of the first calls, and those of the calls after them."""
    measured: list[tuple[list[float], list[float]]] = [([], []) for _ in SIZES]
    with Processes() as processes, Stub(processes, tls=sides.OWN / "tls") as stub:
        stub.set(Settings(item=sides.turn_item(attempt=1), latency=_LATENCY))
        for _ in range(ROUNDS):
            barrier = threading.Barrier(len(SIZES))
            with ThreadPoolExecutor(len(SIZES)) as pool:
                run_one = partial(_seconds, calls=calls, stub=stub, processes=processes, barrier=barrier)
                taken = pool.map(run_one, (replace(function, memory=size) for size in SIZES))
                for (firsts, later), (first, *rest) in zip(measured, taken, strict=True):
                    firsts.append(first)
                    later += rest
    return measured


def _seconds(
    function: Function, calls: int, stub: Stub, processes: Processes, barrier: threading.Barrier
) -> list[float]:
    """Of each call of an environment. Its init is not limited: there Lambda lends more than the share."""
    environment = Environment(
        function, processes, sides.RUNTIME_PYTHON, aws=sides.over_tls(function, stub), log=LOG, freeze=False
    )
    payload = json.dumps(sides.event_for(function)).encode()
    environment.wait_until_ready()
    seconds = []
    with cpu_share.limited(environment.pid, function.memory):
        barrier.wait(timeout=60)
        for number in range(calls):
            time.sleep(_PAUSE_SECONDS)
            began = time.monotonic()
            result = environment.invoke(payload, f"request-{number}")
            seconds.append(time.monotonic() - began)
            sides.check(function, result.json())
    environment.kill()
    return seconds
