"""Two hundred turns at once over twenty sessions: each answered, once, in the order of its session."""

import itertools
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx

from local.stack import LocalStack
from tests.e2e.conftest import Api

SESSIONS = 20
TURNS = 10


def test_two_hundred_turns_over_twenty_sessions(alice: Api, stack: LocalStack) -> None:
    run = uuid.uuid4().hex[:8]

    def converse(number: int) -> list[str]:
        """Submit the turns of one session in order, without waiting for answers."""
        session = f"load-{run}-{number}"
        return [alice.submit(f"{run} session {number} turn {turn}", session_id=session) for turn in range(TURNS)]

    with ThreadPoolExecutor(SESSIONS) as pool:
        sessions = list(pool.map(converse, range(SESSIONS)))
        assert len({task_id for tasks in sessions for task_id in tasks}) == SESSIONS * TURNS
        ended = list(pool.map(lambda tasks: [alice.finished(task_id, seconds=120) for task_id in tasks], sessions))

    for number, tasks in enumerate(ended):
        assert [task["status"] for task in tasks] == ["SUCCESS"] * TURNS
        assert [task["attempt"] for task in tasks] == [1] * TURNS
        for turn, task in enumerate(tasks):
            assert f'"{run} session {number} turn {turn}"' in task["result"]["message"]
        for before, after in itertools.pairwise(tasks):
            assert before["finished_at"] <= after["started_at"], "a turn began before the one before it was answered"

    calls = httpx.get(f"{stack.model_url.removesuffix('/v1')}/stand-in/calls", trust_env=False).json()["by_message"]
    asked = [calls[f"{run} session {number} turn {turn}"] for number in range(SESSIONS) for turn in range(TURNS)]
    assert asked == [1] * (SESSIONS * TURNS), "a turn was answered twice"
