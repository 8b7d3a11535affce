"""The stub of the benchmarks answers the functions like AWS and a model, and counts the calls."""

from collections.abc import Iterator

import httpx
import pytest

from benchmarks import sides
from benchmarks.stub import Stub
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


KEY = Key("alice#s", "01KANEC0X00000000000000000")


def test_a_turn_is_claimed_read_and_finished_and_the_calls_are_counted(stub: Stub, store: TurnStore) -> None:
    stub.set(sides.turn_item())
    now = float(sides.turn_item()["created_at"]["N"])

    claimed = store.claim(KEY, now, now + 60)
    assert (claimed.key, claimed.status, claimed.attempt) == (KEY, Status.STARTED, 1)

    stub.set(sides.turn_item(attempt=1))
    read = store.read(KEY, now)
    assert read is not None
    assert (read.key, read.status, read.attempt) == (KEY, Status.STARTED, 1)

    assert store.succeed(claimed, {"message": "yes"}, {}, now + 1).result == {"message": "yes"}
    assert stub.calls() == {"UpdateItem": 2, "GetItem": 1}


@pytest.mark.parametrize(("stream", "chunks"), [(False, 0), (True, 20 + 3)])
def test_the_model_answers_at_once_and_its_calls_are_counted(stub: Stub, stream: bool, chunks: int) -> None:
    request = {"model": "m", "messages": [], "stream": stream}

    answer = httpx.post(f"{stub.url}/v1/chat/completions", json=request, trust_env=False)

    assert answer.text.count("word") == 20
    assert answer.text.count("data: ") == chunks
    assert stub.calls() == {"ChatCompletion": 1}
