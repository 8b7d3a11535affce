"""Two workers get one turn: its message is delivered twice at once, or again after the first worker's lease."""

from tests.races import events, moves
from tests.races.conftest import Arena, ended
from tests.races.fleet import call
from turnqueue.turn import Key

ROUNDS = 5
LEASE = 184
"""The seconds by which a clock must be fast, so that a lease that just began has ended by that clock."""


def accepted(arena: Arena, orders: str = "") -> tuple[Key, str, list[events.Record]]:
    """A turn submitted by a client, its message, and its delivery. `orders`: commands for the stand-in model."""
    owner, message = arena.owner(), f"{orders} {arena.chance.random()}"
    answer: moves.Answer = arena.fleet.do(moves.request, "submit", events.submit(owner, message))
    assert answer.status == 202
    key = Key.of_task(owner, answer.body["task_id"])
    assert key
    [record] = arena.races.receive()
    return key, message, [record]


def test_a_message_delivered_twice_at_once_is_answered_once(arena: Arena) -> None:
    for _ in range(ROUNDS):
        key, message, records = accepted(arena, "[[latency=0.2]]")
        with arena.watch(key):
            worked = arena.race([call(moves.timed_batch, "worker", records, after=arena.moment(5)) for _ in range(2)])

        item = arena.item(key)
        assert ended(item) == "SUCCESS"
        assert item["attempt"]["N"] == "1"
        assert arena.model.asked(message) == 1
        # One worker met the other's lease and gave the message back, unless it came after the end.
        for given_back, done_at in worked:
            assert given_back or done_at >= float(item["finished_at"]["N"])
        met = [given_back for given_back, _ in worked if given_back]
        assert len(met) < 2
        assert arena.fleet.do(moves.batch, "worker", records) == []
        assert arena.model.asked(message) == 1
        arena.outcomes["met a lease" if met else "met its end"] += 1


def test_a_message_delivered_again_when_the_lease_is_over_is_recorded_once(arena: Arena) -> None:
    """The second worker's clock is fast by a lease, so the first worker seems dead. But it lives, and finishes late."""
    for _ in range(ROUNDS):
        key, message, records = accepted(arena, "[[latency=0.25]]")
        with arena.watch(key):
            first, second = arena.race(
                [
                    call(moves.batch, "worker", records),
                    call(moves.batch, "worker", records, LEASE, after=arena.chance.uniform(0.05, 0.45)),
                ]
            )

        item = arena.item(key)
        attempts = int(item["attempt"]["N"])
        assert ended(item) == "SUCCESS"
        assert arena.model.asked(message) == attempts
        assert second == []
        assert attempts == 2 or first == []
        arena.outcomes["the second answered" if attempts == 2 else "the first had answered"] += 1
