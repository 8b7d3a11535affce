"""The files that local/console.py serves, and those that it does not."""

import http.client
from collections.abc import Iterator

import httpx
import pytest

from local.console import serve_console


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = serve_console(lambda: "http://127.0.0.1:1", lambda: {"alice": "a token"})
    yield server.address
    server.close()


def get(address: str, target: str, host: str | None = None) -> tuple[int, str | None, bytes]:
    connection = http.client.HTTPConnection(address, timeout=5)
    connection.request("GET", target, headers={"Host": host or address})
    response = connection.getresponse()
    answer = response.status, response.headers["Content-Type"], response.read()
    connection.close()
    return answer


@pytest.mark.parametrize(
    ("target", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/?x=1", "text/html; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/app.js", "text/javascript; charset=utf-8"),
        ("/icon.svg", "image/svg+xml; charset=utf-8"),
        ("/clients/javascript/turnqueue.js", "text/javascript; charset=utf-8"),
    ],
)
def test_the_page_and_its_client(server: str, target: str, content_type: str) -> None:
    status, sent_as, body = get(server, target)
    assert (status, sent_as) == (200, content_type)
    assert body


def test_where_the_api_is_and_tokens_for_it(server: str) -> None:
    response = httpx.get(f"http://{server}/config.json", trust_env=False)
    assert response.json() == {"api_url": "http://127.0.0.1:1", "tokens": {"alice": "a token"}}
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize("target", ["/", "/app.js", "/config.json", "/nothing"])
def test_no_page_may_frame_it_and_its_policy_is_a_header_too(server: str, target: str) -> None:
    headers = httpx.get(f"http://{server}{target}", trust_env=False).headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";"))
    assert policy["frame-ancestors"] == "'none'"
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


HIDDEN = [
    *("/nothing", "/clients/javascript/", "/clients/javascript/package.json", "/clients/javascript/test/support.js"),
    *("/../README.md", "/%2e%2e/README.md", "/..%2fREADME.md", "/clients/javascript/../../README.md"),
    *("//etc/passwd", "/%00", "/%ff", "/index.html/", "/INDEX.HTML"),
]


@pytest.mark.parametrize("target", HIDDEN)
def test_nothing_else(server: str, target: str) -> None:
    assert get(server, target)[0] == 404


@pytest.mark.parametrize("host", ["evil.example:8001", "127.0.0.1.evil.example:80", "evil.example", ""])
def test_no_other_name_leads_here(server: str, host: str) -> None:
    assert get(server, "/config.json", host=host or "x")[0] == 403
