"""The circuit breaker: its states as plain data, whatever happens in whatever order; and as workers share it."""

import time
from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from breaker import Breaker, Ticket
from circuit import FAILURES, OPEN_SECONDS, WINDOW_SECONDS, Circuit, Phase
from tests.unit.conftest import Account, Clock, Printed, Wire, refusing, unreachable
from turnqueue import telemetry

NOW = 1_800_000_000.0


# ---- Plain data


def failing(times: int, *, now: float = NOW) -> Circuit:
    it = Circuit()
    for _ in range(times):
        it = it.failed(now)
    return it


def test_it_opens_at_the_last_of_so_many_failures() -> None:
    assert failing(FAILURES - 1).phase(NOW) is Phase.CLOSED
    assert failing(FAILURES).phase(NOW) is Phase.OPEN


def test_failures_that_lie_far_apart_do_not_add_up() -> None:
    almost = failing(FAILURES - 1)

    assert almost.failed(NOW + WINDOW_SECONDS - 0.001).phase(NOW + WINDOW_SECONDS) is Phase.OPEN
    assert almost.failed(NOW + WINDOW_SECONDS) == failing(1, now=NOW + WINDOW_SECONDS)


def test_it_is_open_for_its_time_and_then_half_open() -> None:
    opened = failing(FAILURES)

    assert opened.phase(NOW + OPEN_SECONDS - 0.001) is Phase.OPEN
    assert opened.phase(NOW + OPEN_SECONDS) is Phase.HALF_OPEN


def test_a_probe_that_was_overtaken_settles_nothing() -> None:
    late = failing(FAILURES).probed(NOW + 40, NOW + 50)
    next_one = late.probed(NOW + 60, NOW + 90)

    assert late.open_until and next_one.open_until == NOW + 90
    for answered in (True, False):
        assert next_one.settled(late.open_until, answered=answered, now=NOW + 70) == next_one


class Machine(RuleBasedStateMachine):
    """Many attempts, which end in any order, long after they began or never; and a model of what may be."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.circuit = Circuit()
        self.probes: list[float] = []
        """The ends of probes that are under way; those that are over, too, for an answer may come late."""
        self.failures: list[float] = []
        """When the failures were told that count, since it was closed."""

    def become(self, after: Circuit) -> None:
        if not after.open_until and self.circuit.open_until:
            self.failures = []
        self.circuit = after

    @rule(seconds=st.sampled_from([0.001, 1.0, OPEN_SECONDS, WINDOW_SECONDS - 1, WINDOW_SECONDS]) | st.floats(0, 60))
    def time_goes_by(self, seconds: float) -> None:
        self.now = round(self.now + seconds, 3)

    @rule()
    def an_attempt_fails(self) -> None:
        before = self.circuit
        if not before.open_until:
            self.failures.append(self.now)
        self.become(before.failed(self.now))
        if before.open_until:
            assert self.circuit == before, "an attempt from before it opened has moved it"
        else:
            recent = [at for at in self.failures if at > self.now - WINDOW_SECONDS]
            if self.circuit.open_until:
                assert len(recent) >= FAILURES, "it opened for too little"
                assert self.circuit.phase(self.now) is Phase.OPEN
            else:  # They fall into two windows at most.
                assert len(recent) <= 2 * (FAILURES - 1), "it is closed in spite of them"

    @rule(seconds=st.floats(0, 180))
    def a_worker_wants_to_probe(self, seconds: float) -> None:
        phase, until = self.circuit.phase(self.now), round(self.now + seconds, 3)
        after = self.circuit.probed(self.now, until)
        assert (after != self.circuit) == (phase is Phase.HALF_OPEN and until > self.now)
        if after != self.circuit:
            assert not [end for end in self.probes if end > self.now], "two probes at once"
            self.probes.append(until)
            self.become(after)
            assert self.circuit.probed(self.now, until + 1) == self.circuit, "another got a probe too"

    @precondition(lambda self: self.probes)
    @rule(data=st.data(), answered=st.booleans())
    def a_probe_ends(self, data: st.DataObject, answered: bool) -> None:
        probe = data.draw(st.sampled_from(self.probes))
        self.probes.remove(probe)
        counts = self.circuit.open_until == probe
        before = self.circuit
        self.become(before.settled(probe, answered=answered, now=self.now))
        if not counts:
            assert self.circuit == before, "a probe of yesterday has settled something"
        elif answered:
            assert self.circuit == Circuit()
        else:
            assert self.circuit.phase(self.now) is Phase.OPEN

    @rule()
    def a_worker_that_has_no_probe_settles_nothing(self) -> None:
        assert self.circuit.settled(0.0, answered=True, now=self.now) == self.circuit

    @invariant()
    def it_is_in_one_state_and_has_a_way_out(self) -> None:
        it = self.circuit
        assert 0 <= it.failures < FAILURES
        assert not (it.failures and it.open_until)
        longest = max(OPEN_SECONDS, 180)
        assert it.phase(self.now + longest) in (Phase.CLOSED, Phase.HALF_OPEN), "it stays open for ever"
        assert it == Circuit(it.failures, float(repr(it.counted_until)), float(repr(it.open_until))), (
            "a table would not keep it as it is"
        )


TestMachine = Machine.TestCase


# ---- Shared by workers


type Make = Callable[[], Breaker]


@pytest.fixture
def breaker(account: Account) -> Make:
    """Makes the breaker of one more worker."""
    return lambda: Breaker("GuardsTable", "http://first")


def ask(it: Breaker, seconds: float = 180) -> Ticket:
    now = time.time()
    return it.ask(now, now + seconds)


def opened(make: Make) -> None:
    it = make()
    for _ in range(FAILURES):
        it.tell(ask(it), "model_unavailable")


def first(it: Breaker) -> bool:
    """Whether its next attempt asks the first model."""
    return ask(it).first


def test_while_the_model_is_well_a_process_reads_now_and_then_and_never_writes(
    breaker: Make, clock: Clock, wire: Wire
) -> None:
    it = breaker()
    wire.clear()
    for _ in range(20):
        it.tell(ask(it), None)
    assert [call.operation for call in wire.calls] == ["GetItem"]

    clock.forward(5)
    assert first(it)
    assert [call.operation for call in wire.calls] == ["GetItem"] * 2


def test_failures_of_several_workers_add_up_and_all_of_them_see_it(
    breaker: Make, clock: Clock, printed: Printed
) -> None:
    workers = [breaker() for _ in range(FAILURES)]
    tickets = [ask(it) for it in workers]
    assert all(ticket.first for ticket in tickets)

    told = [it.tell(ticket, "model_timeout") for it, ticket in zip(workers, tickets, strict=True)]

    assert told == [False] * (FAILURES - 1) + [True]
    assert not first(workers[-1])
    clock.forward(5)
    assert not any(first(it) for it in workers)
    telemetry._metrics.flush_metrics()
    assert printed.metrics()["CircuitOpened"] == [1]


@pytest.mark.parametrize("code", ["prompt_refused", "model_auth", "output_invalid", "internal_error"])
def test_what_is_no_outage_does_not_count(breaker: Make, clock: Clock, code: str) -> None:
    it = breaker()
    for _ in range(FAILURES * 2):
        it.tell(ask(it), code)

    assert first(it)


def test_a_model_that_answers_others_meanwhile_is_not_down(breaker: Make, clock: Clock) -> None:
    it = breaker()
    for _ in range(FAILURES * 2):
        unlucky, lucky = (ask(it) for _ in range(2))
        clock.forward(1)
        it.tell(lucky, None)
        it.tell(unlucky, "model_unavailable")

    assert first(it)


def test_one_probe_at_a_time_and_an_answer_closes_it(breaker: Make, clock: Clock) -> None:
    opened(breaker)
    clock.forward(OPEN_SECONDS + 1)
    one, other = breaker(), breaker()

    probe = ask(one)
    assert probe.first and probe.probe
    assert not first(other)
    assert not first(one)
    assert not one.tell(probe, None)

    clock.forward(5)
    assert first(one) and first(other)


def test_a_probe_that_fails_opens_it_again(breaker: Make, clock: Clock) -> None:
    opened(breaker)
    clock.forward(OPEN_SECONDS + 1)
    it = breaker()
    probe = ask(it)
    assert probe.first

    assert it.tell(probe, "model_rate_limited")

    assert not first(it)
    clock.forward(OPEN_SECONDS + 1)
    assert first(it)


def test_a_worker_that_dies_in_its_probe_keeps_the_others_away_for_its_time_only(breaker: Make, clock: Clock) -> None:
    opened(breaker)
    clock.forward(OPEN_SECONDS + 1)
    dead, other = breaker(), breaker()
    assert ask(dead, 100).first

    clock.forward(99)
    assert not first(other)
    clock.forward(2)
    assert first(other)


@pytest.mark.parametrize("trouble", [refusing(), unreachable])
def test_a_table_that_fails_is_as_it_was_last(
    breaker: Make, clock: Clock, wire: Wire, trouble: Callable[..., object]
) -> None:
    it, other = breaker(), breaker()
    opened(breaker)
    assert not first(other)
    for operation in ("GetItem", "UpdateItem"):
        wire.before(operation, trouble, times=50)

    assert first(it)  # which knows of nothing
    assert not first(other)  # which knows that it is open
    clock.forward(OPEN_SECONDS + 1)
    assert not first(other)  # and can take no probe
    assert not it.tell(ask(it), "model_unavailable")


def test_who_loses_a_race_tries_once_more(breaker: Make, clock: Clock, wire: Wire) -> None:
    one, other = breaker(), breaker()
    tickets = [ask(it) for it in (one, other)]
    wire.before("UpdateItem", lambda _: other.tell(tickets[1], "model_timeout"))

    one.tell(tickets[0], "model_timeout")

    assert one._known.failures == 2
