"""Many concurrent requests with one Idempotency-Key make one task, one message, and one answer for all."""

import json

from tests.races import events, moves
from tests.races.conftest import FLEET, Arena, ended, status
from tests.races.fleet import call
from turnqueue.turn import Key

ROUNDS = 3
ROUNDS_OF_TWO = 10


def keys_in_queue(arena: Arena) -> list[Key]:
    """The turns that the visible messages name."""
    bodies = [json.loads(record["body"]) for record in arena.races.drain()]
    return [Key(body["session"], body["turn"]) for body in bodies]


def test_fifty_submits_with_one_key_make_one_task(arena: Arena) -> None:
    for _ in range(ROUNDS):
        owner = arena.owner()
        answers = arena.race([call(moves.request, "submit", events.submit(owner, "once"))] * FLEET)

        assert {answer.status for answer in answers} == {202}
        [task_id] = {answer.body["task_id"] for answer in answers}
        assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
        [item] = arena.races.items_of(owner)
        assert status(item) == "PENDING"
        assert [key.task_id for key in keys_in_queue(arena)] == [task_id]
        arena.outcomes["times one task for fifty"] += 1


def test_fifty_submits_with_one_key_and_two_bodies_make_one_task_and_422s(arena: Arena) -> None:
    for _ in range(ROUNDS):
        owner, bodies = arena.owner(), [arena.chance.choice(["this", "that"]) for _ in range(FLEET)]
        answers = arena.race([call(moves.request, "submit", events.submit(owner, body)) for body in bodies])

        [item] = arena.races.items_of(owner)
        kept = json.loads(item["request"]["S"])["message"]
        for body, answer in zip(bodies, answers, strict=True):
            assert answer.status == (202 if body == kept else 422)
            if body != kept:
                assert answer.body["code"] == "idempotency_key_reused"
        [task_id] = {answer.body["task_id"] for answer in answers if answer.status == 202}
        assert [key.task_id for key in keys_in_queue(arena)] == [task_id]
        arena.outcomes[f"refused in {ROUNDS} rounds"] += sum(answer.status == 422 for answer in answers)


def test_fifty_submits_with_one_key_to_a_queue_that_fails_for_some(arena: Arena) -> None:
    """Still one task: each request with a 202 gets its answer, even if others failed."""
    for _ in range(ROUNDS):
        owner, message = arena.owner(), f"once {arena.chance.random()}"
        troubles: list[moves.Trouble] = arena.chance.choices(["", "lost", "unanswered"], [4, 4, 2], k=FLEET)
        answers = arena.race([call(moves.request, "submit", events.submit(owner, message), each) for each in troubles])

        assert {answer.status for answer in answers} <= {202, 503}
        [task_id] = {answer.body["task_id"] for answer in answers}
        work_off(arena)
        [item] = arena.races.items_of(owner)
        assert ended(item) == "SUCCESS"
        assert task_id.endswith(item["turn"]["S"])
        assert arena.model.asked(message) == 1
        arena.outcomes[f"answered 503 in {ROUNDS} rounds"] += sum(answer.status == 503 for answer in answers)


def test_a_send_that_is_reported_lost_against_the_worker_that_has_its_message(arena: Arena) -> None:
    """Without a key: a 503 means that the task has failed and is never run; else it is run, and the answer is 202."""
    for _ in range(ROUNDS_OF_TWO):
        owner, message = arena.owner(), f"perhaps {arena.chance.random()}"
        submit = call(moves.request, "submit", events.submit(owner, message, None), "unanswered", arena.moment(5))
        given_back, answer = arena.race([call(moves.deliver), submit])

        [item] = arena.races.items_of(owner)
        assert answer.status in (202, 503)
        assert answer.body["task_id"].endswith(item["turn"]["S"])
        assert ended(item) == ("SUCCESS" if answer.status == 202 else "enqueue_failed")
        assert arena.model.asked(message) == (answer.status == 202)
        assert given_back == []
        arena.outcomes[f"{answer.status} {ended(item)}"] += 1


def work_off(arena: Arena) -> None:
    """The worker gets all queued messages, and ends their turns."""
    while records := arena.races.receive():
        assert arena.race([call(moves.batch, "worker", records)]) == [[]]
