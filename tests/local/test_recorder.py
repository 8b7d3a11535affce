"""What a function called is written down, and it notices nothing of that."""

from dataclasses import replace

import pytest
from botocore.exceptions import ClientError

from local.account import Account
from local.recorder import Call, Recorder


def test_a_call_is_handed_on_signed_as_it_was_and_written_down(account: Account, role: str) -> None:
    recorder = Recorder(account.endpoint_url)
    one = replace(account.as_role(role), endpoint_url=recorder.endpoint("one"))
    another = replace(account.as_role(role), endpoint_url=recorder.endpoint("another"))

    one.client("sqs").list_queues(QueueNamePrefix="x")
    with pytest.raises(ClientError, match="not authorized"):  # by the policies of the role that signed it
        another.client("dynamodb").delete_table(TableName="turns")

    assert recorder.calls() == [
        Call("one", "sqs:ListQueues", {"QueueNamePrefix": "x"}, 200),
        Call("another", "dynamodb:DeleteTable", {"TableName": "turns"}, 403),
    ]
    recorder.close()
