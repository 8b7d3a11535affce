"""Runs the worker against servers of other projects. Only `make servers` and `pytest tests/servers` run it. The servers
are in .tools/servers: the LiteLLM proxy in front of the stand-in model, and llama.cpp's server with a model that
engine.py makes.
"""

import re
import socket
import socketserver
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local.processes import Process, Processes
from local.tools import ROOT
from tests.unit.conftest import (
    MODEL_KEY,
    Account,
    account,
    clock,
    connect,
    functions,
    model,
    model_url,
    only_loopback,
    printed,
    simulated_aws,
    wire,
    worker,
)

__all__ = [
    "account",
    "clock",
    "connect",
    "functions",
    "model",
    "model_url",
    "only_loopback",
    "printed",
    "simulated_aws",
    "wire",
    "worker",
]

TOOLS = ROOT / ".tools/servers/bin"
WINDOW = 2048
"""Tokens of a conversation with the engine."""

_SECONDS_TO_START = 120  # LiteLLM imports for 25 s on a busy machine of two cores.

_rows: list[tuple[str, str, str]] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(_SECONDS_TO_START + 60))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: Any = yield
    if report.when == "call":
        server = Path(str(item.path)).stem.removeprefix("test_")
        words = (item.function.__doc__ or item.name).splitlines()[0]  # type: ignore[attr-defined]
        case = item.name.partition("[")[2].rstrip("]")
        _rows.append((server, words.rstrip(".") + (f" ({case})" if case else ""), report.outcome))
    return report  # type: ignore[no-any-return]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table of docs/model-servers.md."""
    terminalreporter.section("results")
    for row in _rows:
        terminalreporter.line("| " + " | ".join(row) + " |")


class Tap:
    """Forwards connections to a server, byte for byte, and counts the requests for an answer."""

    def __init__(self, upstream: str) -> None:
        self.asked = 0
        host, _, port = upstream.rpartition("/")[2].partition(":")
        tap = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection((host, int(port))) as server:
                    back = threading.Thread(target=_copy, args=(server, self.request, lambda _: None))
                    back.start()
                    _copy(self.request, server, tap._count)
                    back.join()

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def _count(self, sent: bytes) -> None:
        self.asked += len(re.findall(rb"^POST /v1/chat/completions ", sent, re.MULTILINE))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _copy(source: socket.socket, target: socket.socket, seen: Callable[[bytes], None]) -> None:
    try:
        while data := source.recv(65536):
            seen(data)
            target.sendall(data)
    except OSError:
        pass  # the other side has disconnected
    for end in (source, target):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue


def asked(account: Account, message: str = "hello", **more: Any) -> dict[str, Any]:
    """The task of this message, once the worker has been run on it."""
    task_id = account.queued(message, **more)
    account.work()
    return account.task(task_id)


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    if not TOOLS.exists():
        pytest.fail("the servers are not installed: run `make servers`")
    with Processes() as processes:
        yield processes


def started(process: Process, log: Path, ready: Callable[[], str | None]) -> str:
    """Wait until `ready` returns a value, and return it."""
    deadline = time.monotonic() + _SECONDS_TO_START
    while not (found := ready()):
        assert process.alive and time.monotonic() < deadline, log.read_text()[-5000:]
        time.sleep(0.1)
    return found


@pytest.fixture(scope="session")
def engine_url(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("engine")
    log = folder / "log"
    script = Path(__file__).parent / "engine.py"
    command: list[str | Path] = [
        TOOLS / "python",
        script,
        folder / "tiny.gguf",
        "--window",
        str(WINDOW),
        "--key",
        MODEL_KEY,
    ]
    process = processes.start(command, env={}, log=log)

    def address() -> str | None:
        found = re.search(r"^listening at (http://\S+)$", log.read_text(), re.MULTILINE)
        return found and found[1]

    return started(process, log, address)


PROXY = """
model_list:
  - model_name: gpt-stand-in
    litellm_params: {{model: openai/gpt-stand-in, api_base: "{url}", api_key: sk-behind-the-proxy}}
router_settings: {{disable_cooldowns: true}}  # one test's failures are not the next one's
general_settings: {{master_key: {key}}}
"""


@pytest.fixture(scope="session")
def proxy_url(processes: Processes, model_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("litellm")
    log, config = folder / "log", folder / "config.yaml"
    config.write_text(PROXY.format(url=model_url, key=MODEL_KEY))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Otherwise LiteLLM would load its prices from the web.
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    options = ["--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    process = processes.start([TOOLS / "litellm", "--config", config, *options], env=env, log=log)
    url = f"http://127.0.0.1:{port}"

    def lives() -> str | None:
        try:
            with urllib.request.urlopen(f"{url}/health/liveliness", timeout=5):
                return url
        except (urllib.error.URLError, TimeoutError):
            return None

    return started(process, log, lives)


@pytest.fixture
def engine(account: Account, engine_url: str, connect: Callable[[str], None]) -> Iterator[Tap]:
    tap = Tap(engine_url)
    connect(tap.url)
    yield tap
    tap.close()


@pytest.fixture
def proxy(account: Account, proxy_url: str, connect: Callable[[str], None]) -> Iterator[Tap]:
    tap = Tap(proxy_url)
    connect(tap.url)
    yield tap
    tap.close()
