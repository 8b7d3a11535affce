"""The console on loopback: the page in web/, the client that it uses, and what it must know to talk to this
stack."""

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from local.loopback import HOST, LoopbackServer, Request, Response
from local.tools import ROOT

_FOLDERS = {"/": ROOT / "web", "/clients/javascript/": ROOT / "clients" / "javascript"}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def serve_console(api_url: str, tokens: Callable[[], dict[str, str]], port: int = 0) -> LoopbackServer:
    """Serve it on `port`. GET /config.json tells the page the API's URL and a token by each owner's name,
    from `tokens`. Raises OSError if the port is taken."""

    def answer(request: Request) -> Response:
        # A name of another's that resolves to this machine must not make its pages those of this server.
        if request.headers.get("Host", "").rpartition(":")[0] not in (HOST, "localhost"):
            return Response(403)
        path = unquote(urlsplit(request.target).path)
        if path == "/config.json":
            config = {"api_url": api_url, "tokens": tokens()}
            return Response(200, json.dumps(config).encode(), _headers("application/json"))
        file = _files().get("/index.html" if path == "/" else path)
        if file is None:
            return Response(404)
        return Response(200, file.read_bytes(), _headers(f"{_TYPES[file.suffix]}; charset=utf-8"))

    return LoopbackServer(answer, port)


def _files() -> dict[str, Path]:
    """Each by the path that it is served at. As they are now: one edits them while the page is open."""
    return {
        prefix + file.name: file
        for prefix, folder in _FOLDERS.items()
        for file in folder.glob("*")
        if file.suffix in _TYPES
    }


def _headers(content_type: str) -> list[tuple[str, str]]:
    return [("Content-Type", content_type), ("Cache-Control", "no-store")]
