"""What a client that waits for its answer (`Prefer: wait`) waits longer than the model takes, and what that costs in
reads."""

import itertools
import json
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from benchmarks import sides
from benchmarks.environments import invoke, running
from benchmarks.lognormal import Lognormal
from benchmarks.paired import spread
from benchmarks.report import Section, goal
from benchmarks.stub import AWS_VARIABLES
from local.environment import Environment
from local.loopback import LoopbackServer, Request, Response
from local.processes import Processes

WAITS = 120
AT_ONCE = 16
MEAN_SECONDS, SIGMA = 3.0, 0.5
LONGEST_WAIT = 25
"""Seconds: the most that a client can ask for."""


class Wait(NamedTuple):
    """`seconds`: of the model; `late`: seconds from the answer in the table to the answer of the function."""

    seconds: float
    late: float
    reads: int


class Table:
    """DynamoDB and SQS, with a worker and a model behind them: a turn is answered so many seconds after its message
    came. Its session is called by them, in milliseconds, and by a number of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: dict[str, Any] = {}
        self.answered_at: dict[str, float] = {}
        self.reads: Counter[str] = Counter()
        self._server = LoopbackServer(self._answer)
        self.url = f"http://{self._server.address}"
        self.close = self._server.close

    def _answer(self, request: Request) -> Response:
        asked = json.loads(request.body)
        with self._lock:
            match request.headers["X-Amz-Target"].rpartition(".")[2]:
                case "PutItem":
                    self._items[_session(asked["Item"])] = asked["Item"]
                    answer: dict[str, Any] = {}
                case "SendMessage":
                    session = json.loads(asked["MessageBody"])["session"].rpartition("#")[2]
                    self.answered_at[session] = time.monotonic() + int(session.partition("-")[0]) / 1000
                    answer = {"MessageId": "1" * 32}
                case "GetItem":
                    session = _session(asked["Key"])
                    self.reads[session] += 1
                    done = time.monotonic() >= self.answered_at[session]
                    answer = {"Item": self._items[session] | (_answered() if done else {})}
                case operation:
                    return Response(400, json.dumps({"__type": f"{operation}NotExpected"}).encode())
        return Response(200, json.dumps(answer).encode(), (("Content-Type", "application/x-amz-json-1.0"),))


def _session(item: dict[str, Any]) -> str:
    return str(item["session"]["S"]).rpartition("#")[2]


def _answered() -> dict[str, Any]:
    result = {"message": "word " * 20, "data": None, "draft": None}
    return {
        "status": {"S": "SUCCESS"},
        "result": {"S": json.dumps(result)},
        "finished_at": {"N": f"{time.time():.3f}"},
    }


def run() -> Section:
    table = Table()
    chance = random.Random(7)
    log_mean = Lognormal(MEAN_SECONDS, SIGMA).log_mean
    times: SimpleQueue[tuple[int, float]] = SimpleQueue()
    for number in range(WAITS):
        times.put((number, min(max(chance.lognormvariate(log_mean, SIGMA), 0.3), 8)))

    def work(environment: Environment) -> list[Wait]:
        waits = []
        while True:
            try:
                waits.append(_wait(environment, table, *times.get_nowait()))
            except Empty:
                return waits

    variables = {**AWS_VARIABLES, "AWS_ENDPOINT_URL": table.url}
    with Processes() as processes, running(processes, sides.ours("submit"), AT_ONCE + 1, variables) as environments:
        for number, environment in enumerate(environments):
            _wait(environment, table, -1 - number, 0.1)  # warm
        in_vain, *others = environments
        with ThreadPoolExecutor(len(environments)) as pool:
            unanswered = pool.submit(_wait, in_vain, table, WAITS, 2 * LONGEST_WAIT, status=202)
            waits = [wait for some in pool.map(work, others) for wait in some]
            most_reads = unanswered.result().reads
    table.close()
    section = Section("sync_mode", "Sync mode: what `Prefer: wait` adds to the model's own time")
    section.say(
        f"{WAITS} requests, {AT_ONCE} at a time, each in an environment of its own. The message goes to a stub of SQS, "
        "and a stub of DynamoDB has the answer when the model's time is over, as if the queue and the worker took "
        f"none: lognormal, mean {MEAN_SECONDS:g} s, cut to 0.3 s to 8 s. Late is what lies between that moment and the "
        "answer of the function, in ms. The replaced system, which asked the model in the request itself, had nothing "
        "between; it lost the answer with the connection."
    )
    late = [wait.late * 1000 for wait in waits]
    rows: list[Sequence[object]] = []
    for low, high in itertools.pairwise((0, 2, 4, 8)):
        some = [wait for wait in waits if low < wait.seconds <= high]
        rows.append((f"{low} to {high} s", *_row(some), "-"))
    rows.append(("all", *_row(waits), goal(statistics.median(late), 150)))
    section.table(("the model's time", "requests", "late, p50", "late, p95", "reads of a request", "goal of p50"), rows)
    section.say(
        f"Each read is eventually consistent: half a read unit for up to 4 KB. There are at most {most_reads} in the "
        f"longest wait, {LONGEST_WAIT} s."
    )
    return section


def _wait(environment: Environment, table: Table, number: int, seconds: float, *, status: int = 200) -> Wait:
    event = sides.submit_event()
    del event["queryStringParameters"]
    session = f"{round(seconds * 1000)}-{number}"
    event["headers"]["prefer"] = f"wait={LONGEST_WAIT}"
    event["body"] = json.dumps({"message": "I need a haircut", "session_id": session, "role": "general"})
    invoke(environment, event, status=status)
    return Wait(seconds, time.monotonic() - table.answered_at[session], table.reads[session])


def _row(waits: Sequence[Wait]) -> tuple[object, ...]:
    late = [wait.late * 1000 for wait in waits]
    p95 = statistics.quantiles(late, n=20, method="inclusive")[-1]
    return len(waits), f"{statistics.median(late):.0f}", f"{p95:.0f}", spread([float(wait.reads) for wait in waits])
