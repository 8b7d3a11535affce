"""What a chat costs of worker: the GB-seconds of ours, whose invocation runs ten chats at a time, and of the
conventional one, whose invocation runs one; and when the answer of each is there to be read."""

import json
import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from benchmarks import cpu_share, sides
from benchmarks.on_lambda import MB_OF_A_CPU
from benchmarks.paired import alternate, ratio, spread
from benchmarks.process import cpu_seconds
from benchmarks.report import Section, goal
from benchmarks.stub import Answer, Settings, Stub
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
    Model("0.5 s", Settings(latency=0.5), 10, 1 / 8),
    Model("lognormal, mean 3 s, sigma 0.5", Settings(latency=3.0, sigma=0.5), 45, 1 / 4),
)


WORDS = (20, 300)
"""Of an answer whose CPU is measured: a stream has a chunk for each."""
CPU_ROUNDS, CPU_CHATS = 5, 20


@dataclass
class Worked:
    """What an environment has done: the seconds of each invocation, and its end since the epoch."""

    seconds: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)


def run() -> Section:
    ours, conventional = sides.ours("worker"), sides.conventional("worker")
    share = "the share of a CPU that Lambda gives to its memory" if cpu_share.POSSIBLE else "all the CPU it wants"
    section = Section("worker", "GB-seconds of the worker, beside one message an invocation")
    section.say(
        f"Warm invocations under the real runtime client, {ENVIRONMENTS} environments of each worker at the same time, "
        f"each with {share}; ours with full batches of ten. A stub answers for AWS and for the model, in "
        f"{Settings().words} words. At {MB_OF_A_CPU} MB, a whole CPU, what counts is the waiting alone."
    )
    usual = [ours, replace(conventional, memory=ours.memory), replace(conventional, memory=USUAL_MB)]
    whole = [replace(worker, memory=MB_OF_A_CPU) for worker in (ours, conventional)]
    rows, ratios, waits = [], [], []
    for workers, models in ((usual, MODELS), (whole, MODELS[:1])):
        for model, measured in zip(models, _measure(workers, models), strict=True):
            costs = [_gb_seconds(worker, seconds) for worker, seconds in zip(workers, measured.seconds, strict=True)]
            for worker, seconds, cost in zip(workers, measured.seconds, costs, strict=True):
                rows.append((model.name, _told(worker), len(seconds), spread(seconds, 2), f"{cost:.1f}"))
            for worker, cost in zip(workers[1:], costs[1:], strict=True):
                of_theirs = costs[0] / cost
                names = f"{_told(workers[0])} / {_told(worker)}"
                ratios.append((model.name, names, f"{of_theirs:.3f}", goal(of_theirs, model.goal)))
            to_write, to_end = zip(*measured.delays, strict=True)
            memory = f"{workers[0].memory} MB"
            waits.append((model.name, memory, spread(to_write, 2), f"{max(to_write):.2f}", spread(to_end, 2)))
    section.table(("latency of the model", "worker", "invocations", "seconds each", "GB-s per 1,000 chats"), rows)
    section.table(("latency of the model", "ratio", "GB-s", "goal"), ratios)
    section.say(
        "Besides the model's time a batch takes the CPU of its ten chats, which at a small share of a CPU is the "
        "longer of the two where the model is fast. Less of it would lower the ratios at a fixed latency: fewer calls "
        "of AWS a chat, or a lighter client than botocore and the SDK, whose CPU is nearly all of it. With a long tail "
        "a batch waits for its slowest chat."
    )
    section.say(
        "An answer can be read when it is ready, not when its batch is. Of ours, the seconds from the last byte of the "
        "model to the write of the answer, and to the end of the batch:"
    )
    section.table(("latency of the model", "memory", "to the write", "at most", "to the end of the batch"), waits)
    _say_cpu(section, ours, conventional)
    return section


def _gb_seconds(worker: Function, seconds: Sequence[float]) -> float:
    """Per 1,000 chats. Lambda bills whole milliseconds."""
    billed = sum(math.ceil(each * 1000) for each in seconds) / 1000
    return billed * worker.memory / 1024 / (len(seconds) * _chats(worker)) * 1000


def _say_cpu(section: Section, *workers: Function) -> None:
    section.say(
        "The CPU of a chat, warm and with no limit, by the words of its answer: ours reads a stream, to show the "
        "answer growing, and the conventional one a document."
    )
    rows = []
    with Processes() as processes, Stub(processes) as stub:
        stub.set(Settings(item=sides.turn_item(attempt=1)))
        environments = [_warm(worker, stub, processes) for worker in workers]
        for words in WORDS:
            stub.set(Settings(item=sides.turn_item(attempt=1), latency=0.1, words=words))
            measured = alternate(
                {
                    worker.name: partial(_cpu_ms_of_a_chat, worker, environment)
                    for worker, environment in zip(workers, environments, strict=True)
                },
                CPU_ROUNDS,
            )
            ours, other = (measured[worker.name] for worker in workers)
            rows.append((words, spread(ours), spread(other), ratio(ours, other)))
        for environment in environments:
            environment.kill()
    section.table(("words", *(f"{worker.name}, ms" for worker in workers), "ratio"), rows)


def _cpu_ms_of_a_chat(worker: Function, environment: Environment) -> float:
    payload = json.dumps(sides.event_for(worker)).encode()
    before = cpu_seconds(environment.pid)
    for _ in range(CPU_CHATS // _chats(worker)):
        sides.check(worker, environment.invoke(payload, "chat").json())
    return (cpu_seconds(environment.pid) - before) * 1000 / CPU_CHATS


def _told(worker: Function) -> str:
    return f"{worker.name}, {worker.memory} MB"


def _chats(worker: Function) -> int:
    """Of one invocation."""
    return len(sides.event_for(worker)["Records"])


class Measured(NamedTuple):
    """With a model: the seconds of all invocations of each worker; and of each answer of the first worker, those until
    it was written and until its batch was at its end."""

    seconds: list[list[float]]
    delays: list[tuple[float, float]]


def _measure(workers: Sequence[Function], models: Sequence[Model]) -> list[Measured]:
    """With each of the models."""
    with Processes() as processes:
        # Each worker has a stub, so that all meet the same latencies. One environment of ours has one to itself, so
        # that its answers are known to be of its batches.
        stubs = [Stub(processes) for _ in workers]
        places = [(worker, stub) for worker, stub in zip(workers, stubs, strict=True) for _ in range(ENVIRONMENTS)]
        watched = Stub(processes)
        places[0] = (workers[0], watched)
        stubs.append(watched)
        answers: list[list[Answer]] = []
        coming = iter(models)

        def begin() -> None:
            answers.append(watched.answers())
            settings = replace(next(coming).settings, item=sides.turn_item(attempt=1))
            for each in stubs:
                each.set(settings)
                each.clear()

        for each in stubs:
            each.set(Settings(item=sides.turn_item(attempt=1)))
        barrier = threading.Barrier(len(places), begin, timeout=120)
        with ThreadPoolExecutor(len(places)) as pool:
            running = [pool.submit(_work, *place, processes, barrier, models) for place in places]
            worked = [each.result() for each in running]
        answers.append(watched.answers())
    measured = []
    for number, answered in enumerate(answers[1:]):  # the first were those before the first model
        seconds = [
            [took for each in worked[first : first + ENVIRONMENTS] for took in each[number].seconds]
            for first in range(0, len(places), ENVIRONMENTS)
        ]
        measured.append(Measured(seconds, _delays(answered, worked[0][number], _chats(workers[0]))))
    return measured


def _delays(answers: Sequence[Answer], worked: Worked, chats: int) -> list[tuple[float, float]]:
    delays = []
    for number, (ended_at, written_at) in enumerate(answers):
        assert written_at is not None, "every answer is written"
        delays.append((written_at - ended_at, worked.ends[number // chats] - ended_at))
    return delays


def _work(
    worker: Function, stub: Stub, processes: Processes, barrier: threading.Barrier, models: Sequence[Model]
) -> list[Worked]:
    """Invoke the worker in an environment of its own, with each of the models as long as it says, all environments at
    the same time."""
    done = []
    payload = json.dumps(sides.event_for(worker)).encode()
    try:
        environment = _warm(worker, stub, processes)
        with cpu_share.limited(environment.pid, worker.memory):
            for model in models:
                worked = Worked()
                barrier.wait()
                until = time.monotonic() + model.seconds
                while time.monotonic() < until:
                    began = time.monotonic()
                    result = environment.invoke(payload, "batch")
                    worked.seconds.append(time.monotonic() - began)
                    worked.ends.append(time.time())
                    sides.check(worker, result.json())
                done.append(worked)
        environment.kill()
    except BaseException:
        barrier.abort()  # for the others would wait
        raise
    return done


def _warm(worker: Function, stub: Stub, processes: Processes) -> Environment:
    """An environment after its first invocation."""
    environment = Environment(worker, processes, sides.RUNTIME_PYTHON, aws=stub.variables(), log=LOG, freeze=False)
    environment.wait_until_ready()
    sides.check(worker, environment.invoke(json.dumps(sides.event_for(worker)).encode(), "first").json())
    return environment
