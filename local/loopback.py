"""Small HTTP servers on 127.0.0.1. For each request, a server calls its handler, and sends the response that the
handler returns. Each connection has a separate thread. A guard checks each request first."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from typing import Any

from local.guard import PASS_HEADER, Guard, refused_body

HOST = "127.0.0.1"


class Chunks:
    """A chunked body. Iterate over it once to get the pieces as they come. After that, `trailers` has the trailers by
    their names in lower case. Raises ConnectionError if the sender stops before the end."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self.trailers: dict[str, str] = {}

    def __iter__(self) -> Iterator[bytes]:
        while size := int(self._line(), 16):
            piece = self._file.read(size)
            if len(piece) < size:
                raise ConnectionError
            self._line()
            yield piece
        while line := self._line():
            name, _, value = line.partition(":")
            self.trailers[name.lower()] = value.strip()

    def _line(self) -> str:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError
        return line[:-2].decode("latin-1")


@dataclass(frozen=True)
class Request:
    """An HTTP request. `body` is empty if the body is chunked: `chunks` then has its pieces, and the handler must read
    them all."""

    method: str
    target: str  # the path and the query as received, still percent-encoded
    headers: Message
    body: bytes
    chunks: Chunks | None = None


@dataclass(frozen=True)
class Response:
    """An HTTP response. If `body` is an iterator, each of its pieces is sent immediately, as a chunk."""

    status: int
    body: bytes | Iterable[bytes] = b""
    headers: Sequence[tuple[str, str]] = (("Content-Type", "application/json"),)


type Handle = Callable[[Request], Response]

NO_PAGES = Guard()
"""A guard that accepts programs and the server's own pages, and refuses all other pages."""

# Maximum seconds that a forwarded request takes: more than the 30 s after which API Gateway ends a request.
_SECONDS_TO_FORWARD = 60
_OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "upgrade"}


def forward(
    address: str, request: Request, *, pass_: str, prefix: str = "", more: Sequence[tuple[str, str]] = ()
) -> Response:
    """Forward the request, with the Host header of the client, to the server at `address` (host:port). Puts `prefix`
    before the path and adds the headers `more`. Returns the server's answer, or a 503 if no answer comes. `pass_` makes
    the server's guard accept the request."""
    more = [*more, (PASS_HEADER, pass_), ("Content-Length", str(len(request.body)))]
    headers = [*_of_the_message(request.headers.items()), *more]
    connection = http.client.HTTPConnection(address, timeout=_SECONDS_TO_FORWARD)
    try:
        connection.putrequest(request.method, prefix + request.target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders(request.body)
        answer = connection.getresponse()
        return Response(answer.status, answer.read(), _of_the_message(answer.getheaders()))
    except (OSError, http.client.HTTPException):
        return Response(503, b'{"message":"Service Unavailable"}')
    finally:
        connection.close()


def _of_the_message(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() not in _OF_ONE_CONNECTION]


def free_port(wished: int) -> int:
    """The port `wished`, or a free port if `wished` is in use."""
    for port in (wished, 0):
        with contextlib.suppress(OSError), socket.create_server((HOST, port)) as probe:
            return int(probe.getsockname()[1])
    raise OSError(f"no free port on {HOST}")


class LoopbackServer:
    """A server that runs from construction until close. `guard` checks each request, and `handle` answers the accepted
    requests. Port 0 selects a free port. Raises OSError if the port is in use."""

    def __init__(self, handle: Handle, port: int = 0, *, guard: Guard = NO_PAGES) -> None:
        self._server = _Server((HOST, port), _handler(handle, guard))
        self.port = int(self._server.server_address[1])
        self.address = f"{HOST}:{self.port}"
        self.url = f"http://{self.address}"
        threading.Thread(target=self._server.serve_forever, name=f"server {self.port}", daemon=True).start()

    def close(self) -> None:
        """Stop accepting connections, without waiting. Open connections last until the process ends."""
        threading.Thread(target=self._close, daemon=True).start()

    def _close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512  # with the default of 5, the system resets connections when hundreds arrive together

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: clients that leave or are killed are normal here."""


def _handler(handle: Handle, guard: Guard) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Send headers and body in one packet. Separate packets take 40 ms, because Nagle's algorithm waits for a
        # delayed ACK.
        wbufsize = -1
        disable_nagle_algorithm = True

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            is_chunked = self.headers.get("Transfer-Encoding") == "chunked"
            chunks = Chunks(self.rfile) if is_chunked else None
            request = Request(self.command, self.path, self.headers, self.rfile.read(length), chunks)
            refusal = guard.refusal(request.method, request.target, request.headers.items())
            if refusal is None:
                response = handle(request)
            else:  # close the connection too, because its next requests would come from the refused page
                headers = (("Content-Type", "text/plain; charset=utf-8"), ("Connection", "close"))
                response = Response(403, refused_body(refusal), headers)
            self.send_response_only(response.status)
            for name, value in response.headers:
                self.send_header(name, value)
            if isinstance(response.body, bytes):
                self.send_header("Content-Length", str(len(response.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(response.body)
            else:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.flush()
                for piece in response.body:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler
