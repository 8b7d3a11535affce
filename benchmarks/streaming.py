"""Measures how late a client gets the tokens of a streamed answer, and the cost of the streaming."""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai

from benchmarks import watching
from benchmarks.bill import CHATS, Machine, dollars
from benchmarks.checkout import checkout
from benchmarks.meter import Meter
from benchmarks.report import Section, goal
from benchmarks.watching import TOKEN_CHARACTERS, TOKENS_A_SECOND, Lateness, Watched, message, watched
from local.stack import LocalStack, Model

ANSWERS = {1: 3, 3: 3, 10: 3, 80: 1}
"""Seconds of an answer, and how often it is measured."""
GOALS = {3: 0.5, 10: 0.8, 80: 1.1}
"""Seconds by which the median token may be behind the direct stream."""
BY_URL_ANSWERS = {3: 4, 10: 3, 80: 1}
BY_URL_GOALS = {3: 0.35, 10: 0.45, 80: 0.75}
"""The same for openai-python at the URL of the stream function."""
SECONDS_WITH_IMAGE = 10
"""Of the answer to a message with a data URL of 199,000 characters."""
BEFORE = "48448410^"
"""The commit before the event log. Each second, its worker wrote the turn with all of the text so far."""
_SECONDS_BEFORE = 900  # of the run of that commit: a build, a start and 104 s of answers on a busy machine


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


def before(url: str, answers: Sequence[str]) -> list[Watched] | None:
    """The answers on a local stack of the commit BEFORE. None if this checkout lacks the commit, or it does not run."""
    try:
        with checkout(BEFORE) as root:
            ran = subprocess.run(
                [sys.executable, "-P", str(Path(watching.__file__).resolve()), url, *answers],
                cwd=root,
                env=os.environ | {"PYTHONPATH": str(root)},
                stdout=subprocess.PIPE,
                text=True,
                timeout=_SECONDS_BEFORE,
                check=True,
            )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"streaming: {BEFORE} was not measured: {type(error).__name__}", file=sys.stderr)
        return None
    return [Watched(**json.loads(line)) for line in ran.stdout.splitlines() if line.startswith("{")]


def run() -> Section:
    section = Section("streaming", "Answers that stream")
    with clock_model() as url:
        with LocalStack(record=True, model=Model(url, "sk-local", "m", stand_in=False)) as stack:
            meter = Meter(stack)
            watched(stack, meter, 0.2, stream=True)  # starts the functions
            found: dict[tuple[int, bool], list[Watched]] = {}
            beside: dict[int, list[float]] = {}
            for seconds, rounds in ANSWERS.items():
                for stream in (True, False):
                    for _ in range(rounds):
                        with ThreadPoolExecutor(1) as pool:
                            straight = pool.submit(direct, url, seconds)
                            found.setdefault((seconds, stream), []).append(
                                watched(stack, meter, seconds, stream=stream)
                            )
                            beside.setdefault(seconds, []).extend(straight.result())
            with_image = [
                watched(stack, meter, SECONDS_WITH_IMAGE, stream=stream, image=True) for stream in (True, False)
            ]
            by_url = _by_url(stack, url)
            machine = Machine(stack.functions["StatusFunction"].memory, "lambda_gb_second_arm64")
        earlier = before(url, [*map(str, ANSWERS), f"{SECONDS_WITH_IMAGE}+image"])
    _tell_lateness(section, found, beside)
    _tell_by_url(section, by_url)
    several = [(f"{seconds} s", stream, each) for (seconds, stream), each in found.items()]
    several += [
        (f"{SECONDS_WITH_IMAGE} s, data URL", stream, [each])
        for stream, each in zip((True, False), with_image, strict=True)
    ]
    names = [*(f"{seconds} s" for seconds in ANSWERS), f"{SECONDS_WITH_IMAGE} s, data URL"]
    _tell_units(section, several, dict(zip(names, earlier or (), strict=bool(earlier))), machine)
    return section


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


def _two(late: list[float]) -> str:
    return f"{statistics.median(late):.2f} / {statistics.quantiles(late, n=20)[-1]:.2f} s"


def _tell_units(
    section: Section,
    found: Sequence[tuple[str, bool, list[Watched]]],
    earlier: dict[str, Watched],
    machine: Machine,
) -> None:
    section.say(
        "**What it costs,** in DynamoDB's units for an answer, counted. Before the event log, each second wrote the "
        f'turn anew with all that was said so far, asked to stream or not. The columns "before" are such a run of '
        f"that commit (`{BEFORE}`). A data URL has 199,000 characters. It is in S3 now, which costs a PUT and a GET "
        "more. The last columns are for a million answers at list prices: the units of the turn and its rows, and the "
        "client's requests (API Gateway, Lambda, reads)."
    )
    rows = []
    for name, stream, several in found:
        one = _mean(several)
        was = earlier.get(name)
        written = one.write_units + one.turn_units
        rows.append(
            [
                f"{name}, {'streamed' if stream else 'not asked'}",
                f"{one.rows:.1f}",
                f"{one.write_units:.1f}",
                f"{one.turn_units:.1f}",
                f"{was.turn_units:.0f}" if was else "-",
                f"{one.requests:.0f}",
                f"{was.requests:.0f}" if was else "-",
                f"{one.read_units:.1f}",
                f"{was.read_units:.1f}" if was else "-",
                f"${dollars('dynamodb_write_unit', written * CHATS):,.0f}",
                f"${dollars('dynamodb_write_unit', was.turn_units * CHATS):,.0f}" if was else "-",
                f"${_requests_cost(one, machine) * CHATS:,.0f}",
                f"${_requests_cost(was, machine) * CHATS:,.0f}" if was else "-",
            ]
        )
    head = [
        "answer",
        "rows",
        "their units",
        "units of the turn",
        "before",
        "requests",
        "before",
        "read units",
        "before",
    ]
    section.table([*head, "writes, a million", "before", "the client's requests", "before"], rows)


def _mean(several: Sequence[Watched]) -> Watched:
    names = [name for name in Watched.__dataclass_fields__ if name != "late"]
    return Watched([], **{name: statistics.fmean(getattr(each, name) for each in several) for name in names})


def _requests_cost(one: Watched, machine: Machine) -> float:
    """Dollars of the client's requests for one answer."""
    compute = machine.gigabyte_seconds(machine.seconds(one.status_cpu, one.status_calls))
    return (
        dollars("http_api_request", one.requests)
        + dollars("lambda_request", one.requests)
        + dollars(machine.price, compute)
        + dollars("dynamodb_read_unit", one.read_units)
    )
