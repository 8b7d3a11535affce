"""The queue double behaves like SQS FIFO, also in cases that emulators get wrong."""

import contextlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.fifo_queue import FifoQueue, QueueError, Received


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def dead_letters(clock: Clock) -> FifoQueue:
    return FifoQueue("dead", clock, visibility=30)


@pytest.fixture
def queue(clock: Clock, dead_letters: FifoQueue) -> FifoQueue:
    return FifoQueue("turn", clock, visibility=100, retention=1000, most_receives=3, dead_letters=dead_letters)


def send(queue: FifoQueue, *bodies: str) -> None:
    """A message each; its first letter is its group."""
    for body in bodies:
        queue.send(body, body[0], body)


def bodies(received: list[Received]) -> list[str]:
    return [message.body for message in received]


def test_messages_come_in_order_and_groups_side_by_side(queue: FifoQueue) -> None:
    send(queue, "a1", "b1", "a2", "b2")
    assert bodies(queue.receive()) == ["a1", "b1", "a2", "b2"]


def test_at_most_ten_come_at_once(queue: FifoQueue) -> None:
    send(queue, *(f"a{number:02}" for number in range(12)))
    assert len(queue.receive(20)) == 10


def test_a_receive_that_is_repeated_gets_the_same_messages(queue: FifoQueue, clock: Clock) -> None:
    send(queue, "a1", "b1")
    first = queue.receive(1, visibility=50, attempt_id="one")
    clock.now = 40
    assert queue.receive(1, visibility=50, attempt_id="one") == first
    assert bodies(queue.receive(attempt_id="two")) == ["b1"]
    clock.now = 89
    assert queue.receive() == []
    clock.now = 90
    assert bodies(queue.receive()) == ["a1"]


@pytest.mark.parametrize("change", ["deleted", "hidden", "expired"])
def test_a_receive_is_not_repeated_once_something_became_of_its_messages(
    queue: FifoQueue, clock: Clock, change: str
) -> None:
    send(queue, "a1", "b1")
    [message] = queue.receive(1, visibility=50, attempt_id="one")
    if change == "deleted":
        queue.delete(message.handle)
    elif change == "hidden":
        queue.change_visibility(message.handle, 200)
    else:
        clock.now = 60
    assert message not in queue.receive(attempt_id="one")


def test_the_last_deletion_unlocks_the_group(queue: FifoQueue) -> None:
    send(queue, "a1", "a2", "a3")
    first, second = queue.receive(2)
    queue.delete(first.handle)
    assert queue.receive() == []
    queue.delete(second.handle)
    assert bodies(queue.receive()) == ["a3"]


def test_a_batch_that_expires_comes_back_in_order(queue: FifoQueue, clock: Clock) -> None:
    send(queue, "a1", "a2")
    queue.receive()
    send(queue, "a3")
    clock.now = 99.9
    assert queue.receive() == []
    clock.now = 100
    assert bodies(queue.receive()) == ["a1", "a2", "a3"]


def test_a_group_stays_locked_until_all_of_a_batch_is_back(queue: FifoQueue) -> None:
    send(queue, "a1", "a2")
    first, second = queue.receive()
    queue.change_visibility(first.handle, 0)
    assert queue.receive() == []
    queue.change_visibility(second.handle, 0)
    assert bodies(queue.receive()) == ["a1", "a2"]


def test_a_message_is_hidden_as_long_as_it_is_told(queue: FifoQueue, clock: Clock) -> None:
    send(queue, "a1")
    [message] = queue.receive()
    queue.change_visibility(message.handle, 5)
    assert queue.next_visible_at() == 5
    clock.now = 4.9
    queue.change_visibility(message.handle, 400)
    clock.now = 404
    assert queue.receive() == []
    clock.now = 404.9
    assert bodies(queue.receive()) == ["a1"]


@pytest.mark.parametrize("act", [FifoQueue.delete, lambda queue, handle: queue.change_visibility(handle, 9)])
def test_a_handle_that_expired_is_refused(queue: FifoQueue, clock: Clock, act: object) -> None:
    send(queue, "a1")
    [old] = queue.receive()
    clock.now = 100
    with pytest.raises(QueueError, match="expired"):
        act(queue, old.handle)  # type: ignore[operator]
    [new] = queue.receive()
    assert (new.message_id, new.receive_count) == (old.message_id, 2)
    with pytest.raises(QueueError, match="expired"):
        act(queue, old.handle)  # type: ignore[operator]
    queue.delete(new.handle)


def test_to_delete_twice_is_no_error(queue: FifoQueue, clock: Clock) -> None:
    send(queue, "a1")
    [message] = queue.receive()
    queue.delete(message.handle)
    clock.now = 500
    queue.delete(message.handle)
    with pytest.raises(QueueError) as refused:
        queue.delete("no handle")
    assert refused.value.code == "ReceiptHandleIsInvalid"


@pytest.mark.parametrize("seconds", [-1, 43_201])
def test_a_visibility_out_of_range_is_refused(queue: FifoQueue, seconds: int) -> None:
    send(queue, "a1")
    [message] = queue.receive()
    with pytest.raises(QueueError):
        queue.change_visibility(message.handle, seconds)


def test_a_message_is_hidden_for_twelve_hours_in_all_at_most(clock: Clock) -> None:
    queue = FifoQueue("turn", clock, visibility=1000)
    send(queue, "a1")
    [message] = queue.receive()
    clock.now = 500
    queue.change_visibility(message.handle, 42_700)
    with pytest.raises(QueueError):
        queue.change_visibility(message.handle, 42_701)


def test_a_second_send_is_dropped_for_five_minutes_within_its_group(queue: FifoQueue, clock: Clock) -> None:
    first = queue.send("1", "a", "same")
    assert queue.send("2", "a", "same").message_id == first.message_id
    assert queue.send("3", "b", "same").message_id != first.message_id
    assert bodies(queue.receive()) == ["1", "3"]


def test_a_second_send_is_dropped_though_the_first_is_deleted(queue: FifoQueue, clock: Clock) -> None:
    send(queue, "a1")
    queue.delete(queue.receive()[0].handle)
    clock.now = 299
    send(queue, "a1")
    assert queue.receive() == []
    clock.now = 300
    send(queue, "a1")
    assert bodies(queue.receive()) == ["a1"]


def test_what_was_received_too_often_goes_to_the_dead_letters(
    queue: FifoQueue, dead_letters: FifoQueue, clock: Clock
) -> None:
    send(queue, "a1", "a2")
    for count in range(1, 4):
        first = queue.receive(1)
        assert [message.receive_count for message in first] == [count]
        clock.now += 100
    assert dead_letters.receive() == []
    assert bodies(queue.receive()) == ["a2"], "the next of its group moves up"
    [dead] = dead_letters.receive()
    assert (dead.message_id, dead.body, dead.group) == (first[0].message_id, "a1", "a")
    assert dead.sent_at == clock.now, "its retention begins anew"
    with pytest.raises(QueueError):
        queue.change_visibility(first[0].handle, 1)


def test_old_messages_are_forgotten(queue: FifoQueue, clock: Clock) -> None:
    send(queue, "a1")
    clock.now = 1001
    assert queue.receive() == [] and queue.waiting() == []


def test_every_change_is_told(queue: FifoQueue) -> None:
    told: list[int] = []
    queue.on_change = lambda: told.append(1)
    send(queue, "a1")
    [message] = queue.receive()
    queue.change_visibility(message.handle, 0)
    [message] = queue.receive()
    queue.delete(message.handle)
    assert len(told) == 3
    assert queue.next_visible_at() == math.inf


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from("abc")),
        st.tuples(st.just("receive"), st.integers(1, 10)),
        st.tuples(st.just("delete"), st.integers(0, 9)),
        st.tuples(st.just("hide"), st.integers(0, 150)),
        st.tuples(st.just("wait"), st.integers(0, 120)),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_a_group_is_never_handed_out_twice_at_once_and_never_out_of_order(steps: list[tuple[str, int | str]]) -> None:
    clock = Clock()
    queue = FifoQueue("turn", clock, visibility=100, most_receives=4)
    held: list[Received] = []
    sent: dict[str, list[str]] = {}
    for number, (what, how) in enumerate(steps):
        if what == "send":
            queue.send(str(number), str(how), str(number))
            sent.setdefault(str(how), []).append(str(number))
        elif what == "receive":
            in_flight = {message.group for message in queue.waiting() if message.in_flight(clock.now)}
            batch = queue.receive(int(how))
            assert not in_flight & {message.group for message in batch}
            left = {message.body for message in queue.waiting()}
            for group in {message.group for message in batch}:
                due = [body for body in sent[group] if body in left]
                got = [message.body for message in batch if message.group == group]
                assert got == due[: len(got)]
            held += batch
        elif what == "delete" and held:
            with contextlib.suppress(QueueError):
                queue.delete(held.pop(int(how) % len(held)).handle)
        elif what == "hide" and held:
            with contextlib.suppress(QueueError):
                queue.change_visibility(held[-1].handle, int(how))
        elif what == "wait":
            clock.now += int(how)
