"""Calls the deployed API as a client does. It checks every answer, and sends the token only to this API."""

import json
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from operations import CommandFailed
from turnqueue.turn import Key

_TIMEOUT_SECONDS = 35
"""In seconds: longer than API Gateway's limit of 30 s, so that the command gets API Gateway's answer."""

_MAX_BYTES = 2 * 1024 * 1024
"""The maximum size of an answer in bytes. The largest answer of the API is a page of a session, with 1 MiB."""


class ApiFailed(CommandFailed):
    """The API gave no usable answer. The error's text names the request, and quotes neither the token nor the
    answer."""


@dataclass(frozen=True)
class Answer:
    """`document`: the JSON object in the body, or {} if the body is not a JSON object."""

    status: int
    headers: httpx.Headers
    document: dict[str, Any]

    def text(self, name: str) -> str:
        """A member of the document. Raises ApiFailed if the member is not text."""
        value = self.document.get(name)
        if not isinstance(value, str):
            raise ApiFailed(f"the answer has no string `{name}`")
        return value

    @property
    def task_id(self) -> str:
        """The id of an accepted task. Raises ApiFailed if the id is malformed, because the next request's URL contains
        it."""
        task_id = self.text("task_id")
        if not Key.of_task("owner", task_id):
            raise ApiFailed("the answer's `task_id` is malformed")
        return task_id


class Api(AbstractContextManager["Api"]):
    """The API at `url`, called with the bearer token `token`. Follows no redirect, because the token is only for this
    server."""

    def __init__(self, url: str, token: str) -> None:
        if not re.fullmatch("[!-~]+", token):
            raise ApiFailed("API_TOKEN: must be visible ASCII characters without spaces or line breaks")
        self.url = url.rstrip("/")
        self._token = token
        self._http = httpx.Client(timeout=_TIMEOUT_SECONDS, follow_redirects=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def call(
        self, method: str, path: str, body: Any = None, *, token: bool = True, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send a request and return the answer, whatever its status. Raises ApiFailed if no answer comes, or if the
        answer is larger than 2 MiB."""
        authorization = {"Authorization": f"Bearer {self._token}"} if token else {}
        try:
            with self._http.stream(
                method, self.url + path, json=body, headers=authorization | (headers or {})
            ) as response:
                return Answer(response.status_code, response.headers, _object(_content(response)))
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise ApiFailed(f"{method} {self.url}{path} got no answer: {type(error).__name__}") from None

    def expect(self, status: int, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        """Send a request and return its answer. Raises ApiFailed if the answer does not have the status `status`."""
        answer = self.call(method, path, body, **options)
        if answer.status != status:
            redirect = " (redirects are not followed)" if 300 <= answer.status < 400 else ""
            raise ApiFailed(f"{method} {self.url}{path} returns {answer.status}{redirect}, not {status}")
        return answer


def _content(response: httpx.Response) -> bytes:
    content = bytearray()
    for piece in response.iter_bytes():
        content += piece
        if len(content) > _MAX_BYTES:
            raise ValueError("too large")
    return bytes(content)


def _object(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
