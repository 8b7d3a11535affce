"""`python -m operations replay` queues failed tasks again, safely beside workers, clients and other operators."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from operations import replay as replaying
from operations.replay import CODES, Replayed, Wanted, replay
from operations.stack import Stack
from tests.unit.conftest import STACK_OUTPUTS, Account, Clock, Parts, Printed, StandIn, Wire
from turnqueue.store import Refused
from turnqueue.turn import Key

PROMPT = "Xyzzy-prompt"


class Operator:
    """Replays tasks, and has those for it."""

    def __init__(self, account: Account, stack: Stack, store: Any) -> None:
        self._account, self._store = account, store
        self.stack = stack
        self.table_events = stack.turns.meta.client.meta.events

    def lost(self, message: str = "hello", *, attempts: int = 0, code: str = "worker_lost", **request: Any) -> str:
        """Queue a task and make it fail after this number of attempts whose workers died. Returns its id."""
        task_id = self._account.queued(message, **request)
        for record in self._account.receive():
            self._account.sqs.delete_message(QueueUrl=STACK_OUTPUTS["QueueUrl"], ReceiptHandle=record["receiptHandle"])
        key = Key.of_task(request.get("owner", "alice"), task_id)
        for _ in range(attempts):
            self._store.claim(key, time.time(), time.time() - 1)
        self._store.fail(key, code, time.time())
        return task_id

    def replay(self, *, dry_run: bool = False, **wanted: Any) -> Replayed:
        return replay(self.stack, Wanted(**wanted), say=lambda text: None, dry_run=dry_run)

    def die_before_the_send(self) -> None:
        """A replay that ends between its write and its message."""

        def die(**_: Any) -> None:
            raise KeyboardInterrupt

        self.stack.sqs.meta.events.register("before-call.sqs.SendMessage", die)
        with pytest.raises(KeyboardInterrupt):
            self.replay()
        self.stack.sqs.meta.events.unregister("before-call.sqs.SendMessage", die)


@pytest.fixture
def operator(account: Account, stack: Stack, worker: Parts) -> Operator:
    return Operator(account, stack, worker.store)


@pytest.fixture
def sends(stack: Stack) -> Iterator[list[dict[str, Any]]]:
    """The messages that the operator has sent."""
    sent: list[dict[str, Any]] = []

    def keep(params: dict[str, Any], **_: Any) -> None:
        sent.append(params)

    stack.sqs.meta.events.register("before-parameter-build.sqs.SendMessage", keep)
    yield sent
    stack.sqs.meta.events.unregister("before-parameter-build.sqs.SendMessage", keep)


# ---- What it does


@pytest.mark.parametrize("attempts", [0, 1, 3])
def test_a_lost_task_is_answered(
    account: Account, operator: Operator, model: StandIn, clock: Clock, attempts: int
) -> None:
    task_id = operator.lost(attempts=attempts)
    clock.forward(3600)

    done = operator.replay()

    assert (done.task_ids, done.changed) == ([task_id], 0)
    assert account.outcome(task_id) == ("PENDING", None)
    assert account.work() == []
    task = account.task(task_id)
    assert (task["status"], task["attempt"], task["error"]) == ("SUCCESS", attempts + 1, None)
    assert model.messages() == ["hello"]
    assert account.waiting() == (0, 0)


def test_what_its_failure_has_left_is_gone(account: Account, operator: Operator) -> None:
    task_id = operator.lost(attempts=1)
    account.dynamodb.update_item(
        TableName="TurnsTable",
        Key={name: account.item(task_id)[name] for name in ("session", "turn")},
        UpdateExpression="SET #partial = :text, #progress = :half, #cancel = :yes",
        ExpressionAttributeNames={"#partial": "partial", "#progress": "progress", "#cancel": "cancel_requested"},
        ExpressionAttributeValues={":text": {"S": "half"}, ":half": {"N": "0.5"}, ":yes": {"BOOL": True}},
    )
    before = account.item(task_id)

    operator.replay()

    after = account.item(task_id)
    kept = {"session", "turn", "status", "request", "created_at", "deadline_at", "expires_at", "attempt", "claim_id"}
    assert set(after) == kept | {"begins_session", "replayed_at", "last_attempt"}
    assert [after[name] for name in ("request", "created_at", "attempt")] == [
        before[name] for name in ("request", "created_at", "attempt")
    ]


def test_it_has_fifteen_minutes_and_a_week_again(account: Account, operator: Operator, clock: Clock) -> None:
    task_id = operator.lost()
    clock.forward(6 * 86_400)
    now = time.time()

    operator.replay()

    item = account.item(task_id)
    assert float(item["deadline_at"]["N"]) == pytest.approx(now + 900, abs=2)
    assert int(item["expires_at"]["N"]) == pytest.approx(now + 7 * 86_400, abs=2)


def test_it_has_three_attempts_again_and_backs_off_from_the_beginning(
    account: Account, operator: Operator, model: StandIn, clock: Clock, wire: Wire
) -> None:
    task_id = operator.lost("[[cut=3]]", attempts=3)
    operator.replay()

    for _ in range(2):
        (record,) = account.receive()
        assert account.work([record]) == [record["messageId"]]
        (entry,) = wire.made("ChangeMessageVisibilityBatch")[-1]["Entries"]
        assert entry["VisibilityTimeout"] <= 7  # 2 and 4 s, and up to half as much again
        assert account.outcome(task_id) == ("PENDING", None)
        clock.forward(30)
    assert account.work() == []

    assert account.outcome(task_id) == ("FAILURE", "model_unavailable")
    assert account.task(task_id)["attempt"] == 6
    assert len(model.messages()) == 3


def test_a_replay_whose_workers_all_die_ends_too(
    account: Account, operator: Operator, worker: Parts, clock: Clock
) -> None:
    task_id = operator.lost(attempts=3)
    operator.replay()
    key = Key.of_task("alice", task_id)
    for _ in range(3):
        worker.store.claim(key, time.time(), time.time() - 1)

    assert account.work() == []

    assert account.outcome(task_id) == ("FAILURE", "worker_lost")


def test_a_lease_of_its_new_life_that_runs_out_after_a_refused_claim_is_no_lost_worker(
    account: Account, operator: Operator, worker: Parts, clock: Clock, wire: Wire
) -> None:
    task_id = operator.lost(attempts=3)
    operator.replay()
    (record,) = account.receive()
    worker.store.claim(Key.of_task("alice", task_id), time.time(), time.time() + 100)
    wire.before("UpdateItem", lambda _: clock.forward(101))

    assert account.work([record]) == [record["messageId"]]

    assert account.task(task_id)["status"] == "STARTED"


def test_the_times_that_are_measured_begin_with_the_replay(
    account: Account, operator: Operator, clock: Clock, printed: Printed
) -> None:
    operator.lost()
    clock.forward(3600)
    operator.replay()

    account.work()

    metrics = printed.metrics()
    for name in ("QueueTime", "AnswerTime"):
        (value,) = metrics[name]
        assert 0 <= value < 60_000


def test_the_message_is_no_duplicate_of_the_first_one(
    account: Account, operator: Operator, sends: list[dict[str, Any]]
) -> None:
    """SQS would drop it for 5 minutes, and moto does."""
    task_id = operator.lost(session_id="s" * 64)

    operator.replay()

    (sent,) = sends
    assert sent["MessageDeduplicationId"].startswith(f"{task_id}.")
    assert len(sent["MessageDeduplicationId"]) <= 128
    assert account.waiting() == (1, 0)


# ---- Which


@pytest.mark.parametrize("code", ["cancelled", "prompt_refused", "model_auth", "context_too_long", "nonsense"])
def test_what_a_repetition_does_not_help_is_not_on_offer(code: str) -> None:
    assert code not in CODES


def test_only_the_code_that_was_asked_for(account: Account, operator: Operator) -> None:
    one, other = operator.lost(), operator.lost(code="internal_error")

    assert operator.replay(dry_run=True).task_ids == [one]
    assert operator.replay(dry_run=True, codes=["internal_error"]).task_ids == [other]


def test_success_is_never_touched(account: Account, operator: Operator) -> None:
    account.queued()
    account.work()
    before = account.items()

    assert operator.replay(codes=CODES).task_ids == []

    assert account.items() == before


def test_by_time(account: Account, operator: Operator, clock: Clock) -> None:
    operator.lost(session_id="old")
    clock.forward(7200)
    young = operator.lost(session_id="young")

    assert operator.replay(since=time.time() - 3600).task_ids == [young]


def test_by_owner_session_and_id(account: Account, operator: Operator) -> None:
    one, two = operator.lost(session_id="one"), operator.lost(session_id="two")
    operator.lost(owner="alice#one", session_id="one")
    theirs = operator.lost(owner="bob", session_id="one")

    def found(**wanted: Any) -> list[str]:
        return sorted(operator.replay(dry_run=True, **wanted).task_ids)

    assert found(owner="alice") == sorted([one, two])
    assert found(owner="alice", session_id="one") == [one]
    assert found(owner="bob", session_id="one") == [theirs]
    assert found(session_id="two") == [two]
    assert found(task_ids=[two, theirs]) == sorted([two, theirs])
    assert found(owner="alice", task_ids=[two, theirs, "nonsense"]) == [two]


def test_a_known_place_is_read_and_not_the_whole_table(operator: Operator) -> None:
    def no_scan(**_: Any) -> None:
        raise AssertionError("a Scan")

    operator.table_events.register("before-call.dynamodb.Scan", no_scan)
    task_id = operator.lost(session_id="one")

    for known in ({"session_id": "one"}, {"task_ids": [task_id]}):
        assert operator.replay(owner="alice", dry_run=True, **known).task_ids == [task_id]


def test_page_after_page(account: Account, operator: Operator) -> None:
    lost_ones = [operator.lost("語" * 30_000, session_id=f"s-{number}") for number in range(13)]  # a page holds 1 MB

    assert sorted(operator.replay().task_ids) == sorted(lost_ones)


def test_at_most_so_many(account: Account, operator: Operator) -> None:
    for number in range(3):
        operator.lost(session_id=f"s-{number}")

    assert len(operator.replay(limit=2).task_ids) == 2
    assert account.waiting() == (2, 0)


def test_a_dry_run_changes_nothing_and_tells_the_cost(account: Account, operator: Operator) -> None:
    task_id = operator.lost()
    before = account.items()

    done = operator.replay(dry_run=True)

    assert (done.task_ids, done.units > 0) == ([task_id], True)
    assert (account.items(), account.waiting()) == (before, (0, 0))


def test_what_has_expired_stays_gone(account: Account, operator: Operator, clock: Clock) -> None:
    operator.lost()
    clock.forward(7 * 86_400 + 1)

    assert operator.replay().task_ids == []


def test_a_task_that_nobody_has_read_since_its_deadline(account: Account, operator: Operator, clock: Clock) -> None:
    task_id = account.queued()
    clock.forward(901)

    assert operator.replay().task_ids == []
    assert operator.replay(codes=["deadline_exceeded"]).task_ids == [task_id]
    account.work()

    assert account.outcome(task_id) == ("SUCCESS", None)


def test_a_task_that_a_worker_holds_past_its_deadline_is_left_to_it(
    account: Account, operator: Operator, worker: Parts, clock: Clock
) -> None:
    task_id = account.queued()
    clock.forward(899)
    worker.store.claim(Key.of_task("alice", task_id), time.time(), time.time() + 100)
    clock.forward(2)

    assert operator.replay(codes=["deadline_exceeded"]).task_ids == []


# ---- Its conversation


def test_the_turns_of_a_session_go_in_their_order(account: Account, operator: Operator) -> None:
    expected = [operator.lost(f"number {number}", session_id="s") for number in range(4)]

    assert operator.replay().task_ids == expected
    turns = [json.loads(record["body"])["turn"] for record in account.receive()]
    assert [f"s.{turn}" for turn in turns] == expected


def test_the_model_is_told_what_came_before_the_turn_and_nothing_of_what_came_after(
    account: Account, operator: Operator, scripted: Any
) -> None:
    scripted.says("fine")
    account.queued("first", session_id="s")
    account.work()
    operator.lost("second", session_id="s")
    account.queued("third", session_id="s")
    account.work()

    operator.replay()
    account.work()

    told = [message["content"] for message in scripted.asked[-1]["messages"] if message["role"] != "system"]
    assert told == ["first", "fine", "second"]
    page = account.session("s")["json"]["turns"]
    assert [(turn["message"], turn["status"]) for turn in page] == [
        (message, "SUCCESS") for message in ("first", "second", "third")
    ]


# ---- Those who are there meanwhile


def test_a_zombie_of_the_first_life_cannot_write(account: Account, operator: Operator, worker: Parts) -> None:
    task_id = account.queued()
    assert account.receive()
    zombie = worker.store.claim(Key.of_task("alice", task_id), time.time(), time.time() - 1)
    worker.store.fail(zombie.key, "worker_lost", time.time())
    operator.replay()

    def tries_all() -> None:
        with pytest.raises(Refused):
            worker.store.succeed(zombie, {"message": "late"}, {}, time.time())
        with pytest.raises(Refused):
            worker.store.fail_attempt(zombie, "internal_error", "late", time.time())

    tries_all()
    second = worker.store.claim(zombie.key, time.time(), time.time() + 100)
    tries_all()
    assert second.attempt == 2
    worker.store.succeed(second, {"message": "in time"}, {}, time.time())
    tries_all()
    assert account.task(task_id)["result"]["message"] == "in time"


def test_two_operators_at_once_make_one_replay(
    account: Account, operator: Operator, worker: Parts, sends: list[dict[str, Any]]
) -> None:
    task_id = operator.lost()
    other = Stack("turnqueue-test", "us-east-1")
    other.__dict__["outputs"] = STACK_OUTPUTS
    done: list[Replayed] = []

    def meanwhile(**_: Any) -> None:
        operator.table_events.unregister("before-parameter-build.dynamodb.UpdateItem", meanwhile)
        done.append(Operator(account, other, worker.store).replay())

    operator.table_events.register("before-parameter-build.dynamodb.UpdateItem", meanwhile)
    late = operator.replay()

    assert (done[0].task_ids, done[0].changed) == ([task_id], 0)
    assert (late.task_ids, late.changed) == ([], 1)
    assert (len(sends), account.waiting()) == (0, (1, 0))


@pytest.mark.parametrize("later", [0, 901])
def test_a_command_that_dies_before_the_send_is_repeated_and_gives_a_new_deadline(
    account: Account, operator: Operator, model: StandIn, clock: Clock, later: int
) -> None:
    task_id = operator.lost(attempts=3)
    operator.die_before_the_send()
    assert (account.outcome(task_id), account.waiting()) == (("PENDING", None), (0, 0))
    clock.forward(later)

    assert operator.replay().task_ids == [task_id]
    account.work()

    assert account.outcome(task_id) == ("SUCCESS", None)
    assert len(model.messages()) == 1


def test_never_repeated_it_reads_as_failed_in_the_end(account: Account, operator: Operator, clock: Clock) -> None:
    task_id = operator.lost()
    operator.die_before_the_send()
    clock.forward(901)

    assert account.outcome(task_id) == ("FAILURE", "deadline_exceeded")


def test_a_repetition_right_after_it_adds_no_message(account: Account, operator: Operator, model: StandIn) -> None:
    operator.lost()
    for _ in range(3):
        operator.replay()

    assert account.waiting() == (1, 0)
    account.work()
    assert operator.replay().task_ids == []
    assert len(model.messages()) == 1


def test_one_that_a_worker_has_begun_is_left_alone(account: Account, operator: Operator, worker: Parts) -> None:
    task_id = operator.lost()
    operator.replay()
    claimed = worker.store.claim(Key.of_task("alice", task_id), time.time(), time.time() + 100)

    assert operator.replay().task_ids == []

    worker.store.release(claimed)
    assert operator.replay().task_ids == []


def test_a_write_whose_answer_is_lost_is_taken_for_done(account: Account, operator: Operator) -> None:
    """botocore repeats it, and meets what it wrote itself."""
    task_id = operator.lost()

    def again(**_: Any) -> None:
        operator.table_events.unregister("before-parameter-build.dynamodb.UpdateItem", again)
        [item] = operator.stack.turns.scan()["Items"]
        replaying._reset(operator.stack, replaying._Seen.of(item), time.time())

    moment = time.time()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: moment)
        operator.table_events.register("before-parameter-build.dynamodb.UpdateItem", again)
        done = operator.replay()

    assert done.task_ids == [task_id]
    assert account.waiting() == (1, 0)


def test_a_dead_letter_of_its_first_life_that_comes_back_ends_it_again(account: Account, operator: Operator) -> None:
    """Known and accepted: the letter's deletion must have failed before. The task is offered for replay again."""
    task_id = operator.lost()
    operator.replay()
    account.receive()
    key = {"session": f"alice#{task_id.partition('.')[0]}", "turn": task_id.partition(".")[2]}
    account.dead_letter(json.dumps(key))

    account.bury()

    assert account.outcome(task_id) == ("FAILURE", "worker_lost")
    assert operator.replay().task_ids == [task_id]


def test_no_prompt_is_asked_for_or_printed(account: Account, operator: Operator, sends: list[dict[str, Any]]) -> None:
    operator.lost(PROMPT)
    told: list[str] = []
    answers: list[Any] = []
    operator.table_events.register("after-call.dynamodb.Scan", lambda parsed, **_: answers.append(parsed))

    replay(operator.stack, Wanted(), told.append)

    assert answers and told and sends
    assert PROMPT not in json.dumps([told, sends, answers], default=str)
