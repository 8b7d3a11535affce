"""The Python programs of docs/python.md, unchanged, against an API with errors."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.e2e.pages import recipes

PROGRAMS = [pytest.param(program, id=name) for name, program in recipes().items()]
WAITING = [each for each in PROGRAMS if each.id != "stream"]
TASK_ID = "s.01M81JBBEJSNKKCARCWATXHY0A"


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any


class Answer(NamedTuple):
    """`status` 0: the connection is closed without an answer."""

    status: int
    body: Any = None
    headers: dict[str, str] = {}  # noqa: RUF012


class Api(http.server.ThreadingHTTPServer):
    """Answers each request by `script(request, n)`: the n-th of its method and message or task, from 0."""

    def __init__(self, script: Callable[[Request, int], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.requests: list[Request] = []
        self.lock = threading.Lock()

    def answer(self, request: Request) -> Answer:
        with self.lock:
            same = [each for each in self.requests if (each.method, each.body) == (request.method, request.body)]
            self.requests.append(request)
            return self.script(request, len(same))


class Handler(http.server.BaseHTTPRequestHandler):
    server: Api

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = json.loads(text) if text else None
        answer = self.server.answer(Request(self.command, url.path, parse_qs(url.query), headers, body))
        if not answer.status:
            self.close_connection = True
            return
        content = (answer.body if isinstance(answer.body, str) else json.dumps(answer.body)).encode()
        kind = "text/html" if isinstance(answer.body, str) else "application/json"
        self.send_response(answer.status)
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(content))} | answer.headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[Request, int], Answer]], Api]]:
    servers = []

    def start(script: Callable[[Request, int], Answer]) -> Api:
        servers.append(Api(script))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def run(program: str, api: Api) -> subprocess.CompletedProcess[str]:
    url = f"http://127.0.0.1:{api.server_port}"
    environment = {**os.environ, "API": url, "TOKEN": "t0ken", "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=False)


ACCEPTED = Answer(202, {"task_id": TASK_ID, "session_id": "s", "status": "PENDING"}, {"Retry-After": "1"})


def task(status: str, **members: Any) -> Answer:
    return Answer(200, {"task_id": TASK_ID, "status": status, "poll_after_ms": 500, **members})


@pytest.mark.parametrize("program", WAITING)
def test_a_recipe_survives_what_passes(program: str, serve: Callable[..., Api]) -> None:
    unavailable = Answer(503, {"code": "unavailable", "detail": "The service is unavailable."}, {"Retry-After": "1"})
    posts = [unavailable, Answer(0), Answer(503, "<html>Service Unavailable</html>"), ACCEPTED]
    answered = task("SUCCESS", result={"message": "It is answered."})
    gets = [
        Answer(502, "<html>"),
        task("PENDING"),
        Answer(0),
        task("STARTED"),
        Answer(429, {"message": "Too many"}),
        answered,
    ]

    def script(request: Request, n: int) -> Answer:
        return posts[min(n, 3)] if request.method == "POST" else gets[min(n, 5)]

    api = serve(script)
    ran = run(program, api)

    assert ran.returncode == 0, ran.stderr
    assert "It is answered." in ran.stdout
    sent = [request for request in api.requests if request.method == "POST"]
    keys: dict[str, set[str]] = {}
    for request in sent:
        keys.setdefault(request.body["message"], set()).add(request.headers["idempotency-key"])
    assert all(len(each) == 1 for each in keys.values()), "each message under one key"
    assert len(set.union(*keys.values())) == len(keys), "and another for another message"
    looks = [request for request in api.requests if request.method == "GET"]
    assert all(request.query == {"wait": ["20"]} and request.path == f"/chat/task/{TASK_ID}" for request in looks)
    assert len(sent) == 4 * len(keys)


def growing(*events: dict[str, Any], following: int = 0) -> Answer:
    done = any(event["event"] == "done" for event in events)
    pause = None if done else 100
    return Answer(200, {"events": events, "next": following, "done": done, "poll_after_ms": pause})


def test_the_streaming_recipe_tells_words_that_are_taken_back_and_survives_what_passes(
    serve: Callable[..., Api],
) -> None:
    first = {"id": 1, "event": "delta", "attempt": 1, "text": " is"}
    taken = {"id": 2, "event": "retract", "attempt": 2, "text": ""}
    end = {"id": 2**31 - 1, "event": "done", "task": {"status": "SUCCESS", "result": {"message": "It waits."}}}
    pages = {
        None: [Answer(503), growing({"id": 0, "event": "snapshot", "task": {}, "attempt": 1, "text": "It"})],
        0: [Answer(0), Answer(429, {"message": "Too many"}), growing(), growing(first, taken, following=2)],
        2: [growing({"id": 2, "event": "start", "attempt": 2}, {"id": 3, "event": "delta", "text": "It"}, following=3)],
        3: [growing(end, following=2**31 - 1)],
    }
    asked: list[int | None] = []

    def script(request: Request, n: int) -> Answer:
        if request.method == "POST":
            return ACCEPTED
        after = int(request.query["after"][0]) if request.query else None
        asked.append(after)
        return pages[after][asked.count(after) - 1]

    api = serve(script)
    ran = run(recipes()["stream"], api)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["It", "It is", "", "", "It", "It waits."]
    assert asked == [None, None, 0, 0, 0, 0, 2, 3]
    (sent,) = [request.body for request in api.requests if request.method == "POST"]
    assert sent == {"message": "I need a haircut", "role": "booking", "stream": True}
    assert {request.path for request in api.requests[1:]} == {f"/chat/task/{TASK_ID}/events"}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("refusal", "shown"),
    [
        (
            Answer(422, {"code": "invalid_request", "detail": "message: at least 1 character"}),
            "message: at least 1 character",
        ),
        (Answer(401, {"message": "Unauthorized"}), "Unauthorized"),
        (
            Answer(429, {"detail": "You may use 5 tokens a day."}, {"Retry-After": "3600"}),
            "You may use 5 tokens a day.",
        ),
        (Answer(400, "<html>"), "Bad Request"),
    ],
    ids=["a problem", "API Gateway's", "a limit for long", "no JSON"],
)
def test_a_recipe_shows_why_it_was_refused(
    program: str, refusal: Answer, shown: str, serve: Callable[..., Api]
) -> None:
    api = serve(lambda request, n: refusal)
    ran = run(program, api)

    assert ran.returncode != 0
    assert shown in ran.stderr
    assert "t0ken" not in ran.stderr
    assert len({request.headers["idempotency-key"] for request in api.requests}) == len(api.requests), "never repeated"


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_recipe_shows_why_its_task_failed(program: str, serve: Callable[..., Api]) -> None:
    failed = task("FAILURE", error_code="model_timeout", error="The model did not answer in time.")
    ended = growing({"id": 1, "event": "done", "task": failed.body})

    def script(request: Request, n: int) -> Answer:
        if request.method == "POST":
            return ACCEPTED
        return ended if request.path.endswith("/events") else failed

    ran = run(program, serve(script))

    assert ran.returncode != 0
    assert "model_timeout: The model did not answer in time." in ran.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_recipe_passes_mypy(program: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.py").write_text(program)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir=cache", "recipe.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=55, check=False)
    assert ran.returncode == 0, ran.stdout
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "116", "recipe.py"]
    assert subprocess.run(ruff, cwd=tmp_path, check=False).returncode == 0


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_recipe_leaves_the_key_to_its_caller(program: str) -> None:
    """A key that is made inside the call is another one when the call is made again."""
    assert re.search(r"def (chat|stream)\(client: httpx\.", program)
    assert ", key: str, message: str" in program
