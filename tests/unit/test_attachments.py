"""Large data URLs: in S3 from the submit on, and the same as before to everybody else."""

import base64
import json
import time
from types import ModuleType
from typing import Any

import pytest

from tests.unit.conftest import (
    ENVIRONMENT,
    Account,
    Action,
    Clock,
    Parts,
    Response,
    Scripted,
    Wire,
    refusing,
    unreachable,
)
from tests.unit.openai_client import client
from tests.unit.test_cache import SetCache, set_cache
from tests.unit.test_limits import SetLimits, set_limits
from tests.unit.test_uploads import NOTE, said, shown
from turnqueue.attachments import MAX_INLINE_CHARACTERS, MAX_SHOWN, MAX_SHOWN_CHARACTERS
from turnqueue.turn import Key, Turn, upload_key

__all__ = ["set_cache", "set_limits"]

BUCKET = ENVIRONMENT["MEDIA_BUCKET"]
ASYNC = {"Prefer": "respond-async"}
TROUBLE_OF_S3 = [refusing("SlowDown", 503), refusing("AccessDenied", 403), unreachable]


def data_url(name: str, size: int = 30_000, content_type: str = "image/png") -> str:
    content = b"\x89PNG\r\n\x1a\n" + name.encode()
    return f"data:{content_type};base64,{base64.b64encode(content.ljust(size, b'.')).decode()}"


def image(name: str, size: int = 30_000) -> dict[str, str]:
    return {"type": "image", "url": data_url(name, size)}


def stored(account: Account) -> list[str]:
    return [each["Key"] for each in account.s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])]


# ---- The item, and the object


def test_the_item_is_small_and_the_object_is_the_owners(account: Account, scripted: Scripted) -> None:
    scripted.says("nice")
    task_id = account.queued("look", media=[image("a", 140_000)])
    assert len(str(account.item(task_id))) < 1500

    [key] = stored(account)
    assert key == upload_key("alice", f"data/{task_id[-26:]}/0")
    found = account.s3.get_object(Bucket=BUCKET, Key=key)
    assert found["ContentType"] == "image/png"
    assert len(found["Body"].read()) == 140_000
    account.work()
    assert len(str(account.item(task_id))) < 2500


def test_a_small_data_url_stays_in_the_item(account: Account, wire: Wire, scripted: Scripted) -> None:
    scripted.says("nice")
    largest = data_url("a", (MAX_INLINE_CHARACTERS - 22) // 4 * 3)
    assert MAX_INLINE_CHARACTERS - 4 < len(largest) <= MAX_INLINE_CHARACTERS
    account.queued("look", media=[{"type": "image", "url": largest}])
    account.work()

    assert wire.made("PutObject", "GetObject") == []
    assert shown(scripted.asked[0]) == [[largest]]


def test_the_model_sees_the_same_characters_in_their_order(account: Account, scripted: Scripted) -> None:
    scripted.says("nice")
    unknown = "data:image/webp;base64," + "A" * 8000  # begins as no image, and keeps its declared type
    link = "https://example.com/cat.png"
    urls = [data_url("a"), link, unknown, data_url("b"), data_url("a")]
    account.queued("look", media=[{"type": "image", "url": url} for url in urls])
    account.work()

    assert shown(scripted.asked[0]) == [urls]


def test_uploads_of_two_megabytes_leave_room_for_data_urls(account: Account, scripted: Scripted) -> None:
    scripted.says("nice")
    content = b"\x89PNG\r\n\x1a\n".ljust(2 * 1024 * 1024, b"\0")
    task_id = account.queued("look", media=[account.upload(content), image("a", 140_000)])
    account.work()

    assert account.outcome(task_id) == ("SUCCESS", None)
    assert shown(scripted.asked[0])[0][1] == data_url("a", 140_000)


def test_nobody_can_name_the_object_of_a_data_url(account: Account) -> None:
    task_id = account.queued("look", media=[image("a")])
    reference = json.loads(account.item(task_id)["request"]["S"])["media"][0]

    for attempt in ({"type": "image", "upload_id": reference["upload_id"]}, reference):
        response = account.post({"message": "look", "media": [attempt]}, headers=ASYNC)
        assert (response["statusCode"], response["json"]["code"]) == (422, "invalid_request")


# ---- The conversation


def test_the_images_of_the_turns_before_are_shown_again(account: Account, scripted: Scripted) -> None:
    """More of them than of uploads, because they were in the turns before."""
    names = "abcdef"
    for name in names:
        said(account, scripted, image(name))

    assert said(account, scripted) == [*([data_url(name)] for name in names), []]


def test_an_earlier_image_that_is_gone_is_a_note(account: Account, scripted: Scripted) -> None:
    said(account, scripted, image("a"))
    [key] = stored(account)
    account.s3.delete_object(Bucket=BUCKET, Key=key)

    assert said(account, scripted, image("b")) == [[NOTE], [data_url("b")]]


def test_the_conversation_has_the_images_as_they_were_sent(account: Account) -> None:
    media = [image("a"), {"type": "image", "url": "https://example.com/x.png"}, image("b"), image("tiny", 30)]
    account.queued("look", session_id="s-1", media=media)

    [turn] = account.session("s-1")["json"]["turns"]

    assert turn["media"] == media


def test_a_page_ends_before_it_is_too_large_for_a_response(account: Account) -> None:
    names = [f"{number}" for number in range(9)]
    for name in names:
        account.queued(name, session_id="s-1", media=[image(name, 140_000)])

    found, cursor = [], None
    while True:
        response = account.session("s-1", query={"cursor": cursor} if cursor else None)
        assert len(response["body"]) < MAX_SHOWN_CHARACTERS + 20_000
        found += response["json"]["turns"]
        if not (cursor := response["json"]["next_cursor"]):
            break

    assert [turn["media"] for turn in found] == [[image(name, 140_000)] for name in names]


def test_a_page_ends_before_it_takes_too_many_reads(account: Account, wire: Wire) -> None:
    for number in range(6):
        account.queued(f"{number}", session_id="s-1", media=[image(f"{number}", 6000)] * 8)
    wire.calls.clear()

    first = account.session("s-1")["json"]
    assert len(wire.made("GetObject")) == MAX_SHOWN
    second = account.session("s-1", query={"cursor": first["next_cursor"]})["json"]

    assert [turn["message"] for turn in first["turns"] + second["turns"]] == list("012345")
    assert second["next_cursor"] is None


@pytest.mark.parametrize("fail", TROUBLE_OF_S3)
def test_a_conversation_is_read_without_an_image_that_s3_refuses(account: Account, wire: Wire, fail: Action) -> None:
    task_id = account.queued("look", session_id="s-1", media=[image("a")])
    wire.before("GetObject", fail)

    [turn] = account.session("s-1")["json"]["turns"]

    assert turn["media"] == [{"type": "image", "upload_id": f"data/{task_id[-26:]}/0"}]


def test_a_retry_shows_the_image_of_the_failed_task(account: Account, scripted: Scripted, worker: Parts) -> None:
    failed = account.queued("look", session_id="s-1", media=[image("a")])
    worker.store.fail(Key.of_task("alice", failed), "worker_lost", time.time())
    account.work()
    again = account.retry(failed)["json"]["task_id"]
    scripted.says("nice")
    account.work()

    assert account.outcome(again) == ("SUCCESS", None)
    assert shown(scripted.asked[-1]) == [[data_url("a")]]
    assert account.session("s-1")["json"]["turns"][-1]["media"] == [image("a")]


# ---- Repetition: the cache and the Idempotency-Key


def test_an_equal_image_is_a_cache_hit_and_another_is_not(account: Account, set_cache: SetCache) -> None:
    set_cache(shared=True)
    for owner, name, hit in (("alice", "a", False), ("alice", "a", True), ("bob", "a", True), ("bob", "b", False)):
        response = account.post({"message": "look", "media": [image(name)]}, owner=owner, headers=ASYNC)
        account.work()
        assert account.task(response["json"]["task_id"], owner=owner)["usage"]["cached"] is hit, (owner, name)


def test_a_cached_answer_keeps_its_image_for_the_next_turn(
    account: Account, set_cache: SetCache, scripted: Scripted
) -> None:
    set_cache()
    scripted.says("nice")
    for _ in range(2):
        session_id = account.submit("look", media=[image("a")])["session_id"]
        account.work()
    account.queued("and?", session_id=session_id)
    account.work()

    assert shown(scripted.asked[-1]) == [[data_url("a")], []]


def test_the_same_key_and_image_make_one_task_and_one_object(account: Account) -> None:
    headers = ASYNC | {"Idempotency-Key": "k-1"}

    def send(name: str) -> Response:
        return account.post({"message": "look", "media": [image(name)]}, headers=headers)

    first = send("a")["json"]["task_id"]
    assert send("a")["json"]["task_id"] == first
    assert send("b")["json"]["code"] == "idempotency_key_reused"
    assert len(stored(account)) == 1


# ---- When S3 fails, or the submit dies


@pytest.mark.parametrize("fail", TROUBLE_OF_S3)
def test_without_s3_the_message_is_refused_and_nothing_is_recorded(
    account: Account, wire: Wire, set_limits: SetLimits, fail: Action
) -> None:
    set_limits("default:60/9/100000")
    wire.before("PutObject", fail)

    response = account.post({"message": "look", "media": [image("a")]}, headers=ASYNC)

    assert (response["statusCode"], response["json"]["code"]) == (503, "unavailable")
    assert response["headers"]["Retry-After"] == "2"
    assert account.items() == []
    assert account.waiting() == (0, 0)
    assert not any(item["guard"]["S"].startswith("usage") for item in account.items("GuardsTable")), "no reservation"


@pytest.mark.parametrize("moment", ["after S3", "before the record"])
def test_a_submit_that_dies_leaves_no_task_without_its_image(
    account: Account, wire: Wire, scripted: Scripted, moment: str
) -> None:
    """It leaves an object, which the lifecycle of `uploads/` deletes. The client's next request finishes the task."""
    headers = ASYNC | {"Idempotency-Key": "k-1"}
    body = {"message": "look", "media": [image("a")]}
    wire.after("PutObject", refusing() if moment == "after S3" else lambda _: wire.before("PutItem", refusing()))
    assert account.post(body, headers=headers)["statusCode"] == 503
    assert account.items() == []
    assert stored(account) != []

    task_id = account.post(body, headers=headers)["json"]["task_id"]
    scripted.says("nice")
    account.work()

    assert account.outcome(task_id) == ("SUCCESS", None)
    assert shown(scripted.asked[-1]) == [[data_url("a")]]
    assert len(stored(account)) == 1


def test_a_turn_whose_image_s3_refuses_comes_back(
    account: Account, wire: Wire, clock: Clock, scripted: Scripted
) -> None:
    scripted.says("nice")
    task_id = account.queued("look", media=[image("a")])
    wire.before("GetObject", refusing("SlowDown", 503))

    assert len(account.work()) == 1
    clock.forward(10)
    assert account.work() == []

    assert account.outcome(task_id) == ("SUCCESS", None)


def test_a_turn_whose_own_image_is_gone_says_so(account: Account) -> None:
    task_id = account.queued("look", media=[image("a")])
    [key] = stored(account)
    account.s3.delete_object(Bucket=BUCKET, Key=key)
    account.work()

    assert account.outcome(task_id) == ("FAILURE", "media_missing")


# ---- Turns of another version


def test_a_turn_of_an_earlier_version_has_its_data_url(
    account: Account, submit: ModuleType, scripted: Scripted
) -> None:
    scripted.says("nice")
    accepted = account.submit("first", session_id="s-1")
    first = account.functions["status"].store.read(Key.of_task("alice", accepted["task_id"]), 0)
    key = first.key._replace(turn=first.key.turn[:-1] + ("1" if first.key.turn[-1] == "0" else "0"))
    old = Turn.submitted(key, {"message": "look", "role": "general", "media": [image("a")]}, first.created_at)
    assert submit.store.create(old)
    submit.queue.send(key)
    account.work()

    assert [data_url("a")] in shown(scripted.asked[-1])
    assert [image("a")] in [turn["media"] for turn in account.session("s-1")["json"]["turns"]]


# ---- The OpenAI API


def test_images_of_the_openai_api_are_shown_listed_and_deleted(account: Account, scripted: Scripted) -> None:
    scripted.says("nice")
    alice = client(account)

    def message(name: str) -> Any:
        return {"role": "user", "content": [{"type": "input_image", "image_url": data_url(name), "detail": "auto"}]}

    def shown_last() -> list[str]:
        contents = [each["content"] for each in scripted.asked[-1]["messages"][1:]]
        return [part["image_url"]["url"] for content in contents for part in content]

    made = alice.responses.create(model="general", input=[message("a"), message("b")], background=True)
    assert len(str(account.item(made.id.removeprefix("resp_")))) < 2000
    account.work()
    assert shown_last() == [data_url("a"), data_url("b")]

    listed: Any = [each.to_dict() for each in alice.responses.input_items.list(made.id, order="asc")]
    assert [each["content"][0]["image_url"] for each in listed] == [data_url("a"), data_url("b")]
    assert [set(each["content"][0]) for each in listed] == [{"type", "detail", "image_url", "file_id"}] * 2

    refer: Any = {"type": "item_reference", "id": listed[0]["id"]}
    again = alice.responses.create(model="general", input=[refer, message("c")], background=True)
    account.work()
    assert shown_last() == [data_url("a"), data_url("c")]

    late = alice.responses.create(model="general", input=[refer, {"role": "user", "content": "and?"}], background=True)
    alice.responses.delete(made.id)
    assert [key.split("/")[-2] for key in stored(account)] == [again.id[-26:]], "of the other response"
    account.work()
    assert account.outcome(late.id.removeprefix("resp_")) == ("SUCCESS", None)
    assert scripted.asked[-1]["messages"][1]["content"] == [{"type": "text", "text": NOTE}]
