"""What a chat costs of worker: the GB-seconds of ours, whose invocation runs ten chats at a time, and of the
conventional one, whose invocation runs one; and when the answer of each is there to be read."""

import json
import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from benchmarks import cpu_share, sides
from benchmarks.paired import spread
from benchmarks.report import Section, goal
from benchmarks.stub import Settings, Stub
from local.environment import Environment
from local.functions import Function
from local.processes import Processes

USUAL_MB = 512
"""What a function with the OpenAI SDK is most often given."""

ENVIRONMENTS = 4  # of each worker, at the same time
LOG = sides.OWN / "worker.log"


@dataclass(frozen=True)
class Model:
    """A model whose latency is as `settings` say, asked for so many `seconds`; `goal` is for the ratio of ours."""

    name: str
    settings: Settings
    seconds: float
    goal: float


MODELS = (
    Model("0.5 s", Settings(latency=0.5), 12, 1 / 8),
    Model("lognormal, mean 3 s, sigma 0.5", Settings(latency=3.0, sigma=0.5), 50, 1 / 4),
)


@dataclass
class Worked:
    """What an environment has done: the seconds of each invocation, and its end since the epoch."""

    seconds: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)


def run() -> Section:
    ours, conventional = sides.ours("worker"), sides.conventional("worker")
    workers = [ours, replace(conventional, memory=ours.memory), replace(conventional, memory=USUAL_MB)]
    share = "the share of a CPU that Lambda gives to its memory" if cpu_share.POSSIBLE else "all the CPU it wants"
    section = Section("worker", "GB-seconds of the worker, beside one message an invocation")
    section.say(
        f"Warm invocations under the real runtime client, {ENVIRONMENTS} environments of each worker at the same time, "
        f"each with {share}; ours with full batches of ten. A stub answers for AWS and for the model."
    )
    rows, ratios, waits = [], [], []
    for model in MODELS:
        measured, delays = _measure(workers, model)
        costs = []
        for worker, seconds in zip(workers, measured, strict=True):
            chats = len(seconds) * _chats(worker)
            billed = sum(math.ceil(each * 1000) for each in seconds) / 1000  # Lambda bills whole milliseconds
            costs.append(billed * worker.memory / 1024 / chats * 1000)
            rows.append((model.name, _told(worker), len(seconds), spread(seconds, 2), f"{costs[-1]:.1f}"))
        for worker, cost in zip(workers[1:], costs[1:], strict=True):
            ratio = costs[0] / cost
            ratios.append((model.name, f"ours / {_told(worker)}", f"{ratio:.3f}", goal(ratio, model.goal)))
        to_write, to_end = zip(*delays, strict=True)
        waits.append((model.name, spread(to_write, 2), f"{max(to_write):.2f}", spread(to_end, 2)))
    section.table(("latency of the model", "worker", "invocations", "seconds each", "GB-s per 1,000 chats"), rows)
    section.table(("latency of the model", "ratio", "GB-s", "goal"), ratios)
    section.say(
        "An answer can be read when it is ready, not when its batch is. Of ours, the seconds from the last byte of the "
        "model to the write of the answer, and to the end of the batch:"
    )
    section.table(("latency of the model", "to the write", "at most", "to the end of the batch"), waits)
    return section


def _told(worker: Function) -> str:
    return f"{worker.name}, {worker.memory} MB"


def _chats(worker: Function) -> int:
    """Of one invocation."""
    return len(sides.event_for(worker)["Records"])


def _measure(workers: Sequence[Function], model: Model) -> tuple[list[list[float]], list[tuple[float, float]]]:
    """The seconds of all invocations of each worker; and of each answer of the first, those until it was written and
    until its batch was at its end."""
    settings = replace(model.settings, item=sides.turn_item(attempt=1))
    with Processes() as processes, Stub(processes) as stub, Stub(processes) as watched:
        # One environment of ours has a stub to itself, so that its answers are known to be of its batches.
        places = [(worker, stub) for worker in workers for _ in range(ENVIRONMENTS)]
        places[0] = (workers[0], watched)

        def begin() -> None:
            for each in (stub, watched):
                each.set(settings)
                each.clear()

        for each in (stub, watched):
            each.set(replace(settings, latency=0, sigma=0))
        barrier = threading.Barrier(len(places), begin)
        with ThreadPoolExecutor(len(places)) as pool:
            running = [pool.submit(_work, *place, processes, barrier, model.seconds) for place in places]
            worked = [each.result() for each in running]
        answers = watched.answers()
    measured = [
        [seconds for each in worked[first : first + ENVIRONMENTS] for seconds in each.seconds]
        for first in range(0, len(places), ENVIRONMENTS)
    ]
    chats = _chats(workers[0])
    delays = []
    for number, (ended_at, written_at) in enumerate(answers):
        assert written_at is not None, "every answer is written"
        delays.append((written_at - ended_at, worked[0].ends[number // chats] - ended_at))
    return measured, delays


def _work(worker: Function, stub: Stub, processes: Processes, barrier: threading.Barrier, seconds: float) -> Worked:
    """Invoke the worker in an environment of its own for so long, once all others are warm, too."""
    environment = Environment(worker, processes, sides.RUNTIME_PYTHON, aws=stub.variables(), log=LOG, freeze=False)
    payload = json.dumps(sides.event_for(worker)).encode()
    try:
        environment.wait_until_ready()
        sides.check(worker, environment.invoke(payload, "warm").json())
    except BaseException:
        barrier.abort()
        raise
    worked = Worked()
    with cpu_share.limited(environment.pid, worker.memory):
        barrier.wait(timeout=60)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.monotonic()
            result = environment.invoke(payload, "warm")
            worked.seconds.append(time.monotonic() - began)
            worked.ends.append(time.time())
            sides.check(worker, result.json())
    environment.kill()
    return worked
