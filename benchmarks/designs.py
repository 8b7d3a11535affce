"""The bills of three designs: Turnqueue, the same before its workers refilled, and a conventional serverless one."""

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from io import StringIO
from types import SimpleNamespace
from typing import Any, NamedTuple

from aws_lambda_powertools import Logger

from benchmarks.bill import COLD_SHARE, EVENT_BYTES, MONTH_SECONDS, Bill, Machine
from benchmarks.counted import ANSWERS, FUNCTIONS, Run
from benchmarks.scale import scenarios
from benchmarks.scale.simulation import Model, Simulation, Workers, area, poisson
from development import cfn
from local.tools import ROOT

OURS = Machine(256, "lambda_gb_second_arm64")
CONVENTIONAL = Machine(512, "lambda_gb_second_x86_64")
_SERIES = 20
MILLIONS = (1, 10, 30)
"""Chats a month."""
STREAMED_RATE = 5.5
"""Chats a second of a worker whose answers stream (docs/scale.md, "Capacity")."""


class Counts(NamedTuple):
    """A chat's use of what depends on how many turns an invocation has; counted at `invocations` of the worker a
    chat. `sqs`: requests without receives; `log`: bytes that are billed."""

    invocations: float
    sqs: float
    log: float

    @classmethod
    def of(cls, run: Run) -> "Counts":
        receives = sum(run.each("SQS requests", name) for name in ("ReceiveMessage", "Lambda's ReceiveMessage"))
        return cls(
            run.use["invocations", "WorkerFunction"] / run.chats,
            run.each("SQS requests") - receives,
            run.each("log bytes") + EVENT_BYTES * run.each("log lines"),
        )

    def at(self, other: "Counts", invocations: float) -> "Counts":
        """On the line through two counts: what an invocation uses is shared by its turns."""
        part = (invocations - self.invocations) / (other.invocations - self.invocations)
        return Counts(*(one + part * (two - one) for one, two in zip(self, other, strict=True)))


class Design(NamedTuple):
    """What a chat uses, by counting. `together` and `alone`: with many turns an invocation, and with one. `writes`,
    `reads`: units, without the polls'. `cpu`: seconds that a streamed answer takes more than a short one."""

    together: Counts
    alone: Counts
    writes: float
    reads: float
    series: int
    access_log: float
    cpu: float


BEFORE = Design(Counts(0.1, 2.2, 1107), Counts(1, 4, 1696), 6.2, 1, 9, 272, scenarios.STREAMED[0])
"""As benchmarks/results.md of commit a557647 counted it."""


def now(together: Run, alone: Run, series: int) -> Design:
    return Design(
        Counts.of(together),
        Counts.of(alone),
        sum(alone.each("write units", table) for table in ("TurnsTable", "GuardsTable", "EventsTable")),
        alone.each("read units") - alone.each("requests", "poll"),
        series,
        access_log_bytes(),
        scenarios.STREAMED[1],
    )


class Packing(NamedTuple):
    """What a chat takes of the worker: GB-seconds, invocations, and receives that somebody pays for."""

    gb_seconds: float
    invocations: float
    receives: float


def rate(millions: float) -> float:
    """Chats a second, on average."""
    return millions * 1e6 / MONTH_SECONDS


def concurrency(millions: float) -> int:
    """The WorkerConcurrency that docs/scale.md recommends, for streamed answers and a peak of 1.9 times the mean."""
    return max(math.ceil(2 * 1.9 * rate(millions) / STREAMED_RATE), 2)


@cache
def packing(millions: float, own: Workers) -> Packing:
    """By simulation of a day, pressed into two hours: from a tenth of the mean rate up to 1.9 times and back."""
    mean = rate(millions)

    def curve(moment: float) -> float:
        return mean * (1 - 0.9 * math.cos(2 * math.pi * moment / 7200))

    run = Simulation(own, Model(scenarios.LATENCY), seed=2).run(poisson(curve, 1.9 * mean, 7200, seed=1))
    chats = len(run.turns)
    return Packing(OURS.gigabyte_seconds(area(run.workers)) / chats, len(run.invocations) / chats, run.receives / chats)


def our_bill(design: Design, own: Workers, millions: float, polls: float, run: Run, inits: Mapping[str, float]) -> Bill:
    """Of `design` with these workers; what the designs share is as in the run."""
    bill = Bill()
    requests = 1 + polls
    used = packing(millions, scenarios.slower(own, design.cpu))
    counts = design.together.at(design.alone, used.invocations)
    bill.add("API requests", "http_api_request", requests)
    _add_lambda(bill, run, OURS, inits, polls, used.invocations)
    bill.add("Lambda time of the worker", OURS.price, used.gb_seconds)
    bill.add("SQS requests", "sqs_fifo_request", counts.sqs + used.receives)
    bill.add("DynamoDB writes", "dynamodb_write_unit", design.writes)
    bill.add("DynamoDB reads", "dynamodb_read_unit", design.reads + polls)
    bill.add_logs("logs of the functions", counts.log, 0)
    bill.add_logs("access log", requests * design.access_log, requests)
    _add_metrics(bill, design.series, millions)
    _add_data_out(bill, run, polls)
    return bill


def conventional_bill(
    run: Run, millions: float, polls: float, inits: Mapping[str, float], *, log_event: bool = True
) -> Bill:
    """REST API, a message an invocation, x86 with 512 MB, Tracer, INFO logs with the event, a write when the work
    begins, 20 metric series. What is not known of it is as with us, in its favour: the CPU of a handler and of an init,
    the size of items and responses, the history that is read. It does not stream."""
    bill = Bill()
    requests = 1 + polls
    bill.add("API requests", "rest_api_request", requests)
    _add_lambda(bill, run, CONVENTIONAL, inits, polls, 1)
    worker = ANSWERS.mean + CONVENTIONAL.seconds(0.01, 5)
    bill.add("Lambda time of the worker", CONVENTIONAL.price, CONVENTIONAL.gigabyte_seconds(worker))
    bill.add("SQS requests", "sqs_standard_request", 3)  # send, receive, delete
    item = run.each("write units", "TurnsTable") / run.each("writes", "TurnsTable")
    bill.add("DynamoDB writes", "dynamodb_write_unit", 3 * item)  # the request, PROCESSING, the answer
    # GetItem is not consistent by default: half a unit.
    bill.add("DynamoDB reads", "dynamodb_read_unit", polls / 2 + run.each("read units", "Query"))
    bill.add_logs("logs of the functions", *conventional_log(log_event, round(polls)))
    bill.add_logs("logs of the platform", (requests + 1) * platform_log_bytes(), 3 * (requests + 1))
    bill.add_logs("access log", requests * access_log_bytes(), requests)
    _add_metrics(bill, _SERIES, millions)
    bill.add("traces", "xray_trace", traces(requests, millions))
    _add_data_out(bill, run, polls)
    return bill


def _add_lambda(
    bill: Bill, run: Run, machine: Machine, inits: Mapping[str, float], polls: float, invocations: float
) -> None:
    """All but the worker's time."""
    times = {"SubmitFunction": 1.0, "StatusFunction": polls, "WorkerFunction": invocations}
    bill.add("Lambda requests", "lambda_request", sum(times.values()))
    seconds = 0.0
    for function in FUNCTIONS[:2]:
        cpu, calls = run.of_an_invocation("CPU seconds", function), run.of_an_invocation("calls", function)
        seconds += times[function] * machine.seconds(cpu, calls)
    cold = sum(COLD_SHARE * times[function] * inits[function] for function in FUNCTIONS)
    bill.add("Lambda time of submit, status, inits", machine.price, machine.gigabyte_seconds(seconds + cold), "GB-s", 4)


def _add_metrics(bill: Bill, series: int, millions: float) -> None:
    bill.add("metrics", "metric_month", series / (millions * 1e6))
    bill["metrics"] = bill["metrics"]._replace(units=f"{series} series")


def _add_data_out(bill: Bill, run: Run, polls: float) -> None:
    """Responses to the client, and prompts to the model."""
    responses = run.of_a_request("submit") + polls * run.of_a_request("poll")
    prompt = run.prompt_tokens * 4 + 500  # 500: the rest of the request, headers too
    bill.add("data out", "gigabyte_out", (responses + prompt) / 2**30)
    bill["data out"] = bill["data out"]._replace(units=f"{responses + prompt:.0f} B")


# ---- Logs and traces


def access_log_bytes() -> int:
    """Of a line of the template's access log, with values as they are."""
    setting = cfn.resources("AWS::ApiGatewayV2::Stage")["HttpApiStage"]["AccessLogSettings"]["Fn::If"][1]
    values = {
        "requestTimeEpoch": "1795338000000",
        "requestId": "JKJaXmPLvHcESHA=",
        "routeKey": "GET /chat/task/{task_id}",
        "status": "200",
        "responseLatency": "34",
        "integrationLatency": "31",
        "integration.requestId": "059f36b4-87a3-44ab-83d2-661975830a7d",
        "responseLength": "1100",
        "error.responseType": "-",
        "authorizer.error": "-",
    }
    line = re.sub(r"\$context\.([A-Za-z.]+)", lambda name: values[name[1]], setting["Format"])
    return len(line)


def platform_log_bytes() -> int:
    """Of what Lambda itself writes about an invocation, where it is not told to be silent."""
    request_id = "059f36b4-87a3-44ab-83d2-661975830a7d"
    lines = (
        f"START RequestId: {request_id} Version: $LATEST",
        f"END RequestId: {request_id}",
        f"REPORT RequestId: {request_id}\tDuration: 3041.17 ms\tBilled Duration: 3042 ms\tMemory Size: 512 MB\t"
        "Max Memory Used: 84 MB\tXRAY TraceId: 1-5759e988-bd862e3fe1be46a994272793\tSegmentId: 3a1b1c1d2e2f3a4b\t"
        "Sampled: true",
    )
    return sum(map(len, lines))


@cache
def conventional_log(log_event: bool, polls: int) -> tuple[float, int]:
    """Bytes and lines a chat, by Powertools: a line an invocation, the worker two, and the event if so wanted."""
    written = StringIO()
    # A name for each call, because Powertools keeps the stream of the first logger of a name.
    logger = Logger(service=f"conventional-{polls}-{log_event:d}", level="INFO", stream=written)
    context = SimpleNamespace(
        function_name="conventional",
        memory_limit_in_mb=CONVENTIONAL.megabytes,
        invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:conventional",
        aws_request_id="059f36b4-87a3-44ab-83d2-661975830a7d",
    )

    def log(event: str, *messages: str) -> None:
        @logger.inject_lambda_context(log_event=log_event)
        def handler(event: dict[str, Any], context: Any) -> None:
            for message in messages:
                logger.info(message, extra={"task_id": "059f36b4-87a3-44ab-83d2-661975830a7d"})

        handler(json.loads((ROOT / "events" / f"{event}.json").read_text()), context)

    log("submit", "Chat submitted")
    for _ in range(polls):
        log("status", "Task read")
    log("worker", "Chat processing started", "Chat answered")
    lines = written.getvalue().splitlines()
    return sum(map(len, lines)), len(lines)


def traces(requests: float, millions: float) -> float:
    """A chat, by X-Ray's default rule: the first request of each second, and 5 % of the others."""
    a_second = requests * rate(millions)
    return (min(a_second, 1) + 0.05 * max(a_second - 1, 0)) / rate(millions)


def short(function: str) -> str:
    return function.removesuffix("Function").lower()
