"""What the functions are given: requests as API Gateway hands them over, and records of a queue."""

import json
from typing import Any

from turnqueue.turn import Key

type Event = dict[str, Any]
type Record = dict[str, Any]


def submit(owner: str, message: str, idempotency_key: str | None = "key-1") -> Event:
    """An asynchronous POST /chat."""
    key = {} if idempotency_key is None else {"idempotency-key": idempotency_key}
    return _request("POST /chat", owner) | {
        "headers": {"content-type": "application/json", **key},
        "queryStringParameters": {"async_mode": "true"},
        "body": json.dumps({"message": message}),
    }


def get(key: Key) -> Event:
    return _request("GET /chat/task/{task_id}", key.owner) | {"pathParameters": {"task_id": key.task_id}}


def cancel(key: Key) -> Event:
    return _request("POST /chat/task/{task_id}/cancel", key.owner) | {"pathParameters": {"task_id": key.task_id}}


def session(key: Key) -> Event:
    return _request("GET /chat/session/{session_id}", key.owner) | {"pathParameters": {"session_id": key.session_id}}


def letter(key: Key) -> Record:
    """The turn's message from the dead-letter queue."""
    return {"messageId": "m-1", "body": json.dumps({"session": key.session, "turn": key.turn})}


def _request(route: str, owner: str) -> Event:
    return {
        "routeKey": route,
        "headers": {},
        "requestContext": {"authorizer": {"jwt": {"claims": {"sub": owner}}}},
        "isBase64Encoded": False,
    }
