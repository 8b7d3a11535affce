"""A chat's use of AWS's services is as in docs/operations.md, "Costs"."""

import collections
import re

from development import cfn
from tests.unit.conftest import Account, Wire


def told(line: str) -> int:
    """The number for each chat, from the line of the table."""
    section = (cfn.ROOT / "docs/operations.md").read_text().partition("## Costs\n")[2].partition("\n## ")[0]
    found = re.search(rf"^\| {re.escape(line)} \| (\d+)", section, re.MULTILINE)
    assert found, line
    return int(found[1])


def test_a_chat_that_is_polled_five_times(account: Account, wire: Wire) -> None:
    account.queued("warm up")
    account.work()
    wire.clear()

    task_id = account.queued("hello")
    for _ in range(4):
        account.get(task_id)
    account.work()
    account.get(task_id)

    made = collections.Counter(call.operation for call in wire.calls)
    assert set(made) == {
        *("PutItem", "UpdateItem", "GetItem"),
        *("SendMessage", "ChangeMessageVisibilityBatch", "DeleteMessageBatch"),
    }
    assert made["PutItem"] + made["UpdateItem"] == told("DynamoDB, writes")
    assert made["GetItem"] == told("DynamoDB, reads")
    received = 1  # by Lambda
    assert made["SendMessage"] + made["ChangeMessageVisibilityBatch"] + made["DeleteMessageBatch"] + received == told(
        "SQS FIFO"
    )
    assert told("HTTP API") == 6
    assert told("Lambda, requests") == 7  # a submit, five polls, the worker


def test_the_memory_that_the_price_is_for() -> None:
    globals_ = cfn.template()["Globals"]["Function"]
    assert globals_["MemorySize"] == 256
