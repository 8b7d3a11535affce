"""Uploads: the signed form for the client, and the image that the model gets."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest

from tests.unit.conftest import (
    ENVIRONMENT,
    Account,
    Clock,
    Parts,
    Printed,
    Response,
    Scripted,
    Wire,
    refusing,
    unreachable,
)
from turnqueue.media import IMAGES, MAX_UPLOAD_BYTES, UPLOAD_SECONDS

BUCKET = ENVIRONMENT["MEDIA_BUCKET"]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
BEGINNINGS = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0 and so on",
    "image/gif": b"GIF89a and so on",
    "image/webp": b"RIFF\x00\n\x01\x02WEBPVP8 ",
}
ASK = {"type": "image", "content_type": "image/png"}


def ask(account: Account, body: Any, **options: Any) -> Response:
    return account.post(body, route="POST /chat/media", **options)


def policy(offered: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(base64.b64decode(offered["fields"]["policy"]))
    return document


def data_url(content: bytes, content_type: str = "image/png") -> str:
    return f"data:{content_type};base64,{base64.b64encode(content).decode()}"


# ---- The form


def test_a_form_is_good_for_one_key_one_type_and_so_many_bytes_and_nothing_else(account: Account, wire: Wire) -> None:
    response = ask(account, ASK)

    offered = response["json"]
    assert response["statusCode"] == 201
    assert set(offered) == {"upload_id", "url", "fields", "expires_at", "max_bytes"}
    assert offered["max_bytes"] == MAX_UPLOAD_BYTES
    assert offered["url"] == f"https://{BUCKET}.s3.us-east-1.amazonaws.com/"
    key = f"uploads/{hashlib.sha256(b'alice').hexdigest()}/{offered['upload_id']}"
    signed = {name: value for name, value in offered["fields"].items() if name.startswith("x-amz-")}
    assert set(signed) == {"x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature"}
    assert signed["x-amz-algorithm"] == "AWS4-HMAC-SHA256"
    del signed["x-amz-signature"]
    wanted = [
        {"bucket": BUCKET},
        {"key": key},
        {"Content-Type": "image/png"},
        ["content-length-range", 1, MAX_UPLOAD_BYTES],
        *({name: value} for name, value in signed.items()),
    ]
    assert sorted(policy(offered)["conditions"], key=str) == sorted(wanted, key=str)
    assert (offered["fields"]["key"], offered["fields"]["Content-Type"]) == (key, "image/png")
    assert wire.calls == []  # to sign calls nobody


def test_a_size_that_is_told_is_the_only_one_that_s3_takes(account: Account) -> None:
    offered = account.offer(size=264)

    assert offered["max_bytes"] == 264
    assert ["content-length-range", 264, 264] in policy(offered)["conditions"]


def test_the_session_token_of_the_role_is_signed_too(
    account: Account, submit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-the-role")
    session = submit.Uploads.__init__.__globals__["aws"]._session
    monkeypatch.setattr(session, "_credentials", None)
    monkeypatch.setattr(submit, "uploads", submit.Uploads(BUCKET, attempts=8))  # 8: a client of its own

    offered = account.offer()

    assert {"x-amz-security-token": "of-the-role"} in policy(offered)["conditions"]
    monkeypatch.setattr(session, "_credentials", None)


def test_a_form_ends_after_five_minutes_and_the_client_is_told_no_later_time(account: Account) -> None:
    offered = account.offer()

    told = datetime.fromisoformat(offered["expires_at"])
    assert told <= datetime.fromisoformat(policy(offered)["expiration"])
    assert UPLOAD_SECONDS - 2 <= (told - datetime.now(UTC)).total_seconds() <= UPLOAD_SECONDS
    assert UPLOAD_SECONDS <= 900


def test_each_form_is_for_a_plain_key_and_two_owners_have_no_prefix_in_common(account: Account) -> None:
    owners = ("alice", "alice", "alice/", "bob", "../bob", "a#b", "ü" * 255, "a/b/c")
    keys = [account.offer(owner=owner)["fields"]["key"] for owner in owners]

    assert len(set(keys)) == 8
    assert len({key.rpartition("/")[0] for key in keys}) == 7
    for key in keys:
        assert re.fullmatch(r"uploads/[0-9a-f]{64}/[0-9A-Z]{26}", key)


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no type": ({"content_type": "image/png"}, "type", "required"),
    "a type that is no image": (ASK | {"type": "video"}, "type", "'image'"),
    "no content type": ({"type": "image"}, "content_type", "required"),
    "SVG": (ASK | {"content_type": "image/svg+xml"}, "content_type", "'image/png'"),
    "HTML": (ASK | {"content_type": "text/html"}, "content_type", "'image/png'"),
    "a type in capitals": (ASK | {"content_type": "IMAGE/PNG"}, "content_type", "'image/png'"),
    "a type with a parameter": (ASK | {"content_type": "image/png; q=1"}, "content_type", "'image/png'"),
    "no bytes": (ASK | {"size": 0}, "size", "greater than or equal to 1"),
    "too many bytes": (ASK | {"size": MAX_UPLOAD_BYTES + 1}, "size", str(MAX_UPLOAD_BYTES)),
    "half a byte": (ASK | {"size": 1.5}, "size", "integer"),
    "bytes as text": (ASK | {"size": "264"}, "size", "integer"),
    "a flag for bytes": (ASK | {"size": True}, "size", "integer"),
    "a key of the client's": (ASK | {"key": "uploads/bob/x"}, "key", "not permitted"),
}


@pytest.mark.parametrize(("body", "param", "hint"), REFUSED.values(), ids=REFUSED)
def test_is_refused_by_a_422_that_names_the_field(account: Account, body: Any, param: str, hint: str) -> None:
    response = ask(account, body)

    assert (response["statusCode"], response["json"]["code"]) == (422, "invalid_request")
    assert response["json"]["error"]["param"] == param
    assert hint in response["json"]["detail"]


@pytest.mark.parametrize("size", [None, 1, 264.0, MAX_UPLOAD_BYTES])
def test_the_sizes_that_are_taken(account: Account, size: float | None) -> None:
    assert ask(account, ASK | {"size": size})["statusCode"] == 201


def test_eight_uploads_go_with_each_message_of_a_limit_and_take_none_of_it(
    account: Account, submit: ModuleType, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "limiter", submit.Limiter.of("default:6/2", "", "GuardsTable"))

    answers = [ask(account, ASK) for _ in range(17)]

    assert [answer["statusCode"] for answer in answers] == [201] * 16 + [429]
    assert answers[0]["headers"]["RateLimit-Policy"] == '"uploads";q=16;w=20'
    assert answers[16]["headers"]["Retry-After"] in ("1", "2")  # 48 a minute
    assert answers[16]["json"]["code"] == "rate_limited"
    assert account.post({"message": "x"}, query={"async_mode": "true"})["statusCode"] == 202
    clock.forward(2)
    assert ask(account, ASK)["statusCode"] == 201


# ---- A message with an upload


def shown(asked: dict[str, Any]) -> list[list[str]]:
    """The images and notes of each message of the user to the model."""
    parts = [message["content"] for message in asked["messages"] if message["role"] == "user"]
    return [
        [part["text"] if part["type"] == "text" else part["image_url"]["url"] for part in content[1:]]
        if isinstance(content, list)
        else []
        for content in parts
    ]


NOTE = "[An image was attached here. It is not shown again.]"


def test_uploads_and_urls_are_shown_in_their_order(account: Account, scripted: Scripted) -> None:
    named = {"type": "image", "url": "https://example.com/cat.png"}
    first, second = account.upload(PNG + b"1"), account.upload(PNG + b"2")

    found = said(account, scripted, second, named, first, second)

    assert found == [[data_url(PNG + b"2"), named["url"], data_url(PNG + b"1"), data_url(PNG + b"2")]]


def test_the_conversation_tells_the_upload_as_it_was_sent(account: Account) -> None:
    image = account.upload(PNG)
    account.queued("look", session_id="s-1", media=[image])

    [turn] = account.session("s-1")["json"]["turns"]

    assert turn["media"] == [image]


def test_a_message_without_uploads_asks_s3_for_nothing(account: Account, wire: Wire) -> None:
    account.queued("look", media=[{"type": "image", "url": "https://example.com/cat.png"}])
    account.work()

    assert wire.made("GetObject") == []


def test_the_same_key_and_upload_make_one_task_and_another_upload_is_another_request(account: Account) -> None:
    first, second = account.upload(PNG), account.upload(PNG)
    headers = {"Idempotency-Key": "k-1", "Prefer": "respond-async"}

    def send(image: dict[str, str]) -> Response:
        return account.post({"message": "look", "media": [image]}, headers=headers)

    accepted = send(first)
    assert send(first)["json"]["task_id"] == accepted["json"]["task_id"]
    assert send(second)["json"]["code"] == "idempotency_key_reused"


MISSING = ("FAILURE", "media_missing")
INVALID = ("FAILURE", "media_invalid")
ANY_ULID = "01KANEC0X00000000000000000"


@pytest.mark.parametrize("owner", [None, "bob"])
def test_what_was_never_uploaded_or_by_another_owner_is_missing(
    account: Account, scripted: Scripted, owner: str | None
) -> None:
    named = account.upload(PNG, owner=owner) if owner else {"type": "image", "upload_id": account.offer()["upload_id"]}
    task_id = account.queued("look", media=[named])

    assert account.work() == []

    assert account.outcome(task_id) == MISSING
    assert account.task(task_id)["retryable"] is False
    assert account.waiting() == (0, 0)
    assert scripted.asked == []


def test_s3_says_of_what_is_missing_that_it_may_not_be_read(account: Account, wire: Wire) -> None:
    """To a role that may not list the bucket, as the worker's."""
    task_id = account.queued("look", media=[account.upload(PNG)])
    wire.before("GetObject", refusing("AccessDenied", 403))

    assert account.work() == []

    assert account.outcome(task_id) == MISSING


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"<svg onload=alert(1)>", "image/png"),
        (PNG[:7], "image/png"),
        (b" " + PNG, "image/png"),
        (b"RIFF\x00\n\x01\x02WAVE", "image/webp"),
        (b"GIF88a", "image/gif"),
        (b"", "image/png"),
    ],
)
def test_an_upload_that_begins_as_no_image_is_invalid(
    account: Account, scripted: Scripted, content: bytes, content_type: str
) -> None:
    task_id = account.queued("look", media=[account.upload(content, content_type)])

    assert account.work() == []

    assert account.outcome(task_id) == INVALID
    assert scripted.asked == []


@pytest.mark.parametrize("named", [*IMAGES, "text/html"])
@pytest.mark.parametrize("shown_as", IMAGES)
def test_the_first_bytes_of_an_upload_say_its_type(
    account: Account, scripted: Scripted, named: str, shown_as: str
) -> None:
    """A photo from a phone is often a JPEG named .png. The model's server refuses a data URL of the wrong type."""
    image = account.upload(BEGINNINGS[shown_as])
    [found] = account.s3.list_objects_v2(Bucket=BUCKET)["Contents"]
    account.s3.put_object(Bucket=BUCKET, Key=found["Key"], Body=BEGINNINGS[shown_as], ContentType=named)

    assert said(account, scripted, image) == [[data_url(BEGINNINGS[shown_as], shown_as)]]


@pytest.mark.parametrize("named", IMAGES)
@pytest.mark.parametrize("shown_as", IMAGES)
def test_the_first_bytes_of_a_data_url_say_its_type(
    account: Account, scripted: Scripted, named: str, shown_as: str
) -> None:
    image = {"type": "image", "url": data_url(BEGINNINGS[shown_as], named)}

    assert said(account, scripted, image) == [[data_url(BEGINNINGS[shown_as], shown_as)]]


@pytest.mark.parametrize(("more", "outcome"), [(0, ("SUCCESS", None)), (1, INVALID)])
def test_the_images_of_a_message_have_a_limit_together(
    account: Account, scripted: Scripted, more: int, outcome: tuple[str, str | None]
) -> None:
    scripted.says("nice")
    half = MAX_UPLOAD_BYTES // 2
    media = [account.upload(PNG.ljust(size, b"\0")) for size in (half, half + more)]
    task_id = account.queued("look", media=media)
    account.work()

    assert account.outcome(task_id) == outcome


def test_a_sync_request_with_a_missing_image_is_a_422_that_says_so(account: Account, clock: Clock) -> None:
    clock.meanwhile = account.work

    response = account.post({"message": "look", "media": [{"type": "image", "upload_id": ANY_ULID}]})

    assert (response["statusCode"], response["json"]["code"]) == (422, "media_missing")
    assert response["json"]["retryable"] is False


# ---- When S3 fails


@pytest.mark.parametrize(
    "fail", [refusing("SlowDown", 503), refusing(), unreachable, refusing("KMS.DisabledException")]
)
def test_when_s3_fails_the_turn_comes_back_and_succeeds_then(
    account: Account, wire: Wire, clock: Clock, fail: Callable[[dict[str, Any]], None]
) -> None:
    task_id = account.queued("look", media=[account.upload(PNG)])
    wire.before("GetObject", fail)

    assert len(account.work()) == 1
    assert account.outcome(task_id) == ("PENDING", None)
    clock.forward(10)
    assert account.work() == []

    assert account.outcome(task_id) == ("SUCCESS", None)


def test_when_s3_fails_for_good_the_turn_ends_after_three_attempts(
    account: Account, wire: Wire, clock: Clock, scripted: Scripted, printed: Printed
) -> None:
    task_id = account.queued("look", media=[account.upload(PNG)])
    wire.before("GetObject", refusing("SlowDown", 503), times=3)
    for _ in range(3):
        account.work()
        clock.forward(60)

    assert account.outcome(task_id) == ("FAILURE", "internal_error")
    assert account.task(task_id)["retryable"] is True
    assert scripted.asked == []
    assert "ClientError:SlowDown" in printed.text


def test_an_answer_of_s3_that_is_cut_is_no_image(account: Account, clock: Clock, worker: Parts) -> None:
    task_id = account.queued("look", media=[account.upload(PNG)])
    events = worker.services.uploads._client.meta.events

    def cut(parsed: dict[str, Any], **_: Any) -> None:
        events.unregister("after-call.s3.GetObject", cut)
        parsed["Body"]._content_length += 1

    events.register("after-call.s3.GetObject", cut)
    assert len(account.work()) == 1
    clock.forward(10)
    account.work()

    task = account.task(task_id)
    assert (task["status"], task["attempt"]) == ("SUCCESS", 2)


# ---- The conversation


def said(account: Account, scripted: Scripted, *media: dict[str, str]) -> list[list[str]]:
    """Send a message of session s-1 with these images. Returns the images in the request to the model."""
    scripted.says("nice")
    account.queued("look", session_id="s-1", **({"media": list(media)} if media else {}))
    account.work()
    return shown(scripted.asked[-1])


def test_the_images_of_the_turns_before_are_shown_again(account: Account, scripted: Scripted) -> None:
    said(account, scripted, account.upload(PNG + b"1"))

    assert said(account, scripted) == [[data_url(PNG + b"1")], []]


def test_the_latest_four_of_them_and_of_the_others_a_note(account: Account, scripted: Scripted) -> None:
    for number in range(3):
        said(account, scripted, *(account.upload(PNG + b"%d%d" % (number, each)) for each in range(2)))

    first, second, third, now = said(account, scripted)

    assert first == [NOTE, NOTE]
    assert second == [data_url(PNG + b"10"), data_url(PNG + b"11")]
    assert third == [data_url(PNG + b"20"), data_url(PNG + b"21")]
    assert now == []


def test_an_earlier_image_that_is_gone_is_a_note_and_no_failure(account: Account, scripted: Scripted) -> None:
    said(account, scripted, account.upload(PNG))
    [found] = account.s3.list_objects_v2(Bucket=BUCKET)["Contents"]
    account.s3.delete_object(Bucket=BUCKET, Key=found["Key"])

    assert said(account, scripted) == [[NOTE], []]


def test_the_message_itself_comes_first_where_there_is_no_room_for_all(account: Account, scripted: Scripted) -> None:
    small, large = PNG + b"small", PNG.ljust(MAX_UPLOAD_BYTES - len(PNG) - 5, b"\0")
    said(account, scripted, account.upload(small))
    said(account, scripted, account.upload(PNG + b"another"))

    first, second, now = said(account, scripted, account.upload(large))

    assert (first, second) == ([data_url(small)], [NOTE])
    assert now == [data_url(large)]


def test_an_earlier_image_that_s3_does_not_give_now_brings_the_turn_back(
    account: Account, scripted: Scripted, wire: Wire
) -> None:
    """Rather than an answer that does not know what was talked of."""
    said(account, scripted, account.upload(PNG))
    account.queued("and?", session_id="s-1")
    wire.before("GetObject", refusing("SlowDown", 503))

    assert len(account.work()) == 1
