"""The API's address: a server on loopback that hands each request to MiniStack's API Gateway and its answer
back.

MiniStack has the API at a path with an id that is new at each start. A client needs an address that stays,
and one whose root is the API's, or the `Location` of an answer leads nowhere.
"""

import http.client
from typing import Any
from urllib.parse import urlsplit

from local.loopback import Handle, LoopbackServer, Request, Response

_SECONDS_TO_ANSWER = 60  # API Gateway ends what takes longer than 30
_OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "upgrade"}


def serve_api(emulator_url: str, api_id: str, port: int) -> LoopbackServer:
    """Serve the HTTP API `api_id` of the MiniStack at `emulator_url`. Raises OSError if the port is taken."""
    server = LoopbackServer(_forward_to(emulator_url, f"/_aws/execute-api/{api_id}/$default"), port)
    return server


def _forward_to(emulator_url: str, prefix: str) -> Handle:
    address = urlsplit(emulator_url).netloc

    def forward(request: Request) -> Response:
        headers = _headers_of(request.headers.items())
        headers += [
            ("X-Forwarded-For", "127.0.0.1"),
            ("X-Forwarded-Proto", "http"),
            ("Content-Length", str(len(request.body))),
        ]
        connection = http.client.HTTPConnection(address, timeout=_SECONDS_TO_ANSWER)
        try:
            connection.putrequest(request.method, prefix + request.target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            connection.endheaders(request.body)
            answer = connection.getresponse()
            return Response(answer.status, answer.read(), _headers_of(answer.getheaders()))
        except (OSError, http.client.HTTPException):
            return Response(503, b'{"message":"Service Unavailable"}')
        finally:
            connection.close()

    return forward


def _headers_of(headers: Any) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() not in _OF_ONE_CONNECTION]
