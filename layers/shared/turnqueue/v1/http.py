"""Routes the requests of the OpenAI API, and makes the response headers that its clients read."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from turnqueue.http import Event, Problem, Response, path
from turnqueue.turn import FAILURES, Turn
from turnqueue.v1.items import response_id

NO_RETRY = {"x-should-retry": "false"}
"""OpenAI's clients repeat a request after a 409, 429 or 5xx, unless this header says otherwise."""


def serve(event: Event, routes: Mapping[str, Callable[..., Response]]) -> Response:
    """Answer by the route that matches. A route is "METHOD path", a regular expression whose groups are the handler's
    arguments. Raises a 400 Problem if no route matches. Adds the headers that OpenAI's clients read to the response or
    the Problem."""
    wanted = f"{event['requestContext']['http']['method']} {path(event, 'proxy')}"
    more = {"x-request-id": str(event["requestContext"].get("requestId", ""))}
    try:
        for pattern, handle in routes.items():
            if match := re.fullmatch(pattern, wanted):
                response = handle(*match.groups())
                return {**response, "headers": response["headers"] | more}
        raise Problem("unsupported")
    except Problem as problem:
        if (seconds := problem.headers.get("Retry-After")) is not None:
            more["retry-after-ms"] = f"{seconds}000"
        problem.headers = {**problem.headers, **more}
        raise


def is_streamed(event: Event) -> bool:
    """Whether the request came through the streams function, which will stream the answer. A client cannot fake this,
    because API Gateway makes the requestContext."""
    return event["requestContext"].get("streams") is True


def hand_over(turn: Turn, headers: dict[str, str], **more: Any) -> Response:
    """Tell the streams function which turn to stream: the response names the turn."""
    return {"statusCode": 200, "headers": headers, "body": "", "stream": {"task_id": turn.key.task_id, **more}}


def no_such_response(param: str = "response_id") -> Problem:
    return Problem("response_not_found", param=param, headers=NO_RETRY)


def no_such_conversation(param: str = "conversation_id") -> Problem:
    return Problem("conversation_not_found", param=param, headers=NO_RETRY)


def unfinished(turn: Turn) -> Problem:
    """The problem for a request whose wait is over. The turn continues."""
    return Problem(
        "response_in_progress",
        f"The answer takes longer than a request may last. Read it later: GET /v1/responses/{response_id(turn.key)}.",
        status=504,
        headers={**NO_RETRY, "Location": f"/v1/responses/{response_id(turn.key)}"},
        response_id=response_id(turn.key),
        task_id=turn.key.task_id,
    )


def failed(turn: Turn) -> Problem:
    """The problem for a request whose turn failed. A header keeps the client from repeating the request, because the
    worker has already tried again where this could help."""
    code = turn.error_code or "internal_error"
    failure = FAILURES.get(code, FAILURES["internal_error"])
    return Problem(
        code,
        turn.error or failure.text,
        status=failure.http_status,
        headers=NO_RETRY,
        retryable=failure.retryable,
        response_id=response_id(turn.key),
        task_id=turn.key.task_id,
    )
