"""A hundred concurrent turns in twenty sessions: each is answered once, in the order of its session."""

import itertools
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from local.stack import LocalStack
from tests.e2e.conftest import Api
from tests.stand_in import StandIn

SESSIONS = 20
TURNS = 5


@pytest.mark.timeout(240)
def test_a_hundred_turns_over_twenty_sessions(alice: Api, stack: LocalStack) -> None:
    run = uuid.uuid4().hex[:8]

    def converse(number: int) -> list[str]:
        """Submit the turns of one session in order, without waiting for answers."""
        return [submit(f"{run} session {number} turn {turn}", f"load-{run}-{number}") for turn in range(TURNS)]

    def submit(message: str, session_id: str) -> str:
        """As a client does: again, with the same key, if the stack has no time (a machine that does much else)."""
        key = {"Idempotency-Key": uuid.uuid4().hex}
        while True:
            response = alice.chat(message, query="?async_mode=true", headers=key, session_id=session_id)
            if response.status_code != 503:
                assert response.status_code == 202, response.text
                return str(response.json()["task_id"])
            time.sleep(float(response.headers["Retry-After"]))

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

    calls = StandIn(stack.model_url).calls()["by_message"]
    asked = [calls[f"{run} session {number} turn {turn}"] for number in range(SESSIONS) for turn in range(TURNS)]
    assert asked == [1] * (SESSIONS * TURNS), "a turn was answered twice"
