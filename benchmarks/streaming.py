"""Measures how late a client gets the tokens of a streamed answer: `make bench`.

The model sends 20 tokens a second, and each token is the time at which it leaves the model. Beside each client of
Turnqueue, the openai SDK reads the same answer directly from the model. All run on one local stack on this machine.
"""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import openai

from local.stack import LocalStack, Model

ROUNDS = {1: 3, 3: 4, 10: 3, 80: 1}
"""How often each way is measured, by the seconds of the answer."""
TOKENS_A_SECOND = 20
TOKEN_CHARACTERS = 10
"""Of a token: when it left the model, in milliseconds of the clock, with a space. 200 a second, so 16 KB in 80 s."""


class Lateness:
    """The seconds from the model to the client, by token."""

    def __init__(self) -> None:
        self.late: list[float] = []

    def has(self, text: str) -> None:
        """The client has all of this text of the answer now."""
        now = time.time() * 1000
        for start in range(len(self.late) * TOKEN_CHARACTERS, len(text) - TOKEN_CHARACTERS + 1, TOKEN_CHARACTERS):
            left = int(text[start : start + TOKEN_CHARACTERS])
            self.late.append((now - left) % 10 ** (TOKEN_CHARACTERS - 1) / 1000)


@contextmanager
def clock_model() -> Iterator[str]:
    """A model whose tokens contain the time at which they left. It sends N tokens for the message "[[tokens=N]]"."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["content-length"])).decode()
            tokens = int(asked.rpartition("[[tokens=")[2].partition("]]")[0])
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            began = time.monotonic()
            for number in range(1, tokens + 1):
                time.sleep(max(began + number / TOKENS_A_SECOND - time.monotonic(), 0))
                stamp = f"{int(time.time() * 1000) % 10 ** (TOKEN_CHARACTERS - 1):0{TOKEN_CHARACTERS - 1}} "
                self._send(f'{{"choices": [{{"index": 0, "delta": {{"content": "{stamp}"}}}}]}}')
            self._send('{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}')
            self._send("[DONE]")

        def _send(self, data: str) -> None:
            self.wfile.write(f"data: {data}\n\n".encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def message(seconds: float) -> str:
    return f"[[tokens={round(seconds * TOKENS_A_SECOND)}]]"


def completion(client: openai.OpenAI, seconds: float) -> list[float]:
    """Read an answer as a chat completion."""
    lateness, text = Lateness(), ""
    said: Any = {"role": "user", "content": message(seconds)}
    for chunk in client.chat.completions.create(model="general", messages=[said], stream=True):
        text += chunk.choices[0].delta.content or ""
        lateness.has(text)
    return lateness.late


def response(client: openai.OpenAI, seconds: float) -> list[float]:
    """Read an answer as a response."""
    lateness, text = Lateness(), ""
    for event in client.responses.create(model="general", input=message(seconds), stream=True):
        if event.type == "response.output_text.delta":
            text += event.delta
            lateness.has(text)
    return lateness.late


def task(http: httpx.Client, seconds: float, *, stream: bool) -> list[float]:
    """Read an answer by its events if it `stream`s, else by polls; as often as the API says."""
    lateness, text, after, wait_ms = Lateness(), "", 0, 300
    body = {"message": message(seconds), "stream": stream}
    task_id = http.post("/chat", params={"async_mode": "true"}, json=body).raise_for_status().json()["task_id"]
    while wait_ms is not None:
        time.sleep(wait_ms / 1000)
        if stream:
            told = http.get(f"/chat/task/{task_id}/events", params={"after": after}).raise_for_status().json()
            after = told["next"]
            for event in told["events"]:
                text = event["task"]["result"]["message"] if event["event"] == "done" else text + event.get("text", "")
                lateness.has(text)
        else:
            told = http.get(f"/chat/task/{task_id}").raise_for_status().json()
            lateness.has((told["result"] or {}).get("message") or told["partial"] or "")
        wait_ms = told["poll_after_ms"]
    return lateness.late


def main() -> None:
    def sdk(url: str, key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=url, api_key=key, http_client=openai.DefaultHttpxClient(trust_env=False))

    with (
        clock_model() as url,
        LocalStack(model=Model(url, "sk-local", "m", stand_in=False)) as stack,
        httpx.Client(base_url=stack.api_url, timeout=60, trust_env=False) as http,
    ):
        token = stack.token("alice")
        http.headers["Authorization"] = f"Bearer {token}"
        streams, direct = sdk(f"{stack.stream_url}/v1", token), sdk(url, "sk-local")
        ways: dict[str, Callable[[float], list[float]]] = {
            "events": lambda seconds: task(http, seconds, stream=True),
            "polls": lambda seconds: task(http, seconds, stream=False),
            "a response": lambda seconds: response(streams, seconds),
            "a chat completion": lambda seconds: completion(streams, seconds),
        }
        for read in ways.values():
            read(0.2)  # starts the functions
        print(f"| answer | direct, p50 / p95 | {' | '.join(ways)} |\n| --- | --- |{' --- |' * len(ways)}")
        for seconds, rounds in ROUNDS.items():
            late: dict[str, list[float]] = {name: [] for name in ("direct", *ways)}
            with ThreadPoolExecutor(1) as pool:
                for name, read in ways.items():
                    for _ in range(rounds):
                        beside = pool.submit(completion, direct, seconds)
                        late[name] += read(seconds)
                        late["direct"] += beside.result()
            print(f"| {seconds} s | {' | '.join(map(_spread, late.values()))} |", flush=True)


def _spread(late: list[float]) -> str:
    return f"{statistics.median(late):.2f} / {statistics.quantiles(late, n=20)[-1]:.2f} s"


if __name__ == "__main__":
    main()
