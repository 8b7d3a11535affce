"""Real chats on a local stack, and what each of them uses, as the cost model wants to know it."""

import random
import shutil
import statistics
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.chats import Chats, conversation, message_of
from benchmarks.lognormal import Lognormal
from benchmarks.meter import Use
from benchmarks.paired import alternate
from local.functions import Function
from local.stack import LocalStack

ANSWERS = Lognormal(mean=3, sigma=0.5)
EARLIER_TURNS = 4
"""Of each session, as small as this one."""

FUNCTIONS = ("SubmitFunction", "StatusFunction", "WorkerFunction")
LONG_INSTRUCTIONS = 16_000
"""Characters, 4,000 tokens: a manual of an agent that may do many things."""

_CHATS_OF_A_MODE = 8


class Run(NamedTuple):
    """The calls and units that a number of chats have used."""

    chats: int
    use: Use
    prompt_tokens: float
    completion_tokens: float

    def each(self, what: str, whose: str = "") -> float:
        """A chat's use, of all together if nobody is named."""
        found = [amount for (kind, name), amount in self.use.items() if kind == what and whose in ("", name)]
        return sum(found) / self.chats

    def of_a_request(self, route: str) -> float:
        """Bytes of its response."""
        return self.use["bytes out", route] / self.use["requests", route]

    def of_an_invocation(self, what: str, function: str) -> float:
        return self.use[what, function] / self.use["invocations", function]


def started(chats: Chats) -> dict[str, float]:
    """Starts the processes. Returns the CPU seconds of an init and a first invocation, by function."""
    with chats.meter.measured() as use:
        chats.health()
        chats.a_turn()
    with chats.finished(8), chats.held_back(batch_size=1):
        for _ in range(8):
            chats.submit(message_of(1.5))
    return {function: use["CPU seconds", function] for function in FUNCTIONS}


def many(chats: Chats, number: int) -> Run:
    """So many chats of as many sessions, all in the queue before a worker begins: each is submitted, polled while it is
    in the queue and when it is done."""
    sessions = _sessions(chats, number)
    with chats.meter.measured() as use:
        with chats.finished(number), chats.held_back():
            tasks = [chats.submit(message_of(seconds), name)["task_id"] for name, seconds in sessions.items()]
            for task_id in tasks:
                chats.poll(task_id)
        answered = [chats.poll(task_id) for task_id in tasks]
    return _run(use, answered)


def one_by_one(chats: Chats, number: int) -> Run:
    """The same, each after the last, alone in its invocation."""
    answered = []
    sessions = _sessions(chats, number)
    with chats.meter.measured() as use:
        for name, seconds in sessions.items():
            with chats.finished(1):
                task_id = chats.submit(message_of(seconds), name)["task_id"]
                chats.poll(task_id)
            answered.append(chats.poll(task_id))
    return _run(use, answered)


def _sessions(chats: Chats, number: int) -> dict[str, float]:
    """Sessions with a conversation, in random order, and for how long the model takes for the next turn of each."""
    turn = chats.a_turn()
    seconds = [ANSWERS.at((index + 0.5) / number) for index in range(number)]
    random.Random(7).shuffle(seconds)
    sessions = {uuid.uuid4().hex: each for each in seconds}
    for session in sessions:
        chats.write(conversation(turn, session, EARLIER_TURNS))
    return sessions


def _run(use: Use, answered: Sequence[Mapping[str, Any]]) -> Run:
    assert {task["status"] for task in answered} == {"SUCCESS"}, "a chat has failed"
    return Run(len(answered), use, *_tokens(answered))


def _tokens(tasks: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The mean of prompt and of answer."""
    usages = [task["usage"] for task in tasks]
    return (
        statistics.mean(usage["prompt_tokens"] for usage in usages),
        statistics.mean(usage["completion_tokens"] for usage in usages),
    )


def in_sync_mode(chats: Chats) -> Run:
    return _side_by_side(chats, lambda seconds: chats.submit(message_of(seconds), wait=True))


def with_a_wait(chats: Chats) -> Run:
    return _side_by_side(chats, lambda seconds: chats.poll(chats.submit(message_of(seconds))["task_id"], wait=20))


def _side_by_side(chats: Chats, chat: Callable[[float], object]) -> Run:
    seconds = [ANSWERS.at((index + 0.5) / _CHATS_OF_A_MODE) for index in range(_CHATS_OF_A_MODE)]
    with ThreadPoolExecutor(_CHATS_OF_A_MODE) as clients:
        with chats.finished(_CHATS_OF_A_MODE):
            list(clients.map(chat, [1.0] * _CHATS_OF_A_MODE))  # starts the processes
        with chats.meter.measured() as use, chats.finished(_CHATS_OF_A_MODE):
            list(clients.map(chat, seconds))
    return Run(_CHATS_OF_A_MODE, use, 0, 0)


class Persona(NamedTuple):
    """Of one length of instructions: what a chat uses."""

    worker_cpu: list[float]  # seconds, of each round
    log_bytes: float
    prompt_tokens: float
    completion_tokens: float
    write_units: float


def of_personas(chats: Chats, rounds: int = 5, chats_a_round: int = 6) -> dict[str, Persona]:
    """Short and long instructions in turn; the model takes no time."""
    tasks: dict[str, list[dict[str, Any]]] = {"short": [], "long": []}
    uses: dict[str, list[Use]] = {"short": [], "long": []}

    def measure(name: str, worker: Function) -> float:
        answer_by(chats, worker)
        with chats.meter.measured() as use:
            tasks[name] += [chats.say(message_of()) for _ in range(chats_a_round)]
        uses[name].append(use)
        return use["CPU seconds", "WorkerFunction"] / chats_a_round

    short = chats.stack.functions["WorkerFunction"]
    with long_instructions(chats.stack) as long:
        answer_by(chats, long)
        chats.say(message_of())  # starts the process
        cpu = alternate({"short": lambda: measure("short", short), "long": lambda: measure("long", long)}, rounds)
        answer_by(chats, short)
    number = rounds * chats_a_round

    def each(name: str, what: str, whose: str) -> float:
        return sum(use[what, whose] for use in uses[name]) / number

    return {
        name: Persona(
            cpu[name],
            each(name, "log bytes", "WorkerFunction"),
            *_tokens(tasks[name]),
            each(name, "write units", "TurnsTable"),
        )
        for name in tasks
    }


@contextmanager
def long_instructions(stack: LocalStack) -> Iterator[Function]:
    """A worker whose persona has long instructions, beside that of the stack."""
    worker = stack.functions["WorkerFunction"]
    with tempfile.TemporaryDirectory() as folder:
        layers = [Path(shutil.copytree(layer, Path(folder, str(index)))) for index, layer in enumerate(worker.layers)]
        [file] = [file for layer in layers for file in layer.rglob("personas/general.toml")]
        file.write_text(f'instructions = "{"Be exact. " * (LONG_INSTRUCTIONS // 10)}"\n')
        long = replace(worker, name=f"{worker.name}-long", layers=tuple(layers))
        stack.host.add(long)
        yield long
        stack.host.kill(long.name)


def answer_by(chats: Chats, worker: Function) -> None:
    """From now on the queue's turns go to this worker."""
    source = chats.stack.event_sources["WorkerFunction"]
    with chats.held_back():
        source.mapping = replace(source.mapping, function=worker.name)
    chats.stack.functions["WorkerFunction"] = worker
