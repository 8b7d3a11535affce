"""The worker as it is most often written on AWS: one message an invocation, and the OpenAI SDK's plain client, whose
answer is awaited in the handler."""

import json
import os
import time
from decimal import Decimal
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from boto3.dynamodb.conditions import Attr, Key
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

tracer = Tracer()
logger = Logger()
metrics = Metrics()
table = boto3.resource("dynamodb").Table(os.environ["TURNS_TABLE"])
client = OpenAI(base_url=os.environ["MODEL_BASE_URL"], api_key=os.environ["OPENAI_API_KEY"])


@tracer.capture_method
def answer(key: dict[str, Any]) -> None:
    turn = table.update_item(
        Key=key,
        UpdateExpression="SET #status = :set_status, #attempt = #attempt + :set_attempt",
        ConditionExpression=Attr("status").is_in(["PENDING", "STARTED"]),
        ExpressionAttributeNames={"#status": "status", "#attempt": "attempt"},
        ExpressionAttributeValues={":set_status": "STARTED", ":set_attempt": 1},
        ReturnValues="ALL_NEW",
    )["Attributes"]
    earlier = table.query(
        KeyConditionExpression=Key("session").eq(key["session"]) & Key("turn").lt(key["turn"]),
        ScanIndexForward=False,
        Limit=20,
    )["Items"]
    messages: list[ChatCompletionMessageParam] = [{"role": "system", "content": "You are a helpful assistant."}]
    for past in reversed(earlier):
        messages.append({"role": "user", "content": str(past["request"])})
        messages.append({"role": "assistant", "content": str(past.get("result"))})
    messages.append({"role": "user", "content": json.loads(str(turn["request"]))["message"]})
    completion = client.chat.completions.create(model=os.environ["MODEL_NAME"], messages=messages)
    usage = completion.usage
    table.update_item(
        Key=key,
        UpdateExpression="SET #status = :set_status, #result = :set_result, #usage = :set_usage, #at = :set_at",
        ExpressionAttributeNames={"#status": "status", "#result": "result", "#usage": "usage", "#at": "finished_at"},
        ExpressionAttributeValues={
            ":set_status": "SUCCESS",
            ":set_result": completion.choices[0].message.content,
            ":set_usage": usage.model_dump(exclude_none=True) if usage else {},
            ":set_at": Decimal(int(time.time())),
        },
    )
    metrics.add_metric("TaskSucceeded", MetricUnit.Count, 1)
    logger.info("task finished", extra={"session": key["session"], "turn": key["turn"]})


@logger.inject_lambda_context
@tracer.capture_lambda_handler
@metrics.log_metrics(capture_cold_start_metric=True)
def handler(event: dict[str, Any], context: LambdaContext) -> None:
    for record in event["Records"]:
        answer(json.loads(record["body"]))
