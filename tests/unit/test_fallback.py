"""A second model answers while the first is down: an outage of the first fails no task."""

from collections.abc import Callable
from typing import Any

import pytest

from attempt import REFUSALS_BEFORE_FALLBACK
from persona import persona
from tests.unit.conftest import Account, Clock, Parts, Printed, Scripted, StandIn, Wire, refusing
from tests.unit.test_circuit_breaker import outage
from turnqueue.circuit_breaker import OUTAGE_REFUSALS, SHORTEST_PERIOD_SECONDS

type Answer = Callable[..., Any]


@pytest.fixture
def first(scripted: Scripted, fallback: StandIn) -> Scripted:
    """The first model. It answers "first", until a test gives it another status than 200."""
    scripted.says("first")
    return scripted


@pytest.fixture
def answer(account: Account, clock: Clock) -> Answer:
    """The task of this id, or of a new message, when it is final."""

    def answer(task_id: str = "") -> Any:
        task_id = task_id or account.queued("hello")
        while (task := account.task(task_id))["status"] in ("PENDING", "STARTED"):
            account.work()
            clock.forward(1)
        return task

    return answer


def test_while_the_first_is_well_the_fallback_is_not_asked(first: Scripted, fallback: StandIn, answer: Answer) -> None:
    for _ in range(5):
        assert answer()["usage"]["model"] == "gpt-stand-in"

    assert fallback.messages() == []


def test_a_lonely_turn_goes_to_the_fallback_after_two_refusals(
    first: Scripted, printed: Printed, answer: Answer
) -> None:
    first.status = 503

    task = answer()

    assert task["result"]["message"] == '[stand-in model] You said "hello".'
    assert (task["usage"]["model"], len(first.asked)) == ("gpt-fallback", REFUSALS_BEFORE_FALLBACK)
    assert printed.metrics()["FallbackUsed"] == [1]


def test_past_an_open_breaker_the_fallback_answers_at_once(
    account: Account, first: Scripted, printed: Printed, answer: Answer
) -> None:
    outage(account, first)

    task = answer()

    assert (task["status"], task["attempt"], task["usage"]["model"]) == ("SUCCESS", 1, "gpt-fallback")
    assert first.asked == []
    assert printed.metrics()["BreakerOpened"] == [1]


def test_a_probe_finds_that_the_first_is_back(account: Account, clock: Clock, first: Scripted, answer: Answer) -> None:
    refused = outage(account, first)
    first.status = 200
    for task_id in refused:  # else one of them may be the probe
        answer(task_id)
    clock.forward(SHORTEST_PERIOD_SECONDS + 1)

    models = [answer()["usage"]["model"] for _ in range(3)]

    assert models == ["gpt-stand-in"] * 3


def test_a_turn_waits_for_the_fallback_no_longer_than_it_must(account: Account, clock: Clock, first: Scripted) -> None:
    first.status, first.headers = 503, {"retry-after": "50"}
    tasks = [account.queued() for _ in range(OUTAGE_REFUSALS)]
    account.work()
    clock.forward(4)

    account.work()

    assert "SUCCESS" in {account.task(task_id)["status"] for task_id in tasks}


def test_without_a_fallback_a_silent_model_has_all_the_time_of_an_answer(account: Account, worker: Parts) -> None:
    worker.have(first_token_seconds=0.2)
    task_id = account.queued("[[latency=0.6]]")

    account.work()

    assert account.outcome(task_id) == ("SUCCESS", None)


def test_the_fallback_is_asked_by_its_own_name_and_key_whatever_the_persona_names(
    account: Account, first: Scripted, wire: Wire, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    told = persona("general")
    monkeypatch.setattr("attempt.persona", lambda role: told._replace(model="gpt-of-the-first"))
    outage(account, first)

    assert answer()["usage"]["model"] == "gpt-fallback"

    # Each at least once: turns side by side may meet an empty cache.
    assert {call["SecretId"] for call in wire.made("GetSecretValue")} == {"model-key", "fallback-key"}


def test_a_turn_whose_time_is_up_tells_nothing_of_the_model(
    account: Account, clock: Clock, fallback: StandIn, answer: Answer
) -> None:
    """It had a second, because it had waited in the queue: that does not mean that the first model is down."""
    late = [account.queued("[[hang=30]]", session_id=f"late-{number}") for number in range(OUTAGE_REFUSALS)]
    clock.forward(15 * 60 - 1)
    account.work()
    assert {account.outcome(task_id) for task_id in late} == {("FAILURE", "deadline_exceeded")}

    assert answer()["usage"]["model"] == "gpt-stand-in"


@pytest.mark.parametrize("operation", ["GetItem", "UpdateItem"])
def test_a_breaker_that_cannot_be_kept_fails_no_turn(
    first: Scripted, wire: Wire, operation: str, answer: Answer
) -> None:
    first.status = 503

    def refuse_guards(params: dict[str, Any]) -> None:
        wire.before(operation, refuse_guards)
        if params["TableName"] == "GuardsTable":
            refusing()(params)

    wire.before(operation, refuse_guards)

    assert answer()["usage"]["model"] == "gpt-fallback"


def test_what_the_parameters_leave_out_is_as_the_first(account: Account, worker: Parts) -> None:
    worker.rebuild(FALLBACK_MODEL_NAME="gpt-smaller")

    first, fallback = worker.services.servers

    assert str(fallback.model._client.base_url) == str(first.model._client.base_url)
    assert worker.run(fallback.model._key()) == "sk-test"
