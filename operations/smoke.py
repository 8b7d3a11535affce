"""One chat through a deployed API, as the last step of a deployment: `python -m operations smoke`."""

import json
import time
import urllib.error
import urllib.request
from typing import Any

from operations.stack import Stack

MESSAGE = "Hello. Please answer with one word."


class SmokeFailed(Exception):
    """The chat did not come out as it should; the text says at which step, and never what was answered."""


def sign_in(stack: Stack, user: str, password: str) -> str:
    """A bearer token of a user of the stack's own pool. Raises SmokeFailed if there is none, or botocore's errors."""
    client_id = stack.outputs.get("UserPoolClientId")
    if not client_id:
        raise SmokeFailed("the stack has no user pool: API_TOKEN must be a token of its issuer")
    answer = stack.cognito.initiate_auth(
        AuthFlow="USER_PASSWORD_AUTH", ClientId=client_id, AuthParameters={"USERNAME": user, "PASSWORD": password}
    )
    token: str = answer["AuthenticationResult"]["IdToken"]
    return token


def smoke(url: str, token: str, *, seconds: float = 120.0) -> dict[str, Any]:
    """Submit a chat and wait until it is answered. Returns the task. Raises SmokeFailed, at the latest after `seconds`
    and one more request."""
    url, end = url.rstrip("/"), time.monotonic() + seconds
    _call("GET", f"{url}/health", None, token)
    task = _call("POST", f"{url}/chat/?async_mode=true", {"message": MESSAGE}, token)
    address = f"{url}/chat/task/{task['task_id']}?wait=20"
    while (task := _call("GET", address, None, token))["status"] != "SUCCESS":
        if task["status"] == "FAILURE":
            raise SmokeFailed(f"{task['task_id']} is FAILURE, {task['error_code']}")
        if time.monotonic() > end:
            raise SmokeFailed(f"{task['task_id']} is {task['status']} after {seconds:.0f} s")
    return task


def _call(method: str, url: str, body: dict[str, Any] | None, token: str) -> dict[str, Any]:
    # no-store: with CacheSeconds the reply to the smoke test before would be given again, by no worker and no model.
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Cache-Control": "no-store"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=35) as answer:
            document: dict[str, Any] = json.load(answer)
            return document
    except urllib.error.HTTPError as error:
        with error:
            raise SmokeFailed(f"{method} {url} is answered {error.code}") from None
    except (OSError, ValueError) as error:
        raise SmokeFailed(f"{method} {url} is not answered: {type(error).__name__}") from None
