"""After a failed attempt the worker returns the turn to the queue for some seconds, or ends the task."""

import asyncio
import re
import threading
import time
from types import ModuleType
from typing import Any

import pytest
from botocore.exceptions import ClientError

from decisions import backoff
from tests.unit.conftest import MODEL_KEY, Account, Clock, Parts, Printed, StandIn, Wire, refusing
from turnqueue.store import Refused
from turnqueue.turn import Key


def hidden_for(wire: Wire) -> int:
    """For how many seconds the worker last hid a message."""
    (entry,) = wire.made("ChangeMessageVisibilityBatch")[-1]["Entries"]
    seconds: int = entry["VisibilityTimeout"]
    return seconds


# ---- What may pass: another attempt, later


# test_refusals.py and test_model.py have every kind; here is one for each decision.
@pytest.mark.parametrize(
    ("failure", "code"),
    [
        ("status=429", "model_rate_limited"),
        ("cut=2", "model_unavailable"),
        ("broken_json", "output_invalid"),
        ("wrong_shape", "output_invalid"),
        ("length", "output_invalid"),
    ],
)
def test_what_may_pass_goes_back_and_succeeds_at_the_second_attempt(
    account: Account, clock: Clock, model: StandIn, printed: Printed, failure: str, code: str
) -> None:
    task_id = account.queued(f"[[{failure} times=1]]", role="booking")
    (record,) = account.receive()

    assert account.work([record]) == [record["messageId"]]

    task = account.task(task_id)
    assert (task["status"], task["attempt"], task["error"]) == ("PENDING", 1, None)
    assert "lease_until" not in account.item(task_id)
    (line,) = printed.logged("attempt failed, task goes back")
    assert line["code"] == code
    assert account.receive() == []
    clock.forward(4)
    assert account.work() == []
    task = account.task(task_id)
    assert (task["status"], task["attempt"]) == ("SUCCESS", 2)
    assert len(model.messages()) == 2
    assert account.waiting() == (0, 0)


@pytest.mark.parametrize("message", ["[[hang=30]]", "[[drip=0.05 words=600]]"])
def test_a_silent_or_slow_model_is_left_in_time(
    account: Account, worker: Parts, printed: Printed, message: str
) -> None:
    worker.have(longest_answer=0.4)
    task_id = account.queued(message)

    assert len(account.work(seconds=11)) == 1  # 10 are for what comes after

    assert account.outcome(task_id) == ("PENDING", None)
    assert printed.logged("attempt failed, task goes back")[0]["code"] == "model_timeout"


# ---- When it comes back


@pytest.mark.parametrize(
    ("message", "attempt", "least", "most"),
    [
        ("[[status=500]]", 1, 2, 3),
        ("[[status=500]]", 2, 4, 6),
        ("[[status=429]]", 1, 2, 3),
        ("[[status=429 retry_after=1]]", 2, 4, 6),
        ("[[status=429 retry_after=30]]", 1, 30, 45),
        ("[[status=429 retry_after=30]]", 2, 30, 45),
        ("[[status=503 retry_after=20]]", 1, 20, 30),
        ("[[status=429 retry_after=5000]]", 1, 48, 60),
    ],
)
def test_it_comes_back_later_each_time_and_not_before_the_provider_wants_it(
    account: Account, clock: Clock, wire: Wire, message: str, attempt: int, least: int, most: int
) -> None:
    account.queued(message)
    for _ in range(attempt):
        clock.forward(60)
        account.work()

    assert least <= hidden_for(wire) <= most


def test_those_who_failed_together_do_not_come_back_together() -> None:
    delays = {backoff(1, 0) for _ in range(20)}

    assert len(delays) > 1
    assert all(2 <= delay <= 3 for delay in delays)


# ---- The budget


def test_after_three_attempts_the_task_has_failed(account: Account, clock: Clock, model: StandIn) -> None:
    task_id = account.queued("[[cut=5]]")

    for _ in range(5):
        account.work()
        clock.forward(60)

    task = account.task(task_id)
    assert (task["status"], task["error_code"], task["attempt"]) == ("FAILURE", "model_unavailable", 3)
    assert task["error"] == "The model could not be reached. Please send the message again."
    assert task["retryable"] is True
    assert task["partial"].startswith("[stand-in model] You said"), "of the last attempt"
    assert len(model.messages()) == 3
    assert account.waiting() == (0, 0)
    assert account.waiting("DeadLetterQueue") == (0, 0)


def test_no_attempt_is_promised_that_would_come_past_the_deadline(account: Account, clock: Clock) -> None:
    task_id = account.queued("[[status=429 retry_after=30]]")
    clock.forward(15 * 60 - 20)

    assert account.work() == []

    assert account.outcome(task_id) == ("FAILURE", "model_rate_limited")


def test_an_answer_that_grows_past_the_deadline_is_no_success(account: Account, clock: Clock) -> None:
    task_id = account.queued("[[drip=0.05 words=80]]")
    clock.forward(15 * 60 - 1.5)

    assert account.work() == []

    task = account.task(task_id)
    assert (task["status"], task["error_code"]) == ("FAILURE", "deadline_exceeded")
    assert task["partial"].startswith("[stand-in model]")


def test_an_answer_that_comes_as_the_deadline_passes_is_not_recorded(account: Account, worker: Parts) -> None:
    claimed = worker.claim(account.queued())

    with pytest.raises(Refused):
        worker.store.succeed(claimed, {"message": "late"}, {}, claimed.deadline_at)


def test_past_its_deadline_the_model_is_not_asked(account: Account, clock: Clock, model: StandIn) -> None:
    task_id = account.queued()
    clock.forward(15 * 60)

    assert account.work() == []

    assert model.messages() == []
    assert account.outcome(task_id) == ("FAILURE", "deadline_exceeded")
    assert account.waiting() == (0, 0)


# ---- What will not pass: the end


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        ("status=400", "model_rejected"),
        ("status=429 code=insufficient_quota", "model_quota"),
        ("status=400 code=content_policy_violation", "prompt_refused"),
        ("refuse", "prompt_refused"),
        ("content_filter", "prompt_refused"),
    ],
)
def test_what_will_not_pass_ends_the_task_at_once(account: Account, model: StandIn, failure: str, code: str) -> None:
    task_id = account.queued(f"[[{failure}]]")

    assert account.work() == []

    task = account.task(task_id)
    assert (task["status"], task["error_code"], task["attempt"]) == ("FAILURE", code, 1)
    assert task["retryable"] is False
    assert len(model.messages()) == 1
    assert account.waiting() == (0, 0)


def test_a_role_that_is_no_more_ends_the_task(account: Account, submit: ModuleType, clock: Clock) -> None:
    """A role may go with a deployment, and its turns be in the queue still."""
    key = Key("alice#s-1", "01KANEC0X00000000000000000")
    request = {"message": "hello", "role": "gone"}
    submit.store.create(submit.Turn.submitted(key, request, time.time()))
    submit.queue.send(key)

    for _ in range(3):
        account.work()
        clock.forward(60)

    assert account.outcome(key.task_id) == ("FAILURE", "internal_error")


# ---- The model's key


def rotate(account: Account, key: str) -> None:
    account.secrets.put_secret_value(SecretId="model-key", SecretString=key)


def test_turns_that_begin_together_fetch_the_key_once(account: Account, wire: Wire) -> None:
    task_ids = [account.queued() for _ in range(10)]

    assert account.work() == []

    assert {account.task(task_id)["status"] for task_id in task_ids} == {"SUCCESS"}
    assert len(wire.made("GetSecretValue")) == 1


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("sk-test\n", "sk-test"),
        ('{"OPENAI_API_KEY": "sk-test"}', "sk-test"),
        (' {"key":"sk-test "}\n', "sk-test"),
        *((text, text) for text in ("123", "true", '"quoted"', "[1]", "{broken")),
    ],
)
def test_a_secret_is_the_key_or_a_json_object_of_one(account: Account, worker: Parts, text: str, key: str) -> None:
    """AWS's console stores a key that is typed into its form as JSON."""
    rotate(account, text)

    assert set(ask_together(worker)) == {key}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"first": "sk-one", "second": "sk-two"}', "SecretHasNotOneValue"),
        ("{}", "SecretHasNotOneValue"),
        ('{"key": ""}', "SecretHasNoText"),
        ('{"key": 5}', "SecretHasNoText"),
        ('{"key": {"key": "sk-one"}}', "SecretHasNoText"),
        (" ", "SecretHasNoText"),
    ],
)
def test_a_secret_of_which_nobody_can_tell_the_key_is_a_clear_error(
    account: Account, worker: Parts, printed: Printed, text: str, kind: str
) -> None:
    rotate(account, text)

    assert {type(error).__name__ for error in ask_together(worker)} == {kind}

    task_id = account.queued()
    worker.keys._last.clear()
    account.work()
    assert account.outcome(task_id) == ("FAILURE", "model_auth")
    assert account.task(task_id)["attempt"] == 1
    line, _ = printed.logged("model key secret holds no key")
    assert line["error"] == kind
    assert not re.search("sk-|first", printed.everything)


def ask_together(worker: Parts, *, fresh: bool = False) -> Any:
    """The results of ten concurrent requests for the key: each is the key or an error."""

    async def ask() -> list[Any]:
        asked = (worker.keys.get("model-key", fresh=fresh) for _ in range(10))
        return await asyncio.gather(*asked, return_exceptions=True)

    return worker.run(ask())


def test_turns_that_ask_together_share_a_failed_fetch(account: Account, worker: Parts, wire: Wire) -> None:
    """One after the other, each would wait for all the tries of those before."""
    wire.before("GetSecretValue", refusing(), times=10)

    assert {type(answer) for answer in ask_together(worker)} == {ClientError}
    assert len(wire.made("GetSecretValue")) == 1

    wire.clear()
    assert ask_together(worker) == [MODEL_KEY] * 10


def test_turns_whose_key_is_refused_together_share_a_new_fetch(account: Account, worker: Parts, wire: Wire) -> None:
    rotate(account, "bad-key")
    ask_together(worker)
    rotate(account, MODEL_KEY)
    wire.clear()

    assert ask_together(worker, fresh=True) == [MODEL_KEY] * 10
    assert len(wire.made("GetSecretValue")) == 2  # by the first; by the others, who asked when that had begun


def test_a_refused_key_is_not_taken_from_an_earlier_fetch(account: Account, worker: Parts, wire: Wire) -> None:
    begun, refused = threading.Event(), threading.Event()

    def slow(params: object) -> None:
        begun.set()
        assert refused.wait(5)

    async def ask() -> tuple[str, str]:
        before = asyncio.create_task(worker.keys.get("model-key"))
        assert await asyncio.to_thread(begun.wait, 5)
        after = asyncio.create_task(worker.keys.get("model-key", fresh=True))
        await asyncio.sleep(0)
        refused.set()
        return await before, await after

    rotate(account, "bad-key")
    wire.after("GetSecretValue", lambda params: rotate(account, MODEL_KEY))
    wire.before("GetSecretValue", slow)

    assert worker.run(ask()) == ("bad-key", MODEL_KEY)


def test_a_fetch_that_was_given_up_is_made_by_the_next(account: Account, worker: Parts, wire: Wire) -> None:
    begun, given_up = threading.Event(), threading.Event()

    def slow(params: object) -> None:
        begun.set()
        assert given_up.wait(5)

    async def ask() -> str:
        first = asyncio.create_task(worker.keys.get("model-key"))
        assert await asyncio.to_thread(begun.wait, 5)
        second = asyncio.create_task(worker.keys.get("model-key"))
        await asyncio.sleep(0)
        first.cancel()
        try:
            return str(await second)
        finally:
            given_up.set()

    wire.before("GetSecretValue", slow)

    assert worker.run(ask()) == MODEL_KEY
    assert len(wire.made("GetSecretValue")) == 2


def test_a_rotated_key_costs_no_attempt(account: Account, model: StandIn, worker: Parts, wire: Wire) -> None:
    rotate(account, "bad-key")
    worker.run(worker.keys.get("model-key"))  # cached
    rotate(account, MODEL_KEY)
    task_id = account.queued()

    assert account.work() == []

    task = account.task(task_id)
    assert (task["status"], task["attempt"]) == ("SUCCESS", 1)
    assert model.calls()["unauthorized"] == 1
    assert len(wire.made("GetSecretValue")) == 2


def test_a_key_that_is_wrong_is_tried_twice_and_no_more(account: Account, model: StandIn, wire: Wire) -> None:
    rotate(account, "bad-key")
    task_id = account.queued()

    assert account.work() == []

    assert account.outcome(task_id) == ("FAILURE", "model_auth")
    assert model.calls()["unauthorized"] == 2
    assert len(wire.made("GetSecretValue")) == 2


# ---- When AWS fails


@pytest.mark.parametrize("operation", ["UpdateItem", "Query"])
def test_a_refusing_table_delays_one_session_only(account: Account, wire: Wire, clock: Clock, operation: str) -> None:
    first = account.queued("one", session_id="s-1")
    second = account.queued("two", session_id="s-2")
    wire.before(operation, refusing())  # of one of the two

    assert len(account.work()) == 1

    assert sorted([account.outcome(first)[0], account.outcome(second)[0]]) == ["PENDING", "SUCCESS"]
    clock.forward(10)
    assert account.work() == []
    assert [account.outcome(task) for task in (first, second)] == [("SUCCESS", None)] * 2


def test_a_table_that_refuses_for_14_minutes_costs_no_task(account: Account, wire: Wire, clock: Clock) -> None:
    task_id = account.queued()

    for _ in range(14 * 6):
        if records := account.receive():
            wire.before("UpdateItem", refusing("AccessDeniedException", 400))
            assert account.work(records) == [records[0]["messageId"]]
        clock.forward(10)
    assert account.waiting("DeadLetterQueue") == (0, 0)
    clock.forward(30)
    account.work()

    assert account.outcome(task_id) == ("SUCCESS", None)


def test_an_answer_whose_record_was_acknowledged_too_late_is_recorded_once(
    account: Account, wire: Wire, clock: Clock, model: StandIn, printed: Printed
) -> None:
    """botocore repeats the write, and is refused by what it wrote itself."""
    task_id = account.queued()
    wire.after("UpdateItem", lambda _: wire.lose_answer("UpdateItem"))  # after the claim: the end

    assert account.work() == []

    assert account.outcome(task_id) == ("SUCCESS", None)
    assert len(model.messages()) == 1
    assert len(printed.metrics()["AnswerTime"]) == 1
    assert account.waiting() == (0, 0)


@pytest.mark.parametrize("code", ["ValidationException", "SerializationException"])
def test_an_answer_that_the_table_does_not_take_is_no_failure_of_aws(
    account: Account, wire: Wire, model: StandIn, printed: Printed, code: str
) -> None:
    task_id = account.queued()
    wire.after("UpdateItem", lambda _: wire.before("UpdateItem", refusing(code, 400)))  # after the claim: the end

    assert account.work() == []

    assert account.outcome(task_id) == ("FAILURE", "internal_error")
    assert len(model.messages()) == 1
    assert len(printed.logged("answer cannot be stored")) == 1
    assert printed.logged("AWS call failed") == []


def test_an_unrecorded_answer_comes_back_after_the_lease(account: Account, wire: Wire, clock: Clock) -> None:
    task_id = account.queued()
    wire.after("UpdateItem", lambda _: wire.before("UpdateItem", refusing()))

    assert len(account.work()) == 1

    assert account.outcome(task_id)[0] == "STARTED"
    for _ in range(3):
        clock.forward(200)
        account.work()
    assert account.outcome(task_id) == ("SUCCESS", None)
    assert account.waiting() == (0, 0)


@pytest.mark.parametrize("operation", ["DeleteMessageBatch", "ChangeMessageVisibilityBatch"])
def test_a_message_that_cannot_be_deleted_or_hidden_costs_no_task(account: Account, wire: Wire, operation: str) -> None:
    wire.before(operation, refusing())  # Lambda deletes the message too
    task_id = account.queued()

    assert account.work() == []

    assert account.outcome(task_id) == ("SUCCESS", None)
