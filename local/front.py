"""Serves the API at a fixed address: forwards each request from a port of loopback to MiniStack's API Gateway.

MiniStack serves the API below a path that contains an id, and this id changes at each start. Clients need a fixed
address without a path, because the `Location` of an answer begins at the root.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from local.emulator import Emulator
from local.gateway import chosen_route
from local.guard import Guard
from local.loopback import Handle, LoopbackServer, Request, Response, forward

_BEHIND_A_PROXY = (("X-Forwarded-For", "127.0.0.1"), ("X-Forwarded-Proto", "http"))


def serve_api(emulator: Emulator, api_id: str, port: int) -> LoopbackServer:
    """Serve the HTTP API `api_id` of `emulator`. The guard accepts pages of every origin, because the API's CORS rules
    decide which origins may call. Raises OSError if the port is taken."""
    prefix = f"/_aws/execute-api/{api_id}/$default"
    routes = emulator.account.client("apigatewayv2").get_routes(ApiId=api_id)["Items"]
    return LoopbackServer(_forward_to(emulator, prefix, routes), port, guard=Guard(any_origin=True))


def _forward_to(emulator: Emulator, prefix: str, routes: Sequence[Mapping[str, Any]]) -> Handle:
    address = urlsplit(emulator.account.endpoint_url).netloc

    def hand_on(request: Request) -> Response:
        # MiniStack accepts every preflight. On AWS, the authorizer of the route $default refuses a preflight, unless
        # the template has a route for it.
        if request.method == "OPTIONS":
            route = chosen_route(routes, "OPTIONS", urlsplit(request.target).path)
            if route and route.get("AuthorizationType") == "JWT":
                return Response(401, b'{"message":"Unauthorized"}')
        return forward(address, request, pass_=emulator.pass_, prefix=prefix, more=_BEHIND_A_PROXY)

    return hand_on
