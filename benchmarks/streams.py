"""CPU of the worker for a streamed answer: the call of the model alone, beside the same call at another commit.

`python -m benchmarks.streams [--beside COMMIT] [--rounds N]` prints a table. The model's server is another process, so
that its CPU does not count. Each measurement is a new process that has answered once before.
"""

import argparse
import asyncio
import contextlib
import inspect
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.checkout import checkout
from benchmarks.paired import alternate, ratio, spread

ROOT = Path(__file__).parents[1]
BEFORE = "a557647"
"""The commit before the worker read streams by itself."""


@dataclass(frozen=True)
class Case:
    """Answers of so many tokens, one a chunk, so many seconds apart; so many `together`, `times` in a row."""

    name: str
    tokens: int
    apart: float
    together: int
    times: int


CASES = (
    Case("20 tokens at once", 20, 0, 1, 40),
    Case("300 tokens at once", 300, 0, 1, 10),
    Case("300 tokens 10 ms apart", 300, 0.01, 1, 1),
    Case("300 tokens 10 ms apart, ten together", 300, 0.01, 10, 1),
)


def _chunk(delta: dict[str, Any], reason: str | None = None, usage: dict[str, int] | None = None) -> bytes:
    head = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "system_fingerprint": "f",
    }
    choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
    data = json.dumps(head | {"choices": [] if usage else [choice], "usage": usage})
    event = f"data: {data}\n\n".encode()
    return f"{len(event):x}\r\n".encode() + event + b"\r\n"


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with as many tokens, and as far apart, as the last message says."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length:")[2].partition("\r\n")[0])
            body = json.loads(await reader.readexactly(length))
            tokens, apart = json.loads(body["messages"][-1]["content"])
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            writer.write(_chunk({"role": "assistant", "content": ""}))
            began = time.monotonic()
            for number in range(tokens):
                if apart:
                    await asyncio.sleep(max(0, began + number * apart - time.monotonic()))
                writer.write(_chunk({"content": f" word{number}"}))
            usage = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": tokens + 9}
            writer.write(_chunk({}, "stop") + _chunk({}, usage=usage) + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def _server() -> Iterator[str]:
    ready = threading.Event()
    port = 0
    loop = asyncio.new_event_loop()

    async def start() -> None:
        nonlocal port
        server = await asyncio.start_server(_serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        ready.set()

    def run() -> None:
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _answers(url: str, case: Case) -> float:
    """CPU seconds for an answer. Runs in a process that has the functions of one side on its path."""
    from model import Model, Reply
    from persona import persona
    from turnqueue.turn import Key, Turn

    async def key(fresh: bool = False) -> str:
        return "sk-test"

    # An older Model takes fewer arguments.
    arguments: tuple[Any, ...] = (url, "m", key, {}, 16_000)[: len(inspect.signature(Model).parameters)]
    model, told = Model(*arguments), persona("general")

    async def answer(tokens: int, apart: float) -> None:
        request = {"message": json.dumps([tokens, apart]), "role": "general"}
        turn = Turn.submitted(Key("alice#s-1", "01ARZ3NDEKTSV4RRFFQ69G5FAV"), request, time.time())
        answer = await model.answer(told, [], turn, {}, Reply())
        if len(answer.result["message"].split()) != tokens:
            raise RuntimeError("the answer is not whole")

    await asyncio.gather(*(answer(3, 0) for _ in range(case.together)))  # connections are made, modules are imported
    began = time.process_time()
    for _ in range(case.times):
        await asyncio.gather(*(answer(case.tokens, case.apart) for _ in range(case.together)))
    return (time.process_time() - began) / case.times / case.together


def _measured(root: Path, url: str, case: Case) -> float:
    paths = [str(root / part) for part in ("functions/worker", "layers/shared")]
    code = (
        f"import sys; sys.path[:0] = {paths!r}; from benchmarks import streams; streams.child({url!r}, {case.name!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout)


def child(url: str, name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    print(asyncio.run(_answers(url, case)))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beside", default=BEFORE, metavar="COMMIT")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    print(f"CPU milliseconds an answer, median and quartiles of {chosen.rounds} rounds\n")
    print(f"| answer | {chosen.beside} | now | ratio |\n| --- | --- | --- | --- |")
    with _server() as url, checkout(chosen.beside) as before:
        for case in CASES:
            sides = {"before": partial(_measured, before, url, case), "now": partial(_measured, ROOT, url, case)}
            rounds = alternate(sides, chosen.rounds)
            cells = [spread([1000 * seconds for seconds in rounds[name]], 2) for name in sides]
            print(f"| {case.name} | {' | '.join(cells)} | {ratio(rounds['now'], rounds['before'])} |", flush=True)


if __name__ == "__main__":
    main()
