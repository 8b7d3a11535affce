"""Virtual time, and actors that run one at a time.

An actor is a thread that runs only while it holds the baton, and passes it when it waits. No actor waits in real time:
when all wait, the clock jumps to the next moment at which an actor can run. So only the seed determines a run, and a
quarter of an hour takes a millisecond.
"""

import heapq
import itertools
import math
import os
import threading
from collections.abc import Callable
from typing import Any

EPOCH = 1_795_338_000.0
"""What the calendar says when a simulation begins."""

MOST_STEPS = 200_000
"""A run with more hand-overs of the baton than this goes round in circles."""


class Killed(BaseException):
    """Ends an actor whose process has died. Not an Exception: nothing in the product may catch it."""


class Stuck(Exception):
    """The simulation goes on without end."""


class Group:
    """Actors that live, stand still and die together: a process."""

    def __init__(self, name: str, skew: float = 0.0) -> None:
        self.name = name
        self.skew = skew
        self.dead = False
        self.frozen = False  # between two invocations
        self.loops: list[Any] = []  # its event loops, to be closed in the end
        self.memory: dict[Any, Any] = {}  # the state of the modules that it shares with other processes


class Actor:
    def __init__(self, name: str, group: Group | None, body: Callable[[], object]) -> None:
        self.name = name
        self.group = group
        self.body = body
        self.until = -math.inf
        self.condition: Callable[[], bool] | None = None
        self.killed = False
        self.baton = threading.Lock()

    def ready(self, now: float) -> bool:
        if self.killed:
            return True
        if self.group and self.group.frozen:
            return False
        return self.until <= now or (self.condition is not None and self.condition())

    @property
    def wakes_at(self) -> float:
        return math.inf if self.group and self.group.frozen and not self.killed else self.until


class _Here(threading.local):
    actor: Actor | None = None
    scheduler: "Scheduler | None" = None


_here = _Here()


def here() -> "tuple[Scheduler, Actor] | None":
    """The scheduler and the actor of the calling thread, if it is one."""
    return (_here.scheduler, _here.actor) if _here.scheduler and _here.actor else None


_idle: "list[_Thread]" = []


class _Thread:
    """A thread that runs one actor after the other, for threads are dear."""

    def __init__(self) -> None:
        self.work = threading.Lock()
        self.work.acquire()
        self.job: tuple[Scheduler, Actor] | None = None
        threading.Thread(target=self.run, daemon=True, name="actor").start()

    def run(self) -> None:
        while True:
            self.work.acquire()
            assert self.job
            scheduler, actor = self.job
            _here.scheduler, _here.actor = scheduler, actor
            actor.baton.acquire()
            try:
                if not actor.killed:
                    actor.body()
            except Killed:
                pass
            except BaseException as error:  # a mistake of the test's own, or a broken guarantee
                scheduler.fail(error)
            _here.scheduler = _here.actor = self.job = None
            _idle.append(self)
            scheduler.finish(actor)


os.register_at_fork(after_in_child=_idle.clear)


class Scheduler:
    def __init__(self) -> None:
        self.now = 0.0
        self.failure: BaseException | None = None
        self.steps = 0
        self._actors: list[Actor] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._main = threading.Lock()
        self._main.acquire()
        self._limit = 0.0
        self._stop: Callable[[], bool] | None = None
        self._closing = False

    # ---- for everybody

    def spawn(self, name: str, body: Callable[[], object], group: Group | None = None) -> Actor:
        """An actor that begins when the baton comes to it."""
        actor = Actor(name, group, body)
        actor.baton.acquire()
        self._actors.append(actor)
        thread = _idle.pop() if _idle else _Thread()
        thread.job = (self, actor)
        thread.work.release()
        return actor

    def call_at(self, at: float, callback: Callable[[], None]) -> None:
        """Call back at a time. The callback must not wait."""
        heapq.heappush(self._timers, (max(at, self.now), next(self._numbers), callback))

    def kill(self, group: Group) -> None:
        """End all actors of a process: none of them comes back from where it waits. If the caller is one of them, it must
        raise Killed itself."""
        group.dead = True
        for actor in self._actors:
            if actor.group is group:
                actor.killed = True

    def fail(self, error: BaseException) -> None:
        """End the run with an error: the first one counts."""
        self.failure = self.failure or error

    def idle(self) -> bool:
        """Whether no actor is left that time alone would move."""
        return all(actor.wakes_at == math.inf and not actor.ready(self.now) for actor in self._actors)

    # ---- for actors

    def wait(self, seconds: float = math.inf, condition: Callable[[], bool] | None = None) -> None:
        """Hand the baton on, until the time is over or the condition holds."""
        actor = _here.actor
        assert actor, "only an actor can wait"
        if actor.killed:
            raise Killed
        actor.until = self.now + seconds
        actor.condition = condition
        following = self._following()
        if following is not actor:
            self._hand_to(following)
            actor.baton.acquire()
        if actor.killed:
            raise Killed

    def finish(self, actor: Actor) -> None:
        self._actors.remove(actor)
        self._hand_to(self._following())

    # ---- for the one who runs the simulation

    def run(self, seconds: float = math.inf, stop: Callable[[], bool] | None = None) -> None:
        """Let time pass: so many seconds, or until `stop` holds or nothing moves any more."""
        self._limit = self.now + seconds
        self._stop = stop
        following = self._following()
        if following:
            self._hand_to(following)
            self._main.acquire()
        if self.failure:
            raise self.failure

    def close(self) -> None:
        """End every actor, as if all processes had died."""
        self._closing, self._stop, self._limit = True, None, math.inf
        self._timers.clear()
        for actor in self._actors:
            actor.killed = True
        following = self._following()
        if following:
            self._hand_to(following)
            self._main.acquire()

    # ---- inside

    def _hand_to(self, actor: Actor | None) -> None:
        (actor.baton if actor else self._main).release()

    def _following(self) -> Actor | None:
        """Whose turn it is; None: the one who runs the simulation."""
        while True:
            for actor in self._actors:
                if actor.killed:
                    return actor
            if self._closing or self.failure:
                return None
            self.steps += 1
            if self.steps > MOST_STEPS:
                self.failure = Stuck(f"no end after {self.steps} steps and {self.now:.0f} s")
                return None
            if self._stop and self._stop():
                return None
            if self._timers and self._timers[0][0] <= self.now:
                callback = heapq.heappop(self._timers)[2]
                try:
                    callback()
                except BaseException as error:
                    self.fail(error)
                continue
            ready = next((actor for actor in self._actors if actor.ready(self.now)), None)
            if ready:
                # Behind the others, so that all who are ready now take turns.
                self._actors.remove(ready)
                self._actors.append(ready)
                return ready
            at = min((actor.wakes_at for actor in self._actors), default=math.inf)
            if self._timers:
                at = min(at, self._timers[0][0])
            if at > self._limit or at == math.inf:
                if self._limit < math.inf:
                    self.now = self._limit
                return None
            self.now = at


def virtual_time() -> float | None:
    """The calendar of the calling actor, as its own clock shows it; None if the thread is no actor."""
    if (found := here()) is None:
        return None
    scheduler, actor = found
    return EPOCH + scheduler.now + (actor.group.skew if actor.group else 0.0)


def pass_time(seconds: float) -> bool:
    """Sleep in virtual time. Returns False if the calling thread is no actor."""
    if (found := here()) is None:
        return False
    found[0].wait(max(seconds, 0.0))
    return True
