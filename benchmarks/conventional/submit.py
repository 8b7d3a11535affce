"""POST /chat as it is most often written on AWS: Powertools' resolver with validation, its Tracer, and boto3's
resource."""

import os
import time
import uuid
from decimal import Decimal
from typing import Any, Literal

import boto3
from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver
from aws_lambda_powertools.logging import correlation_paths
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel, Field

tracer = Tracer()
logger = Logger()
metrics = Metrics()
app = APIGatewayHttpResolver(enable_validation=True)
table = boto3.resource("dynamodb").Table(os.environ["TURNS_TABLE"])
sqs = boto3.client("sqs")


class ChatRequest(BaseModel):
    message: str = Field(min_length=1, max_length=32_000)
    session_id: str = Field(default_factory=lambda: uuid.uuid4().hex, pattern=r"^[A-Za-z0-9_-]{1,64}$")
    role: Literal["general", "booking"] = "general"


class Accepted(BaseModel):
    task_id: str
    session_id: str
    status: str


@app.post("/chat")
@tracer.capture_method
def submit(request: ChatRequest) -> tuple[Accepted, int]:
    owner = app.current_event["requestContext"]["authorizer"]["jwt"]["claims"]["sub"]
    turn = uuid.uuid4().hex
    now = int(time.time())
    table.put_item(
        Item={
            "session": f"{owner}#{request.session_id}",
            "turn": turn,
            "status": "PENDING",
            "request": request.model_dump(),
            "created_at": Decimal(now),
            "deadline_at": Decimal(now + 900),
            "expires_at": Decimal(now + 604_800),
            "attempt": 0,
        },
        ConditionExpression="attribute_not_exists(turn)",
    )
    sqs.send_message(
        QueueUrl=os.environ["QUEUE_URL"],
        MessageBody=f'{{"session": "{owner}#{request.session_id}", "turn": "{turn}"}}',
        MessageGroupId=request.session_id,
        MessageDeduplicationId=turn,
    )
    task_id = f"{request.session_id}.{turn}"
    metrics.add_metric("TaskSubmitted", MetricUnit.Count, 1)
    logger.info("task submitted", extra={"task_id": task_id})
    return Accepted(task_id=task_id, session_id=request.session_id, status="PENDING"), 202


@logger.inject_lambda_context(correlation_id_path=correlation_paths.API_GATEWAY_HTTP)
@tracer.capture_lambda_handler
@metrics.log_metrics(capture_cold_start_metric=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return app.resolve(event, context)
