"""The recorder records a function's calls without an effect on the function."""

from dataclasses import astuple, replace

import httpx
import pytest
from botocore.exceptions import ClientError

from local.account import Account
from local.emulator import Emulator
from local.recorder import Call, Recorder


def test_a_call_is_handed_on_signed_as_it_was_and_written_down(emulator: Emulator, account: Account, role: str) -> None:
    recorder = Recorder(emulator)
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


def test_what_is_put_by_a_form_is_the_call_of_who_signed_it(emulator: Emulator, account: Account) -> None:
    recorder = Recorder(emulator)
    s3 = replace(account, endpoint_url=recorder.endpoint("one"), _clients={}).client("s3")
    account.client("s3").create_bucket(Bucket="recorded")
    form = s3.generate_presigned_post("recorded", "a/b")

    answer = httpx.post(form["url"], data=form["fields"], files={"file": b"x"}, trust_env=False)

    assert answer.status_code == 204
    assert s3.get_object(Bucket="recorded", Key="a/b")["Body"].read() == b"x"
    assert [call[:2] + call[3:] for call in map(astuple, recorder.calls())] == [
        ("one", "s3:PutObject", 204),
        ("one", "s3:GetObject", 200),
    ]
    assert [call.parameters["Bucket"] for call in recorder.calls()] == ["recorded", "recorded"]
    recorder.close()
