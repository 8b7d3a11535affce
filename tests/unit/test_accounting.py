"""Every attempt's usage is added to its owner's day, however the attempt ended, and no reservation remains."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.conftest import Account, Clock, Parts, Scripted, StandIn, Wire
from tests.unit.test_limits import SetLimits, set_limits, usage, used
from tests.unit.test_uploads import NOTE, shown
from turnqueue.media import MediaUrls
from turnqueue.turn import MAX_RESULT_BYTES

__all__ = ["set_limits"]


@pytest.fixture(autouse=True)
def quota(set_limits: SetLimits, worker: Parts) -> None:
    set_limits("default:600/100/100000")
    worker.be_watchful(0.03)


def when_it_grows(wire: Wire, act: Callable[[], object]) -> None:
    """Do this as soon as the first text of the next attempt is shown."""
    wire.after("PutItem", lambda _: act())


def test_an_answer_takes_the_place_of_its_reservation(account: Account) -> None:
    task_id = account.queued("[[tokens=40]]")
    assert used(account)[1] > 2000

    account.work()

    spent = account.task(task_id)["usage"]
    assert used(account) == (spent["prompt_tokens"] + spent["completion_tokens"], 0)
    assert usage(account)["json"]["answers"] == 1


def test_a_cancelled_answer_is_paid_for(account: Account, wire: Wire) -> None:
    task_id = account.queued("[[drip=0.02 words=500]]")
    when_it_grows(wire, lambda: account.cancel(task_id))

    account.work()

    assert account.outcome(task_id) == ("FAILURE", "cancelled")
    day = usage(account)["json"]
    assert used(account) == (day["estimated_tokens"], 0)
    assert (day["estimated_tokens"] > 8, day["answers"]) == (True, 0)


def test_an_answer_that_is_too_large_is_paid_for(account: Account, scripted: Scripted) -> None:
    scripted.says(*["x" * 4096] * (MAX_RESULT_BYTES // 4096 + 1))
    task_id = account.queued()

    account.work()

    assert account.outcome(task_id) == ("FAILURE", "result_too_large")
    tokens, reserved = used(account)
    assert (tokens >= MAX_RESULT_BYTES // 4, reserved) == (True, 0)


def test_a_filtered_answer_is_paid_for_and_readable_nowhere(account: Account, wire: Wire, scripted: Scripted) -> None:
    scripted.says("something forbidden", finish_reason="content_filter")
    task_id = account.queued()

    def show(params: dict[str, Any]) -> None:  # as if it had been shown while it grew
        [item] = account.items()
        item["partial"] = {"S": "something forbidden"}
        account.dynamodb.put_item(TableName="TurnsTable", Item=item)

    wire.after("UpdateItem", show)
    account.work()

    assert account.outcome(task_id) == ("FAILURE", "prompt_refused")
    assert account.task(task_id)["partial"] is None
    assert "forbidden" not in str(account.items())
    tokens, reserved = used(account)
    assert (tokens > 5, reserved) == (True, 0)


def test_an_attempt_that_goes_back_is_paid_for_and_keeps_the_reservation(account: Account, clock: Clock) -> None:
    account.queued("[[cut=3 times=1]] " + "word " * 40)
    _, reservation = used(account)
    account.work()
    once = used(account)
    clock.forward(10)
    account.work()

    twice = used(account)
    assert 0 < once[0] < twice[0]
    assert (once[1], twice[1]) == (reservation, 0)
    assert usage(account)["json"]["answers"] == 1


@pytest.mark.parametrize("code", ["refuse", "status=400", "status=401"])
def test_a_task_that_fails_for_good_gives_its_reservation_back(account: Account, code: str) -> None:
    task_id = account.queued(f"[[{code}]]")

    account.work()

    assert account.outcome(task_id)[0] == "FAILURE"
    assert used(account)[1] == 0


def test_an_answer_whose_task_a_reader_closed_meanwhile_is_paid_for(account: Account, wire: Wire, clock: Clock) -> None:
    """Else a short deadline, and a poll just then, would pass the limit."""
    task_id = account.queued("[[drip=0.02 words=40]]", deadline_seconds=60)

    def read_late() -> None:
        clock.forward(61)
        assert account.outcome(task_id) == ("FAILURE", "deadline_exceeded")

    when_it_grows(wire, read_late)
    account.work()

    tokens, reserved = used(account)
    assert (tokens > 8, reserved) == (True, 0)


def test_a_lost_attempt_is_estimated_by_the_next_claim(account: Account, worker: Parts, clock: Clock) -> None:
    """A killed worker cannot report."""
    task_id = account.queued()
    records = account.receive()
    reserved = used(account)[1]
    for _ in range(2):
        worker.claim(task_id)
        clock.forward(51)
    assert used(account) == (0, reserved)

    account.work(records)

    spent = account.task(task_id)["usage"]
    # The test's own second claim added nothing: only a worker's does.
    assert used(account) == (reserved + spent["prompt_tokens"] + spent["completion_tokens"], 0)
    assert usage(account)["json"]["estimated_tokens"] == reserved


def test_an_attempt_after_one_that_went_back_follows_no_loss(account: Account, clock: Clock) -> None:
    account.queued("[[status=500 times=2]]")
    for _ in range(3):
        account.work()
        clock.forward(60)

    assert usage(account)["json"]["answers"] == 1
    assert usage(account)["json"]["estimated_tokens"] < 2000


def test_a_claim_whose_answer_was_lost_is_one_claim_and_no_loss(account: Account, wire: Wire) -> None:
    task_id = account.queued()
    wire.lose_answer("UpdateItem")

    account.work()

    assert account.task(task_id)["attempt"] == 1
    day = usage(account)["json"]
    assert (day["answers"], day["estimated_tokens"]) == (1, 0)


def test_a_silent_model_is_paid_for_beside_the_fallback(account: Account, worker: Parts, fallback: StandIn) -> None:
    worker.have(first_token_seconds=0.2)
    worker.be_watchful(0.03)
    task_id = account.queued("[[hang=30 times=1]] " + "word " * 100)

    account.work()

    spent = account.task(task_id)["usage"]
    assert spent["model"] == "gpt-fallback"
    tokens, reserved = used(account)
    assert tokens > spent["prompt_tokens"] + spent["completion_tokens"] + 100
    assert (reserved, usage(account)["json"]["answers"]) == (0, 1)


# ---- What the model is given


def test_a_url_that_is_allowed_no_longer_is_not_given_to_the_model(
    account: Account, worker: Parts, scripted: Scripted
) -> None:
    """Neither from the history nor from a message that was queued before the setting changed."""
    scripted.says("nice")
    urls = ["https://secret.internal/a.png", "https://cdn.example.com/b.png", "data:image/png;base64,iVBORw0KGgo="]
    media = [{"type": "image", "url": url} for url in urls]
    account.queued("one", session_id="s-1", media=media)
    account.work()
    account.queued("two", session_id="s-1", media=media[:1])
    assert shown(scripted.asked[-1]) == [urls]

    worker.have(media_urls=MediaUrls("cdn.example.com"))
    account.work()

    assert shown(scripted.asked[-1]) == [[NOTE, urls[1], urls[2]], [NOTE]]
