"""Beside the system that Turnqueue replaces (benchmarks/celery_baseline): what a request costs and how soon it is
answered, what a worker process carries, and how soon a backlog is gone."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from queue import Empty, SimpleQueue
from typing import Protocol

from benchmarks import cpu_share, sides
from benchmarks.celery_baseline.system import Baseline, NotInstalled, Pool, Workers
from benchmarks.environments import invoke, running
from benchmarks.paired import alternate, ratio, spread
from benchmarks.process import cpu_seconds, peak_mib
from benchmarks.report import NotMeasured, Section, goal
from benchmarks.stub import Settings, Stub
from local.environment import Environment
from local.processes import Processes

CALLS = 200
ROUNDS = 5
CLIENTS = (8, 32)
PAUSE = 0.045
"""Seconds between two calls of an idle system: long enough for the caches of a core to be someone else's."""

BATCH = 10
PREFORK = "prefork"
TUNED = (Pool("threads", 10), Pool("gevent", 100))
ONE_PROCESS = (Pool(PREFORK, 1), *TUNED)
WAVES = {0.5: 3, 5.0: 1}
"""How many times what a worker carries it is given, by the model's latency: going on to the next chats only shows
beside a short one."""

CHATS = 200

OURS = "Turnqueue"


class Bench:
    """Both systems, and the stub that is AWS for the one and the model for both."""

    def __init__(self, processes: Processes, stub: Stub) -> None:
        """Raises NotInstalled."""
        self._processes = processes
        self.stub = stub
        self.baseline = Baseline(processes, stub.variables()["MODEL_BASE_URL"])

    def environments(self, place: str, count: int) -> AbstractContextManager[list[Environment]]:
        """So many environments of our function at that place."""
        return running(self._processes, sides.ours(place), count, self.stub.variables())

    def model_takes(self, seconds: float) -> None:
        self.stub.set(Settings(item=sides.turn_item(attempt=1), latency=seconds, gradual=True))


def run() -> Section:
    section = Section("replaced", "The system it replaces: FastAPI, Celery and Redis")
    with ExitStack() as stack:
        processes = stack.enter_context(Processes())
        stub = stack.enter_context(Stub(processes))
        try:
            bench = Bench(processes, stub)
        except NotInstalled as missing:
            raise NotMeasured(str(missing)) from missing
        section.say(
            "Both sides get the same messages and the same model, which answers after a fixed time. Ours are the "
            "functions as `sam build` makes them, in the runtime client of Lambda, with DynamoDB, SQS and Secrets "
            "Manager answered by a stub at next to no cost. Theirs is one uvicorn process (uvloop, httptools), Redis "
            "without persistence, and Celery workers. What the sides do not share: API Gateway verifies a token for "
            "us, and they verify none; there is no TLS here and no network, which both have in production; our worker "
            "reads the conversation, streams the answer and counts the usage, theirs does none of it."
        )
        _requests(section, bench)
        _latency(section, bench)
        _workers(section, bench)
        _drain(section, bench)
    return section


# ---- The API


def _submit(environment: Environment) -> Callable[[], object]:
    """A client of ours, with an environment of its own."""
    return partial(invoke, environment, sides.submit_event(), status=202)


def _requests(section: Section, bench: Bench) -> None:
    bench.model_takes(0)
    client = bench.baseline.connect()
    task_id = client.submit()
    with (
        bench.environments("submit", 1) as (submit,),
        bench.environments("status", 1) as (status,),
    ):
        theirs = [bench.baseline.api.pid, bench.baseline.redis.pid]
        poll = partial(invoke, status, sides.status_event(), status=200)
        timed = {
            "our submit": partial(_cpu_ms, [submit.pid], _submit(submit)),
            "their submit": partial(_cpu_ms, theirs, client.submit),
            "our poll": partial(_cpu_ms, [status.pid], poll),
            "their poll": partial(_cpu_ms, theirs, partial(client.status, task_id)),
        }
        for measure in timed.values():
            measure()  # warm
        cpu = alternate(timed, ROUNDS)
    section.say(
        "**CPU of a request**, in ms: of our environment, and of their API and Redis together. DynamoDB and SQS have "
        "no CPU of ours; they have a price. A submit of ours makes two signed HTTP calls where theirs makes one "
        "pipeline to Redis. For that the message is in a table and in a queue that outlive a machine, before it is "
        "accepted."
    )
    section.table(
        ("", OURS, "FastAPI + Redis", "ratio"),
        [
            (name, spread(ours, 2), spread(theirs, 2), ratio(ours, theirs))
            for name, ours, theirs in (
                ("submit", cpu["our submit"], cpu["their submit"]),
                ("status poll", cpu["our poll"], cpu["their poll"]),
            )
        ],
    )


def _cpu_ms(pids: Sequence[int], call: Callable[[], object]) -> float:
    """Of one call, by the processes."""
    before = sum(map(cpu_seconds, pids))
    for _ in range(CALLS):
        call()
    return (sum(map(cpu_seconds, pids)) - before) * 1000 / CALLS


def _latency(section: Section, bench: Bench) -> None:
    with bench.environments("submit", max(CLIENTS)) as environments:
        ours = [_submit(environment) for environment in environments]
        theirs = [bench.baseline.connect().submit for _ in environments]
        for call in (*ours, *theirs) * 10:
            call()  # warm
        p50 = _idle_p50_ms({"ours idle": ours[0], "theirs idle": theirs[0]})
        timed: dict[str, Callable[[], float]] = {}
        for clients in CLIENTS:
            timed[f"ours {clients}"] = partial(_p50_ms_in_turn, ours[:clients])
            timed[f"ours {clients}, crowded"] = partial(_p50_ms, ours[:clients])
            timed[f"theirs {clients}"] = partial(_p50_ms, theirs[:clients])
        p50 |= alternate(timed, 3)
        share = _Share(sides.ours("submit").memory)
        small: dict[str, list[float]] = {}
        if cpu_share.POSSIBLE:
            with share.given([environment.pid for environment in environments]):
                # Eight shares of 256 MB are 1.2 cores. For 32 there are not enough here.
                small = _idle_p50_ms({"idle": ours[0]}) | alternate({"8": timed["ours 8, crowded"]}, 3)
    section.say(
        f"**Time of a submit**, p50 in ms. Idle: a call every {PAUSE * 1000:.0f} ms, of ours and of theirs in turn. 8 "
        "and 32 clients: each sends its next message when the last one is accepted. Their one process takes them all. "
        "Of ours there is an environment for each, which on Lambda has a CPU of its own. Two cores cannot show that "
        "for 8, so ours is measured in turn, one request after the other, each in the next environment: that is what "
        "the ratio and the goal are about. Beside it: all environments at a time on these two cores, which they share "
        f"with the stub and the clients; and {share}, where a client without a pause keeps its environment at its "
        "limit. What ours takes longer when idle are two signed calls, one after the other, through botocore. Redis "
        "alone would do with less, and lose what it had accepted with its machine."
    )
    rows: list[Sequence[object]] = []
    for name, at_most in (("idle", 2), *((str(clients), 1) for clients in CLIENTS)):
        to_theirs = ratio(p50[f"ours {name}"], p50[f"theirs {name}"])
        crowded = p50.get(f"ours {name}, crowded")
        rows.append(
            (
                name if name == "idle" else f"{name} clients",
                spread(p50[f"theirs {name}"]),
                spread(p50[f"ours {name}"]),
                to_theirs,
                goal(to_theirs.median, at_most),
                spread(crowded) if crowded else "-",
                spread(small[name]) if name in small else "-",
            )
        )
    head = ("", "FastAPI", "Turnqueue, a core each", "ratio", "goal", "all on two cores", f"{share.memory} MB each")
    section.table(head, rows)


class _Share:
    """The part of a core that Lambda gives an environment of `memory` MB."""

    def __init__(self, memory: int) -> None:
        self.memory = memory

    def __str__(self) -> str:
        told = f"each held to the CPU that Lambda gives to {self.memory} MB"
        return told if cpu_share.POSSIBLE else f"{told} (not measured: this machine does not let us limit a process)"

    @contextmanager
    def given(self, pids: Sequence[int]) -> Iterator[None]:
        """Hold the processes to it, if cpu_share.POSSIBLE."""
        with ExitStack() as stack:
            for pid in pids:
                stack.enter_context(cpu_share.limited(pid, self.memory))
            yield


def _idle_p50_ms(calls: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Of each, in rounds; one call of each in turn, after a pause."""
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(20):
            for name, call in calls.items():
                time.sleep(PAUSE)
                taken[name].append(_seconds(call))
        for name, seconds in taken.items():
            rounds[name].append(statistics.median(seconds) * 1000)
    return rounds


def _p50_ms(clients: Sequence[Callable[[], object]]) -> float:
    """Of calls side by side, each client's one after the other."""
    start = threading.Barrier(len(clients))

    def calls(client: Callable[[], object]) -> list[float]:
        start.wait()
        return [_seconds(client) for _ in range(CALLS // len(clients) + 1)]

    with ThreadPoolExecutor(len(clients)) as pool:
        return statistics.median(seconds for some in pool.map(calls, clients) for seconds in some) * 1000


def _p50_ms_in_turn(clients: Sequence[Callable[[], object]]) -> float:
    return statistics.median(_seconds(clients[number % len(clients)]) for number in range(CALLS)) * 1000


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


# ---- The worker


class Side(Protocol):
    """Workers of either system."""

    def fill(self, chats: int) -> None:
        """Submit so many chats, which none of the workers sees before `answer`."""

    def answer(self, chats: int) -> None:
        """Give the workers what was submitted, all at once. Returns when so many chats are answered. Raises
        RuntimeError if one is not."""

    def pids(self) -> list[int]:
        """Of the workers' processes."""


class Ours:
    """Environments of our worker, which take batches from a queue in memory."""

    def __init__(self, bench: Bench, environments: Sequence[Environment]) -> None:
        self._bench = bench
        self._environments = environments
        self._batches: SimpleQueue[sides.Event] = SimpleQueue()

    def fill(self, chats: int) -> None:
        self._bench.stub.clear()
        for _ in range(chats // BATCH):
            self._batches.put(sides.worker_event(BATCH))

    def answer(self, chats: int) -> None:
        with ThreadPoolExecutor(len(self._environments)) as pool:
            for _ in pool.map(self._work, self._environments):
                pass
        # A turn that was handed back has no answer there either.
        written = sum(answer.written_at is not None for answer in self._bench.stub.answers())
        if written != chats:
            raise RuntimeError(f"of {chats} answers {written} were written")

    def _work(self, environment: Environment) -> None:
        while True:
            try:
                batch = self._batches.get_nowait()
            except Empty:
                return
            invoke(environment, batch)

    def pids(self) -> list[int]:
        return [environment.pid for environment in self._environments]


@contextmanager
def _sides(bench: Bench, pools: Mapping[Pool, int], environments: int) -> Iterator[dict[str, Side]]:
    """Ours with so many environments, and each of the pools in so many workers, all of them warm."""
    with ExitStack() as stack:
        ours = stack.enter_context(bench.environments("worker", environments))
        running: dict[str, Side] = {OURS: Ours(bench, ours)}
        places = {OURS: BATCH * environments}
        for pool, workers in pools.items():
            running[str(pool)] = stack.enter_context(Workers(bench.baseline, pool, workers))
            places[str(pool)] = pool.size * workers
        bench.model_takes(0)
        for name, side in running.items():
            side.fill(2 * places[name])
            side.answer(2 * places[name])
        yield running


def _answered_in(side: Side, chats: int) -> float:
    """Seconds."""
    side.fill(chats)
    started = time.perf_counter()
    side.answer(chats)
    return time.perf_counter() - started


def _workers(section: Section, bench: Bench) -> None:
    at_once = {OURS: BATCH} | {str(pool): pool.size for pool in ONE_PROCESS}
    cpu_ms: dict[str, list[float]] = {name: [] for name in at_once}

    def chats_per_second(name: str, side: Side, waves: int) -> float:
        chats, before = waves * at_once[name], sum(map(cpu_seconds, side.pids()))
        seconds = _answered_in(side, chats)
        cpu_ms[name].append((sum(map(cpu_seconds, side.pids())) - before) * 1000 / chats)
        return chats / seconds

    with _sides(bench, dict.fromkeys(ONE_PROCESS, 1), 1) as running:

        def measured(latency: float, rounds: int) -> dict[str, list[float]]:
            bench.model_takes(latency)
            waves = WAVES[latency]
            return alternate(
                {name: partial(chats_per_second, name, side, waves) for name, side in running.items()}, rounds
            )

        short = measured(0.5, 3)
        cpu = {name: spread(values) for name, values in cpu_ms.items()}
        long = measured(5.0, 1)
        peaks = {name: [peak_mib(pid) for pid in side.pids()] for name, side in running.items()}
    section.say(
        "**What a worker process carries.** Ours takes batches of 10, the most that Lambda takes from a FIFO queue at "
        "a time. Celery's pools in one worker each: prefork is a parent and a child. Of a chat ours makes five calls "
        "to AWS and reads the answer word by word, to show it while it grows; theirs reads it whole, at its end. CPU "
        "is that at 0.5 s. Memory is the most that the processes had resident (VmHWM)."
    )
    section.table(
        ("", "chats at a time", "chats/s, model 0.5 s", "chats/s, model 5 s", "CPU a chat, ms", "memory, MiB"),
        [
            (
                name,
                places,
                spread(short[name]),
                spread(long[name], 2),
                cpu[name],
                " + ".join(f"{peak:.0f}" for peak in peaks[name]),
            )
            for name, places in at_once.items()
        ],
    )


def _drain(section: Section, bench: Bench) -> None:
    prefork, share = Pool(PREFORK, 2), _Share(sides.ours("worker").memory)
    with _sides(bench, {prefork: 1, **dict.fromkeys(TUNED, 2)}, 2) as running:
        bench.model_takes(0.5)
        timed = {name: partial(_answered_in, side, CHATS) for name, side in running.items()}
        slow = {str(prefork): timed.pop(str(prefork))}
        seconds = alternate(timed, 3) | alternate(slow, 1)
        if cpu_share.POSSIBLE:
            with share.given(running[OURS].pids()):
                seconds[f"{OURS}, {share.memory} MB each"] = [timed[OURS]()]
    theirs = seconds[str(prefork)]
    rows = []
    for name, values in seconds.items():
        gain = statistics.median(theirs) / statistics.median(values)
        rows.append((name, spread(values), f"{gain:.1f}", goal(gain, 8, at_least=True) if name == OURS else "-"))
    section.say(
        f"**A backlog of {CHATS} chats**, with a model of 0.5 s and two worker processes: seconds until the last is "
        "answered. Every side begins with a full queue and warm processes. Prefork 2 is what the replaced system "
        "started with on two cores; it waits and does little else, so it runs once. All have the two cores, with the "
        f"stub; the last line is of ours {share}. Threads wait side by side as the chats of our batch do. Gevent takes "
        "a hundred at a time, and is faster wherever a process may run all day."
    )
    section.table(("", "seconds", "times as fast as prefork 2", "goal"), rows)
