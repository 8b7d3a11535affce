"""The requests that the guard accepts (local/guard.py), in both kinds of server."""

import asyncio
import http.client
import json
from collections.abc import Iterator

import pytest

from local.guard import PASS_HEADER, Guard, Guarded, Message, new_pass
from local.loopback import LoopbackServer, Request, Response
from local.model_server import serve

FOREIGN = "http://evil.example"
CONSOLE = "http://127.0.0.1:8001"
PASS = new_pass()

type Headers = list[tuple[str, str]]
OWN_HOST: Headers = [("Host", "127.0.0.1:8000")]

REFUSED: list[tuple[str, Headers]] = [
    ("Host", []),
    ("Host", [("Host", "")]),
    ("Host", [("Host", "evil.example")]),
    ("Host", [("Host", "evil.example:8000")]),
    ("Host", [("Host", "127.0.0.1.evil.example")]),
    ("Host", [("Host", "127.0.0.1:8000@evil.example")]),
    ("Host", [("Host", "localhost.evil.example:80")]),
    ("Host", [("Host", "192.0.2.1:8000")]),
    ("Host", [*OWN_HOST, ("Host", "evil.example")]),
    ("Origin", [*OWN_HOST, ("Origin", FOREIGN)]),
    ("Origin", [*OWN_HOST, ("Origin", "null")]),
    ("Origin", [*OWN_HOST, ("Origin", "")]),
    ("Origin", [*OWN_HOST, ("Origin", "http://127.0.0.1:9999")]),
    ("Origin", [*OWN_HOST, ("Origin", "https://127.0.0.1:8000")]),
    ("Origin", [*OWN_HOST, ("Origin", "http://127.0.0.1:8000"), ("Origin", FOREIGN)]),
    ("Sec-Fetch-Site", [*OWN_HOST, ("Sec-Fetch-Site", "cross-site")]),
    ("Sec-Fetch-Site", [*OWN_HOST, ("Sec-Fetch-Site", "same-site")]),
    ("Sec-Fetch-Site", [*OWN_HOST, ("sec-fetch-site", "cross-site"), ("Origin", "http://127.0.0.1:8000")]),
    ("Host", [("Host", "evil.example"), (PASS_HEADER, "guessed")]),
]
LET_IN: list[Headers] = [
    OWN_HOST,
    [("host", "localhost")],
    [("Host", "[::1]:8000")],
    [("Host", "host.docker.internal:8000")],
    [*OWN_HOST, ("Sec-Fetch-Site", "none")],
    [*OWN_HOST, ("Origin", "http://127.0.0.1:8000"), ("Sec-Fetch-Site", "same-origin")],
    [("Host", "127.0.0.1:8000"), ("Origin", FOREIGN), (PASS_HEADER, PASS)],
]


@pytest.mark.parametrize(("why", "headers"), REFUSED)
def test_what_comes_from_another_page_is_refused(why: str, headers: Headers) -> None:
    refusal = Guard(pass_=PASS).refusal("POST", "/", headers)
    assert refusal is not None
    assert refusal.startswith(f"{why}: ")


@pytest.mark.parametrize("headers", LET_IN)
def test_programs_the_own_page_and_our_own_listeners_are_let_in(headers: Headers) -> None:
    assert Guard(pass_=PASS).refusal("POST", "/", headers) is None


def test_without_a_pass_no_pass_opens() -> None:
    assert Guard().refusal("GET", "/", [("Host", "evil.example"), (PASS_HEADER, "None")]) is not None


def test_any_origin_still_needs_our_host() -> None:
    api = Guard(any_origin=True)
    assert api.refusal("POST", "/chat", [*OWN_HOST, ("Origin", FOREIGN), ("Sec-Fetch-Site", "cross-site")]) is None
    assert api.refusal("POST", "/chat", [("Host", "evil.example"), ("Origin", "http://evil.example")]) is not None


FORM = ("Content-Type", "multipart/form-data; boundary=x")
SAME_SITE = ("Sec-Fetch-Site", "same-site")


def test_the_console_may_post_a_form_to_a_bucket() -> None:
    guard = Guard(upload_origins=frozenset({CONSOLE}))
    headers = [*OWN_HOST, ("Origin", CONSOLE), SAME_SITE, FORM]
    assert guard.refusal("POST", "/uploads-bucket", headers) is None
    assert guard.refusal("POST", "/uploads-bucket/", headers) is None


@pytest.mark.parametrize(
    ("method", "target", "origin", "form"),
    [
        ("PUT", "/bucket", CONSOLE, FORM),
        ("OPTIONS", "/bucket", CONSOLE, FORM),
        ("POST", "/", CONSOLE, FORM),
        ("POST", "/?Action=CreateRole", CONSOLE, FORM),
        ("POST", "/bucket?Action=CreateRole", CONSOLE, FORM),
        ("POST", "/2015-03-31/functions", CONSOLE, FORM),
        ("POST", "/_ministack", CONSOLE, FORM),
        ("POST", "/bucket", CONSOLE, ("Content-Type", "text/plain")),
        ("POST", "/bucket", CONSOLE, ("Content-Type", "application/x-www-form-urlencoded")),
        ("POST", "/bucket", FOREIGN, FORM),
        ("POST", "/bucket", "http://127.0.0.1:9999", FORM),
    ],
)
def test_the_console_may_do_nothing_else(method: str, target: str, origin: str, form: tuple[str, str]) -> None:
    guard = Guard(upload_origins=frozenset({CONSOLE}))
    assert guard.refusal(method, target, [*OWN_HOST, ("Origin", origin), SAME_SITE, form]) is not None


def test_a_guard_survives_the_way_into_a_child_process() -> None:
    guard = Guard(upload_origins=frozenset({CONSOLE}), pass_=PASS)
    assert Guard.from_json(guard.to_json()) == guard
    assert PASS not in repr(guard)


@pytest.fixture(scope="module")
def addresses() -> Iterator[list[str]]:
    """One of each kind of server: threads, and ASGI."""
    plain = LoopbackServer(lambda request: Response(200))
    with serve() as model_url:
        yield [plain.address, model_url.removeprefix("http://").removesuffix("/v1")]
    plain.close()


def test_both_kinds_of_server_ask_the_guard(addresses: list[str]) -> None:
    for address in addresses:
        attacks = [{"Host": "evil.example"}, {"Origin": FOREIGN}, {"Sec-Fetch-Site": "cross-site"}, {}]
        assert [status_of(address, headers) for headers in attacks] == [403, 403, 403, 200], address


def status_of(address: str, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection(address, timeout=5)
    connection.request("GET", "/health", headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    if response.status == 403:
        assert body.startswith(b"Refused. ")
    return response.status


def test_a_refused_connection_is_closed() -> None:
    """Else what follows on it could be taken for a request of somebody else."""
    seen: list[str] = []

    def handle(request: Request) -> Response:
        seen.append(request.target)
        return Response(200)

    server = LoopbackServer(handle)
    connection = http.client.HTTPConnection(server.address, timeout=5)
    connection.request("POST", "/", body=b"x", headers={"Origin": FOREIGN})
    response = connection.getresponse()
    assert (response.status, response.headers["Connection"]) == (403, "close")
    connection.close()
    server.close()
    assert seen == []


def test_a_websocket_of_another_page_is_refused_before_it_opens() -> None:
    async def unreached(scope: Message, receive: object, send: object) -> None:
        raise AssertionError("the guard let it in")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    headers = [(b"host", b"127.0.0.1:4566"), (b"origin", FOREIGN.encode())]
    scope = {"type": "websocket", "path": "/", "query_string": b"", "headers": headers}
    asyncio.run(Guarded(unreached, Guard())(scope, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_the_application_sees_no_pass() -> None:
    seen: list[Message] = []

    async def app(scope: Message, receive: object, send: object) -> None:
        seen.append(scope)

    async def nothing(*arguments: object) -> Message:
        return {}

    headers = [(b"host", b"x.example"), (PASS_HEADER.lower().encode(), PASS.encode()), (b"accept", b"*/*")]
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}
    asyncio.run(Guarded(app, Guard(pass_=PASS))(scope, nothing, nothing))  # type: ignore[arg-type]
    assert [name for name, _ in seen[0]["headers"]] == [b"host", b"accept"]
    assert PASS not in json.dumps(str(seen))
