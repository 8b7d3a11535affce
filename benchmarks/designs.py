"""The bills of two designs: ours, and a conventional serverless one, which is reckoned from what ours uses."""

import json
import re
from collections.abc import Mapping
from io import StringIO
from types import SimpleNamespace
from typing import Any

from aws_lambda_powertools import Logger

from benchmarks.bill import CHATS, COLD_SHARE, MONTH_SECONDS, Bill, Machine
from benchmarks.counted import ANSWERS, FUNCTIONS, Run
from development import cfn
from local.tools import ROOT

CONVENTIONAL = Machine(512, "lambda_gb_second_x86_64")
_POLLS = 5
_SERIES = 20


def our_bill(
    run: Run,
    batch: int,
    machine: Machine,
    inits: Mapping[str, float],
    series: int,
    *,
    worker: Machine | None = None,
) -> Bill:
    """With another machine for the `worker`, if one is given."""
    bill = Bill()
    requests = run.each("requests")
    bill.add("API requests", "http_api_request", requests)
    _add_lambda(bill, run, machine, worker or machine, inits, polls=run.each("requests", "poll"), batch=batch)
    bill.add("SQS requests", "sqs_fifo_request", run.each("SQS requests"))
    bill.add(
        "DynamoDB writes",
        "dynamodb_write_unit",
        run.each("write units", "TurnsTable") + run.each("write units", "GuardsTable"),
    )
    bill.add("DynamoDB reads", "dynamodb_read_unit", run.each("read units"))
    bill.add_logs("logs of the functions", run.each("log bytes"), run.each("log lines"))
    bill.add_logs("logs of the platform", 0, 0)  # SystemLogLevel: WARN
    bill.add_logs("access log", requests * access_log_bytes(), requests)
    bill.add("metrics", "metric_month", series / CHATS, "", 6)
    bill["metrics"] = bill["metrics"]._replace(units=f"{series} series")
    bill.add("traces", "xray_trace", 0)
    _add_data_out(bill, run, polls=run.each("requests", "poll"))
    return bill


def conventional_bill(run: Run, inits: Mapping[str, float], *, log_event: bool = True) -> Bill:
    """REST API, a message an invocation, x86 with 512 MB, Tracer, INFO logs with the event, polls each second or so,
    a write when the work begins, 20 metric series. What is not known of it is as with us, in its favour: the CPU of a
    handler and of an init, the size of items and responses, the history that is read."""
    bill = Bill()
    requests = 1 + _POLLS
    bill.add("API requests", "rest_api_request", requests)
    _add_lambda(bill, run, CONVENTIONAL, CONVENTIONAL, inits, polls=_POLLS, batch=1)
    bill.add("SQS requests", "sqs_standard_request", 3)  # send, receive, delete
    item = run.each("write units", "TurnsTable") / run.each("writes", "TurnsTable")
    bill.add("DynamoDB writes", "dynamodb_write_unit", 3 * item)  # the request, PROCESSING, the answer
    # GetItem is not consistent by default: half a unit.
    bill.add("DynamoDB reads", "dynamodb_read_unit", _POLLS / 2 + run.each("read units", "Query"))
    size, events = conventional_log(log_event)
    bill.add_logs("logs of the functions", size, events)
    bill.add_logs("logs of the platform", (requests + 1) * platform_log_bytes(), 3 * (requests + 1))
    bill.add_logs("access log", requests * access_log_bytes(), requests)
    bill.add("metrics", "metric_month", _SERIES / CHATS)
    bill["metrics"] = bill["metrics"]._replace(units=f"{_SERIES} series")
    bill.add("traces", "xray_trace", traces(requests))
    _add_data_out(bill, run, polls=_POLLS)
    return bill


def _add_lambda(
    bill: Bill,
    run: Run,
    machine: Machine,
    worker: Machine,
    inits: Mapping[str, float],
    *,
    polls: float,
    batch: int,
) -> None:
    invocations = {"SubmitFunction": 1.0, "StatusFunction": polls, "WorkerFunction": 1 / batch}
    bill.add("Lambda requests", "lambda_request", sum(invocations.values()))
    for function in FUNCTIONS[:2]:
        cpu, calls = run.of_an_invocation("CPU seconds", function), run.of_an_invocation("calls", function)
        seconds = invocations[function] * machine.seconds(cpu, calls)
        _add_time(bill, f"Lambda time of {short(function)}", machine, seconds)
    _add_time(bill, "Lambda time of the worker", worker, batch_seconds(run, worker, batch) / batch)
    cold = sum(COLD_SHARE * invocations[function] * inits[function] for function in FUNCTIONS)
    _add_time(bill, "Lambda init", machine, cold)


def batch_seconds(run: Run, machine: Machine, batch: int) -> float:
    """What a batch is billed: until the slowest answer is there; and the work for all, as if none of it were done while
    the model is waited for."""
    return ANSWERS.slowest_of(batch) + machine.seconds(batch * run.cpu_of_a_turn, run.calls_of_a_turn)


def _add_time(bill: Bill, line: str, machine: Machine, seconds: float) -> None:
    bill.add(line, machine.price, machine.gigabyte_seconds(seconds))
    bill[line] = bill[line]._replace(units=f"{seconds * 1000:.{0 if seconds > 0.1 else 1}f} ms")


def _add_data_out(bill: Bill, run: Run, *, polls: float) -> None:
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


def conventional_log(log_event: bool) -> tuple[float, int]:
    """Bytes and lines a chat, by Powertools: a line an invocation, the worker two, and the event if so wanted."""
    written = StringIO()
    logger = Logger(service="conventional", level="INFO", stream=written)
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
    for _ in range(_POLLS):
        log("status", "Task read")
    log("worker", "Chat processing started", "Chat answered")
    lines = written.getvalue().splitlines()
    return sum(map(len, lines)), len(lines)


def traces(requests: float) -> float:
    """A chat, by X-Ray's default rule: the first request of each second, and 5 % of the others."""
    a_second = requests * CHATS / MONTH_SECONDS
    return (min(a_second, 1) + 0.05 * max(a_second - 1, 0)) * MONTH_SECONDS / CHATS


def short(function: str) -> str:
    return function.removesuffix("Function").lower()
