"""Values of the template's parameters: all on, all off, and another value for each.

A new parameter needs a line in ON, with a value that is not its default.
"""

from typing import Any

from development import cfn

SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:model-key-AbCdEf"
KEY = "arn:aws:kms:us-east-1:123456789012:key/00000000-0000-0000-0000-000000000000"

ON = {
    "Architecture": "x86_64",
    "ModelBaseUrl": "http://127.0.0.1:9/v1",
    "ModelName": "another-model",
    "HistoryTokens": "6000",
    "FeatureAsyncChatEnabled": "true",
    "AllowInstructions": "true",
    "StreamFunction": "true",
    "StreamConcurrency": "21",
    "JwtIssuer": "https://issuer.example",
    "JwtAudience": "chat",
    "AllowedOrigins": "https://a.example,https://b.example",
    "AllowedHeaders": "traceparent,x-request-id",
    "OwnerLimits": "default:20/5/100000,pro:100/20",
    "MediaUrls": "cdn.example.com,*.example.org",
    "CacheSeconds": "600",
    "CacheShared": "true",
    "LimitGroupClaim": "plan",
    "WorkerConcurrency": "7",
    "TurnsPerWorker": "60",
    "ReserveWorkerConcurrency": "true",
    "ApiConcurrency": "9",
    "ApiRequestsPerSecond": "11",
    "ApiBurst": "13",
    "AccessLogs": "true",
    "SnapStart": "true",
    "KmsKeyArn": KEY,
    "LogRetentionDays": "5",
    "AlarmTopicArn": "arn:aws:sns:us-east-1:123456789012:alarms",
    "ModelPrices": "another-model:0.4/1.6,ft:other:2/8/0.5",
    "ModelRequestsPerMinute": "500",
    "LongestAnswer": "14",
    "DeadlineMinutes": "720",
    "FirstTokenSeconds": "20",
    "FallbackModelName": "second-model",
    "FallbackBaseUrl": "http://127.0.0.1:9/v2",
    "FallbackKeySecretArn": SECRET.replace("model-key", "second-key"),
    "TrafficShift": "Canary10Percent5Minutes",
    "CompositeAlarms": "true",
    "DataDeletionPolicy": "Delete",
}
OFF = {
    "FeatureAsyncChatEnabled": "false",
    "AllowInstructions": "false",
    "StreamFunction": "false",
    "StreamConcurrency": "0",
    "JwtIssuer": "",
    "JwtAudience": "",
    "KmsKeyArn": "",
    "OwnerLimits": "",
    "CacheSeconds": "0",
    "CacheShared": "false",
    "LimitGroupClaim": "",
    "ReserveWorkerConcurrency": "false",
    "ApiConcurrency": "0",
    "AccessLogs": "false",
    "SnapStart": "false",
    "AlarmTopicArn": "",
    "ModelPrices": "",
    "FallbackModelName": "",
    "FallbackBaseUrl": "",
    "FallbackKeySecretArn": "",
    "TrafficShift": "AllAtOnce",
    "CompositeAlarms": "false",
    "DataDeletionPolicy": "Delete",
}
LONGEST = {
    "ModelName": "arn:aws:bedrock:us-east-1:123456789012:inference-profile/".ljust(110, "x"),
    "ModelBaseUrl": "https://a-long-resource-name.openai.azure.com/openai/deployments/a-long-deployment-name/v1/",
    "ModelPrices": ",".join(f"anthropic.claude-sonnet-{number}-20250514-v1:3.0001/15.0001/0.3" for number in range(10)),
}
"""Long but real values: an ARN of Bedrock with 110 characters, a URL of Azure, and ten prices."""


def defaults() -> dict[str, Any]:
    """Each value is a text, as CloudFormation passes it to a transform."""
    declared = cfn.template()["Parameters"]
    return {name: str(parameter.get("Default", SECRET)) for name, parameter in declared.items()}


def another(name: str, than: str) -> str | None:
    """A value of this parameter other than `than`, if this module has one."""
    given = [values.get(name) for values in (ON, OFF, {"ModelKeySecretArn": f"{SECRET}x"})]
    return next((value for value in [*given, defaults()[name]] if value not in (None, than)), None)
