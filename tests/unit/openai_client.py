"""OpenAI's client, whose requests reach the handlers in API Gateway's form."""

import json
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import httpx2
import openai

from tests.payloads import Context, Event, api_event
from tests.unit.conftest import Account

CREATE = {"POST": "submit"}


class ApiGateway(httpx2.BaseTransport):
    """`requests`: each event that was made, in order."""

    def __init__(self, account: Account, owner: str, authorizer: ModuleType | None) -> None:
        self._account = account
        self._owner = owner
        self._authorizer = authorizer
        self.requests: list[Event] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        path = unquote(request.url.path)
        route = f"{request.method} /v1/{{proxy+}}"
        event = api_event(
            route,
            owner=self._owner,
            body=request.read().decode() or None,
            query=dict(request.url.params.items()),
            path={"proxy": path.removeprefix("/v1/")},
        )
        event["headers"] = {name.lower(): value for name, value in request.headers.items()}
        event["requestContext"]["requestId"] = f"request-{len(self.requests)}"
        self.requests.append(event)
        if self._authorizer:
            told = self._authorizer.handler({"headers": event["headers"], "requestContext": {}}, Context(10.0))
            if not told["isAuthorized"]:
                return httpx2.Response(403, json={"message": "Forbidden"})
            event["requestContext"]["authorizer"] = {"lambda": told["context"]}
        function = self._account.functions[CREATE.get(request.method, "status")]
        answer: dict[str, Any] = function.handler(json.loads(json.dumps(event)), Context(29.0))
        return httpx2.Response(answer["statusCode"], headers=answer["headers"], content=answer["body"].encode())


def client(
    account: Account, owner: str = "alice", *, authorizer: ModuleType | None = None, **options: Any
) -> openai.OpenAI:
    """The client of an owner, or of the API key that `authorizer` is to know. It refuses every response that lacks
    something or has it in another form."""
    return openai.OpenAI(
        base_url="https://api.example/v1",
        http_client=httpx2.Client(transport=ApiGateway(account, owner, authorizer)),
        _strict_response_validation=True,
        **{"max_retries": 0, "api_key": "a-token", **options},
    )


def requests(of: openai.OpenAI) -> list[Event]:
    """What the client has sent."""
    transport = of._client._transport
    assert isinstance(transport, ApiGateway)
    return transport.requests
