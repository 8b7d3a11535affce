"""The least that a status can be: its call of DynamoDB, with nothing checked, logged or counted."""

import json
import os
from typing import Any

import boto3

dynamodb = boto3.client("dynamodb")
table = os.environ["TURNS_TABLE"]


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    session, _, turn = event["pathParameters"]["task_id"].rpartition(".")
    owner = event["requestContext"]["authorizer"]["jwt"]["claims"]["sub"]
    answer = dynamodb.get_item(
        TableName=table, Key={"session": {"S": f"{owner}#{session}"}, "turn": {"S": turn}}, ConsistentRead=True
    )
    return {"statusCode": 200, "body": json.dumps({"status": answer["Item"]["status"]["S"]})}
