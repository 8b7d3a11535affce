"""Requests and responses in API Gateway's payload format 2.0.

Errors are `application/problem+json` (RFC 9457) with an extra member `error`, which the OpenAI SDKs read too.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeIs

from botocore.exceptions import BotoCoreError, ClientError

from turnqueue.errors import MAX_BODY_BYTES, REFUSALS
from turnqueue.telemetry import error_name, logger, where
from turnqueue.turn import Key, is_utf8

Event = dict[str, Any]
Response = dict[str, Any]

MAX_OWNER_CHARACTERS = 255
"""The maximum number of characters in an owner's id, the claim `sub` (OpenID Connect Core, section 2). The id is also a
part of the turn's key, which has at most 2,048 bytes."""

_ERROR_TYPES = {401: "authentication_error", 404: "not_found_error", 409: "conflict_error", 429: "rate_limit_error"}


class Problem(Exception):
    """Ends the handling of a request with a problem document.

    `code`: a stable text for programs. It is a key of `errors.REFUSALS`, or of `FAILURES` if a task failed. `detail`: a
    text for people. `detail` and `status` have defaults in REFUSALS. `param`: the name of the field or header at fault.
    Never put a value that the client sent into any of these members.
    """

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        *,
        status: int | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.status = status or REFUSALS[code].status
        self.detail = detail or REFUSALS[code].meaning
        self.param = param
        self.headers = headers or {}
        self.members = members

    @property
    def error(self) -> dict[str, Any]:
        """The member `error`, which the OpenAI SDKs read."""
        kind = _ERROR_TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"message": self.detail, "type": kind, "code": self.code, "param": self.param}

    def response(self) -> Response:
        document = {
            "type": f"urn:turnqueue:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            **self.members,
            "error": self.error,
        }
        return respond(self.status, document, {"Content-Type": "application/problem+json", **self.headers})


def respond(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return {
        "statusCode": status,
        "headers": {"Content-Type": "application/json", "Cache-Control": "no-store", **(headers or {})},
        "body": json.dumps(body, ensure_ascii=False),
    }


def dispatch(event: Event, routes: Mapping[str, Callable[[Event], Response]]) -> Response:
    """Answer the request by the route that API Gateway chose, or by method and path if the route is `$default`. Never
    raises. An exception that is no Problem becomes a 503 (AWS failed) or a 500 (a bug of Turnqueue), and the response
    does not show the cause. The log has the type of the exception and never its text.
    """
    try:
        key = event["routeKey"]
        if key == "$default":
            key = f"{event['requestContext']['http']['method']} {event['rawPath']}"
        route = routes.get(key)
        if route is None:
            raise Problem("no_such_route")
        return route(event)
    except Problem as problem:
        if problem.status >= 500:
            logger.warning("request refused", extra={"status": problem.status, "code": problem.code})
        return problem.response()
    except (BotoCoreError, ClientError) as error:
        logger.error("AWS call failed", extra={"error": error_name(error)})
        return unavailable().response()
    except Exception as error:
        logger.error("request failed", extra={"error": error_name(error), "where": where(error)})
        return Problem("internal_error").response()


def unavailable() -> Problem:
    return Problem("unavailable", headers={"Retry-After": "2"})


def owner(event: Event) -> str:
    """The caller: the `sub` claim of the token that API Gateway has verified, or the owner of the API key."""
    sub = _claims(event).get("sub", "")
    if not is_owner(sub):
        raise Problem("unauthenticated")
    return sub


def is_owner(sub: Any) -> TypeIs[str]:
    """Whether a `sub` claim can be an owner's id."""
    return isinstance(sub, str) and 0 < len(sub) <= MAX_OWNER_CHARACTERS and is_utf8(sub)


def _claims(event: Event) -> dict[str, Any]:
    """The caller's claims from the route's authorizer: API Gateway's JWT authorizer, or functions/authorizer for the
    OpenAI API. No client can set these claims."""
    try:
        authorizer = event["requestContext"]["authorizer"]
        claims = authorizer["lambda"] if " /v1/" in event["routeKey"] else authorizer["jwt"]["claims"]
    except (KeyError, TypeError):
        return {}
    return claims if isinstance(claims, dict) else {}


def path(event: Event, name: str) -> str:
    return str((event.get("pathParameters") or {}).get(name, ""))


def task_key(event: Event) -> Key:
    """The key of the caller's task that the path names. Raises a 404 Problem if the id is malformed."""
    key = Key.of_task(owner(event), path(event, "task_id"))
    if key is None:
        raise no_such_task()
    return key


def no_such_task() -> Problem:
    return Problem("task_not_found", param="task_id")


def claim(event: Event, name: str) -> str:
    """A claim of the token as text, empty if the token does not have the claim. API Gateway writes a list as "[a
    b]"."""
    return str(_claims(event).get(name, ""))


def header(event: Event, name: str) -> str | None:
    """A request header. API Gateway lower-cases the names and joins repeated headers with commas."""
    return (event.get("headers") or {}).get(name.lower())


def query(event: Event, name: str) -> str | None:
    return (event.get("queryStringParameters") or {}).get(name)


def body(event: Event) -> bytes:
    """The bytes of the request's body. Raises Problem if the body is too large, or is not valid base64."""
    text = event.get("body") or ""
    try:
        content = base64.b64decode(text, validate=True) if event.get("isBase64Encoded") else text.encode()
    except ValueError as error:
        raise Problem("invalid_body") from error
    if len(content) > MAX_BODY_BYTES:
        raise Problem("body_too_large")
    return content


def integer(text: str | None, param: str, *, default: int, low: int, high: int) -> int:
    """The number in a query parameter, or in a preference of the header Prefer. It must be at least `low`. A number
    above `high` counts as `high`. Raises a 422 Problem for any other text."""
    if text is None:
        return default
    if not re.fullmatch("[0-9]+", text) or (number := int(text[-9:]) if len(text.lstrip("0")) <= 9 else high) < low:
        raise Problem("invalid_parameter", f"{param} must be a whole number from {low} to {high}.", param=param)
    return min(number, high)
