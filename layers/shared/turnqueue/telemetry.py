"""Logs and metrics, in JSON lines. Each log line also carries the metrics counted before it, in the Embedded Metric
Format (EMF). So `submit` and the worker each write only one line for a chat. Metrics that no log line has carried get a
separate line.

No line holds a prompt, an answer or a key: only ids, sizes, codes and durations. A line has only the fields of
`FIELDS`. The metrics have only the dimension `service`, because each value of another dimension would make one more
metric to pay for.
"""

import json
import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, get_args

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from botocore.exceptions import ClientError

from turnqueue.turn import Status, Turn

type Metric = Literal[
    "AnswerTime",
    "BreakerOpened",
    "CacheHit",
    "CompletionTokens",
    "EnqueueFailed",
    "FallbackUsed",
    "MessageMalformed",
    "MicroDollars",
    "ModelLatency",
    "ModelRateLimited",
    "PromptTokens",
    "QueueTime",
    "RateLimited",
    "SyncWaitTimedOut",
    "TaskCancelled",
    "TaskDeadLettered",
    "TaskDeferred",
    "TaskFailed",
    "TaskPaced",
    "TaskReplayed",
    "TaskRetried",
    "TaskSubmitted",
    "TimeToFirstToken",
]
"""Every metric that the functions write. The dashboard and the alarms of template.yaml use these names."""
METRICS: tuple[str, ...] = get_args(Metric.__value__)

FIELDS = {
    "level": "the level of the line",
    "location": "the function and line in Turnqueue's code",
    "message": "the event, as a constant text in the code",
    "timestamp": "the time of the line",
    "service": "a constant",
    "request_id": "Lambda's id of the invocation",
    "xray_trace_id": "Lambda's trace id of the invocation",
    "task_id": "finds the task, but gives no access to it; contains the session id, which a client may choose",
    "message_id": "SQS's id of a queue message; a malformed message has no other name",
    "status": "the status of a task or of a response, from a fixed list",
    "code": "why a task or a request failed, as a constant in the code",
    "error": "an exception's type and AWS's error code, but never its text",
    "where": "the file and line of an exception",
    "attempt": "a count",
    "wait": "seconds",
    "delay_s": "seconds",
    "total_ms": "milliseconds",
    "prompt_tokens": "a count",
    "completion_tokens": "a count",
    "provider_request_id": "the model provider's name for the call: printable ASCII, at most 100 characters",
}
"""The fields of a log line and their meanings. The logger drops all other fields, because an exception's text or a
library's record may quote the user."""


def _line(fields: dict[str, Any]) -> str:
    allowed = {name: fields[name] for name in FIELDS if name in fields}
    return json.dumps(allowed | _taken(), separators=(",", ":"), default=lambda value: type(value).__name__)


# RFC 3339. Lambda treats a log line with another time format as INFO, so filters by level would be wrong.
logger = Logger(json_serializer=_line, use_rfc3339=True)
_metrics = Metrics()
# Guards the lists of values in Powertools, because Powertools extends a list without a lock, and the worker's turns end
# in several threads.
_lock = threading.Lock()


def count(name: Metric, value: int = 1) -> None:
    """Add a value to a metric. The next log line carries all values that were added since the last log line."""
    with _lock:
        _metrics.add_metric(name, MetricUnit.Count, value)


def milliseconds(name: Metric, seconds: float) -> None:
    """Add a duration, given in seconds, to a metric that counts in milliseconds."""
    with _lock:
        _metrics.add_metric(name, MetricUnit.Milliseconds, max(0.0, round(seconds * 1000, 1)))


def error_name(error: BaseException) -> str:
    """The type of an exception, and the code of an AWS error. Its text is never logged, because it may quote the
    input."""
    name = type(error).__name__
    return f"{name}:{error.response['Error']['Code']}" if isinstance(error, ClientError) else name


def where(error: BaseException) -> str:
    """The place where an exception was raised, "file:line"."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""


def report_finished(turn: Turn, provider_request_id: str | None = None) -> None:
    """Count and log a turn that has just become final: succeeded, failed or cancelled. TaskFailed is 1 for a failure
    and 0 for a success. So its sum counts the failures, and its average is the failure rate, which an alarm can watch
    without metric math. AnswerTime has one value for each success, so its sample count is the number of successes. A
    cancellation does not count as a failure."""
    seconds = (turn.finished_at or turn.queued_at) - turn.queued_at
    usage = turn.usage or {}
    if turn.error_code == "cancelled":
        count("TaskCancelled")
    else:
        count("TaskFailed", int(turn.status is Status.FAILURE))
    if turn.status is Status.SUCCESS:
        milliseconds("AnswerTime", seconds)
    logger.info(
        "task finished",
        extra={
            "task_id": turn.key.task_id,
            "status": turn.status,
            "code": turn.error_code,
            "attempt": turn.attempt,
            "total_ms": round(seconds * 1000),
            "prompt_tokens": usage.get("prompt_tokens"),
            "completion_tokens": usage.get("completion_tokens"),
            "provider_request_id": provider_request_id,
        },
    )


def flush() -> None:
    """Write a log line with the metrics that are in no log line yet."""
    if taken := _taken():
        sys.stdout.write(json.dumps(taken, separators=(",", ":")) + "\n")


def _taken() -> dict[str, Any]:
    """The metrics that were counted since the last call, in EMF. The caller writes them."""
    try:
        with _lock:
            if not _metrics.metric_set:
                return {}
            try:
                return dict(_metrics.serialize_metric_set())
            finally:
                _metrics.clear_metrics()
    # Catch every exception, because a failure of the metrics must fail no answer and no batch.
    except Exception as error:
        logger.error("metrics not written", extra={"error": type(error).__name__})
        return {}


def observed(
    handler: Callable[[dict[str, Any], Any], dict[str, Any]],
) -> Callable[[dict[str, Any], Any], dict[str, Any]]:
    """Decorates a handler. The handler's log lines have the request id, and its metrics are written when it ends."""

    @wraps(handler)
    def wrapper(event: dict[str, Any], context: Any) -> dict[str, Any]:
        logger.append_keys(request_id=context.aws_request_id)
        try:
            return handler(event, context)
        finally:
            flush()

    return wrapper
