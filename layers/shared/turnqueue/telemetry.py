"""Logs and metrics: one JSON line an event in the log, one EMF line an invocation for the metrics.

No line holds a prompt, an answer or a key: only ids, sizes, codes and durations. The metrics have no dimension but
`service`: each value of another would be one more metric to pay for.
"""

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from turnqueue.turn import Status, Turn

logger = Logger()
_metrics = Metrics()
# Powertools' list of a metric's values is read, added to and written back. The worker's turns end in threads.
_lock = threading.Lock()


def count(name: str, value: int = 1) -> None:
    """Add a value to a metric. Each is kept: several of one invocation become an array in its EMF line."""
    with _lock:
        _metrics.add_metric(name, MetricUnit.Count, value)


def milliseconds(name: str, seconds: float) -> None:
    """Record a duration of `seconds` under a metric that counts in milliseconds."""
    with _lock:
        _metrics.add_metric(name, MetricUnit.Milliseconds, max(0.0, round(seconds * 1000, 1)))


def report_finished(turn: Turn) -> None:
    """Count and log a turn that has just become final: as succeeded, failed or cancelled.

    TaskFailed is 1 of a failure and 0 of a success. So its sum counts the failures and its average is their share,
    which an alarm can watch without metric math. Who cancels has not met a failure.
    """
    seconds = (turn.finished_at or turn.created_at) - turn.created_at
    usage = turn.usage or {}
    if turn.error_code == "cancelled":
        count("TaskCancelled")
    else:
        count("TaskFailed", int(turn.status is Status.FAILURE))
    if turn.status is Status.SUCCESS:
        count("TaskSucceeded")
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
        },
    )


def observed(
    handler: Callable[[dict[str, Any], Any], dict[str, Any]],
) -> Callable[[dict[str, Any], Any], dict[str, Any]]:
    """Decorates a handler: its log lines carry the request id, and its metrics are written when it ends."""

    @wraps(handler)
    def wrapper(event: dict[str, Any], context: Any) -> dict[str, Any]:
        logger.append_keys(request_id=context.aws_request_id)
        try:
            return handler(event, context)
        finally:
            if _metrics.metric_set:
                _metrics.flush_metrics()

    return wrapper
