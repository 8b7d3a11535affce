"""Events for the functions: requests of API Gateway, and records of a queue."""

import json
from typing import Any

from tests.payloads import Event, api_event
from turnqueue.turn import Key

type Record = dict[str, Any]


def submit(owner: str, message: str, idempotency_key: str | None = "key-1") -> Event:
    """An asynchronous POST /chat."""
    headers = {} if idempotency_key is None else {"idempotency-key": idempotency_key}
    return api_event(
        "POST /chat", owner=owner, body={"message": message}, headers=headers, query={"async_mode": "true"}
    )


def get(key: Key) -> Event:
    return api_event("GET /chat/task/{task_id}", owner=key.owner, path={"task_id": key.task_id})


def cancel(key: Key) -> Event:
    return api_event("POST /chat/task/{task_id}/cancel", owner=key.owner, path={"task_id": key.task_id})


def session(key: Key) -> Event:
    return api_event("GET /chat/session/{session_id}", owner=key.owner, path={"session_id": key.session_id})


def letter(key: Key) -> Record:
    """The turn's message from the dead-letter queue."""
    return {"messageId": "m-1", "body": json.dumps({"session": key.session, "turn": key.turn})}
