"""Messages: delivered twice, late, in batches, malformed; leases and fencing; the order of a session's turns."""

import time
from typing import Any

import pytest

from leases import LEASE_SECONDS
from tests.unit.conftest import Account, Clock, Crash, Parts, Printed, StandIn, Wire, crash
from turnqueue.queue import decode
from turnqueue.store import Refused


def hidden(wire: Wire) -> list[int]:
    """For how many seconds messages were hidden, in the order of the calls."""
    calls = wire.made("ChangeMessageVisibilityBatch")
    return [entry["VisibilityTimeout"] for call in calls for entry in call["Entries"]]


# ---- Delivered twice


def test_the_message_of_a_held_turn_comes_back_past_the_lease(
    account: Account, worker: Parts, clock: Clock, model: StandIn
) -> None:
    task_id = account.queued()
    (record,) = account.receive()
    worker.claim(task_id)

    assert account.work([record]) == [record["messageId"]]

    assert model.messages() == []
    task = account.task(task_id)
    assert (task["status"], task["attempt"]) == ("STARTED", 1)
    clock.forward(float(account.item(task_id)["lease_until"]["N"]) - time.time())
    assert account.receive() == []
    clock.forward(2)
    assert len(account.receive()) == 1


def test_a_lease_that_ends_meanwhile_is_no_lost_worker(
    account: Account, worker: Parts, clock: Clock, wire: Wire
) -> None:
    task_id = account.queued()
    (record,) = account.receive()
    worker.claim(task_id, 100)
    wire.before("UpdateItem", lambda _: clock.forward(101))

    assert account.work([record]) == [record["messageId"]]

    assert account.task(task_id)["status"] == "STARTED"
    clock.forward(2)
    assert account.work() == []
    assert account.outcome(task_id) == ("SUCCESS", None)


def test_a_release_that_is_repeated_because_its_answer_was_lost_is_one_release(account: Account, wire: Wire) -> None:
    task_id = account.queued("[[status=429]]")
    wire.after("UpdateItem", lambda _: wire.lose_answer("UpdateItem"))  # after the claim

    account.work()

    assert len([call for call in wire.made("UpdateItem") if call["TableName"] == "TurnsTable"]) == 2
    assert hidden(wire)[-1] < 5, "it comes back with the back-off, and not when the lease is over"
    task = account.task(task_id)
    assert (task["status"], task["attempt"]) == ("PENDING", 1)


def test_an_end_that_another_wrote_in_the_same_millisecond_is_not_ours(account: Account, worker: Parts) -> None:
    account.queued()
    (record,) = account.receive()
    now = time.time()
    turn = worker.store.claim(decode(record["body"]), now, now - 1)
    worker.store.fail(turn.key, "worker_lost", now)

    with pytest.raises(Refused):
        worker.store.succeed(turn, {"message": "late"}, {}, now)


def test_a_zombie_can_write_nothing(account: Account, worker: Parts, clock: Clock) -> None:
    """Neither while another worker is at work, nor when that has answered."""
    task_id = account.queued()
    zombie = worker.claim(task_id)
    clock.forward(184)
    second = worker.claim(task_id)

    def refuses_all() -> None:
        before = account.item(task_id)
        with pytest.raises(Refused):
            worker.store.succeed(zombie, {"message": "too late"}, {}, time.time())
        with pytest.raises(Refused):
            worker.store.fail_attempt(zombie, "model_timeout", "too late", time.time())
        with pytest.raises(Refused):
            worker.store.release(zombie)
        assert account.item(task_id) == before

    refuses_all()
    worker.store.succeed(second, {"message": "in time"}, {}, time.time())
    refuses_all()


def test_a_worker_that_was_overtaken_drops_its_answer_and_leaves_the_message(
    account: Account, worker: Parts, clock: Clock, wire: Wire, printed: Printed
) -> None:
    task_id = account.queued()
    (record,) = account.receive()

    def overtake(params: dict[str, Any]) -> None:
        clock.forward(200)
        worker.claim(task_id)

    wire.after("UpdateItem", lambda _: wire.before("UpdateItem", overtake))  # before its end is written

    assert account.work([record]) == [record["messageId"]]

    task = account.task(task_id)
    assert (task["status"], task["attempt"], task["result"]) == ("STARTED", 2, None)
    assert "AnswerTime" not in printed.metrics()
    assert printed.logged("attempt superseded")


def test_two_messages_of_one_turn_in_one_batch_run_it_once(account: Account, model: StandIn) -> None:
    account.queued()
    (record,) = account.receive()

    assert account.work([record, record | {"messageId": "other"}]) == []

    assert len(model.messages()) == 1


def test_a_turn_whose_three_attempts_all_died_is_lost_and_its_session_moves_on(
    account: Account, worker: Parts, clock: Clock, model: StandIn
) -> None:
    task_id = account.queued(session_id="s-1")
    next_id = account.queued("next", session_id="s-1")
    records = account.receive()
    for _ in range(3):
        worker.claim(task_id)
        clock.forward(184)

    assert account.work(records) == []

    assert account.outcome(task_id) == ("FAILURE", "worker_lost")
    assert account.outcome(next_id) == ("SUCCESS", None)
    assert model.messages() == ["next"]


# ---- Visibility


def test_the_whole_batch_is_cut_to_a_lease_before_anything_else(account: Account, wire: Wire) -> None:
    for number in range(10):
        account.queued(session_id=f"s-{number % 3}")
    records = account.receive()
    wire.clear()

    account.work(records)

    assert wire.calls[0].operation == "ChangeMessageVisibilityBatch"
    entries = wire.calls[0].params["Entries"]
    assert {entry["ReceiptHandle"] for entry in entries} == {record["receiptHandle"] for record in records}
    assert {entry["VisibilityTimeout"] for entry in entries} == {50}
    assert len(wire.made("ChangeMessageVisibilityBatch")) == 1


def test_a_crashed_worker_costs_its_session_a_lease(account: Account, wire: Wire, clock: Clock) -> None:
    """Whatever time its function had."""
    task_id = account.queued()
    wire.after("UpdateItem", crash)  # right after the claim
    with pytest.raises(Crash):
        account.work(seconds=900)
    assert account.outcome(task_id) == ("STARTED", None)

    clock.forward(LEASE_SECONDS + 1)

    assert account.work() == []
    task = account.task(task_id)
    assert (task["status"], task["attempt"]) == ("SUCCESS", 2)


def test_turns_without_time_left_are_handed_back(account: Account, wire: Wire, clock: Clock, model: StandIn) -> None:
    ids = [account.queued(f"number {number}", session_id="s-1") for number in range(3)]
    records = account.receive()
    wire.after("UpdateItem", lambda _: clock.forward(220))  # the first one takes its time

    assert account.work(records) == [record["messageId"] for record in records[1:]]

    assert [account.task(task)["attempt"] for task in ids] == [1, 0, 0]
    assert account.outcome(ids[0]) == ("SUCCESS", None)
    assert model.messages() == ["number 0"]
    assert hidden(wire)[-2:] == [0, 0]
    assert len(account.receive()) == 2


# ---- Order


def test_the_turns_of_a_session_are_answered_in_order_one_at_a_time(account: Account, model: StandIn) -> None:
    ids = [account.queued(f"number {number}", session_id="s-1") for number in range(5)]

    assert account.work() == []

    assert model.messages() == [f"number {number}" for number in range(5)]
    last = model.calls()["last"]
    assert [call["history"] for call in last] == [0, 2, 4, 6, 8]
    times = [(account.item(task)["started_at"]["N"], account.item(task)["finished_at"]["N"]) for task in ids]
    flat = [float(moment) for pair in times for moment in pair]
    assert flat == sorted(flat)


def test_a_turn_comes_back_with_the_one_before_it(account: Account, wire: Wire, clock: Clock, model: StandIn) -> None:
    first = account.queued("[[status=500 times=1]] one", session_id="s-1")
    second = account.queued("two", session_id="s-1")
    records = account.receive()

    assert account.work(records) == [record["messageId"] for record in records]

    assert len(model.messages()) == 1
    assert account.task(second)["attempt"] == 0
    assert hidden(wire)[-1] == hidden(wire)[-2]
    clock.forward(4)
    again = account.receive()
    assert [record["body"] for record in again] == [record["body"] for record in records]
    assert account.work(again) == []
    assert [account.outcome(task) for task in (first, second)] == [("SUCCESS", None)] * 2
    assert [message[-3:] for message in model.messages()] == ["one", "one", "two"]


def test_an_answer_is_readable_and_its_message_gone_before_a_slow_neighbour_ends(account: Account, wire: Wire) -> None:
    account.queued("[[hang=0.5]] slow", session_id="s-slow")
    account.queued("quick", session_id="s-quick")
    records = account.receive()
    wire.clear()

    account.work(records)

    calls = [str(call) for call in wire.calls if call.operation == "DeleteMessageBatch" or ":set_result" in str(call)]
    slow, quick = (record["receiptHandle"] for record in records)
    places = ["alice#s-quick", quick, "alice#s-slow", slow]
    assert [next(place for place in places if place in call) for call in calls] == places


def test_a_message_is_deleted_before_the_next_of_its_session_is_run(account: Account, wire: Wire) -> None:
    for number in range(2):
        account.queued(f"number {number}", session_id="s-1")
    records = account.receive()
    wire.clear()

    account.work(records)

    kinds = [call.operation for call in wire.calls if call.operation in ("UpdateItem", "DeleteMessageBatch")]
    assert kinds == ["UpdateItem", "UpdateItem", "UpdateItem", "DeleteMessageBatch"] * 2  # claim, finish, usage


def test_a_bug_in_one_session_leaves_the_others(account: Account, wire: Wire, printed: Printed) -> None:
    def bug(params: dict[str, Any]) -> None:
        raise ValueError("the innermost secret")

    first, second = account.queued(session_id="s-1"), account.queued(session_id="s-2")
    wire.before("UpdateItem", bug)

    assert len(account.work()) == 1

    assert sorted([account.outcome(first)[0], account.outcome(second)[0]]) == ["PENDING", "SUCCESS"]
    (line,) = printed.logged("turn failed")
    assert line["error"] == "ValueError"
    assert "innermost" not in printed.everything


def test_a_turn_behind_others_that_fail_has_its_own_three_attempts(account: Account, clock: Clock) -> None:
    """A turn that waits behind failing turns of its session is received again with each of their attempts."""
    ids = [account.queued(f"[[cut=3]] {number}", session_id="s-1") for number in range(6)]

    for _ in range(20):
        account.work()
        account.bury()
        clock.forward(10)

    tasks = [account.task(task_id) for task_id in ids]
    assert [(task["error_code"], task["attempt"]) for task in tasks] == [("model_unavailable", 3)] * 6
