"""The API's address: a server on loopback that hands each request to MiniStack's API Gateway and its answer
back.

MiniStack has the API at a path with an id that is new at each start. A client needs an address that stays,
and one whose root is the API's, or the `Location` of an answer leads nowhere.
"""

from urllib.parse import urlsplit

from local.loopback import Handle, LoopbackServer, Request, Response, forward

_BEHIND_A_PROXY = (("X-Forwarded-For", "127.0.0.1"), ("X-Forwarded-Proto", "http"))


def serve_api(emulator_url: str, api_id: str, port: int) -> LoopbackServer:
    """Serve the HTTP API `api_id` of the MiniStack at `emulator_url`. Raises OSError if the port is taken."""
    server = LoopbackServer(_forward_to(emulator_url, f"/_aws/execute-api/{api_id}/$default"), port)
    return server


def _forward_to(emulator_url: str, prefix: str) -> Handle:
    address = urlsplit(emulator_url).netloc

    def hand_on(request: Request) -> Response:
        return forward(address, request, prefix=prefix, more=_BEHIND_A_PROXY)

    return hand_on
