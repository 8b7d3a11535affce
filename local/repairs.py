"""Repairs resources that MiniStack makes differently from AWS, after the deployment."""

import json
from typing import Any

from local.account import Account

_ALSO_IN_BATCHES = {"sqs:SendMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"}


def repair(account: Account, stack_name: str) -> None:
    """Repair all resources of the stack that MiniStack makes differently."""
    cloudformation = account.client("cloudformation")
    declared = cloudformation.get_template(StackName=stack_name, TemplateStage="Processed")["TemplateBody"]
    for resource in cloudformation.describe_stack_resources(StackName=stack_name)["StackResources"]:
        name = resource["PhysicalResourceId"]
        match resource["ResourceType"]:
            case "AWS::ApiGatewayV2::Api":
                repair_cors(account, name)
            case "AWS::IAM::Role":
                repair_permissions(account, name)
            case "AWS::DynamoDB::Table":
                properties = declared["Resources"][resource["LogicalResourceId"]]["Properties"]
                repair_time_to_live(account, name, properties)
            case "AWS::S3::Bucket":
                repair_transport(account, name)


def repair_cors(account: Account, api_id: str) -> None:
    """Give the API the CORS configuration of the template. MiniStack's CloudFormation stores the configuration under
    the template's names (AllowOrigins), but MiniStack's API Gateway reads other names (allowOrigins). So without this
    repair, every preflight would be refused."""
    client = account.client("apigatewayv2")
    stored: dict[str, Any] = {}

    def keep(response_dict: dict[str, Any], **others: Any) -> None:
        # Read the response before boto3 drops the names that it does not know.
        stored.update(json.loads(response_dict["body"]))

    client.meta.events.register("before-parse.apigatewayv2.GetApi", keep)
    client.get_api(ApiId=api_id)
    client.meta.events.unregister("before-parse.apigatewayv2.GetApi", keep)
    configuration = {name: value for name, value in stored.get("corsConfiguration", {}).items() if name[0].isupper()}
    if configuration:
        client.update_api(ApiId=api_id, CorsConfiguration=configuration)


def repair_permissions(account: Account, role: str) -> None:
    """Allow the role to call SQS in batches. On AWS, the permission for sqs:SendMessage also allows SendMessageBatch.
    MiniStack requires the permission sqs:SendMessageBatch, which does not exist on AWS."""
    iam = account.client("iam")
    for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        document = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
        for statement in document["Statement"]:
            named = statement.get("Action", [])
            actions = [named] if isinstance(named, str) else named
            statement["Action"] = [*actions, *(f"{each}Batch" for each in actions if each in _ALSO_IN_BATCHES)]
        iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(document))


def repair_transport(account: Account, bucket: str) -> None:
    """Allow plain HTTP for the bucket. The bucket's policy forbids it, but loopback has no TLS."""
    account.client("s3").delete_bucket_policy(Bucket=bucket)


def repair_time_to_live(account: Account, table: str, declared: dict[str, Any]) -> None:
    """Switch on the table's time to live, which MiniStack's CloudFormation ignores. `declared` are the properties in
    the template. (MiniStack also ignores point-in-time recovery and encryption, but they have no effect here.)"""
    if specification := declared.get("TimeToLiveSpecification"):
        account.client("dynamodb").update_time_to_live(TableName=table, TimeToLiveSpecification=specification)
