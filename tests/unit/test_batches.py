"""Changes of messages go to SQS in batches, and none waits for a batch to fill."""

import asyncio
import threading
from collections.abc import Mapping

from batches import Batches
from tests.unit.conftest import Account, Parts, Wire
from turnqueue.queue import Message

MESSAGES = [Message(f"message-{number}", f"handle-{number}", "", "group", 1) for number in range(13)]


def test_changes_that_come_while_a_call_runs_go_together_in_the_next_calls() -> None:
    sent: list[list[Message]] = []
    is_sending, may_end = threading.Event(), threading.Event()

    def send(changes: Mapping[Message, None]) -> None:
        sent.append(list(changes))
        is_sending.set()
        assert may_end.wait(10)

    async def run() -> None:
        batches = Batches[None](send)
        first, *others = [asyncio.ensure_future(batches.add({message: None})) for message in MESSAGES[:1]]
        await asyncio.to_thread(is_sending.wait, 10)
        others = [asyncio.ensure_future(batches.add({message: None})) for message in MESSAGES[1:]]
        await asyncio.sleep(0)  # let the others ask
        may_end.set()
        await asyncio.gather(first, *others)

    asyncio.run(run())

    assert sent == [MESSAGES[:1], MESSAGES[1:11], MESSAGES[11:]]


def test_a_message_that_sqs_failed_to_delete_with_its_batch_is_deleted_by_a_second_call(
    account: Account, worker: Parts, wire: Wire
) -> None:
    for number in range(3):
        account.queued(session_id=f"s-{number}")
    handles = [record["receiptHandle"] for record in account.receive()]

    def fail_for_the_second(params: dict[str, list[dict[str, str]]]) -> None:
        params["Entries"][1]["ReceiptHandle"] = "none"

    wire.before("DeleteMessageBatch", fail_for_the_second)

    assert worker.built.queue.delete(handles) == {}
    assert account.waiting() == (0, 0)


def test_a_message_that_cannot_be_deleted_is_named_with_its_error(account: Account, worker: Parts) -> None:
    account.queued()
    (record,) = account.receive()

    assert worker.built.queue.delete([record["receiptHandle"], "none"]) == {"none": "ReceiptHandleIsInvalid"}
    assert account.waiting() == (0, 0)
