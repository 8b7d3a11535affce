"""Uploads: from the API's form to the model's image, through the account's S3."""

import base64
import hashlib
import uuid

import httpx
import pytest

from local.stack import LocalStack
from tests.e2e.conftest import Api, post_form
from tests.stand_in import StandIn

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 100


def seen(stack: LocalStack, message: str) -> list[list[str]]:
    """The images with each of the user's messages in the model's last call for this message."""
    calls = StandIn(stack.model_url).calls()["last"]
    images: list[list[str]] = [call["images"] for call in calls if call["message"] == message][-1]
    return images


def as_seen(content: bytes, content_type: str = "image/png") -> str:
    return f"{content_type} {len(content)} {hashlib.sha256(content).hexdigest()}"


def test_the_model_gets_just_the_bytes_now_and_in_the_next_turn(alice: Api, stack: LocalStack) -> None:
    message, session = f"look {uuid.uuid4()}", f"s-{uuid.uuid4().hex}"
    image = alice.upload(PNG)

    answer = alice.chat(message, session_id=session, media=[image])

    assert answer.status_code == 200, answer.text
    assert "1 image" in answer.json()["message"]
    assert seen(stack, message) == [[as_seen(PNG)]]
    assert alice.chat(f"and {message}", session_id=session).status_code == 200
    assert seen(stack, f"and {message}") == [[as_seen(PNG)], []]
    [turn, _] = alice.http.get(f"/chat/session/{session}").json()["turns"]
    assert turn["media"] == [image]


def test_the_largest_upload_that_is_offered_is_taken_and_shown(alice: Api, stack: LocalStack) -> None:
    message = f"look {uuid.uuid4()}"
    content = PNG.ljust(alice.offer()["max_bytes"], b"\0")

    answer = alice.chat(message, media=[alice.upload(content)])

    assert answer.status_code == 200, answer.text
    assert seen(stack, message) == [[as_seen(content)]]


def test_a_data_url_is_the_same_to_the_model_and_to_its_owner(alice: Api, stack: LocalStack) -> None:
    message, session = f"look {uuid.uuid4()}", f"s-{uuid.uuid4().hex}"
    content = PNG * 4
    image = {"type": "image", "url": f"data:image/png;base64,{base64.b64encode(content).decode()}"}

    answer = alice.chat(message, session_id=session, media=[image])

    assert answer.status_code == 200, answer.text
    assert alice.chat(f"and {message}", session_id=session).status_code == 200
    assert seen(stack, f"and {message}") == [[as_seen(content)], []]
    [turn, _] = alice.http.get(f"/chat/session/{session}").json()["turns"]
    assert turn["media"] == [image]
    found = stack.client("s3").list_objects_v2(Bucket=stack.outputs["MediaBucketName"], Prefix="uploads/")["Contents"]
    assert [each["Size"] for each in found if each["Key"].endswith(f"/data/{turn['task_id'][-26:]}/0")] == [
        len(content)
    ]


def test_another_owners_upload_does_not_exist(alice: Api, bob: Api) -> None:
    answer = bob.chat("look", media=[alice.upload(PNG)])

    assert (answer.status_code, answer.json()["code"]) == (422, "media_missing")


FORGED = {
    "another type": ({"Content-Type": "text/html"}, PNG, 403),
    "another key": ({"key": "uploads/of-another/01KANEC0X00000000000000000"}, PNG, 403),
    "another signature": ({"x-amz-signature": "0" * 64}, PNG, 403),
    "a field that was not signed": ({"acl": "public-read"}, PNG, 403),
    "nothing": ({}, b"", 400),
    "too much": ({}, PNG.ljust(2 * 1024 * 1024 + 1, b"\0"), 400),
}


@pytest.mark.parametrize(("fields", "content", "status"), FORGED.values(), ids=FORGED)
def test_s3_takes_nothing_but_what_was_signed(alice: Api, fields: dict[str, str], content: bytes, status: int) -> None:
    """What MiniStack checks as S3 does, signature and the role's permission among it."""
    offered = alice.offer()

    assert post_form(offered, content, **fields).status_code == status

    answer = alice.chat("look", media=[{"type": "image", "upload_id": offered["upload_id"]}])
    assert answer.json()["code"] == "media_missing"


def test_nobody_reads_or_lists_the_bucket_by_its_address(alice: Api, stack: LocalStack) -> None:
    offered = alice.offer()
    assert post_form(offered, PNG).status_code == 204
    bucket = f"{stack.client('s3').meta.endpoint_url}/{stack.outputs['MediaBucketName']}"

    for path in (offered["fields"]["key"], ""):
        assert httpx.get(f"{bucket}/{path}", trust_env=False).status_code == 403
