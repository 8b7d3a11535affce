"""Dead letters: a turn that SQS gave up on becomes FAILURE(worker_lost), unless it is final already, or a worker holds
it."""

import json
import time

import pytest

from development import cfn
from tests.unit.conftest import QUEUE_URL, Account, Action, Clock, Parts, Printed, Wire, refusing, unreachable
from turnqueue.turn import Key

ULID = "01KANEC0X00000000000000000"
MAX_RECEIVES: int = cfn.resources("AWS::SQS::Queue")["TurnQueue"]["RedrivePolicy"]["maxReceiveCount"]


@pytest.fixture
def dead(account: Account) -> str:
    """The id of a task whose message is a dead letter now."""
    task_id = account.queued()
    (record,) = account.receive()
    account.sqs.delete_message(QueueUrl=f"{QUEUE_URL}TurnQueue.fifo", ReceiptHandle=record["receiptHandle"])
    account.dead_letter(record["body"])
    return task_id


def key_of(worker: Parts, task_id: str) -> object:
    key: object = Key.of_task("alice", task_id)
    return key


def test_a_pending_task_is_lost(account: Account, dead: str) -> None:
    assert account.bury() == []

    task = account.task(dead)
    assert (task["status"], task["error_code"], task["retryable"]) == ("FAILURE", "worker_lost", True)
    assert task["error"] == "The task was lost. Please send the message again."
    assert account.waiting("DeadLetterQueue") == (0, 0)


def test_a_task_that_a_worker_died_on_is_lost(account: Account, dead: str, worker: Parts, clock: Clock) -> None:
    worker.store.claim(key_of(worker, dead), time.time(), time.time() + 100)
    clock.forward(101)

    assert account.bury() == []

    assert account.outcome(dead) == ("FAILURE", "worker_lost")


def test_a_final_task_stays_as_it_is_and_its_letter_goes(account: Account, clock: Clock) -> None:
    answered, failed = account.queued("hello", session_id="s-1"), account.queued("[[refuse]]", session_id="s-2")
    records = account.receive()
    account.work(records)
    before = account.items()
    for record in records:
        account.dead_letter(record["body"], group=record["messageId"])

    assert account.bury() == []

    assert account.items() == before
    assert account.outcome(answered) == ("SUCCESS", None)
    assert account.outcome(failed) == ("FAILURE", "prompt_refused")
    assert account.waiting("DeadLetterQueue") == (0, 0)


def test_a_letter_of_a_task_that_is_no_more_goes(account: Account) -> None:
    account.dead_letter(json.dumps({"session": "alice#s-1", "turn": ULID}))

    assert account.bury() == []

    assert account.items() == []
    assert account.waiting("DeadLetterQueue") == (0, 0)


def test_a_task_that_a_worker_holds_is_not_lost_and_its_letter_comes_back(
    account: Account, dead: str, worker: Parts, clock: Clock
) -> None:
    worker.store.claim(key_of(worker, dead), time.time(), time.time() + 170)
    (record,) = account.receive("DeadLetterQueue")

    assert account.bury([record]) == [record["messageId"]]

    assert account.outcome(dead) == ("STARTED", None)
    clock.forward(181)
    assert account.bury() == []
    assert account.outcome(dead) == ("FAILURE", "worker_lost")


@pytest.mark.parametrize("body", ["hello", "{}", json.dumps({"session": "s-1", "turn": ULID})])
def test_a_malformed_letter_stays_and_delays_no_other(account: Account, dead: str, printed: Printed, body: str) -> None:
    account.dead_letter(body, group="bad")
    records = account.receive("DeadLetterQueue")
    (bad,) = [record for record in records if record["body"] == body]

    assert account.bury(records) == [bad["messageId"]]

    assert account.outcome(dead) == ("FAILURE", "worker_lost")
    assert account.waiting("DeadLetterQueue") == (0, 1)
    assert printed.metrics()["MessageMalformed"] == [1]


@pytest.mark.parametrize("trouble", [refusing(), unreachable])
def test_a_table_that_is_down_keeps_the_letter(account: Account, dead: str, wire: Wire, trouble: Action) -> None:
    wire.before("UpdateItem", trouble)
    (record,) = account.receive("DeadLetterQueue")

    assert account.bury([record]) == [record["messageId"]]

    assert account.outcome(dead) == ("PENDING", None)
    assert account.waiting("DeadLetterQueue") == (0, 1)


def test_a_letter_that_came_twice_is_counted_once(account: Account, dead: str, printed: Printed) -> None:
    records = account.receive("DeadLetterQueue")
    account.bury(records)
    account.bury(records)

    metrics = printed.metrics()
    assert (metrics["TaskDeadLettered"], metrics["TaskFailed"]) == ([1], [1])


def test_a_message_that_is_received_too_often_is_closed_in_the_end(account: Account, clock: Clock) -> None:
    """From the queue over the dead-letter queue, with a worker that never comes to it."""
    task_id = account.queued()
    for _ in range(MAX_RECEIVES + 1):
        account.receive()
        clock.forward(1081)
    assert account.waiting("DeadLetterQueue") == (1, 0)

    assert account.bury() == []

    assert account.item(task_id)["error_code"] == {"S": "worker_lost"}
    assert account.waiting("DeadLetterQueue") == (0, 0)
