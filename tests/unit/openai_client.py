"""OpenAI's own client, whose requests reach the handlers as API Gateway hands them over."""

import json
from typing import Any
from urllib.parse import unquote

import httpx2
import openai

from tests.unit.conftest import Account, Context, Event

CREATE = {"POST": "submit"}


class ApiGateway(httpx2.BaseTransport):
    """`requests`: each event that was made, in order."""

    def __init__(self, account: Account, owner: str) -> None:
        self._account = account
        self._owner = owner
        self.requests: list[Event] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        path = unquote(request.url.path)
        route = f"{request.method} /v1/{{proxy+}}"
        event: Event = {
            "version": "2.0",
            "routeKey": route,
            "rawPath": path,
            "rawQueryString": request.url.query.decode(),
            "headers": {name.lower(): value for name, value in request.headers.items()},
            "queryStringParameters": dict(request.url.params.items()),
            "pathParameters": {"proxy": path.removeprefix("/v1/")},
            "requestContext": {
                "authorizer": {"jwt": {"claims": {"sub": self._owner}, "scopes": None}},
                "http": {"method": request.method, "path": path},
                "requestId": f"request-{len(self.requests)}",
                "routeKey": route,
            },
            "isBase64Encoded": False,
        }
        if body := request.read():
            event["body"] = body.decode()
        self.requests.append(event)
        function = self._account.functions[CREATE.get(request.method, "status")]
        answer: dict[str, Any] = function.handler(json.loads(json.dumps(event)), Context(29.0))
        return httpx2.Response(answer["statusCode"], headers=answer["headers"], content=answer["body"].encode())


def client(account: Account, owner: str = "alice", **options: Any) -> openai.OpenAI:
    """The client of an owner. It refuses every response that lacks something or has it in another form."""
    return openai.OpenAI(
        base_url="https://api.example/v1",
        api_key="a-token",
        http_client=httpx2.Client(transport=ApiGateway(account, owner)),
        _strict_response_validation=True,
        **{"max_retries": 0, **options},
    )


def requests(of: openai.OpenAI) -> list[Event]:
    """What the client has sent."""
    transport = of._client._transport
    assert isinstance(transport, ApiGateway)
    return transport.requests
