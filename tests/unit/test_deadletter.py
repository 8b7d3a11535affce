"""Dead letters: a turn that SQS gave up on becomes FAILURE(worker_lost), unless it is final already, or a worker holds
it."""

import json

import pytest

from tests.unit.conftest import QUEUE_URL, Account, Action, Clock, Parts, Printed, Wire, refusing, unreachable

ULID = "01KANEC0X00000000000000000"


@pytest.fixture
def dead(account: Account) -> str:
    """The id of a task whose message is a dead letter now."""
    task_id = account.queued()
    (record,) = account.receive()
    account.sqs.delete_message(QueueUrl=f"{QUEUE_URL}TurnQueue.fifo", ReceiptHandle=record["receiptHandle"])
    account.dead_letter(record["body"])
    return task_id


def test_a_pending_task_is_lost(account: Account, dead: str) -> None:
    assert account.bury() == []

    task = account.task(dead)
    assert (task["status"], task["error_code"], task["retryable"]) == ("FAILURE", "worker_lost", True)
    assert task["error"] == "The task was lost. Please send the message again."
    assert account.waiting("DeadLetterQueue") == (0, 0)


def test_a_final_task_stays_as_it_is_and_its_letter_goes(account: Account) -> None:
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


def test_the_letter_of_a_task_that_a_worker_holds_comes_back(
    account: Account, dead: str, worker: Parts, clock: Clock
) -> None:
    worker.claim(dead, 170)
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
