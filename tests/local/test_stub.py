"""The stub of the benchmarks answers the functions like AWS and a model, and counts the calls."""

import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from benchmarks import sides
from benchmarks.stub import Settings, Stub
from local.processes import Processes
from tests.local.clients import own_clients
from turnqueue.store import TurnStore
from turnqueue.turn import Key, Status


@pytest.fixture
def stub(processes: Processes) -> Iterator[Stub]:
    with Stub(processes) as stub:
        yield stub


@pytest.fixture
def store(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> Iterator[TurnStore]:
    for name, value in stub.variables().items():
        monkeypatch.setenv(name, value)
    with own_clients():
        yield TurnStore("turns", attempts=1)


@pytest.fixture
def ask(stub: Stub) -> Iterator[Callable[[bool], httpx.Response]]:
    with httpx.Client(trust_env=False) as client:

        def ask(stream: bool) -> httpx.Response:
            request = {"model": "m", "messages": [], "stream": stream}
            return client.post(f"{stub.url}/v1/chat/completions", json=request)

        yield ask


KEY = Key("alice#s", "01KANEC0X00000000000000000")


def test_a_turn_is_claimed_read_and_finished_and_the_calls_are_counted(stub: Stub, store: TurnStore) -> None:
    stub.set(Settings(item=sides.turn_item()))
    now = float(sides.turn_item()["created_at"]["N"])

    claimed = store.claim(KEY, now, now + 60)
    assert (claimed.key, claimed.status, claimed.attempt) == (KEY, Status.STARTED, 1)

    stub.set(Settings(item=sides.turn_item(attempt=1)))
    read = store.read(KEY, now)
    assert read is not None
    assert (read.key, read.status, read.attempt) == (KEY, Status.STARTED, 1)

    assert store.succeed(claimed, {"message": "yes"}, {}, now + 1).result == {"message": "yes"}
    assert stub.calls() == {"UpdateItem": 2, "GetItem": 1}


def test_an_answer_is_known_to_be_written_when_dynamodb_has_got_it(
    stub: Stub, store: TurnStore, ask: Callable[[bool], httpx.Response]
) -> None:
    stub.set(Settings(item=sides.turn_item(attempt=1), words=8))
    first, second = ask(False).json()["choices"][0]["message"]["content"], ask(True).text
    assert (first, second.count("data: ")) == ("This is answer number 1 word word word", 4 + 3)

    turn = store.read(KEY, 0)
    assert turn is not None
    store.succeed(turn, {"message": first}, {}, 0)

    written, unwritten = stub.answers()
    assert written.written_at is not None
    assert written.written_at >= written.ended_at
    assert unwritten.written_at is None


def test_a_hundred_lognormal_latencies_have_the_mean_that_was_asked_for(
    stub: Stub, ask: Callable[[bool], httpx.Response]
) -> None:
    stub.set(Settings(latency=0.5, sigma=0.5))
    with ThreadPoolExecutor(25) as pool:
        took = [answer.elapsed.total_seconds() for answer in pool.map(ask, [False] * 100)]
    assert statistics.fmean(took) == pytest.approx(0.5, rel=0.2)  # and the time of a request
    assert min(took) < 0.25 < 1 < max(took)
