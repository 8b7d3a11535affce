"""The least that a submit can be: its two calls of AWS, with nothing checked, logged or counted."""

import json
import os
import time
import uuid
from typing import Any

import boto3

dynamodb = boto3.client("dynamodb")
sqs = boto3.client("sqs")
table = os.environ["TURNS_TABLE"]
queue = os.environ["QUEUE_URL"]


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    request = json.loads(event["body"])
    session = f"{event['requestContext']['authorizer']['jwt']['claims']['sub']}#{request['session_id']}"
    turn = uuid.uuid4().hex
    now = time.time()
    dynamodb.put_item(
        TableName=table,
        Item={
            "session": {"S": session},
            "turn": {"S": turn},
            "status": {"S": "PENDING"},
            "request": {"S": event["body"]},
            "created_at": {"N": str(now)},
            "deadline_at": {"N": str(now + 900)},
            "expires_at": {"N": str(int(now) + 604_800)},
            "attempt": {"N": "0"},
        },
        ConditionExpression="attribute_not_exists(#session)",
        ExpressionAttributeNames={"#session": "session"},
    )
    sqs.send_message(
        QueueUrl=queue,
        MessageBody=json.dumps({"session": session, "turn": turn}),
        MessageGroupId=uuid.uuid4().hex,
        MessageDeduplicationId=turn,
    )
    return {"statusCode": 202, "body": json.dumps({"task_id": f"{request['session_id']}.{turn}", "status": "PENDING"})}
