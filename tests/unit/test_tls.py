"""TLS with AWS: connections first trust a few authorities, and all public ones if those are not enough."""

import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import SSLError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from turnqueue.aws import Authorities


def make_certificates(folder: Path) -> None:
    """A new authority (ca.pem) and its certificate for this address (server.pem, with its key), good for a day."""

    def certificate(name: str, key: Any, signer: Any, *extensions: x509.ExtensionType) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stub")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(signer, hashes.SHA256())

    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    root = certificate("stub", authority, authority, x509.BasicConstraints(True, None), usage)
    name = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    leaf = certificate("server", server, authority, x509.BasicConstraints(False, None), name)
    key = server.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ca.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    (folder / "server.pem").write_bytes(key + leaf.public_bytes(serialization.Encoding.PEM))


class Server:
    """Answers as DynamoDB with an empty object, by TLS. `requests`: how many it has read; `connections`: opened."""

    def __init__(self, certificate: Path) -> None:
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
        context.load_cert_chain(certificate)
        self._listener = Listener(("127.0.0.1", 0), Handler)
        self.url = f"https://127.0.0.1:{self._listener.server_address[1]}"
        threading.Thread(target=self._listener.serve_forever, args=(0.01,)).start()

    def close(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of an authority that has signed for nobody here."""
    folder = tmp_path_factory.mktemp("others")
    make_certificates(folder)
    return str(folder / "ca.pem")


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signer")
    make_certificates(folder)
    return folder


@pytest.fixture
def server(signer: Path) -> Iterator[Server]:
    server = Server(signer / "server.pem")
    yield server
    server.close()


type Ask = Callable[[], Any]


@pytest.fixture
def asking(server: Server) -> Callable[[Authorities, int], Ask]:
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
    server: Server, asking: Callable[[Authorities, int], Ask], others: str, signer: Path, attempts: int
) -> None:
    authorities = Authorities(others, str(signer / "ca.pem"))
    ask = asking(authorities, attempts)

    ask()
    ask()

    assert (server.connections, server.requests) == (2, 2)
    assert str(signer / "ca.pem") == authorities.__fspath__()


def test_one_of_the_few_is_trusted_at_once(
    server: Server, asking: Callable[[Authorities, int], Ask], others: str, signer: Path
) -> None:
    authorities = Authorities(str(signer / "ca.pem"), others)

    asking(authorities, 1)()

    assert (server.connections, server.requests) == (1, 1)
    assert str(signer / "ca.pem") == authorities.__fspath__()


def test_an_unknown_authority_is_never_trusted(
    server: Server, asking: Callable[[Authorities, int], Ask], others: str
) -> None:
    with pytest.raises(SSLError):
        asking(Authorities(others, others), 1)()

    assert (server.connections, server.requests) == (2, 0)


def test_a_request_that_was_sent_is_not_sent_again_for_its_authority(
    server: Server, asking: Callable[[Authorities, int], Ask], others: str, signer: Path
) -> None:
    """A connection that ends without a word is an error of TLS too."""
    server.breaks = True

    with pytest.raises(Exception):  # noqa: B017 whichever it is: what counts is what the server has read
        asking(Authorities(str(signer / "ca.pem"), others), 1)()

    assert server.requests == 1


def test_ten_connections_at_once_are_all_made_with_the_wider_list(
    server: Server, asking: Callable[[Authorities, int], Ask], others: str, signer: Path
) -> None:
    ask = asking(Authorities(others, str(signer / "ca.pem")), 1)
    together = threading.Barrier(10)
    failed: list[BaseException] = []

    def one() -> None:
        together.wait(5)
        try:
            ask()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (failed, server.requests) == ([], 10)
