"""Several processes try to end a turn at the same moment, each in another way. One of them wins, and the state
stays."""

import json
import time

import pytest

from tests.races import events, moves
from tests.races.conftest import Arena, code, ended, status
from tests.races.fleet import call
from turnqueue.turn import DEADLINE_SECONDS, FINAL, MAX_ATTEMPTS

ROUNDS = 12
RESULT = {"message": "the answer", "data": None, "draft": None}


def test_cancel_against_claim_and_finish(arena: Arena) -> None:
    for _ in range(2 * ROUNDS):
        key = arena.submitted().key
        now = time.time()
        work = call(moves.claim_and_succeed, key, now, now + 100, RESULT, after=arena.moment(3))
        with arena.watch(key):
            (claimed, finished), answer = arena.race(
                [work, call(moves.request, "status", events.cancel(key), after=arena.moment(2))]
            )

        item = arena.item(key)
        assert claimed.done == finished.done == (status(item) == "SUCCESS")
        assert code(item) == ("" if claimed.done else "cancelled")
        # 200 has the outcome. 202 means that the worker gets the request, but it may still finish first.
        assert answer.status in (200, 202)
        if answer.status == 200:
            assert answer.body["status"] == status(item)
            assert answer.body["error_code"] == (code(item) or None)
        else:
            assert claimed.done and answer.body["status"] == "STARTED"
        arena.outcomes[f"{answer.status} {ended(item)}"] += 1


def test_a_late_finish_against_those_who_read_past_the_deadline(arena: Arena) -> None:
    for _ in range(ROUNDS):
        turn = arena.claimed(age=DEADLINE_SECONDS + 1)
        finish = call(moves.store, "succeed", turn, RESULT, {}, time.time(), after=arena.moment(4))
        reads = [call(moves.request, "status", events.get(turn.key), after=arena.moment(2)) for _ in range(3)]
        page = call(
            moves.request,
            "status",
            events.session(turn.key),
            after=arena.moment(2),
        )
        with arena.watch(turn.key):
            finished, *answers, listed = arena.race([finish, *reads, page])

        item = arena.item(turn.key)
        assert ended(item) == ("SUCCESS" if finished.done else "deadline_exceeded")
        tasks = [answer.body for answer in answers] + listed.body["turns"]
        assert {task["status"] for task in tasks} == {status(item)}
        assert {task["error_code"] for task in tasks} == {code(item) or None}
        assert {task["result"] is not None for task in tasks} == {finished.done}
        arena.outcomes[ended(item)] += 1


def test_eight_claims_at_once_have_one_winner(arena: Arena) -> None:
    for _ in range(ROUNDS):
        key = arena.submitted().key
        now = time.time()
        with arena.watch(key):
            claims = arena.race([call(moves.store, "claim", key, now, now + 100 + number) for number in range(8)])

        [winner] = [claim.turn for claim in claims if claim.done]
        item = arena.item(key)
        assert winner.attempt == int(item["attempt"]["N"]) == 1
        assert winner.lease_until == float(item["lease_until"]["N"])
        assert all(claim.turn and claim.turn.lease_until == winner.lease_until for claim in claims)
        arena.outcomes["rounds of eight"] += 1


def test_claims_of_a_lease_that_is_over_win_each_attempt_once(arena: Arena) -> None:
    """Each lease ends at once, so every claim may win, up to the number of attempts."""
    for _ in range(ROUNDS):
        key = arena.submitted().key
        now = time.time()
        claims = [call(moves.store, "claim", key, now + number / 100, now - 1) for number in range(8)]
        with arena.watch(key):
            taken = arena.race(claims)

        winners = [claim.turn for claim in taken if claim.done]
        assert sorted(turn.attempt for turn in winners) == list(range(1, MAX_ATTEMPTS + 1))

        # Each believes that it holds the turn. The last one does.
        results = [RESULT | {"message": f"attempt {turn.attempt}"} for turn in winners]
        with arena.watch(key):
            written = arena.race(
                [
                    call(moves.store, "succeed", turn, result, {}, time.time(), after=arena.moment(1))
                    for turn, result in zip(winners, results, strict=True)
                ]
            )
        assert [each.done for each in written] == [turn.attempt == MAX_ATTEMPTS for turn in winners]
        assert json.loads(arena.item(key)["result"]["S"])["message"] == f"attempt {MAX_ATTEMPTS}"
        arena.outcomes["zombies refused"] += sum(not each.done for each in written)


@pytest.mark.parametrize("lease", [-1.0, 100.0], ids=["lease over", "lease valid"])
def test_a_dead_letter_against_a_finish(arena: Arena, lease: float) -> None:
    for _ in range(ROUNDS):
        turn = arena.claimed(lease=lease)
        finish = call(moves.store, "succeed", turn, RESULT, {}, time.time(), after=arena.moment(2))
        bury = call(moves.batch, "deadletter", [events.letter(turn.key)], after=arena.moment(2))
        with arena.watch(turn.key):
            finished, given_back = arena.race([finish, bury])

        item = arena.item(turn.key)
        assert ended(item) == ("SUCCESS" if finished.done else "worker_lost")
        if lease > 0:
            assert finished.done
        else:
            assert given_back == []
        arena.outcomes[ended(item)] += 1


def test_all_who_would_end_a_turn_at_once(arena: Arena) -> None:
    """A lost worker, its successor, a cancel, a dead letter and a reader race. The turn ends exactly once."""
    for _ in range(ROUNDS):
        turn = arena.claimed(lease=-1)
        key, now = turn.key, time.time()
        calls = [
            call(moves.store, "succeed", turn, RESULT, {}, now, after=arena.moment(3)),
            call(moves.claim_and_succeed, key, now, now + 100, RESULT, after=arena.moment(3)),
            call(moves.store, "release", turn, after=arena.moment(3)),
            call(moves.request, "status", events.cancel(key), after=arena.moment(3)),
            call(moves.batch, "deadletter", [events.letter(key)], after=arena.moment(3)),
            call(moves.request, "status", events.get(key), after=arena.moment(3)),
        ]
        with arena.watch(key):
            finished, (claimed, second), _, cancelled, _, read = arena.race(calls)

        item = arena.item(key)
        if status(item) == "PENDING":  # released, after the other writes were refused
            arena.outcomes["PENDING"] += 1
            assert not finished.done and not claimed.done
            continue
        assert finished.done + second.done + (status(item) == "FAILURE") == 1
        if read.body["status"] in FINAL:
            assert (read.body["status"], read.body["error_code"]) == (status(item), code(item) or None)
        if cancelled.status == 200:
            assert (cancelled.body["status"], cancelled.body["error_code"]) == (status(item), code(item) or None)
        arena.outcomes[ended(item)] += 1
