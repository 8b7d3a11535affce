"""Fixtures: the account, the fleet of processes, the model, and watchers of a turn during a race."""

import os
import random
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import pytest

from local import model_server
from local.processes import Processes
from tests import summary
from tests.races import moves
from tests.races.accounts import Item, Races, endpoint
from tests.races.fleet import Call, Fleet
from tests.stand_in import StandIn
from turnqueue.turn import FINAL, Key, Turn, new_ulid, session_key

FLEET = 50
_WORKERS = 3  # the first processes of the fleet also import the worker

_SECONDS_BETWEEN_LOOKS = 0.004  # it shares two processors with the racers

_seed = int(os.environ["RACES_SEED"])  # tests/conftest.py draws one


class Arena:
    """An account, and a fleet of processes that use it. Owners and turns are new for each round."""

    def __init__(self, races: Races, fleet: Fleet, model: StandIn, name: str, chance: random.Random) -> None:
        self.races, self.fleet, self.model, self.chance = races, fleet, model, chance
        self.outcomes = summary.of(f"race {name} (RACES_SEED={_seed})")
        self._seconds_of_a_call = self._pace()

    def race(self, calls: Sequence[Call]) -> list[Any]:
        return self.fleet.race(calls)

    def moment(self, calls: float) -> float:
        """A random start within the time that `calls` AWS calls take on this machine, so that the racers overlap on
        fast and slow machines."""
        return self.chance.uniform(0, calls * self._seconds_of_a_call)

    def _pace(self) -> float:
        turn, times = self.submitted(), []
        for _ in range(7):
            began = time.monotonic()
            self.fleet.do(moves.store, "read", turn.key, time.time())
            times.append(time.monotonic() - began)
        return statistics.median(times)

    def owner(self) -> str:
        return f"owner-{self.chance.getrandbits(64):016x}"

    def submitted(self, *, message: str = "hello", age: float = 0.0) -> Turn:
        """A turn as submit records it, `age` seconds ago."""
        now = time.time() - age
        key = Key(session_key(self.owner(), "session"), new_ulid(now))
        turn = Turn.submitted(key, {"message": message, "role": "assistant"}, now)
        assert self.fleet.do(moves.store, "create", turn).done
        return turn

    def claimed(self, *, age: float = 0.0, lease: float = 100.0) -> Turn:
        """A turn that a worker claimed right after its submission, with a lease of this many seconds from now."""
        turn = self.submitted(age=age)
        taken: moves.Written = self.fleet.do(
            moves.store, "claim", turn.key, turn.created_at + 0.001, time.time() + lease
        )
        assert taken.done and taken.turn
        return taken.turn

    def item(self, key: Key) -> Item:
        item = self.races.item(*key)
        assert item is not None
        return item

    def watch(self, key: Key) -> "Watch":
        return Watch(self.races, key)


class Watch:
    """Reads a turn repeatedly during a race, and notices if a final state changes."""

    def __init__(self, races: Races, key: Key) -> None:
        self._races, self._key = races, key
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.seen: list[Item] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look_once()
        if error is None:
            self._check()

    def _look(self) -> None:
        while not self._stop.wait(_SECONDS_BETWEEN_LOOKS):
            self._look_once()

    def _look_once(self) -> None:
        item = self._races.item(*self._key)
        if item is not None and (not self.seen or self.seen[-1] != item):
            self.seen.append(item)

    def _check(self) -> None:
        finals = [index for index, item in enumerate(self.seen) if status(item) in FINAL]
        assert finals in ([], [len(self.seen) - 1]), f"what was final has changed: {self.seen}"
        attempts = [int(item["attempt"]["N"]) for item in self.seen]
        assert attempts == sorted(attempts), f"the attempts went backwards: {self.seen}"


def status(item: Item) -> str:
    text: str = item["status"]["S"]
    return text


def code(item: Item) -> str:
    text: str = item.get("error_code", {}).get("S", "")
    return text


def ended(item: Item) -> str:
    """The outcome of a turn, in one word."""
    assert status(item) in FINAL, item
    return code(item) or status(item)


@pytest.fixture(scope="session")
def model_url() -> Iterator[str]:
    with model_server.serve() as url:
        yield url


@pytest.fixture(scope="session")
def backend(model_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Races, Fleet]]:
    folder = tmp_path_factory.mktemp("ministack")
    with Processes() as processes, endpoint(processes, folder) as url:
        races = Races(url, model_url)
        with Fleet(processes, races.environment, FLEET, folder / "fleet.log") as fleet:
            fleet.race([Call(moves.warm, ("worker",))] * _WORKERS)
            yield races, fleet


@pytest.fixture
def arena(backend: tuple[Races, Fleet], model_url: str, request: pytest.FixtureRequest) -> Iterator[Arena]:
    races, fleet = backend
    name = request.node.name
    yield Arena(races, fleet, StandIn(model_url), name.removeprefix("test_"), random.Random(f"{_seed} {name}"))
    races.drain()
