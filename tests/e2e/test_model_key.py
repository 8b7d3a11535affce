"""The model's key: a worker fetches it once, keeps it, and fetches it again when the model refuses it."""

import pytest

from local.stack import LocalStack
from tests.e2e import tour
from tests.e2e.conftest import Api
from tests.stand_in import StandIn


def fetches(stack: LocalStack) -> int:
    assert stack.recorder
    return sum(call.action == "secretsmanager:GetSecretValue" for call in stack.recorder.calls())


def refusals(stack: LocalStack) -> int:
    """How often the model has refused a key."""
    count: int = StandIn(stack.model_url).calls()["unauthorized"]
    return count


@pytest.fixture
def workers(alice: Api, stack: LocalStack) -> list[int]:
    """The workers there are, of which the last one used has a key: it is the next to be used."""
    alice.finished(alice.submit("fetch your key"))
    return stack.host.processes_of(stack.functions["WorkerFunction"].name)


def test_a_key_is_not_fetched_for_every_turn(alice: Api, stack: LocalStack, workers: list[int]) -> None:
    before = fetches(stack)

    for _ in range(3):
        assert alice.finished(alice.submit("hello"))["status"] == "SUCCESS"

    assert stack.host.processes_of(stack.functions["WorkerFunction"].name) == workers
    assert fetches(stack) == before


def test_a_key_rotated_in_mid_run_fails_no_turn(alice: Api, stack: LocalStack, workers: list[int]) -> None:
    fetched, refused = fetches(stack), refusals(stack)

    with tour.model_key(stack, "sk-rotated"):
        task = alice.finished(alice.submit("hello"))
        again = alice.finished(alice.submit("hello again"))

    assert [(each["status"], each["attempt"]) for each in (task, again)] == [("SUCCESS", 1)] * 2
    assert fetches(stack) - fetched == 1
    assert refusals(stack) - refused == 1


def test_a_wrong_key_is_fetched_anew_once_and_then_given_up(alice: Api, stack: LocalStack, workers: list[int]) -> None:
    fetched, refused = fetches(stack), refusals(stack)

    tour.only_key(stack, "sk-of-somebody-else")
    try:
        task = alice.finished(alice.submit("hello"))
    finally:
        tour.only_key(stack, None)

    assert (task["status"], task["error_code"], task["attempt"]) == ("FAILURE", "model_auth", 1)
    assert fetches(stack) - fetched == 1
    assert refusals(stack) - refused == 2
