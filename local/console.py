"""Serves the console on loopback: the page in web/, the client that the page uses, and the configuration for this
stack. If you serve the console from another server, send the same headers: docs/security.md, "The console on your own
server"."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from local.loopback import LoopbackServer, Request, Response
from local.tools import ROOT

_FOLDERS = {
    "/": ROOT / "web",
    "/vendor/": ROOT / "web" / "vendor",
    "/clients/javascript/": ROOT / "clients" / "javascript",
    "/clients/javascript/vendor/eventsource-parser/": ROOT / "clients/javascript/vendor/eventsource-parser",
}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def serve_console(api_url: Callable[[], str], tokens: Callable[[], dict[str, str]], port: int = 0) -> LoopbackServer:
    """Serve the console on `port`. The page gets the API's URL and a token for each owner from /config.json. That
    answer is 503 while the URL is empty. Raises OSError if the port is in use."""

    def answer(request: Request) -> Response:
        path = unquote(urlsplit(request.target).path)
        if path == "/config.json":
            if not (url := api_url()):
                return Response(503)
            config = {"api_url": url, "tokens": tokens()}
            return Response(200, json.dumps(config).encode(), _headers("application/json"))
        file = _files().get("/index.html" if path == "/" else path)
        if file is None:
            return Response(404, b"", _headers("text/plain"))
        return Response(200, file.read_bytes(), _headers(f"{_TYPES[file.suffix]}; charset=utf-8"))

    return LoopbackServer(answer, port)


def _files() -> dict[str, Path]:
    """The files, by their paths on the server. Files are read again for each request, so that edits show at once."""
    return {
        prefix + file.name: file
        for prefix, folder in _FOLDERS.items()
        for file in folder.glob("*")
        if file.suffix in _TYPES
    }


def _headers(content_type: str) -> list[tuple[str, str]]:
    return [
        ("Content-Type", content_type),
        ("Cache-Control", "no-store"),
        ("Content-Security-Policy", _policy()),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
    ]


def _policy() -> str:
    """The Content-Security-Policy of the page, and `frame-ancestors`, which browsers accept only in a header."""
    page = (ROOT / "web" / "index.html").read_text()
    match = re.search(r'http-equiv="Content-Security-Policy"\s+content="([^"]+)"', page)
    assert match, "web/index.html has no Content-Security-Policy"
    return f"{match[1]}; frame-ancestors 'none'"
