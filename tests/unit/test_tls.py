"""TLS with AWS: connections first trust a few authorities, and all public ones if those are not enough."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import trustme
from botocore.config import Config
from botocore.exceptions import SSLError

from turnqueue.aws import Authorities


class Server:
    """Answers as DynamoDB with an empty object, by TLS. `requests`: how many it has read; `connections`: opened."""

    def __init__(self, authority: trustme.CA) -> None:
        self.requests = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                server.requests += 1
                if server.breaks:
                    self.request.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None:
                pass

        class Listener(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that does not trust us is what is tested here."""

            def finish_request(self, request: Any, client_address: Any) -> None:
                server.connections += 1
                secured = context.wrap_socket(request, server_side=True)
                super().finish_request(secured, client_address)
                secured.close()

        self.connections = 0
        self.breaks = False
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self._listener = Listener(("127.0.0.1", 0), Handler)
        self.url = f"https://127.0.0.1:{self._listener.server_address[1]}"
        threading.Thread(target=self._listener.serve_forever, args=(0.01,)).start()

    def close(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def signer(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of the authority that has signed for the server."""
    return written(authority, tmp_path_factory.mktemp("signer"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of an authority that has signed for nobody here."""
    return written(trustme.CA(), tmp_path_factory.mktemp("others"))


def written(authority: trustme.CA, folder: Path) -> str:
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return str(folder / "ca.pem")


@pytest.fixture
def server(authority: trustme.CA) -> Iterator[Server]:
    server = Server(authority)
    yield server
    server.close()


type Ask = Callable[[], Any]
type Asking = Callable[[Authorities, int], Ask]


@pytest.fixture
def asking(server: Server) -> Asking:
    """A call of DynamoDB, that is of the server, by a client that trusts these authorities and tries so many times."""

    def ask(authorities: Authorities, attempts: int) -> Ask:
        session: Any = botocore.session.get_session()
        session.set_credentials("key", "secret")
        session.register("needs-retry", authorities.widen)
        client = session.create_client(
            "dynamodb",
            region_name="us-east-1",
            endpoint_url=server.url,
            verify=authorities,
            config=Config(retries={"mode": "standard", "total_max_attempts": attempts}),
        )
        return lambda: client.get_item(TableName="turns", Key={"guard": {"S": "x"}})

    return ask


@pytest.mark.parametrize("attempts", [1, 3])
def test_an_authority_that_is_not_among_the_few_is_trusted_at_the_second_connection(
    server: Server, asking: Asking, others: str, signer: str, attempts: int
) -> None:
    authorities = Authorities(others, signer)
    ask = asking(authorities, attempts)

    ask()
    ask()

    assert (server.connections, server.requests) == (2, 2)
    assert signer == authorities.__fspath__()


def test_one_of_the_few_is_trusted_at_once(server: Server, asking: Asking, others: str, signer: str) -> None:
    authorities = Authorities(signer, others)

    asking(authorities, 1)()

    assert (server.connections, server.requests) == (1, 1)
    assert signer == authorities.__fspath__()


def test_an_unknown_authority_is_never_trusted(server: Server, asking: Asking, others: str) -> None:
    with pytest.raises(SSLError):
        asking(Authorities(others, others), 1)()

    assert (server.connections, server.requests) == (2, 0)


def test_a_request_that_was_sent_is_not_sent_again_for_its_authority(
    server: Server, asking: Asking, others: str, signer: str
) -> None:
    """A connection that ends without a word is an error of TLS too."""
    server.breaks = True

    with pytest.raises(Exception):  # noqa: B017 whichever it is: what counts is what the server has read
        asking(Authorities(signer, others), 1)()

    assert server.requests == 1


def test_ten_connections_at_once_are_all_made_with_the_wider_list(
    server: Server, asking: Asking, others: str, signer: str
) -> None:
    ask = asking(Authorities(others, signer), 1)
    together = threading.Barrier(10)

    def one(_: int) -> None:
        together.wait(5)
        ask()

    with ThreadPoolExecutor(10) as threads:
        list(threads.map(one, range(10)))

    assert server.requests == 10
