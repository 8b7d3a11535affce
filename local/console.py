"""The console on loopback: the page in web/, the client that it uses, and what it must know to talk to this
stack."""

import json
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from local.loopback import HOST, LoopbackServer, Request, Response
from local.tools import ROOT

_FOLDERS = {"/clients/javascript/": ROOT / "clients" / "javascript", "/": ROOT / "web"}
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
        return _file("/index.html" if path == "/" else path)

    return LoopbackServer(answer, port)


def _file(path: str) -> Response:
    prefix, folder = next((prefix, folder) for prefix, folder in _FOLDERS.items() if path.startswith(prefix))
    file = (folder / path.removeprefix(prefix)).resolve()
    if not file.is_relative_to(folder) or not file.is_file() or file.suffix not in _TYPES:
        return Response(404)
    return Response(200, file.read_bytes(), _headers(f"{_TYPES[file.suffix]}; charset=utf-8"))


def _headers(content_type: str) -> list[tuple[str, str]]:
    return [("Content-Type", content_type), ("Cache-Control", "no-store")]
