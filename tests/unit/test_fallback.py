"""A second model while the first is down: an outage of the first delays, and fails nothing."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from circuit import FAILURES, OPEN_SECONDS
from tests.unit.conftest import Account, Clock, Printed, Scripted, StandIn, Wire, refusing


@pytest.fixture
def first(scripted: Scripted, fallback: StandIn) -> Scripted:
    """The first model. It answers "first", until a test gives it another status than 200."""
    scripted.says("first")
    return scripted


def answer(account: Account, clock: Clock, task_id: str) -> dict[str, Any]:
    """The task, when it is final."""
    while (task := account.task(task_id))["status"] in ("PENDING", "STARTED"):
        account.work()
        clock.forward(5)
    return task


def outage(account: Account, clock: Clock, first: Scripted) -> None:
    """The first model fails, until the circuit is open."""
    first.status = 503
    tasks = [account.queued(f"in vain {number}", session_id=f"vain-{number}") for number in range(FAILURES)]
    account.work()
    assert len(first.asked) == FAILURES
    for task_id in tasks:
        answer(account, clock, task_id)
    assert len(first.asked) == FAILURES
    first.asked.clear()


def test_while_the_first_is_well_the_fallback_is_not_asked(
    account: Account, clock: Clock, first: Scripted, fallback: StandIn
) -> None:
    for _ in range(5):
        assert answer(account, clock, account.queued())["usage"]["model"] == "gpt-stand-in"

    assert fallback.messages() == []


def test_a_lonely_turn_is_answered_by_its_last_attempt(
    account: Account, clock: Clock, first: Scripted, printed: Printed
) -> None:
    """Before the circuit opens: it has only three."""
    first.status = 503

    task = answer(account, clock, account.queued("hello"))

    assert task["result"]["message"] == '[stand-in model] You said "hello".'
    assert (task["usage"]["model"], task["usage"]["attempts"], len(first.asked)) == ("gpt-fallback", 3, 2)
    assert printed.metrics()["FallbackUsed"] == [1]


def test_when_the_circuit_is_open_the_fallback_answers_at_once(
    account: Account, clock: Clock, first: Scripted, fallback: StandIn, printed: Printed
) -> None:
    outage(account, clock, first)

    task = answer(account, clock, account.queued("hello"))

    assert (task["status"], task["attempt"], task["usage"]["model"]) == ("SUCCESS", 1, "gpt-fallback")
    assert first.asked == []
    assert printed.metrics()["CircuitOpened"] == [1]


def test_no_turn_of_an_outage_fails(account: Account, clock: Clock, first: Scripted) -> None:
    first.status = 503
    tasks = [account.queued(f"hello {n}", session_id=f"s-{n % 7}") for n in range(21)]

    assert {answer(account, clock, task_id)["usage"]["model"] for task_id in tasks} == {"gpt-fallback"}


def test_when_the_first_is_back_a_probe_finds_it(account: Account, clock: Clock, first: Scripted) -> None:
    outage(account, clock, first)
    clock.forward(OPEN_SECONDS + 1)
    first.status = 200

    models = [answer(account, clock, account.queued())["usage"]["model"] for _ in range(3)]

    assert models == ["gpt-stand-in"] * 3


def test_a_turn_that_may_go_to_the_fallback_does_not_wait_as_long_as_the_first_asks(
    account: Account, clock: Clock, first: Scripted, wire: Wire
) -> None:
    first.status, first.headers = 429, {"retry-after": "200"}
    tasks = [account.queued(f"hello {n}", session_id=f"s-{n}") for n in range(FAILURES)]
    account.work()
    clock.forward(4)

    account.work()

    assert "SUCCESS" in {account.task(task_id)["status"] for task_id in tasks}


def test_the_fallback_is_asked_by_its_own_name_and_key_whatever_the_persona_names(
    account: Account,
    clock: Clock,
    first: Scripted,
    fallback: StandIn,
    worker: ModuleType,
    wire: Wire,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = worker.persona("general")
    monkeypatch.setattr(worker, "persona", lambda role: replace(told, model="gpt-of-the-first"))
    outage(account, clock, first)

    assert answer(account, clock, account.queued())["usage"]["model"] == "gpt-fallback"

    # Each at least once: turns side by side may meet an empty cache.
    assert {call["SecretId"] for call in wire.made("GetSecretValue")} == {"model-key", "fallback-key"}


def test_a_turn_whose_time_is_up_tells_nothing_of_the_model(account: Account, clock: Clock, fallback: StandIn) -> None:
    """It had a second, for it had waited in the queue: the first model is not down for that."""
    late = [account.queued("[[hang=30]]", session_id=f"late-{number}") for number in range(FAILURES)]
    clock.forward(15 * 60 - 1)
    account.work()
    assert {account.outcome(task_id) for task_id in late} == {("FAILURE", "deadline_exceeded")}

    assert answer(account, clock, account.queued())["usage"]["model"] == "gpt-stand-in"


@pytest.mark.parametrize("operation", ["GetItem", "UpdateItem"])
def test_a_circuit_that_cannot_be_kept_fails_no_turn(
    account: Account, clock: Clock, first: Scripted, wire: Wire, operation: str
) -> None:
    first.status = 503
    task_id = account.queued("hello")

    def refuse_guards(params: dict[str, Any]) -> None:
        wire.before(operation, refuse_guards)
        if params["TableName"] == "GuardsTable":
            refusing()(params)

    wire.before(operation, refuse_guards)

    assert answer(account, clock, task_id)["usage"]["model"] == "gpt-fallback"


def test_without_a_fallback_there_is_no_circuit(account: Account, clock: Clock, scripted: Scripted, wire: Wire) -> None:
    scripted.status = 503
    task_id = account.queued()

    assert answer(account, clock, task_id)["error_code"] == "model_unavailable"
    assert not [call for call in wire.made("GetItem", "UpdateItem") if call["TableName"] == "GuardsTable"]


def test_what_the_parameters_leave_out_is_as_the_first(
    account: Account, worker: ModuleType, monkeypatch: pytest.MonkeyPatch, wire: Wire
) -> None:
    monkeypatch.setenv("FALLBACK_MODEL_NAME", "gpt-smaller")
    model = worker.runner.run(worker.connect_fallback())

    assert str(model._client.base_url) == str(worker.model._client.base_url)
    assert worker.runner.run(model._key()) == "sk-test"
    worker.runner.run(model._client.close())
