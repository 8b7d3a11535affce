"""The worker polls for more turns while it runs some. (tests/faults tries the errors of that.)"""

import asyncio
from contextlib import AsyncExitStack

import pytest

from room import BYTES, BYTES_OF_A_SLOT, Room
from tests.unit.conftest import Account, Parts, Printed, StandIn, Wire, unreachable
from turnqueue.media import MAX_UPLOAD_BYTES


@pytest.fixture(autouse=True)
def refilled(worker: Parts) -> None:
    worker.rebuild(TURNS_PER_WORKER="40")


def slow_and(account: Account, *messages: str, seconds: float = 0.7) -> tuple[list[str], list[str]]:
    """Run the worker on an event with one slow turn, while these lie in the queue. Returns the ids of all tasks, and of
    the messages that the worker has reported as failed."""
    tasks = [account.queued(f"[[hang={seconds}]] slow", session_id="slow")]
    event = account.receive()
    tasks += [account.queued(message, session_id=f"s-{number}") for number, message in enumerate(messages)]
    return tasks, account.work(event)


def test_a_worker_takes_turns_while_one_runs(account: Account) -> None:
    tasks, failed = slow_and(account, "one", "two", "three")

    assert [account.outcome(task) for task in tasks] == [("SUCCESS", None)] * 4
    assert failed == []
    assert account.waiting() == (0, 0)


def test_a_worker_goes_on_while_it_has_turns(account: Account) -> None:
    """The first is over long before the last begins."""
    ids = [account.queued("[[hang=0.5]] 0", session_id="s-0")]
    event = account.receive()
    ids += [account.queued(f"[[hang=0.5]] {number}", session_id=f"s-{number % 2}") for number in range(1, 5)]

    account.work(event)

    assert [account.outcome(task) for task in ids] == [("SUCCESS", None)] * 5


def test_a_short_invocation_polls_nothing(
    account: Account, wire: Wire, worker: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intake._PAUSE_SECONDS", 60)
    account.queued("quick")
    wire.clear()

    account.work()

    assert wire.made("ReceiveMessage") == []


def test_a_poll_is_for_the_free_slots_and_hides_for_a_lease(account: Account, wire: Wire, worker: Parts) -> None:
    worker.rebuild(TURNS_PER_WORKER="3")

    slow_and(account)

    first, *_ = wire.made("ReceiveMessage")
    assert first["MaxNumberOfMessages"] == 2
    assert first["VisibilityTimeout"] == 50
    assert first["WaitTimeSeconds"] == 1


def test_each_poll_is_an_attempt_and_a_failed_one_is_repeated(account: Account, wire: Wire) -> None:
    wire.before("ReceiveMessage", unreachable)

    slow_and(account, seconds=2)

    failed, again, *others = [params["ReceiveRequestAttemptId"] for params in wire.made("ReceiveMessage")]
    assert failed == again
    assert again not in others
    assert len(set(others)) == len(others) > 0


@pytest.mark.parametrize("times", [2, 100])
def test_a_failed_poll_is_repeated_twice_though_all_turns_are_over(account: Account, wire: Wire, times: int) -> None:
    wire.before("ReceiveMessage", unreachable, times=times)

    slow_and(account, seconds=0.5)

    attempts = [params["ReceiveRequestAttemptId"] for params in wire.made("ReceiveMessage")]
    assert len(attempts) == 3
    assert len(set(attempts)) == 1


def test_a_full_worker_takes_nothing(account: Account, wire: Wire, worker: Parts) -> None:
    worker.rebuild(TURNS_PER_WORKER="1")
    account.queued("[[hang=0.6]]")

    account.work()

    assert wire.made("ReceiveMessage") == []


def test_a_worker_with_less_than_a_longest_answer_left_takes_nothing(account: Account, wire: Wire) -> None:
    account.queued("[[hang=0.6]]")

    account.work(seconds=193)  # 180 s for the answer, 10 s to record it, 4 s for the poll

    assert wire.made("ReceiveMessage") == []


def test_only_messages_of_the_event_are_reported(account: Account) -> None:
    (slow, failing), failed = slow_and(account, "[[status=500]]")

    assert failed == []
    assert account.outcome(slow) == ("SUCCESS", None)
    assert account.outcome(failing) == ("PENDING", None)
    assert account.waiting() == (0, 1)


def test_metrics_are_written_while_turns_run(
    account: Account, worker: Parts, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(type(worker.built).work.__globals__, "FLUSH_SECONDS", 0.1)

    account.queued("[[hang=1]] slow", session_id="slow")
    event = account.receive()
    account.send("malformed")  # it is counted after its line of the log, so the next line would carry the metric
    account.work(event)

    lines = printed.documents
    counted = next(number for number, line in enumerate(lines) if "MessageMalformed" in line)
    finished = next(number for number, line in enumerate(lines) if line.get("message") == "task finished")
    assert counted < finished


def test_images_weigh_as_much_as_several_turns(account: Account, wire: Wire, worker: Parts) -> None:
    worker.rebuild(TURNS_PER_WORKER="5")
    image = account.upload(b"GIF89a" + bytes(2 * BYTES_OF_A_SLOT), "image/gif")
    account.queued("[[hang=1]] look", media=[image])

    account.work()

    assert min(params["MaxNumberOfMessages"] for params in wire.made("ReceiveMessage")) == 1


def test_turns_with_images_wait_until_there_is_room(
    account: Account, model: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two have the largest images; the third begins when one of them has ended."""
    monkeypatch.setattr("room.BYTES", 2 * MAX_UPLOAD_BYTES)
    for number in range(3):
        image = account.upload(b"GIF89a" + bytes(MAX_UPLOAD_BYTES - 6), "image/gif")
        account.queued("[[hang=1]] look", session_id=f"s-{number}", media=[image])

    assert account.work() == []

    calls = model.calls()["last"]
    assert len(calls) == 3
    assert max(call["at"] for call in calls) >= min(call["ended_at"] for call in calls)


def test_room_is_kept_for_what_was_read_and_free_afterwards() -> None:
    async def scenario() -> list[int]:
        room, slots = Room(), []
        async with AsyncExitStack() as stack:
            keeps = [await stack.enter_async_context(room.for_images()) for _ in range(BYTES // MAX_UPLOAD_BYTES)]
            waiting = asyncio.create_task(stack.enter_async_context(room.for_images()))
            await asyncio.sleep(0)
            assert not waiting.done()
            slots.append(room.slots)
            for keep in keeps:
                keep(0)
            await asyncio.wait_for(waiting, 5)
            slots.append(room.slots)
        slots.append(room.slots)
        return slots

    assert asyncio.run(scenario()) == [40, 4, 0]
