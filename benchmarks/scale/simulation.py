"""A discrete simulation of everything between submit and answer: the FIFO queue, Lambda's event source, the workers,
the model. It simulates the waits for a poll, for earlier turns of the session, for the worker's CPU, and for a
back-off. Times are in seconds. The rules come from the code and the template (tests/scale/test_document.py compares
them), and from AWS's documentation, which docs/scale.md cites.
"""

import heapq
import itertools
import math
import random
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import simpy

from benchmarks.lognormal import Lognormal

# The gate's rules are the product's code.
_ROOT = Path(__file__).parents[2]
sys.path += [str(_ROOT / "layers/shared"), str(_ROOT / "functions/worker")]

from decisions import backoff, refusal_backoff  # noqa: E402
from gatekeeper import PROBE_SECONDS  # noqa: E402
from pace import Pace  # noqa: E402
from turnqueue import turn as product  # noqa: E402
from turnqueue.gate import (  # noqa: E402
    LINE_SECONDS,
    OUTAGE_REFUSALS,
    RATE_REFUSALS,
    RATE_SPAN_SECONDS,
    Gate,
    Phase,
    no_place,
)
from turnqueue.rate_limits import RateLimiter  # noqa: E402

type Steps = list[tuple[float, int]]
"""A count over time: pairs of a moment and the value from then on."""

type Process = Generator[simpy.Event, Any, Any]

ATTEMPTS = 3
DEADLINE = 900.0
RESERVE = 10.0
SHORT_PAUSE = 2.0
"""A turn waits in the worker if its time in the known rate comes this soon."""
EARLY = 1.0
"""The seconds by which a turn comes back before its time."""
FOR_EVER = 10_000.0
"""The delay of a model that never answers."""
REFUSALS = {"model_unavailable": (OUTAGE_REFUSALS, 0.0), "model_rate_limited": (RATE_REFUSALS, RATE_SPAN_SECONDS)}
"""The codes of refused calls. For each code, the number of refusals that opens its gate, and the seconds that they must
last."""


type Winner = Literal["any", "event source", "worker"]
"""The rule that decides which of several waiting polls gets a message: any of them, or always one side. AWS does not
document it."""


@dataclass(frozen=True)
class Refill:
    """How a worker polls for more messages while a turn runs: up to `slots` turns, by long polls of `poll_seconds`,
    with pauses of `pause` seconds. It stops when only a poll of `read_seconds`, a longest answer and the reserve fit
    into the rest of its time. It may stop earlier, by a random part of up to `jitter` of that time, so that workers
    that started together do not stop together."""

    slots: int = 40
    poll_seconds: float = 1.0
    pause: float = 0.2
    read_seconds: float = 4.0
    jitter: float = 0.7
    winner: Winner = "any"


@dataclass(frozen=True)
class Workers:
    """The event source and the function. The defaults are the template's. Pollers grow as Lambda documents for a
    standard queue, because it documents nothing for a FIFO queue. `refill`: None for the earlier design, in which an
    invocation runs only its batch."""

    batch_size: int = 10
    concurrency: int = 10
    first_pollers: int = 5
    more_pollers_a_second: float = 5.0
    refill: Refill | None = Refill()
    timeout: float = 400.0
    longest_answer: float = 180.0
    cold_start: float = 0.0
    cpu_before: float = 0.0
    """The CPU seconds of a turn before its model call, at the function's share of a CPU. The turns of a worker queue
    for the CPU."""
    cpu_after: float = 0.0
    """The CPU seconds of a turn after its answer."""
    before: float = 0.0
    """The seconds of AWS calls before the model call."""
    after: float = 0.0
    """The seconds of AWS calls after the answer."""


class Reply(NamedTuple):
    """The model's reply to a call: after `seconds` it answers, or fails with the code."""

    seconds: float
    code: str | None = None
    retry_after: float | None = None


class Outage(NamedTuple):
    """From `start` to `end` every request gets this reply."""

    start: float
    end: float
    reply: Reply


type Draw = Callable[[random.Random], float]


def lognormal(mean: float, sigma: float) -> Draw:
    """`sigma`: the standard deviation of the logarithm."""
    mu = Lognormal(mean, sigma).log_mean
    return lambda rng: rng.lognormvariate(mu, sigma)


class Model:
    """Answers after a random time from `latency`. Refuses requests above `a_minute` with 429, by a bucket with the
    requests of a second. `first_token`: after this silence the fallback is called, which always answers
    (FirstTokenSeconds)."""

    def __init__(
        self,
        latency: Draw,
        *,
        a_minute: float = math.inf,
        outage: Outage | None = None,
        first_token: float = math.inf,
    ) -> None:
        self._latency = latency
        self._first_token = first_token
        self._rate = a_minute / 60
        self._outage = outage
        self._tokens, self._filled_at = self._rate, 0.0

    def ask(self, now: float, rng: random.Random) -> Reply:
        if self._outage and self._outage.start <= now < self._outage.end:
            reply = self._outage.reply
            if reply.seconds > self._first_token:
                return Reply(self._first_token + self._latency(rng))
            return reply
        if math.isfinite(self._rate):
            full = max(self._rate, 1.0)
            self._tokens = min(full, self._tokens + (now - self._filled_at) * self._rate)
            self._filled_at = now
            if self._tokens < 1:
                return Reply(0.1, "model_rate_limited")
            self._tokens -= 1
        return Reply(self._latency(rng))


@dataclass
class Turn:
    session: str
    arrived: float
    started: float | None = None
    """The time at which a worker first began the turn."""
    finished: float | None = None
    code: str | None = None
    """The code of its failure."""
    tries: int = 0
    """The number of counted attempts."""
    refusals: int = 0
    last_refusal: str | None = None
    place_at: float | None = None

    @property
    def wait(self) -> float:
        """The seconds until a worker first began the turn, or until it ended without a worker."""
        end = self.finished if self.started is None else self.started
        assert end is not None
        return end - self.arrived


class Message(NamedTuple):
    number: int
    turn: Turn


@dataclass
class _Group:
    waiting: deque[Message] = field(default_factory=deque)
    in_flight: int = 0
    returned: list[Message] = field(default_factory=list)


class Queue:
    """SQS FIFO: while a message of a group is in flight, no other message of the group is delivered. A receive takes as
    many messages of a group as it can before the next group. The group with the oldest first message comes first."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}
        self._available: list[tuple[int, str]] = []
        self._sent = 0

    def __bool__(self) -> bool:
        """Whether a receive would get a message."""
        return bool(self._available)

    def send(self, turn: Turn) -> None:
        group = self._groups.setdefault(turn.session, _Group())
        group.waiting.append(Message(self._sent, turn))
        self._sent += 1
        if not group.in_flight and len(group.waiting) == 1:
            self._offer(turn.session, group)

    def receive(self, most: int) -> list[Message]:
        taken: list[Message] = []
        while self._available and len(taken) < most:
            group = self._groups[heapq.heappop(self._available)[1]]
            while group.waiting and len(taken) < most:
                taken.append(group.waiting.popleft())
                group.in_flight += 1
        return taken

    def delete(self, message: Message) -> None:
        self._landed(message)

    def show(self, message: Message) -> None:
        """The visibility timeout of a message has ended."""
        self._groups[message.turn.session].returned.append(message)
        self._landed(message)

    def _landed(self, message: Message) -> None:
        session = message.turn.session
        group = self._groups[session]
        group.in_flight -= 1
        if group.in_flight:
            return
        group.waiting.extendleft(sorted(group.returned, reverse=True, key=lambda message: message.number))
        group.returned.clear()
        if group.waiting:
            self._offer(session, group)
        else:
            del self._groups[session]

    def _offer(self, session: str, group: _Group) -> None:
        heapq.heappush(self._available, (group.waiting[0].number, session))


class Invocation(NamedTuple):
    turns: int
    start: float
    end: float


@dataclass
class _Worker:
    """A running invocation."""

    ends_at: float
    stops_at: float
    """The time from which it takes no more turns."""
    ended: simpy.Event
    """Fires when the worker has ended a message; a new event then replaces it."""
    held: int = 0
    turns: int = 0
    cpu_free_at: float = 0.0


class _Poll(NamedTuple):
    """A waiting poll of a worker."""

    most: int
    answered: simpy.Event


class _Places(RateLimiter):
    """The product's rate limiter over a table in memory. It has one key."""

    def __init__(self) -> None:
        self._due: float | None = None

    def _move(self, key: str, update: str, condition: str, values: Mapping[str, float]) -> tuple[bool, float]:
        if update == "tat = :now + :interval":
            if self._due is not None and self._due > values[":now"]:
                return False, self._due
            self._due = values[":now"] + values[":interval"]
            return True, self._due
        assert update == "tat = tat + :interval" and condition == "tat <= :latest" and self._due is not None
        if self._due > values[":latest"]:
            return False, self._due
        self._due += values[":interval"]
        return True, self._due


@dataclass
class Run:
    """The results of a run. At its end all turns are final."""

    turns: list[Turn] = field(default_factory=list)
    invocations: list[Invocation] = field(default_factory=list)
    waiting: Steps = field(default_factory=lambda: [(0.0, 0)])
    """Unfinished turns outside a worker: in the queue or in back-off."""
    present: Steps = field(default_factory=lambda: [(0.0, 0)])
    """Unfinished turns."""
    workers: Steps = field(default_factory=lambda: [(0.0, 0)])
    """Running invocations."""
    calls: list[float] = field(default_factory=list)
    """The times of model calls."""
    refused: int = 0
    """Calls that the model refused."""
    deferred: int = 0
    """Deliveries that went back without a call, because the gate was open or the learned pace had no free time."""
    paced: int = 0
    """Deliveries that went back, because the turn's time in the known rate was too far ahead."""
    receives: int = 0
    """Calls of ReceiveMessage: those of the event source that brought messages, and all of the workers."""

    def failed(self, code: str | None = None) -> int:
        return sum(turn.code is not None and code in (None, turn.code) for turn in self.turns)


class Simulation:
    """One run of the arrivals, (moment, session) in order of time, until all turns are finished."""

    def __init__(self, workers: Workers, model: Model, seed: int, *, known_rate: int = 0) -> None:
        """`known_rate`: calls a minute, as ModelRequestsPerMinute; 0 if unknown."""
        self._pace = Pace(_Places(), "model", known_rate) if known_rate else None
        self._workers = workers
        self._model = model
        self._rng = random.Random(seed)
        self._env = simpy.Environment()
        self._queue = Queue()
        self._pollers = min(workers.first_pollers, workers.concurrency)
        self._polls: list[_Poll] = []
        self._busy = 0
        self._warm = 0
        self._arriving = True
        self._run = Run()
        self._gates = dict.fromkeys(REFUSALS, Gate())
        self._answered_since = -math.inf
        self._next_place = 0.0

    def run(self, arrivals: Iterable[tuple[float, str]]) -> Run:
        self._env.process(self._submit(arrivals))
        if self._workers.more_pollers_a_second:
            self._env.process(self._grow())
        self._env.run()
        assert not self._busy and self._run.present[-1][1] == 0
        return self._run

    def _submit(self, arrivals: Iterable[tuple[float, str]]) -> Process:
        for moment, session in arrivals:
            yield self._env.timeout(moment - self._env.now)
            turn = Turn(session, self._env.now)
            self._run.turns.append(turn)
            self._step(self._run.present, 1)
            self._step(self._run.waiting, 1)
            self._queue.send(turn)
            self._hand_out()
        self._arriving = False

    def _grow(self) -> Process:
        """Adds one poller at a time, while all are busy and messages wait. Removes none, because AWS does not document
        when."""
        while self._pollers < self._workers.concurrency and (self._arriving or self._run.present[-1][1]):
            yield self._env.timeout(1 / self._workers.more_pollers_a_second)
            if self._queue and self._busy >= self._pollers:
                self._pollers += 1
                self._hand_out()

    def _hand_out(self) -> None:
        """Give messages to waiting polls while both exist."""
        while self._queue and (idle := max(self._pollers - self._busy, 0)) + len(self._polls):
            if (poll := self._winner(idle)) is not None:
                messages = self._queue.receive(poll.most)
                self._step(self._run.waiting, -len(messages))
                poll.answered.succeed(messages)
                continue
            batch = self._queue.receive(self._workers.batch_size)
            self._busy += 1
            self._run.receives += 1
            self._step(self._run.workers, 1)
            self._step(self._run.waiting, -len(batch))
            self._env.process(self._invoke(batch))

    def _winner(self, idle: int) -> _Poll | None:
        """The worker's poll that gets the next messages; None if a poll of the event source gets them. `idle`: the
        number of its idle pollers."""
        refill = self._workers.refill
        if refill is None or not self._polls:
            return None
        if idle and refill.winner == "event source":
            return None
        chosen = self._rng.randrange(len(self._polls) + (idle if refill.winner == "any" else 0))
        return self._polls.pop(chosen) if chosen < len(self._polls) else None

    def _invoke(self, batch: Sequence[Message]) -> Process:
        received, workers = self._env.now, self._workers
        if self._warm:
            self._warm -= 1
        else:
            yield self._env.timeout(workers.cold_start)
        ends_at = self._env.now + workers.timeout
        takes = 0.0
        if refill := workers.refill:
            takes = workers.timeout - RESERVE - workers.longest_answer - refill.read_seconds
            takes *= 1 - refill.jitter * self._rng.random()
        worker = _Worker(ends_at, self._env.now + takes, self._env.event())
        self._begin(worker, batch)
        while worker.held:
            if refill is None or self._env.now >= worker.stops_at or worker.held >= refill.slots:
                yield worker.ended
                continue
            pause_ends = self._env.now + refill.pause
            while worker.held and (pause := pause_ends - self._env.now) > 0:
                yield worker.ended | self._env.timeout(pause)
            if worker.held:
                most = min(refill.slots - worker.held, workers.batch_size)
                self._begin(worker, (yield from self._receive(most, refill.poll_seconds)))
        self._run.invocations.append(Invocation(worker.turns, received, self._env.now))
        self._warm += 1
        self._busy -= 1
        self._step(self._run.workers, -1)
        self._hand_out()

    def _receive(self, most: int, seconds: float) -> Generator[simpy.Event, Any, Sequence[Message]]:
        """A long poll of a worker. The worker awaits it, even if all its turns have ended."""
        poll = _Poll(most, self._env.event())
        self._run.receives += 1
        self._polls.append(poll)
        self._hand_out()
        if not poll.answered.triggered:
            yield poll.answered | self._env.timeout(seconds)
        if poll.answered.triggered:
            return cast("Sequence[Message]", poll.answered.value)
        self._polls.remove(poll)
        return ()

    def _begin(self, worker: _Worker, messages: Sequence[Message]) -> None:
        worker.held += len(messages)
        worker.turns += len(messages)
        sessions: dict[str, list[Message]] = {}
        for message in messages:
            sessions.setdefault(message.turn.session, []).append(message)
        for some in sessions.values():
            self._env.process(self._session(worker, some))

    def _session(self, worker: _Worker, messages: Sequence[Message]) -> Process:
        """The turns of a session in order, up to the first that must come back."""
        for index, message in enumerate(messages):
            seconds = yield from self._turn(worker, message.turn)
            if seconds is not None:
                for unfinished in messages[index:]:
                    self._step(self._run.waiting, 1)
                    self._env.process(self._hide(unfinished, math.ceil(seconds)))
                self._ended(worker, len(messages) - index)
                return
            self._queue.delete(message)
            self._hand_out()
            self._ended(worker, 1)

    def _ended(self, worker: _Worker, messages: int) -> None:
        worker.held -= messages
        ended, worker.ended = worker.ended, self._env.event()
        ended.succeed()

    def _compute(self, worker: _Worker, seconds: float) -> simpy.Event:
        """The CPU of a worker serves its turns one after the other. With pieces of about 30 ms this is close to a real
        scheduler."""
        worker.cpu_free_at = max(worker.cpu_free_at, self._env.now) + seconds
        return self._env.timeout(worker.cpu_free_at - self._env.now)

    def _hide(self, message: Message, seconds: int) -> Process:
        yield self._env.timeout(seconds)
        self._queue.show(message)
        self._hand_out()

    def _turn(self, worker: _Worker, turn: Turn) -> Generator[simpy.Event, Any, float | None]:
        """One attempt. Returns the seconds after which the message must come back, None if the turn is final."""
        if worker.ends_at - self._env.now < RESERVE + self._workers.longest_answer:
            return 0.0
        deadline = turn.arrived + DEADLINE
        if self._env.now >= deadline:
            self._finish(turn, turn.last_refusal or "deadline_exceeded")
            return None
        if (wait := self._closed()) is not None:
            self._run.deferred += 1
            return wait
        if interval := self._gates["model_rate_limited"].pace(self._env.now):
            place = max(self._next_place, self._env.now)
            if place > self._env.now + LINE_SECONDS:
                self._run.deferred += 1
                return no_place(self._rng.random)
            self._next_place = place + interval
            yield self._env.timeout(place - self._env.now)
        turn.started = self._env.now if turn.started is None else turn.started
        yield self._compute(worker, self._workers.cpu_before)
        yield self._env.timeout(self._workers.before)
        if self._pace:
            own = self._pace.place(cast("product.Turn", turn), self._env.now, self._rng.random)
            seconds = max(own.at - self._env.now, 0.0)
            if seconds > SHORT_PAUSE:
                turn.place_at = own.at if own.is_taken else None
                self._run.paced += 1
                return seconds - EARLY
            yield self._env.timeout(seconds)
        turn.tries += 1
        turn.place_at = None
        asked_at, probes = self._env.now, self._probes()
        self._run.calls.append(asked_at)
        reply = self._model.ask(asked_at, self._rng)
        budget = max(min(worker.ends_at - RESERVE, asked_at + self._workers.longest_answer, deadline) - asked_at, 0)
        seconds = min(reply.seconds, budget)
        is_refused = reply.code in REFUSALS and reply.seconds <= budget
        if not is_refused:  # the headers of an answer, or a probe that is not refused in time
            first = min(0.0 if reply.code is None else PROBE_SECONDS, seconds)
            yield self._env.timeout(first)
            seconds -= first
            self._let_in(asked_at, probes)
        yield self._env.timeout(seconds)
        yield self._compute(worker, self._workers.cpu_after)
        yield self._env.timeout(self._workers.after)
        now = self._env.now
        if is_refused:
            assert reply.code is not None
            self._refused(reply, asked_at, probes)
            turn.tries -= 1
            turn.refusals, turn.last_refusal = turn.refusals + 1, reply.code
            delay = refusal_backoff(turn.refusals, reply.retry_after or 0, self._rng.random)
            if now + delay < deadline:
                return delay
            self._finish(turn, reply.code)
            return None
        code = "model_timeout" if reply.seconds > budget else reply.code
        if code is None and now < deadline:
            self._finish(turn, None)
            return None
        delay = backoff(turn.tries, reply.retry_after or 0, self._rng.random)
        if now >= deadline:
            code = turn.last_refusal or "deadline_exceeded"
        elif turn.tries < ATTEMPTS and now + delay < deadline:
            return delay
        self._finish(turn, code)
        return None

    # ---- the gates, which every worker knows at once

    def _closed(self) -> float | None:
        """The seconds after which a turn comes back that may not call the model; None if it may."""
        now = self._env.now
        waits = [gate.delay(now, self._rng.random) for gate in self._gates.values() if gate.phase(now) is Phase.OPEN]
        return max(waits, default=None)

    def _probes(self) -> dict[str, float]:
        """The probes of this call, for each gate whose period is over."""
        now, probes = self._env.now, dict[str, float]()
        for code, gate in self._gates.items():
            if gate.phase(now) is Phase.HALF_OPEN:
                self._gates[code] = gate.probed(now)
                probes[code] = self._gates[code].open_until
        return probes

    def _let_in(self, asked_at: float, probes: dict[str, float]) -> None:
        now = self._env.now
        self._answered_since = max(self._answered_since, asked_at)
        for code, gate in self._gates.items():
            settled = gate.settled(probes[code], now, let_in=True) if code in probes else gate.answered(now)
            self._gates[code] = settled

    def _refused(self, reply: Reply, asked_at: float, probes: dict[str, float]) -> None:
        self._run.refused += 1
        assert reply.code is not None
        code, now, at_least = reply.code, self._env.now, reply.retry_after or 0.0
        gate = self._gates[code]
        if code in probes:
            self._gates[code] = gate.settled(probes[code], now, let_in=False, at_least=at_least)
        else:
            if code == "model_rate_limited":
                gate = gate.slowed(asked_at, now)
            is_counted = self._answered_since <= asked_at
            self._gates[code] = gate.refused(now, *REFUSALS[code], at_least) if is_counted else gate
        if code == "model_rate_limited" and "model_unavailable" in probes:
            server = self._gates["model_unavailable"]
            self._gates["model_unavailable"] = server.settled(probes["model_unavailable"], now, let_in=True)

    def _finish(self, turn: Turn, code: str | None) -> None:
        turn.finished, turn.code = self._env.now, code
        self._step(self._run.present, -1)

    def _step(self, steps: Steps, by: int) -> None:
        """Change a count now."""
        steps.append((self._env.now, steps[-1][1] + by))


def area(steps: Steps) -> float:
    """The integral of a count over its run."""
    return math.fsum(value * (after - before) for (before, value), (after, _) in itertools.pairwise(steps))


def poisson(rate: Callable[[float], float], highest: float, seconds: float, seed: int) -> Iterable[tuple[float, str]]:
    """Arrivals at the rate `rate(time)` a second, at most `highest`. Each has a separate session, because most users
    wait for an answer before they write again."""
    rng, now, number = random.Random(seed), 0.0, 0
    while (now := now + rng.expovariate(highest)) < seconds:
        if rng.random() * highest < rate(now):
            number += 1
            yield now, str(number)
