"""`python -m operations smoke` sends one chat through a deployed API, as the last step of a deployment."""

import time
from typing import Any

from operations import CommandFailed
from operations.api import Api
from operations.stack import Stack

MESSAGE = "Hello. Please answer with one word."

NOT_CACHED = {"Cache-Control": "no-store"}
"""Headers that switch the cache off. With CacheSeconds, the cache would serve the reply to an earlier smoke test, and
the test would not reach worker and model."""

_PAUSE_SECONDS = 0.2
"""Seconds between polls. The pause limits the rate of polls when the API answers long polls at once."""


class SmokeFailed(CommandFailed):
    """The chat was not answered. The exception's text names the step and never quotes an answer."""


def sign_in(stack: Stack, user: str, password: str) -> str:
    """A bearer token of a user of the stack's pool. Raises SmokeFailed if the stack has no pool, or if Cognito asks the
    user for another step. Raises botocore's errors."""
    client_id = stack.outputs.get("UserPoolClientId")
    if not client_id:
        raise SmokeFailed("the stack has no user pool: set API_TOKEN to a token of the stack's issuer")
    answer = stack.cognito.initiate_auth(
        AuthFlow="USER_PASSWORD_AUTH", ClientId=client_id, AuthParameters={"USERNAME": user, "PASSWORD": password}
    )
    try:
        token: str = answer["AuthenticationResult"]["IdToken"]
    except KeyError:
        challenge = answer.get("ChallengeName", "another step")
        raise SmokeFailed(
            f"Cognito asks the user for {challenge} before it issues a token: sign in once, or use another user"
        ) from None
    return token


def smoke(api: Api, *, seconds: float = 120.0) -> dict[str, Any]:
    """Submit a chat, and wait up to `seconds` for its answer. Returns the task. Raises SmokeFailed or ApiFailed."""
    api.expect(200, "GET", "/health")
    accepted = api.expect(202, "POST", "/chat?async_mode=true", {"message": MESSAGE}, headers=NOT_CACHED)
    return answered(api, accepted.task_id, seconds=seconds)


def answered(api: Api, task_id: str, *, seconds: float = 120.0) -> dict[str, Any]:
    """Wait until the task is SUCCESS and return it. Raises SmokeFailed if the task fails or takes longer than
    `seconds`."""
    task = finished(api, task_id, seconds=seconds)
    if task["status"] != "SUCCESS":
        raise SmokeFailed(f"{task_id} is {task['status']}, {task.get('error_code')}")
    return task


def finished(api: Api, task_id: str, *, seconds: float = 120.0) -> dict[str, Any]:
    """Wait until the task is SUCCESS or FAILURE and return it. Raises SmokeFailed after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        answer = api.expect(200, "GET", f"/chat/task/{task_id}?wait=20", headers=NOT_CACHED)
        status = answer.text("status")
        if status in ("SUCCESS", "FAILURE"):
            return answer.document
        if time.monotonic() > end:
            raise SmokeFailed(f"{task_id} is {status} after {seconds:.0f} s")
        time.sleep(_PAUSE_SECONDS)
