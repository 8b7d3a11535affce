"""Messages that submit never sent: each fails alone, ends in the dead-letter queue, and affects no other message."""

import contextlib
import functools
import io
import json
from collections.abc import Callable
from itertools import batched
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from development import cfn
from tests.hostile.checks import MARK, discreet, examples
from tests.unit.conftest import QUEUE_URL, Account, Clock
from turnqueue.http import MAX_OWNER_CHARACTERS
from turnqueue.queue import Malformed, decode, encode
from turnqueue.turn import SESSION_ID, Key, is_ulid

ULID = "01M817QNM08QJ3ZK9V5X2M7R4T"
QUEUES = cfn.resources("AWS::SQS::Queue")
RECEIVES: int = QUEUES["TurnQueue"]["RedrivePolicy"]["maxReceiveCount"]


def key(session: Any = "alice#s", turn: Any = ULID, **more: Any) -> str:
    return json.dumps({"session": session, "turn": turn, **more})


MALFORMED = {
    "words": MARK,
    "blank": " ",
    "null": "null",
    "number": "1",
    "true": "true",
    "string": json.dumps(MARK),
    "list": "[]",
    "empty": "{}",
    "cut": key()[:-1],
    "two": key() + key(),
    "single quotes": key().replace('"', "'"),
    "byte order mark": "\ufeff" + key(),
    "NaN": "NaN",
    "session missing": json.dumps({"turn": ULID}),
    "turn missing": json.dumps({"session": "alice#s"}),
    "other names": json.dumps({"Session": "alice#s", "Turn": ULID}),
    "another schema": json.dumps({"task_id": f"s.{ULID}", "prompt": MARK}),
    "an event of S3": json.dumps({"Records": [{"eventSource": "aws:s3", "s3": {"object": {"key": MARK}}}]}),
    "an envelope of SNS": json.dumps({"Type": "Notification", "Message": key()}),
    "in base64": "eyJzZXNzaW9uIjogImFsaWNlI3MifQ==",
    "session null": key(None),
    "session number": key(1),
    "session list": key(["alice#s"]),
    "session object": key({"S": "alice#s"}),
    "session without owner": key("#s"),
    "session without name": key("alice#"),
    "session without either": key("#"),
    "session without a mark": key("alice"),
    "session empty": key(""),
    "session long": key("alice#" + "a" * 65),
    "session longer than a key may be": key("é" * 1024 + "#s"),
    "session secret": key(f"alice#{MARK}"),
    "session zero": key("alice#\0"),
    "session line": key("alice#s\n"),
    "session half a pair": key("alice#\ud800"),
    "owner half a pair": key("\ud800#s"),
    "turn null": key(turn=None),
    "turn number": key(turn=1),
    "turn list": key(turn=[ULID]),
    "turn empty": key(turn=""),
    "turn small": key(turn=ULID.lower()),
    "turn long": key(turn=ULID + "0"),
    "turn line": key(turn=ULID + "\n"),
    "turn secret": key(turn=MARK),
    "deep": "[" * 200_000,
    "deep and closed": "[" * 100_000 + "]" * 100_000,
    "digits": "9" * 200_000,
    "huge": key(turn="a" * 900_000),
}


def quietly[T](act: Callable[[], T]) -> T:
    """Do it, and see that nothing of the messages is in the log."""
    written = io.StringIO()
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(written):
        done = act()
    discreet(written.getvalue())
    return done


@pytest.mark.parametrize("names", list(batched(MALFORMED, 8, strict=False)), ids=", ".join)
def test_malformed_messages_fail_alone(account: Account, names: tuple[str, ...]) -> None:
    """Each in a group of its own, between two messages of other sessions that are in the same batch."""
    before = account.queued()
    for name in names:
        account.send(MALFORMED[name], group=name)
    behind = account.queued()
    records = account.receive()
    malformed = [record["messageId"] for record in records if record["body"] in MALFORMED.values()]
    assert len(malformed) == len(names) == len(records) - 2
    assert quietly(lambda: account.work(records)) == malformed
    assert {account.task(task_id)["status"] for task_id in (before, behind)} == {"SUCCESS"}


def test_a_malformed_dead_letter_keeps_no_other_from_being_closed(account: Account) -> None:
    task_ids = []
    for number, body in enumerate(MALFORMED.values()):
        if number % 8 == 0:
            task_ids.append(account.queued())
            (record,) = account.receive()
            account.dead_letter(record["body"], group=f"closed-{number}")
        account.dead_letter(body, group=f"malformed-{number}")
    failed = 0
    while account.waiting("DeadLetterQueue")[0]:
        failed += len(quietly(account.bury))
    assert failed == len(MALFORMED)
    assert {account.task(task_id)["error_code"] for task_id in task_ids} == {"worker_lost"}


def test_a_malformed_message_ends_in_the_dead_letter_queue_and_takes_no_other_of_its_group_with_it(
    account: Account, clock: Clock
) -> None:
    """Only somebody who can send to the queue can put it into the group of a session."""
    task_id = account.queued(session_id="s")
    (record,) = account.receive()
    group = record["attributes"]["MessageGroupId"]
    account.sqs.delete_message(QueueUrl=QUEUE_URL + "TurnQueue.fifo", ReceiptHandle=record["receiptHandle"])
    account.send(MARK, group=group)
    account.send(record["body"], group=group)
    deliveries = 0
    while account.waiting() != (0, 0):
        deliveries += len(quietly(account.work))
        clock.forward(10)
    assert deliveries == RECEIVES
    assert account.task(task_id)["status"] == "SUCCESS"

    # There it stays, for an operator.
    for _ in range(3):
        (record,) = account.receive("DeadLetterQueue")
        assert record["body"] == MARK
        assert quietly(functools.partial(account.bury, [record])) == [record["messageId"]]
        clock.forward(QUEUES["DeadLetterQueue"]["VisibilityTimeout"] + 1)


def test_a_message_of_a_later_version_is_understood(account: Account) -> None:
    task_id = account.queued(session_id="s")
    (record,) = account.receive()
    record["body"] = json.dumps({**json.loads(record["body"]), "version": 2, "more": {"a": [MARK]}})
    assert quietly(lambda: account.work([record])) == []
    assert account.task(task_id)["status"] == "SUCCESS"


@pytest.mark.parametrize("session", ["nobody#s", "*#s", "alice'; drop table turns;#s", "a" * 300 + "#s", "\0#s"])
def test_a_message_of_a_turn_that_is_not_there_is_done_with(account: Account, session: str) -> None:
    account.send(key(session))
    assert quietly(account.work) == []
    assert account.waiting() == (0, 0)
    assert account.items() == []


TEXT = st.text(st.characters()) | st.sampled_from(["alice#s", "alice#", "#", ULID, MARK])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@examples(3)
@given(VALUES.map(json.dumps) | TEXT | st.builds(key, TEXT, TEXT) | st.builds(key, VALUES, VALUES))
def test_what_is_decoded_is_a_key_that_submit_could_have_made(body: str) -> None:
    try:
        found = decode(body)
    except Malformed:
        return
    assert found.owner.encode()
    assert SESSION_ID.fullmatch(found.session_id)
    assert is_ulid(found.turn)


@examples()
@given(st.text(min_size=1, max_size=MAX_OWNER_CHARACTERS), st.from_regex(r"\A[A-Za-z0-9_-]{1,64}\Z"))
def test_every_key_of_submit_is_decoded_to_itself(owner: str, session_id: str) -> None:
    made = Key(f"{owner}#{session_id}", ULID)
    assert decode(encode(made)) == made
