"""A second model answers while the first is down: an outage of the first fails no task."""

from typing import Any

import pytest

from attempt import REFUSALS_BEFORE_FALLBACK
from persona import persona
from tests.unit.conftest import Account, Clock, Parts, Printed, Scripted, StandIn, Wire, refusing
from turnqueue.circuit_breaker import OUTAGE_REFUSALS, SHORTEST_PERIOD_SECONDS


@pytest.fixture
def first(scripted: Scripted, fallback: StandIn) -> Scripted:
    """The first model. It answers "first", until a test gives it another status than 200."""
    scripted.says("first")
    return scripted


def answer(account: Account, clock: Clock, task_id: str) -> Any:
    """The task, when it is final."""
    while (task := account.task(task_id))["status"] in ("PENDING", "STARTED"):
        account.work()
        clock.forward(1)
    return task


def outage(account: Account, first: Scripted) -> list[str]:
    """The first model refuses calls until its breaker is open. Returns the refused tasks."""
    first.status = 503
    refused = [account.queued(f"in vain {number}", session_id=f"vain-{number}") for number in range(OUTAGE_REFUSALS)]
    account.work()
    assert len(first.asked) == OUTAGE_REFUSALS
    first.asked.clear()
    return refused


def test_while_the_first_is_well_the_fallback_is_not_asked(
    account: Account, clock: Clock, first: Scripted, fallback: StandIn
) -> None:
    for _ in range(5):
        assert answer(account, clock, account.queued())["usage"]["model"] == "gpt-stand-in"

    assert fallback.messages() == []


def test_a_lonely_turn_is_answered_by_the_fallback_after_two_refusals(
    account: Account, clock: Clock, first: Scripted, printed: Printed
) -> None:
    first.status = 503

    task = answer(account, clock, account.queued("hello"))

    assert task["result"]["message"] == '[stand-in model] You said "hello".'
    assert (task["usage"]["model"], len(first.asked)) == ("gpt-fallback", REFUSALS_BEFORE_FALLBACK)
    assert printed.metrics()["FallbackUsed"] == [1]


def test_while_the_breaker_is_open_the_fallback_answers_at_once(
    account: Account, clock: Clock, first: Scripted, fallback: StandIn, printed: Printed
) -> None:
    outage(account, first)

    task = answer(account, clock, account.queued("hello"))

    assert (task["status"], task["attempt"], task["usage"]["model"]) == ("SUCCESS", 1, "gpt-fallback")
    assert first.asked == []
    assert printed.metrics()["BreakerOpened"] == [1]


def test_no_turn_of_an_outage_fails(account: Account, clock: Clock, first: Scripted) -> None:
    first.status = 503
    tasks = [account.queued(f"hello {n}", session_id=f"s-{n % 7}") for n in range(21)]

    assert {answer(account, clock, task_id)["usage"]["model"] for task_id in tasks} == {"gpt-fallback"}


def test_when_the_first_is_back_a_probe_finds_it(account: Account, clock: Clock, first: Scripted) -> None:
    refused = outage(account, first)
    first.status = 200
    for task_id in refused:  # else one of them may be the probe
        answer(account, clock, task_id)
    clock.forward(SHORTEST_PERIOD_SECONDS + 1)

    models = [answer(account, clock, account.queued())["usage"]["model"] for _ in range(3)]

    assert models == ["gpt-stand-in"] * 3


def test_a_turn_that_may_go_to_the_fallback_does_not_wait_as_long_as_the_first_asks(
    account: Account, clock: Clock, first: Scripted
) -> None:
    first.status, first.headers = 503, {"retry-after": "50"}
    tasks = [account.queued(f"hello {n}", session_id=f"s-{n}") for n in range(OUTAGE_REFUSALS)]
    account.work()
    clock.forward(4)

    account.work()

    assert "SUCCESS" in {account.task(task_id)["status"] for task_id in tasks}


def test_a_silent_first_model_is_left_for_the_fallback_in_the_same_attempt(
    account: Account, worker: Parts, fallback: StandIn
) -> None:
    worker.have(first_token_seconds=0.2)
    task_id = account.queued("[[hang=30 times=1]]")

    account.work()

    task = account.task(task_id)
    assert (task["status"], task["attempt"], task["usage"]["model"]) == ("SUCCESS", 1, "gpt-fallback")


def test_without_a_fallback_a_silent_model_has_all_the_time_of_an_answer(account: Account, worker: Parts) -> None:
    worker.have(first_token_seconds=0.2)
    task_id = account.queued("[[latency=0.6]]")

    account.work()

    assert account.outcome(task_id) == ("SUCCESS", None)


def test_the_fallback_is_asked_by_its_own_name_and_key_whatever_the_persona_names(
    account: Account, clock: Clock, first: Scripted, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = persona("general")
    monkeypatch.setattr("attempt.persona", lambda role: told._replace(model="gpt-of-the-first"))
    outage(account, first)

    assert answer(account, clock, account.queued())["usage"]["model"] == "gpt-fallback"

    # Each at least once: turns side by side may meet an empty cache.
    assert {call["SecretId"] for call in wire.made("GetSecretValue")} == {"model-key", "fallback-key"}


def test_a_turn_whose_time_is_up_tells_nothing_of_the_model(account: Account, clock: Clock, fallback: StandIn) -> None:
    """It had a second, because it had waited in the queue: that does not mean that the first model is down."""
    late = [account.queued("[[hang=30]]", session_id=f"late-{number}") for number in range(OUTAGE_REFUSALS)]
    clock.forward(15 * 60 - 1)
    account.work()
    assert {account.outcome(task_id) for task_id in late} == {("FAILURE", "deadline_exceeded")}

    assert answer(account, clock, account.queued())["usage"]["model"] == "gpt-stand-in"


@pytest.mark.parametrize("operation", ["GetItem", "UpdateItem"])
def test_a_breaker_that_cannot_be_kept_fails_no_turn(
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


def test_what_the_parameters_leave_out_is_as_the_first(account: Account, worker: Parts) -> None:
    worker.rebuild(FALLBACK_MODEL_NAME="gpt-smaller")

    first, fallback = worker.services.servers

    assert str(fallback.model._client.base_url) == str(first.model._client.base_url)
    assert worker.run(fallback.model._key()) == "sk-test"
