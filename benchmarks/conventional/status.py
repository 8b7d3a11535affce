"""GET /chat/task/{task_id} as it is most often written on AWS: Powertools' resolver with validation, its Tracer, and
boto3's resource."""

import os
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.logging import correlation_paths
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel

tracer = Tracer()
logger = Logger()
metrics = Metrics()
app = APIGatewayHttpResolver(enable_validation=True)
table = boto3.resource("dynamodb").Table(os.environ["TURNS_TABLE"])


class Task(BaseModel):
    task_id: str
    status: str
    result: Any = None
    error: str | None = None


@app.get("/chat/task/<task_id>")
@tracer.capture_method
def status(task_id: str) -> Task:
    owner = app.current_event["requestContext"]["authorizer"]["jwt"]["claims"]["sub"]
    session, _, turn = task_id.rpartition(".")
    item = table.get_item(Key={"session": f"{owner}#{session}", "turn": turn}, ConsistentRead=True).get("Item")
    if item is None:
        raise NotFoundError("No such task")
    metrics.add_metric("TaskRead", MetricUnit.Count, 1)
    logger.info("task read", extra={"task_id": task_id})
    return Task(task_id=task_id, **{name: item[name] for name in ("status", "result", "error") if name in item})


@logger.inject_lambda_context(correlation_id_path=correlation_paths.API_GATEWAY_HTTP)
@tracer.capture_lambda_handler
@metrics.log_metrics(capture_cold_start_metric=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return app.resolve(event, context)
