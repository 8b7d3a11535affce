"""Measures how late a client gets the tokens of a streamed answer, and the cost of the streaming."""

import math
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import httpx
import openai

from benchmarks.bill import CHATS, Machine, dollars
from benchmarks.meter import Meter
from benchmarks.report import Section, goal
from local.stack import LocalStack, Model

ANSWERS = {1: 3, 3: 3, 10: 3, 80: 1}
"""The seconds of an answer, and the number of its measurements."""
GOALS = {3: 0.5, 10: 0.8, 80: 1.1}
"""The goal: the seconds by which the median token may be later than in the direct stream."""
TOKENS_A_SECOND = 20
_TOKEN_CHARACTERS = 10
"""The length of a token: the time at which it left the model, in milliseconds, and a space. 200 tokens a second make 16
KB in 80 s."""


BY_URL_ANSWERS = {3: 4, 10: 3, 80: 1}
BY_URL_GOALS = {3: 0.35, 10: 0.45, 80: 0.75}
"""The same for openai-python at the URL of the stream function."""


class Watched(NamedTuple):
    """`late`: the seconds from the model to the client, by token. `requests`: the client's requests without the
    submit."""

    late: list[float]
    requests: float
    rows: float
    write_units: float
    """The write units of the rows."""
    turn_units: float
    """The write units of the turn."""
    read_units: float
    """The read units of all reads."""
    status_cpu: float
    status_calls: float


@contextmanager
def clock_model() -> Iterator[str]:
    """A model whose tokens contain the time at which they left. It sends N tokens for the message "N"."""

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
                stamp = f"{int(time.time() * 1000) % 10 ** (_TOKEN_CHARACTERS - 1):0{_TOKEN_CHARACTERS - 1}} "
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


class Lateness:
    """The tokens that a client has, and how late each was."""

    def __init__(self) -> None:
        self.late: list[float] = []

    def has(self, text: str) -> None:
        """Note that the client has this text now."""
        now = time.time() * 1000
        for start in range(len(self.late) * _TOKEN_CHARACTERS, len(text) - _TOKEN_CHARACTERS + 1, _TOKEN_CHARACTERS):
            left = int(text[start : start + _TOKEN_CHARACTERS])
            self.late.append((now - left) % 10 ** (_TOKEN_CHARACTERS - 1) / 1000)


def message(seconds: float) -> str:
    return f"[[tokens={round(seconds * TOKENS_A_SECOND)}]]"


def direct(url: str, seconds: float) -> list[float]:
    """Read the answer directly from the model with the openai SDK."""
    return completion(url, "sk-local", "m", seconds)


def completion(url: str, key: str, model: str, seconds: float) -> list[float]:
    """Read an answer as a chat completion with the openai SDK."""
    lateness, text = Lateness(), ""
    client = openai.OpenAI(base_url=url, api_key=key, http_client=openai.DefaultHttpxClient(trust_env=False))
    said: Any = {"role": "user", "content": message(seconds)}
    for chunk in client.chat.completions.create(model=model, messages=[said], stream=True):
        text += chunk.choices[0].delta.content or ""
        lateness.has(text)
    return lateness.late


def response(url: str, key: str, model: str, seconds: float) -> list[float]:
    """Read an answer as a response with the openai SDK."""
    lateness, text = Lateness(), ""
    client = openai.OpenAI(base_url=url, api_key=key, http_client=openai.DefaultHttpxClient(trust_env=False))
    for event in client.responses.create(model=model, input=message(seconds), stream=True):
        if event.type == "response.output_text.delta":
            text += event.delta
            lateness.has(text)
    return lateness.late


def watched(stack: LocalStack, meter: Meter, seconds: float, *, stream: bool) -> Watched:
    """Read an answer like a client: by its events with `stream`, else by polls at the API's pace."""
    lateness, requests = Lateness(), 0
    headers = {"Authorization": f"Bearer {stack.token('alice')}"}
    with (
        httpx.Client(base_url=stack.api_url, headers=headers, timeout=60, trust_env=False) as http,
        meter.measured() as use,
    ):
        body = {"message": message(seconds)} | ({"stream": True} if stream else {})
        task = http.post("/chat", params={"async_mode": "true"}, json=body).raise_for_status().json()["task_id"]
        text, after, wait_ms = "", 0, 300
        while wait_ms is not None:
            time.sleep(wait_ms / 1000)
            requests += 1
            if stream:
                told = http.get(f"/chat/task/{task}/events", params={"after": after}).raise_for_status().json()
                after = told["next"]
                for event in told["events"]:
                    text = (
                        event["task"]["result"]["message"] if event["event"] == "done" else text + event.get("text", "")
                    )
                    lateness.has(text)
            else:
                told = http.get(f"/chat/task/{task}").raise_for_status().json()
                lateness.has((told["result"] or {}).get("message") or told["partial"] or "")
            wait_ms = told["poll_after_ms"]
        time.sleep(1)  # for the worker's last calls
    return Watched(
        lateness.late,
        requests,
        use["writes", "progress"],
        use["write units", "progress"],
        use["write units", "TurnsTable"],
        sum(use["read units", operation] for operation in ("GetItem", "Query", "BatchGetItem")),
        use["CPU seconds", "StatusFunction"],
        use["calls", "StatusFunction"],
    )


def run() -> Section:
    section = Section("streaming", "Answers that stream")
    with clock_model() as url, LocalStack(record=True, model=Model(url, "sk-local", "m", stand_in=False)) as stack:
        meter = Meter(stack)
        watched(stack, meter, 0.2, stream=True)  # starts the functions
        found: dict[tuple[int, bool], list[Watched]] = {}
        beside: dict[int, list[float]] = {}
        for seconds, rounds in ANSWERS.items():
            for stream in (True, False):
                for _ in range(rounds):
                    with ThreadPoolExecutor(1) as pool:
                        straight = pool.submit(direct, url, seconds)
                        found.setdefault((seconds, stream), []).append(watched(stack, meter, seconds, stream=stream))
                        beside.setdefault(seconds, []).extend(straight.result())
        by_url = _by_url(stack, url)
        machine = Machine(stack.functions["StatusFunction"].memory, "lambda_gb_second_arm64")
    _tell_lateness(section, found, beside)
    _tell_by_url(section, by_url)
    _tell_units(section, found, machine)
    return section


type ByUrl = dict[int, dict[str, list[float]]]
"""The lateness of tokens, by the seconds of the answer, and by the way: direct, responses, completions."""


def _by_url(stack: LocalStack, model_url: str) -> ByUrl:
    url, key = f"{stack.stream_url}/v1", stack.token("alice")
    response(url, key, "general", 0.2)  # starts the function
    found: ByUrl = {}
    for seconds, rounds in BY_URL_ANSWERS.items():
        ways = found.setdefault(seconds, {"direct": [], "responses": [], "completions": []})
        for way, ask in (("responses", response), ("completions", completion)):
            for _ in range(rounds):
                with ThreadPoolExecutor(1) as pool:
                    straight = pool.submit(direct, model_url, seconds)
                    ways[way] += ask(url, key, "general", seconds)
                    ways["direct"] += straight.result()
    return found


def _tell_by_url(section: Section, found: ByUrl) -> None:
    section.say(
        "**How late a token is at the URL of streams** (`StreamFunction`), from the moment in which it leaves the "
        "model until openai-python has it, from a response and from a chat completion in the foreground. The goal is "
        "the median of both behind the direct stream."
    )
    rows = []
    for seconds, ways in found.items():
        direct = statistics.median(ways["direct"])
        behind = [statistics.median(ways[way]) - direct for way in ("responses", "completions")]
        rows.append(
            [
                f"{seconds} s",
                *(_two(ways[way]) for way in ("direct", "responses", "completions")),
                " / ".join(f"{each:.2f}" for each in behind) + " s",
                goal(max(behind), BY_URL_GOALS[seconds]),
            ]
        )
    head = ["answer", "direct, p50 / p95", "a response", "a chat completion", "behind direct, p50", "goal"]
    section.table(head, rows)


def _tell_lateness(
    section: Section, found: dict[tuple[int, bool], list[Watched]], beside: dict[int, list[float]]
) -> None:
    section.say(
        f"**How late a token is,** from the moment in which it leaves the model ({TOKENS_A_SECOND} tokens a second, "
        "each a time stamp) until the client has it: by `GET /chat/task/{task_id}/events` of a message with `stream`, "
        "by polling a task without, and by the openai SDK straight from the same model at the same time. The goal is "
        "the median behind the direct stream. An answer of a second is shown when it is over. On the local stack, "
        "whose emulated DynamoDB and API Gateway share the machine with the rest."
    )
    rows = []
    for seconds in ANSWERS:
        asked, unasked = ([late for each in found[seconds, stream] for late in each.late] for stream in (True, False))
        behind = statistics.median(asked) - statistics.median(beside[seconds])
        limit = GOALS.get(seconds)
        rows.append(
            [
                f"{seconds} s",
                *(_two(late) for late in (beside[seconds], asked, unasked)),
                f"{behind:.2f} s",
                goal(behind, limit) if limit else "",
            ]
        )
    section.table(["answer", "direct, p50 / p95", "events", "polls", "events behind direct, p50", "goal"], rows)


def _two(late: list[float]) -> str:
    return f"{statistics.median(late):.2f} / {statistics.quantiles(late, n=20)[-1]:.2f} s"


def _tell_units(section: Section, found: dict[tuple[int, bool], list[Watched]], machine: Machine) -> None:
    section.say(
        "**What it costs,** in DynamoDB's units for an answer, counted. Before, each second wrote the turn anew with "
        "all that was said so far, asked to stream or not (reckoned: as many writes as rows of an answer that is not "
        "asked to stream, each with that text and half a kilobyte of the turn, a unit for each KB begun). The last "
        "columns are for a million answers at list prices: the units of the rows, and the client's requests (API "
        "Gateway, Lambda, reads)."
    )
    rows = []
    for (seconds, stream), several in found.items():
        one = Watched([], *map(statistics.fmean, zip(*(each[1:] for each in several), strict=True)))
        writes = round(statistics.fmean(each.rows for each in found[seconds, False]))
        a_second = TOKENS_A_SECOND * _TOKEN_CHARACTERS
        before = sum(math.ceil((500 + a_second * second) / 1024) for second in range(1, writes + 1))
        compute = machine.gigabyte_seconds(machine.seconds(one.status_cpu, one.status_calls))
        reading = (
            dollars("http_api_request", one.requests)
            + dollars("lambda_request", one.requests)
            + dollars(machine.price, compute)
            + dollars("dynamodb_read_unit", one.read_units)
        )
        rows.append(
            [
                f"{seconds} s, {'streamed' if stream else 'not asked'}",
                f"{one.rows:.1f}",
                f"{one.write_units:.1f}",
                before,
                f"{one.turn_units:.1f}",
                f"{one.requests:.0f}",
                f"{one.read_units:.1f}",
                f"${dollars('dynamodb_write_unit', one.write_units * CHATS):,.0f}",
                f"${dollars('dynamodb_write_unit', before * CHATS):,.0f}",
                f"${reading * CHATS:,.0f}",
            ]
        )
    head = ["answer", "rows", "their units", "units before", "units of the turn", "requests", "read units"]
    section.table([*head, "rows, a million", "before", "the client's requests"], rows)
