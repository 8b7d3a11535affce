"""The circuit breaker of a model server: when it opens and closes, which call probes, and how turns wait."""

import time

from operations import breaker as command
from operations.stack import Stack
from tests.unit.conftest import Account, Clock, Parts, Printed, Scripted, Wire
from turnqueue.circuit_breaker import (
    LONGEST_PERIOD_SECONDS,
    MOST_HIDDEN_SECONDS,
    OUTAGE_REFUSALS,
    PROBE_LEASE_SECONDS,
    RATE_REFUSALS,
    RATE_SPAN_SECONDS,
    SHORTEST_PERIOD_SECONDS,
    Breaker,
    BreakerStore,
    State,
    breaker_names,
)

NOW = 1000.0


def opened(now: float = NOW) -> Breaker:
    breaker = Breaker()
    for _ in range(OUTAGE_REFUSALS):
        breaker = breaker.refused(now, OUTAGE_REFUSALS)
    return breaker


# ---- The rules


def test_it_opens_at_the_last_of_several_refusals_and_not_before() -> None:
    breaker = Breaker()
    for _ in range(RATE_REFUSALS - 1):
        breaker = breaker.refused(NOW, RATE_REFUSALS)
        assert breaker.state(NOW) is State.CLOSED
    earlier = NOW - 0.5  # by the clock of another worker
    assert breaker.refused(earlier, RATE_REFUSALS).state(NOW) is State.OPEN


def test_refusals_that_must_last_do_not_open_it_at_once() -> None:
    breaker = Breaker()
    for _ in range(10):
        breaker = breaker.refused(NOW, RATE_REFUSALS, RATE_SPAN_SECONDS)
    assert breaker.refused(NOW + 2.9, RATE_REFUSALS, RATE_SPAN_SECONDS).state(NOW + 3) is State.CLOSED
    assert breaker.refused(NOW + 3, RATE_REFUSALS, RATE_SPAN_SECONDS).state(NOW + 3) is State.OPEN


def test_an_answer_between_refusals_starts_the_count_anew() -> None:
    breaker = Breaker().refused(NOW, 2).answered(NOW)

    assert breaker.refused(NOW, 2).state(NOW) is State.CLOSED


def test_old_refusals_do_not_count() -> None:
    breaker = Breaker().refused(NOW, 2)

    assert breaker.refused(NOW + 60, 2).state(NOW + 60) is State.CLOSED
    assert breaker.refused(NOW + 59, 2).state(NOW + 59) is State.OPEN


def test_its_periods_grow_from_5_to_60_s_while_probes_are_refused() -> None:
    breaker, now, periods = opened(), NOW, []
    for _ in range(6):
        periods.append(breaker.open_until - now)
        now = breaker.open_until
        probed = breaker.probed(now)
        breaker = probed.settled(probed.open_until, now, accepted=False)

    assert [round(period, 1) for period in periods] == [5, 7.5, 11.2, 16.9, 25.3, 38]
    assert Breaker(periods=20, open_until=NOW, since=NOW).settled(NOW, NOW, accepted=False).open_until == NOW + 60


def test_it_stays_open_for_as_long_as_the_provider_asks_and_at_most_a_minute() -> None:
    assert Breaker().refused(NOW, 1, at_least=30).open_until == NOW + 30
    assert Breaker().refused(NOW, 1, at_least=300).open_until == NOW + LONGEST_PERIOD_SECONDS


def test_one_probe_at_a_time_and_another_when_its_lease_is_over() -> None:
    breaker = opened()
    assert breaker.probed(NOW + 1) == breaker  # still open
    probed = breaker.probed(NOW + SHORTEST_PERIOD_SECONDS)
    assert probed.probed(NOW + SHORTEST_PERIOD_SECONDS) == probed
    again = probed.probed(NOW + SHORTEST_PERIOD_SECONDS + PROBE_LEASE_SECONDS)
    assert again.open_until == NOW + SHORTEST_PERIOD_SECONDS + 2 * PROBE_LEASE_SECONDS
    assert again.settled(probed.open_until, NOW + 21, accepted=True) == again  # the first probe is no longer the one


def test_trouble_within_a_minute_after_it_closed_goes_on_where_it_stopped() -> None:
    probed = opened().probed(NOW + 5)
    closed = probed.settled(probed.open_until, NOW + 6, accepted=True)

    assert closed.state(NOW + 6) is State.CLOSED
    assert closed.refused(NOW + 7, 1).open_until == NOW + 7 + 7.5
    assert closed.refused(NOW + 66, 1).open_until == NOW + 66 + 5


def test_waiting_turns_come_back_when_it_closes_spread_and_within_a_minute() -> None:
    breaker = Breaker(periods=5, open_until=NOW + 20, since=NOW - 300)
    delays = [breaker.delay(NOW) for _ in range(1000)]

    assert 20 <= min(delays) < 22
    assert 48 < max(delays) <= 50
    assert max(sum(second <= delay < second + 1 for delay in delays) for second in range(20, 50)) < 100
    assert Breaker(periods=5, open_until=NOW + 60, since=NOW - 300).delay(NOW) <= MOST_HIDDEN_SECONDS


# ---- The worker and the breaker


def outage(account: Account, scripted: Scripted) -> list[str]:
    """The model refuses calls until its breaker is open. Returns the refused tasks. Status 200 ends the outage."""
    scripted.says("hello")
    scripted.status = 503
    tasks = [account.queued() for _ in range(OUTAGE_REFUSALS)]
    account.work()
    assert len(scripted.asked) == OUTAGE_REFUSALS
    scripted.asked.clear()
    return tasks


def test_while_it_is_open_turns_go_back_without_a_call(account: Account, scripted: Scripted, printed: Printed) -> None:
    outage(account, scripted)
    waiting = account.queued()

    assert len(account.work()) == 1

    assert scripted.asked == []
    task = account.task(waiting)
    assert (task["status"], task["attempt"]) == ("PENDING", 0)
    metrics = printed.metrics()
    assert (metrics["BreakerOpened"], metrics["TaskDeferred"]) == ([1], [1])
    assert metrics["ModelRateLimited"] == [0] * OUTAGE_REFUSALS


def test_when_the_model_is_back_every_task_is_answered_and_only_one_call_probes(
    account: Account, scripted: Scripted, clock: Clock
) -> None:
    tasks = outage(account, scripted)
    tasks += [account.queued() for _ in range(8)]
    account.work()
    clock.forward(SHORTEST_PERIOD_SECONDS)

    account.work()

    assert len(scripted.asked) == 1  # the probe, refused
    scripted.status = 200
    for _ in range(90):
        account.work()
        clock.forward(1)
    assert {account.outcome(task_id) for task_id in tasks} == {("SUCCESS", None)}


def test_a_turn_whose_second_probe_is_taken_gives_back_its_first(
    account: Account, scripted: Scripted, clock: Clock, wire: Wire
) -> None:
    store, (server, model) = BreakerStore("GuardsTable"), breaker_names(scripted.url, "gpt-stand-in")
    for name in (server, model):
        store.change(name, lambda breaker: breaker.refused(time.time(), 1))
    clock.forward(SHORTEST_PERIOD_SECONDS)
    task_id = account.queued()
    wire.before("UpdateItem", lambda _: store.change(model, lambda breaker: breaker.probed(time.time())))

    account.work()

    assert (scripted.asked, account.outcome(task_id)) == ([], ("PENDING", None))
    states = [store.read(name, consistent=True).state(time.time()) for name in (server, model)]
    assert states == [State.HALF_OPEN, State.OPEN]


def test_a_refusal_uses_up_no_attempt(account: Account, scripted: Scripted, clock: Clock) -> None:
    scripted.says("hello")
    scripted.status = 503
    task_id = account.queued()
    for _ in range(12):
        account.work()
        clock.forward(61)
    scripted.status = 200

    account.work()

    task = account.task(task_id)
    assert (task["status"], task["usage"]["attempts"]) == ("SUCCESS", 1)
    assert int(account.item(task_id)["refusals"]["N"]) == task["attempt"] - 1 >= 5


def test_past_its_deadline_a_refused_task_says_why(account: Account, scripted: Scripted, clock: Clock) -> None:
    scripted.status, scripted.headers = 429, {"retry-after": "5"}
    task_id = account.queued()
    account.work()
    clock.forward(15 * 60)

    assert account.outcome(task_id) == ("FAILURE", "model_rate_limited")


def test_a_cancelled_waiting_turn_frees_its_session(account: Account, scripted: Scripted, clock: Clock) -> None:
    outage(account, scripted)
    cancelled = account.queued("I wait", session_id="s-new")
    account.work()
    account.cancel(cancelled)
    behind = account.queued("and I", session_id="s-new")
    scripted.status = 200

    for _ in range(60):
        clock.forward(1)
        account.work()

    assert account.outcome(behind) == ("SUCCESS", None)


def test_a_waiting_task_says_why_and_until_when(account: Account, scripted: Scripted, clock: Clock) -> None:
    outage(account, scripted)
    first = account.queued("I wait", session_id="s-new")
    second = account.queued("and I", session_id="s-new")
    account.work()
    clock.forward(3)

    tasks = [account.task(task_id) for task_id in (first, second)]
    assert [task["waiting_for"] for task in tasks] == ["model_unavailable", "turn_before"]
    assert [task["next_try_at"] is None for task in tasks] == [False, True]


def test_a_task_without_trouble_reads_and_writes_no_breaker(account: Account, wire: Wire) -> None:
    account.queued()
    account.work()
    wire.clear()
    account.queued()

    account.work()

    guards = [call for call in wire.calls if call.params.get("TableName") == "GuardsTable"]
    assert [call.operation for call in guards] == ["UpdateItem"]  # its owner's day


def test_a_sync_request_does_not_wait_for_a_model_that_is_down(
    account: Account, scripted: Scripted, clock: Clock
) -> None:
    outage(account, scripted)

    before = time.time()
    response = account.post({"message": "hello"})

    assert response["statusCode"] == 202
    assert time.time() - before < 10  # a wait takes 20 or more


# ---- The operator and the breaker


def test_an_operator_opens_and_closes_it(account: Account, stack: Stack, worker: Parts, clock: Clock) -> None:
    said: list[str] = []
    command.move(stack, 60, said.append)
    worker.forget()
    task_id = account.queued()
    account.work()
    assert account.outcome(task_id) == ("PENDING", None)
    assert "open for 60 s more" in said[0]

    command.move(stack, None, said.append)
    clock.forward(61)
    account.work()

    assert account.outcome(task_id) == ("SUCCESS", None)
    command.show(stack, said.append)
    assert said[-1].endswith("closed")
