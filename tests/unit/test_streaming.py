"""The event log of a growing answer: the allowed writers, the pace of writes, and the reads."""

import itertools
import json
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from reply import Reply
from tests.unit.conftest import Account, Clock, Parts, Printed, Response, Wire, read, refusing, unreachable
from turnqueue.events import Event, EventLog, Growing, Superseded
from turnqueue.turn import Key, Turn

END = 2**31 - 1


@pytest.fixture
def log() -> EventLog:
    return EventLog("EventsTable", attempts=2)


type Claim = Callable[[str], Turn]


@pytest.fixture
def claim(account: Account, worker: Parts, clock: Clock) -> Claim:
    """Claim a task, whoever holds it."""

    def claim(task_id: str) -> Turn:
        clock.forward(60)
        key = Key.of_task("alice", task_id)
        turn: Turn = worker.store.claim(key, time.time(), time.time() + 50)
        return turn

    return claim


@pytest.fixture
def growing(account: Account, log: EventLog, claim: Claim) -> tuple[str, Growing]:
    task_id = account.queued(stream=True)
    return task_id, Growing(log, claim(task_id))


def told(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Each event in short: its name, its attempt and its text."""
    return [(each["event"], each.get("attempt"), each.get("text")) for each in events]


# ---- Who may write


def test_rows_are_dense_and_small(account: Account, growing: tuple[str, Growing]) -> None:
    task_id, log = growing

    for text in ("one", "one two", "one two", "one two three"):
        log.show(text, 0.25, 1_700_000_000.5)

    of_each = {"task": {"S": f"alice#{task_id}"}, "k": {"S": "d"}, "a": {"N": "1"}, "p": {"N": "0.25"}}
    assert account.rows(task_id) == [
        of_each | {"n": {"N": str(n)}, "t": {"S": text}, "expires_at": {"N": "1700086400"}}
        for n, text in enumerate(["one", " two", " three"], 1)
    ]


def test_a_zombies_next_row_is_refused(
    account: Account, log: EventLog, claim: Claim, growing: tuple[str, Growing]
) -> None:
    task_id, zombie = growing
    zombie.show("old", 0.1, time.time())
    second = Growing(log, claim(task_id))
    second.show("", 0.0, time.time())

    with pytest.raises(Superseded):
        zombie.show("old words", 0.2, time.time())

    second.show("new", 0.1, time.time())
    assert [(row["k"]["S"], row["a"]["N"], row["t"]["S"]) for row in account.rows(task_id)] == [
        ("d", "1", "old"),
        ("s", "2", ""),
        ("d", "2", "new"),
    ]


def test_a_zombies_row_that_comes_first_is_void(account: Account, log: EventLog, claim: Claim) -> None:
    """It may write until the next attempt does, also after that has looked at the log."""
    task_id = account.queued()
    zombie, second = Growing(log, claim(task_id)), Growing(log, claim(task_id))
    second.show("", 0.0, time.time())
    assert account.rows(task_id) == []  # there is nothing to take back
    zombie.show("old", 0.1, time.time())
    zombie.show("old words", 0.1, time.time())

    second.show("new", 0.1, time.time())

    assert told(account.news(task_id, 0)) == [
        ("start", 1, None),
        ("delta", 1, "old"),
        ("delta", 1, " words"),
        ("retract", 2, ""),
        ("delta", 2, "new"),
    ]
    assert account.task(task_id)["partial"] == "new"


def test_a_row_whose_answer_was_lost_is_ours(account: Account, wire: Wire, growing: tuple[str, Growing]) -> None:
    """botocore puts it again, and it meets itself. Or the call failed, and by the next try there is more text."""
    task_id, log = growing
    wire.lose_answer("PutItem")
    log.show("one", 0.1, time.time())
    wire.after("PutItem", refusing())
    with pytest.raises(Exception, match="InternalServerError"):
        log.show("one two", 0.1, time.time())

    log.show("one two three", 0.1, time.time())

    texts = ("one", " two", " three")
    assert told(account.news(task_id, 0)) == [("start", 1, None), *(("delta", 1, text) for text in texts)]


def test_a_text_that_is_taken_back_is_void(account: Account, growing: tuple[str, Growing]) -> None:
    """A model may write `message` twice into its document, and the last one counts."""
    task_id, log = growing

    for text in ("hello", "hel", "help"):
        log.show(text, 0.1, time.time())

    assert told(account.news(task_id, 1)) == [("retract", 1, ""), ("delta", 1, "help")]
    assert account.task(task_id)["partial"] == "help"


@pytest.mark.parametrize("pieces", [("a", "\ud83d", "\ude00b"), ("a", "\ud83d", "c")])
def test_half_a_character_waits_for_the_other_half(pieces: tuple[str, ...]) -> None:
    reply, seen = Reply(), [""]
    for piece in pieces:
        reply.add(piece)
        seen.append(reply.readable().rstrip("\ufffd"))

    assert all(later.startswith(sooner) for sooner, later in itertools.pairwise(seen))


# ---- How often the worker writes


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_under_a_second_writes_no_row(account: Account, worker: Parts, wire: Wire, stream: bool) -> None:
    assert worker.services.watch_seconds == 1.0
    worker.have(watch_seconds=20)  # the answer takes half a second, and on a busy machine more
    task_id = account.queued("[[drip=0.05 words=10]]", stream=stream)
    wire.calls.clear()

    account.work()

    assert account.outcome(task_id) == ("SUCCESS", None)
    assert "EventsTable" not in [params["TableName"] for params in wire.made("PutItem", "Query")]


def test_a_streamed_answer_is_shown_four_times_as_often(account: Account, worker: Parts, wire: Wire) -> None:
    worker.be_watchful(0.4)
    moments: dict[bool, list[float]] = {True: [], False: []}
    for stream in (True, False):
        wire.clear()
        task_id = account.queued("[[drip=0.04 words=45]]", stream=stream)
        wire.before("PutItem", lambda _: moments[stream].append(time.monotonic()), times=1000)  # noqa: B023
        account.work()
        assert account.outcome(task_id) == ("SUCCESS", None)

    shortest = {stream: min(b - a for a, b in itertools.pairwise(when)) for stream, when in moments.items()}
    # A busy machine starts some writes late, so the gap before is longer and the gap after is shorter.
    assert 0.1 / 2 <= shortest[True] < 0.2
    assert shortest[False] >= 0.4 / 2
    assert len(moments[True]) > len(moments[False]) >= 3


def test_a_kilobyte_of_a_streamed_answer_is_shown_at_once(
    account: Account, worker: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.be_watchful(0.02)
    monkeypatch.setattr("attempt._PACE_OF_A_STREAM", ((1000, 1000),))
    task_id = account.queued("[[drip=0.001 tokens=1000]]", stream=True)

    account.work()

    sizes = [len(row["t"]["S"]) for row in account.rows(task_id)][1:]
    assert len(sizes) >= 4
    assert all(1000 < size < 4000 for size in sizes)


def test_the_row_under_way_is_awaited_before_the_end(account: Account, worker: Parts, wire: Wire) -> None:
    worker.be_watchful(0.02)
    order: list[str] = []
    wire.before("PutItem", lambda _: time.sleep(0.3), times=1)
    wire.after("PutItem", lambda _: order.append("row"), times=1)
    task_id = account.queued("[[drip=0.02 words=8]]", stream=True)
    (record,) = account.receive()
    wire.after("UpdateItem", lambda _: wire.before("UpdateItem", lambda _: order.append("end")))

    account.work([record])

    assert order == ["row", "end"]
    assert account.outcome(task_id) == ("SUCCESS", None)


def test_a_worker_that_another_has_followed_stops_at_its_next_row(
    account: Account, worker: Parts, wire: Wire, log: EventLog, claim: Claim, printed: Printed
) -> None:
    worker.be_watchful(0.02)
    task_id = account.queued("[[drip=0.02 words=500]]")

    def followed(params: dict[str, Any]) -> None:
        Growing(log, claim(task_id)).show("", 0.0, time.time())

    wire.after("PutItem", followed)
    began = time.monotonic()
    account.work()

    assert time.monotonic() - began < 5
    assert printed.logged("attempt superseded")
    assert [row["a"]["N"] for row in account.rows(task_id)] == ["1", "2"]


# ---- Cancellations


def test_one_read_finds_the_cancellations_of_all_turns(account: Account, worker: Parts, wire: Wire) -> None:
    worker.be_watchful(0.1)
    tasks = [account.queued("[[hang=30]]", session_id=f"s-{number}") for number in range(4)]
    asked: list[int] = []

    def cancel_all(params: dict[str, Any]) -> None:
        asked.append(len(params["RequestItems"]["EventsTable"]["Keys"]))
        if asked[-1] == 4:  # all run
            for task_id in tasks:
                account.cancel(task_id)

    wire.before("BatchGetItem", cancel_all, times=1000)
    account.work()

    assert {account.outcome(task_id) for task_id in tasks} == {("FAILURE", "cancelled")}
    assert asked[-1] == 4  # the one read that found all four


def test_a_cancellation_of_an_earlier_attempt_costs_no_look(
    account: Account, worker: Parts, wire: Wire, log: EventLog, claim: Claim
) -> None:
    worker.be_watchful(0.05)
    task_id = account.queued("[[hang=0.3]]")
    (record,) = account.receive()
    first = claim(task_id)
    log.ask_to_cancel(first, time.time())
    worker.store.release(first)
    wire.calls.clear()

    account.work([record])

    assert len(wire.made("BatchGetItem")) >= 2
    assert wire.made("GetItem") == [] or {call["TableName"] for call in wire.made("GetItem")} == {"GuardsTable"}
    assert account.outcome(task_id) == ("SUCCESS", None)


def test_a_read_of_the_cancellations_that_fails_is_repeated(account: Account, worker: Parts, wire: Wire) -> None:
    worker.be_watchful(0.05)
    task_id = account.queued("[[hang=30]]")
    wire.before("BatchGetItem", unreachable)
    wire.before("BatchGetItem", lambda _: account.cancel(task_id))

    account.work()

    assert account.outcome(task_id) == ("FAILURE", "cancelled")


def test_a_deleted_turn_leaves_no_rows(account: Account, status: ModuleType, worker: Parts, log: EventLog) -> None:
    task_id = account.queued()
    key = Key.of_task("alice", task_id)
    claimed = worker.store.claim(key, time.time(), time.time() + 50)
    worker.show(claimed, "one")
    account.cancel(task_id)
    worker.store.fail_attempt(claimed, "cancelled", "one", time.time())

    status.store.empty(key)

    assert account.items("EventsTable") == []
    assert account.events(task_id)["statusCode"] == 404


# ---- How it is read


def test_who_has_read_nothing_is_shown_the_task_and_its_text(account: Account, growing: tuple[str, Growing]) -> None:
    task_id, log = growing
    log.show("one", 0.3, time.time())
    log.show("one two", 0.4, time.time())

    answer = read(account.events(task_id))

    assert answer["headers"] == {"Content-Type": "application/json", "Cache-Control": "no-store"}
    task = account.task(task_id)
    task.pop("poll_after_ms")
    answer["json"]["events"][0]["task"].pop("poll_after_ms")
    assert (task["partial"], task["progress"]) == ("one two", 0.4)
    assert answer["json"] == {
        "events": [{"id": 2, "event": "snapshot", "task": task, "attempt": 1, "text": "one two"}],
        "next": 2,
        "done": False,
        "poll_after_ms": 300,
    }


def test_who_has_read_something_is_told_the_rest(account: Account, growing: tuple[str, Growing]) -> None:
    task_id, log = growing
    for text in ("one", "one two", "one two three"):
        log.show(text, 0.1, time.time())

    assert told(account.news(task_id, 1)) == [("delta", 1, " two"), ("delta", 1, " three")]
    answer = read(account.events(task_id, 3, headers={"last-event-id": "0"}))["json"]  # the query wins over the header
    assert answer == {"events": [], "next": 3, "done": False, "poll_after_ms": 300}


def test_nothing_is_told_after_the_end_but_the_end(
    account: Account, worker: Parts, growing: tuple[str, Growing]
) -> None:
    """A lost worker may still write: its rows are nobody's."""
    task_id, log = growing
    log.show("so far", 0.1, time.time())
    claimed = worker.store.read(Key.of_task("alice", task_id), time.time())
    worker.store.succeed(claimed, {"message": "so far so good", "data": None, "draft": None}, {}, time.time())
    log.show("so far so late", 0.1, time.time())

    for after in (None, 0, 1, 2):
        answer = read(account.events(task_id, after))["json"]
        assert answer == {
            "events": [{"id": END, "event": "done", "task": account.task(task_id)}],
            "next": END,
            "done": True,
            "poll_after_ms": None,
        }
    gone = account.events(task_id, END)
    assert (gone["statusCode"], gone["body"]) == (204, "")
    assert "so late" not in json.dumps(account.task(task_id))


def test_what_a_provider_has_filtered_is_told_nobody(
    account: Account, worker: Parts, growing: tuple[str, Growing]
) -> None:
    task_id, log = growing
    log.show("filtered words", 0.1, time.time())
    claimed = worker.store.read(Key.of_task("alice", task_id), time.time())
    worker.store.fail_attempt(claimed, "prompt_refused", "", time.time())

    assert "filtered" not in account.events(task_id, 0)["body"]
    assert account.task(task_id)["partial"] is None


def test_events_for_an_event_source(account: Account, growing: tuple[str, Growing]) -> None:
    task_id, log = growing
    log.show("one\n\nid: 7 \u2028", 0.1, time.time())

    answer = account.events(task_id, headers={"accept": "text/event-stream", "last-event-id": "0"})

    assert answer["statusCode"] == 200
    assert answer["headers"] == {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}
    assert answer["body"] == (
        "retry: 300\n\n"
        'id: 0\nevent: start\ndata: {"attempt": 1}\n\n'
        'id: 1\nevent: delta\ndata: {"attempt": 1, "text": "one\\n\\nid: 7 \u2028"}\n\n'
    )


@pytest.mark.parametrize(
    ("after", "headers", "param"),
    [("x", {}, "after"), ("-1", {}, "after"), ("", {}, "after"), (None, {"last-event-id": "soon"}, "Last-Event-ID")],
)
def test_a_cursor_that_is_none_is_refused(
    account: Account, after: str | None, headers: dict[str, str], param: str
) -> None:
    answer: Response = read(account.events(account.queued(), after, headers=headers))

    assert (answer["statusCode"], answer["json"]["code"]) == (422, "invalid_parameter")
    assert answer["json"]["error"]["param"] == param


@pytest.mark.parametrize("after", [None, 0, END])
def test_another_owners_task_is_not_there(account: Account, growing: tuple[str, Growing], after: int | None) -> None:
    task_id, log = growing
    log.show("secret", 0.1, time.time())

    foreign = account.events(task_id, after, owner="eve")

    assert foreign == account.events("s.01KANEC0X00000000000000000", after, owner="eve")
    assert foreign["statusCode"] == 404


def test_a_replayed_task_is_told_from_the_beginning(
    account: Account, worker: Parts, growing: tuple[str, Growing], stack: Any
) -> None:
    """Its text of before is void, also for one who has read to the end."""
    from operations.replay import Wanted, replay

    task_id, log = growing
    log.show("first", 0.1, time.time())
    claimed = worker.store.read(Key.of_task("alice", task_id), time.time())
    worker.store.release(claimed)
    worker.store.fail(claimed.key, "worker_lost", time.time())
    assert account.task(task_id)["partial"] == "first"
    replay(stack, Wanted(), say=lambda text: None)

    (snapshot,) = account.news(task_id, END)

    assert (snapshot["event"], snapshot["task"]["status"], snapshot["task"]["partial"]) == ("snapshot", "PENDING", None)


def test_two_readers_are_told_the_same(account: Account, worker: Parts, wire: Wire) -> None:
    """One looks after each row, one now and then, one at the end of the text."""
    worker.be_watchful(0.02)
    task_id = account.queued("[[drip=0.01 words=60]]", stream=True)
    read_on: dict[int, list[dict[str, Any]]] = {1: [], 3: [], 7: []}
    rows = 0

    def look(params: dict[str, Any]) -> None:
        nonlocal rows
        rows += 1
        for every, seen in read_on.items():
            if rows % every == 0:
                seen += account.news(task_id, seen[-1]["id"] if seen else 0)

    wire.after("PutItem", look, times=1000)
    account.work()

    assert rows > 7
    longest = read_on[1]
    for seen in read_on.values():
        assert seen == longest[: len(seen)]
        assert len(seen) > 2
    text = "".join(each["text"] for each in longest if each["event"] == "delta")
    assert account.task(task_id)["result"]["message"].startswith(text)


def test_a_task_is_told_without_its_text_if_the_log_cannot_be_read(
    account: Account, wire: Wire, growing: tuple[str, Growing]
) -> None:
    task_id, log = growing
    log.show("one", 0.1, time.time())
    wire.before("Query", refusing("ResourceNotFoundException", 400))

    task = account.task(task_id)

    assert (task["status"], task["partial"]) == ("STARTED", None)


def test_a_gap_ends_what_is_told(account: Account, log: EventLog, growing: tuple[str, Growing]) -> None:
    """DynamoDB promises of a read that is not consistent neither the newest row nor the one before it."""
    task_id, _ = growing
    key = Key.of_task("alice", task_id)
    assert key
    for n in (1, 3):
        log.put(key, Event(n, "d", 1, str(n)), time.time())

    assert told(account.news(task_id, 0)) == [("start", 1, None), ("delta", 1, "1")]
