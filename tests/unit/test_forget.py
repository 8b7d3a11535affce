"""`python -m operations forget` deletes all data of one owner and none of another, and no data comes back."""

import time
from typing import Any

import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from operations.forget import NotDeleted, forget
from operations.replay import Wanted, replay
from operations.stack import Stack
from tests.unit.conftest import STACK_OUTPUTS, Account, Clock, Parts, Printed, StandIn, Wire
from tests.unit.test_cache import SetCache, kept, set_cache
from turnqueue.rate_limits import Rate, RateLimiter
from turnqueue.turn import Key, upload_key

__all__ = ["set_cache"]

WITH_KEY = {"Idempotency-Key": "k-1", "Prefer": "respond-async"}
BUCKET = STACK_OUTPUTS["MediaBucketName"]

# Whose name begins another's, or looks like a key of his.
OTHERS = ["alice#s-1", "alice#", "#alice", "alic", "alice2", "Alice", "alice#alice", "s-1"]


@pytest.mark.parametrize(("owner", "other"), [*(("alice", other) for other in OTHERS), ("alice#s-1", "alice")])
def test_the_owners_turns_rows_images_and_guards_go_and_no_others(
    account: Account, stack: Stack, worker: Parts, owner: str, other: str
) -> None:
    for each in (owner, other):
        account.upload(b"an image", owner=each)
        image = {"type": "image", "url": "data:image/png;base64," + "A" * 8000}
        message = {"message": "look", "session_id": "s-1", "media": [image]}
        task_id = account.post(message, owner=each, headers=WITH_KEY)["json"]["task_id"]
        claimed = worker.claim(task_id, owner=each)
        worker.show(claimed, "words of the answer")
        account.cancel(task_id, owner=each)

    for each in (owner, other):  # what is the other's is found untouched
        found = forget(stack, each)
        assert {key.owner for key in found.turns} == {each}
        assert (len(found.turns), len(found.rows), len(found.uploads), len(found.guards)) == (1, 2, 2, 1)

    assert uploads(account) == set()
    assert [account.items(table) for table in ("TurnsTable", "EventsTable", "GuardsTable")] == [[], [], []]


def test_a_row_that_a_worker_adds_late_is_found_by_the_next_run(account: Account, stack: Stack, worker: Parts) -> None:
    task_id = account.queued()
    claimed = worker.claim(task_id)
    forget(stack, "alice")
    worker.show(claimed, "late")
    assert account.events(task_id)["statusCode"] == 404

    assert len(forget(stack, "alice").rows) == 1

    assert account.items("EventsTable") == []


def test_turns_in_every_state_go(account: Account, stack: Stack, worker: Parts) -> None:
    account.queued("hello", session_id="s-1")
    account.queued("[[refuse]]", session_id="s-2")
    account.work()
    account.queued(session_id="s-3")
    worker.claim(account.queued(session_id="s-4"))

    assert len(forget(stack, "alice").turns) == 4

    assert account.items() == []


def test_more_than_a_page_and_more_than_a_batch(account: Account, stack: Stack) -> None:
    for number in range(40):
        account.queued("x" * 30_000, session_id=f"s-{number}")  # a page holds 1 MB, a batch 25

    assert len(forget(stack, "alice").turns) == 40

    assert account.items() == []


def test_what_dynamodb_leaves_unprocessed_is_deleted_too(account: Account, stack: Stack) -> None:
    for number in range(30):
        account.queued(session_id=f"s-{number}")
    events = stack.turns.meta.client.meta.events
    calls: list[int] = []

    def some_remain(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        """As in DynamoDB under load: of each batch only the first is processed, the first two times."""
        [(table, requests)] = params["RequestItems"].items()
        calls.append(len(requests))
        if len(calls) <= 2:
            context["rest"] = {table: requests[1:]}
            params["RequestItems"] = {table: requests[:1]}

    def told(parsed: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        if "UnprocessedItems" in parsed:
            parsed["UnprocessedItems"] = context.get("rest", {})

    # Both on the side of the table's own, untyped values.
    events.register_first("before-parameter-build.dynamodb.BatchWriteItem", some_remain)
    events.register_last("after-call.dynamodb", told)
    forget(stack, "alice")

    assert len(calls) > 2
    assert account.items() == []


def test_what_is_counted_of_the_owner_goes(account: Account, stack: Stack, clock: Clock) -> None:
    rates = RateLimiter("GuardsTable", attempts=1, read_timeout=1)
    for owner in ("alice", "bob"):
        rates.take(owner, Rate(1, 1), time.time())
        rates.take(owner, Rate(1, 1), time.time(), kind="uploads")
        rates.take(owner, Rate(1, 1), time.time(), kind="waits")
        account.queued(owner=owner)
    account.work()
    clock.forward(86_400)
    account.queued()
    account.work()
    assert len(account.items("GuardsTable")) == 9

    assert len(forget(stack, "alice").guards) == 5

    assert len(account.items("GuardsTable")) == 4


@pytest.mark.parametrize("shared", [True, False])
def test_the_replies_that_are_kept_go(account: Account, stack: Stack, set_cache: SetCache, shared: bool) -> None:
    """Also those of turns that are gone; and shared ones, which another may have been given and keeps."""
    set_cache(shared=shared)
    account.queued("hello", owner="alice")
    account.queued("hello, too", owner="bob")
    account.work()
    given = account.queued("hello", owner="bob")
    account.work()

    for item in account.items():
        if item["session"]["S"].startswith("alice#"):
            account.remove(item)  # it expired before what leads to it

    forget(stack, "alice")

    assert {item["owner"]["S"] for item in kept(account)} == {"bob"}
    assert account.task(given, owner="bob")["usage"]["cached"] is shared


def uploads(account: Account) -> set[str]:
    found = account.s3.list_objects_v2(Bucket=BUCKET)
    return {each["Key"].rpartition("/")[2] for each in found.get("Contents", [])}


def test_more_uploads_than_s3_lists_or_deletes_at_once(account: Account, stack: Stack) -> None:
    bucket = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]  # directly, because 1,001 calls take seconds
    for number in range(1001):
        bucket.put_object(BUCKET, upload_key("alice", f"{number:026}"), b"")

    assert len(forget(stack, "alice").uploads) == 1001

    assert uploads(account) == set()


def test_an_upload_that_s3_does_not_delete_is_told(account: Account, stack: Stack) -> None:
    account.upload(b"mine")

    def refused(parsed: dict[str, Any], **_: Any) -> None:
        parsed["Errors"] = [{"Key": "x", "Code": "InternalError", "Message": "no"}]

    stack.s3.meta.events.register("after-call.s3.DeleteObjects", refused)
    with pytest.raises(NotDeleted, match="InternalError"):
        forget(stack, "alice")


def test_a_dry_run_deletes_nothing(account: Account, stack: Stack) -> None:
    account.upload(b"mine")
    account.post({"message": "once"}, headers=WITH_KEY)

    found = forget(stack, "alice", dry_run=True)

    assert (len(found.turns), len(found.guards), len(found.uploads)) == (1, 1, 1)
    assert found.units > 0
    assert len(uploads(account)) == 1
    assert (len(account.items()), len(account.items("GuardsTable"))) == (1, 1)


def test_its_messages_and_dead_letters_go(account: Account, stack: Stack, model: StandIn, printed: Printed) -> None:
    account.queued()
    [record] = account.receive()
    account.dead_letter(record["body"])
    forget(stack, "alice")

    assert (account.work([record]), account.bury()) == ([], [])

    assert account.items() == []
    assert account.waiting() == account.waiting("DeadLetterQueue") == (0, 0)
    assert model.messages() == []
    assert len(printed.logged("message of a finished task")) == 1


@pytest.mark.parametrize("message", ["hello", "[[refuse]]", "[[status=500]]", "[[hang=0.2]]"])
def test_a_worker_cannot_bring_it_back(account: Account, stack: Stack, worker: Parts, wire: Wire, message: str) -> None:
    """Its answer, its failure, its return to the queue, its progress: whatever it writes next meets no turn."""
    worker.be_watchful(0.02)
    account.queued(message)
    wire.after("UpdateItem", lambda _: forget(stack, "alice"))  # right after the claim

    assert account.work() == []

    assert account.items() == []
    assert account.waiting() == (0, 0)


def test_a_cancellation_and_a_late_reader_cannot_either(
    account: Account, stack: Stack, wire: Wire, clock: Clock
) -> None:
    task_id = account.queued()
    wire.after("GetItem", lambda _: forget(stack, "alice"))
    assert account.cancel(task_id)["statusCode"] == 404
    task_id = account.queued()
    clock.forward(901)
    wire.after("GetItem", lambda _: forget(stack, "alice"))
    account.get(task_id)

    assert account.items() == []


def test_a_replay_cannot_either(account: Account, stack: Stack, worker: Parts) -> None:
    task_id = account.queued()
    worker.store.fail(Key.of_task("alice", task_id), "worker_lost", time.time())
    events = stack.turns.meta.client.meta.events

    def meanwhile(**_: Any) -> None:
        events.unregister("before-parameter-build.dynamodb.UpdateItem", meanwhile)
        forget(stack, "alice")

    events.register("before-parameter-build.dynamodb.UpdateItem", meanwhile)
    done = replay(stack, Wanted(), say=lambda text: None)

    assert (done.task_ids, done.changed) == ([], 1)
    assert account.items() == []
