"""Two crowds at a local stack of this folder, timed; prints JSON. For benchmarks/refill.py, which runs it in the folder
of another commit too: so it uses nothing but the stack of that folder."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx

from local.stack import LocalStack

CHATS = 240
CHAT_SECONDS = 3
SESSIONS = 10
TURNS_EACH = 3
TURN_SECONDS = 20
_GIVE_UP_SECONDS = 400


def main() -> None:
    with LocalStack(parameters={"WorkerConcurrency": "2"}) as stack:
        headers = {"Authorization": f"Bearer {stack.token('alice')}"}
        with httpx.Client(base_url=stack.api_url, headers=headers, timeout=60, trust_env=False) as api:
            _submit(api, "warm up", "warm-up")
            _ended(api, [_submit(api, "warm up", "warm-up")])
            print(json.dumps({"chats": _chats(stack, api), "sessions": _sessions(api)}), flush=True)


def _chats(stack: LocalStack, api: httpx.Client) -> float:
    """The seconds from the moment in which workers may take 240 queued chats until the last is answered."""
    source = stack.event_sources["WorkerFunction"]
    source.stop(drain=True)
    with ThreadPoolExecutor(8) as pool:
        chats = [f"chat-{number}" for number in range(CHATS)]
        tasks = list(pool.map(lambda each: _submit(api, f"[[hang={CHAT_SECONDS}]] hello", each), chats))
    began_at = time.time()
    source.start()
    return max(_ended(api, tasks)) - began_at


def _sessions(api: httpx.Client) -> list[float]:
    """The seconds from the first submit of each session to the end of its last turn."""
    began_at: dict[str, float] = {}
    last: dict[str, str] = {}
    for _ in range(TURNS_EACH):
        for number in range(SESSIONS):
            session = f"session-{number}"
            began_at.setdefault(session, time.time())
            last[session] = _submit(api, f"[[hang={TURN_SECONDS}]] hello", session)
    return [end - began_at[session] for session, end in zip(last, _ended(api, list(last.values())), strict=True)]


def _submit(api: httpx.Client, message: str, session: str) -> str:
    body = {"message": message, "session_id": session}
    response = api.post("/chat", params={"async_mode": "true"}, json=body)
    task_id: str = response.raise_for_status().json()["task_id"]
    return task_id


def _ended(api: httpx.Client, tasks: list[str]) -> list[float]:
    """When each of the tasks was answered."""
    return [_answered(api, task_id) for task_id in tasks]


def _answered(api: httpx.Client, task_id: str) -> float:
    give_up_at = time.monotonic() + _GIVE_UP_SECONDS
    while time.monotonic() < give_up_at:
        task: dict[str, Any] = api.get(f"/chat/task/{task_id}").raise_for_status().json()
        if task["status"] == "SUCCESS":
            return datetime.fromisoformat(task["finished_at"]).timestamp()
        if task["status"] == "FAILURE":
            sys.exit(f"a task failed: {task['error_code']}")
        time.sleep(0.5)
    sys.exit(f"a task was not answered within {_GIVE_UP_SECONDS} s")


if __name__ == "__main__":
    main()
