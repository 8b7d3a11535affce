"""template.yaml keeps each of its rules, and each rule finds a template that breaks it."""

import copy
from functools import cache
from typing import Any

import pytest

from development import cfn
from tests.unit import template_rules as rules
from tests.unit.template_rules import NO_VALUE, Rule, Template


def change(template: Template, path: str, value: Any) -> None:
    """Set what the path names; None removes it."""
    node: Any = template if path.startswith("/") else template["Resources"]
    *parents, last = path.removeprefix("/").split("/")
    for name in parents:
        node = node[int(name)] if isinstance(node, list) else node[name]
    key: Any = int(last) if isinstance(node, list) else last
    if value is None:
        del node[key]
    else:
        node[key] = value


WORKER = "WorkerFunction/Properties"
TRIGGER = f"{WORKER}/Events/Turns/Properties"
STATEMENT = "WorkerRole/Properties/Policies/0/PolicyDocument/Statement/0"
KEY_STATEMENT = "StatusKeyPolicy/Properties/PolicyDocument/Statement/0"
WIDGET = "Dashboard/Properties/DashboardBody/Fn::ToJsonString/widgets/1"
METRIC = f"{WIDGET}/properties/metrics/0"
SQS_METRIC = "Dashboard/Properties/DashboardBody/Fn::ToJsonString/widgets/2/properties/metrics/0"
ALARM = "DeadLetterAlarm/Properties"
CORS = "HttpApi/Properties/CorsConfiguration"
BUCKET = "MediaBucket/Properties"
LIFECYCLE = f"{BUCKET}/LifecycleConfiguration/Rules/0"


BREACHES: dict[Rule, dict[str, tuple[str, Any]]] = {
    rules.visibility_outlasts_the_function_not_the_deadline: {
        "a visibility that outlasts the deadline": ("TurnQueue/Properties/VisibilityTimeout", 900),
        "a longer timeout": (f"{WORKER}/Timeout", 401),
        "the default visibility": ("DeadLetterQueue/Properties/VisibilityTimeout", None),
    },
    rules.a_fifo_trigger_takes_at_most_ten_messages_and_waits_for_none: {
        "a batch of 11": (f"{TRIGGER}/BatchSize", 11),
        "a batching window": (f"{TRIGGER}/MaximumBatchingWindowInSeconds", 1),
    },
    rules.a_trigger_reports_its_failures_one_by_one: {
        "no batch item failures": (f"{TRIGGER}/FunctionResponseTypes", None),
    },
    rules.maximum_concurrency_is_at_least_two_and_alone: {
        "a concurrency of 1": (
            "DeadletterFunction/Properties/Events/DeadLetters/Properties/ScalingConfig/MaximumConcurrency",
            1,
        ),
        "a concurrency that may be 1": ("/Parameters/WorkerConcurrency/MinValue", 1),
        "provisioned pollers": (f"{TRIGGER}/ProvisionedPollerConfig", {"MinimumPollers": 2}),
    },
    rules.every_queue_is_fifo_with_a_limit_for_each_session: {
        "a standard queue": ("TurnQueue/Properties/FifoQueue", None),
        "one limit for the queue": ("TurnQueue/Properties/FifoThroughputLimit", "perQueue"),
        "deduplication by content": ("TurnQueue/Properties/ContentBasedDeduplication", True),
    },
    rules.what_a_queue_gives_up_on_goes_to_a_fifo_queue_that_a_function_reads: {
        "no redrive": ("TurnQueue/Properties/RedrivePolicy", None),
        "a standard dead-letter queue": ("DeadLetterQueue/Properties/FifoQueue", False),
        "dead letters that nobody reads": ("DeadletterFunction/Properties/Events", {}),
    },
    rules.more_is_received_than_attempted_and_kept_longer_than_any_deadline: {
        "three receives": ("TurnQueue/Properties/RedrivePolicy/maxReceiveCount", 3),
        "messages of ten minutes": ("TurnQueue/Properties/MessageRetentionPeriod", 600),
        "dead letters of an hour": ("DeadLetterQueue/Properties/MessageRetentionPeriod", 3600),
    },
    rules.nothing_has_a_physical_name: {
        "a queue's name": ("TurnQueue/Properties/QueueName", "turns.fifo"),
        "a table's name": ("TurnsTable/Properties/TableName", "turns"),
        "a function's name": (f"{WORKER}/FunctionName", "worker"),
        "a role's name": ("WorkerRole/Properties/RoleName", "worker"),
        "a log group's name": ("WorkerLogGroup/Properties/LogGroupName", "/worker"),
        "a dashboard's name": ("Dashboard/Properties/DashboardName", "turns"),
        "an API's name": ("HttpApi/Properties/Name", "turnqueue"),
        "an alarm's own name": (f"{ALARM}/AlarmName", "dead-letters"),
    },
    rules.a_fifo_queue_that_is_named_is_named_fifo: {
        "a FIFO queue named without .fifo": ("TurnQueue/Properties/QueueName", {"Fn::Sub": "${AWS::StackName}-turns"}),
    },
    rules.every_handler_exists: {
        "a missing module": (f"{WORKER}/Handler", "work.handler"),
        "a missing function": (f"{WORKER}/Handler", "worker.main"),
        "a missing folder": (f"{WORKER}/CodeUri", "functions/workers/"),
    },
    rules.every_folder_is_a_function: {
        "a folder that is no function": ("StatusFunction", None),
    },
    rules.the_template_gives_the_environment_that_the_code_reads: {
        "a variable that is missing": (f"{WORKER}/Environment/Variables/MODEL_NAME", None),
        "a variable that nobody reads": (f"{WORKER}/Environment/Variables/OWNER_LIMITS", {"Ref": "OwnerLimits"}),
    },
    rules.powertools_is_told_its_service_and_namespace: {
        "no namespace": ("/Globals/Function/Environment/Variables/POWERTOOLS_METRICS_NAMESPACE", None),
        "events in the log": ("/Globals/Function/Environment/Variables/POWERTOOLS_LOGGER_LOG_EVENT", "true"),
    },
    rules.every_function_has_a_log_group_of_its_own_that_forgets: {
        "no log group": (f"{WORKER}/LoggingConfig", None),
        "a shared log group": (f"{WORKER}/LoggingConfig", {"LogGroup": {"Ref": "SubmitLogGroup"}}),
        "a log group that keeps": ("WorkerLogGroup/Properties/RetentionInDays", None),
    },
    rules.the_api_answers_before_api_gateway_gives_up: {
        "a submit of 30 s": ("SubmitFunction/Properties/Timeout", 30),
        "an impatient integration": ("StatusIntegration/Properties/TimeoutInMillis", 20_000),
    },
    rules.every_function_has_a_role_of_its_own_and_no_policy_of_sams: {
        "no role": (f"{WORKER}/Role", None),
        "a shared role": (f"{WORKER}/Role", {"Fn::GetAtt": "SubmitRole.Arn"}),
        "a SAM policy": (f"{WORKER}/Policies", [{"DynamoDBCrudPolicy": {"TableName": {"Ref": "TurnsTable"}}}]),
    },
    rules.the_description_changes_with_what_a_version_does_not_hold: {
        "a reservation that the description does not name": ("StatusFunction/Properties/Description", None),
        "a reservation by another parameter": (
            f"{WORKER}/Description",
            {"Fn::If": ["ReserveWorker", "reserved", NO_VALUE]},
        ),
        "tags, which no version holds": ("/Globals/Function/Tags", {"team": "chat"}),
    },
    rules.the_environment_fits_whatever_the_parameters: {
        "a variable that may be too long": ("/Parameters/ModelBaseUrl/MaxLength", None),
        "variables that are too long together": ("/Parameters/ModelPrices/MaxLength", 3000),
    },
    rules.a_condition_compares_text_with_text: {
        "a number in a condition": ("/Conditions/BoundApi/Fn::Not/0/Fn::Equals/1", 0),
        "a parameter of type Number in a condition": ("/Parameters/ApiConcurrency/Type", "Number"),
    },
    rules.nothing_is_left_out_of_a_json_string: {
        "a null on the dashboard": (METRIC, {"Fn::If": ["EstimateCost", ["Turnqueue", "MicroDollars"], NO_VALUE]}),
    },
    rules.what_a_json_string_takes_needs_no_escape: {
        "a line break in JSON": (f"{METRIC}/1", {"Fn::Sub": "${AWS::StackName}\nTaskSubmitted"}),
        "a quote in JSON": (f"{METRIC}/1", {"Fn::Sub": '"${AWS::StackName}"'}),
    },
    rules.who_is_waited_for_starts_from_a_snapshot_if_asked_to: {
        "a snapshot that nobody has asked for": (f"{WORKER}/SnapStart/ApplyOn", "PublishedVersions"),
        "a function that has no snapshot": ("SubmitFunction/Properties/SnapStart", None),
    },
    rules.the_worker_may_use_the_fallback_while_there_is_one: {
        "the fallback's key for whoever has none": ("/Resources/WorkerFallbackKeyPolicy/Condition", None),
        "more than the fallback's key": (
            "WorkerFallbackKeyPolicy/Properties/PolicyDocument/Statement/0/Resource",
            {"Ref": "ModelKeySecretArn"},
        ),
    },
    rules.traffic_goes_to_the_alias: {
        "a setting that makes no version": (f"{WORKER}/AutoPublishAliasAllProperties", None),
        "a layer that makes no version": ("SharedLayer/Properties/PublishLambdaVersion", False),
        "an integration past the alias": (
            "SubmitIntegration/Properties/IntegrationUri",
            {"Fn::GetAtt": "SubmitFunction.Arn"},
        ),
    },
    rules.what_is_reserved_for_the_worker_is_what_it_may_use: {
        "another reserve": (f"{WORKER}/ReservedConcurrentExecutions/Fn::If/1", 5),
    },
    rules.the_api_bounds_its_requests_and_logs_them: {
        "no throttling": ("HttpApiStage/Properties/DefaultRouteSettings", None),
        "no access log": ("HttpApiStage/Properties/AccessLogSettings", None),
    },
    rules.no_role_may_more_than_it_names: {
        "every action": (f"{STATEMENT}/Action", "dynamodb:*"),
        "every reading action": (f"{STATEMENT}/Action", ["dynamodb:Get*"]),
        "every resource": (f"{STATEMENT}/Resource", "*"),
        "every table": (
            f"{STATEMENT}/Resource",
            {"Fn::Sub": "arn:aws:dynamodb:${AWS::Region}:${AWS::AccountId}:table/*"},
        ),
        "what it may not": (f"{STATEMENT}/NotAction", "iam:PassRole"),
        "a managed policy": (
            "WorkerRole/Properties/ManagedPolicyArns",
            ["arn:aws:iam::aws:policy/AdministratorAccess"],
        ),
        "every key": (f"{KEY_STATEMENT}/Resource", "*"),
        "objects of any bucket": (f"{STATEMENT}/Resource", {"Fn::Sub": "arn:aws:s3:::*/uploads/*"}),
    },
    rules.the_deployers_key_encrypts_all_there_is: {
        "a table that the key leaves out": ("GuardsTable/Properties/SSESpecification/Fn::If/1/KMSMasterKeyId", None),
        "a log that the key leaves out": ("WorkerLogGroup/Properties/KmsKeyId", None),
        "a table by AWS's key of the account": (
            "TurnsTable/Properties/SSESpecification/Fn::If/2",
            {"SSEEnabled": True},
        ),
        "a bucket past the key": (
            f"{BUCKET}/BucketEncryption/ServerSideEncryptionConfiguration/0/ServerSideEncryptionByDefault",
            {},
        ),
    },
    rules.each_role_may_use_the_deployers_key_for_what_it_does_and_while_there_is_one: {
        "a key that a role may use by itself": (f"{KEY_STATEMENT}/Condition", None),
        "a key for more than is done": (f"{KEY_STATEMENT}/Action", ["kms:Decrypt", "kms:Encrypt"]),
        "any key": (f"{KEY_STATEMENT}/Resource", {"Fn::Sub": "arn:aws:kms:${AWS::Region}:${AWS::AccountId}:key/1"}),
        "a key that there may not be": ("StatusKeyPolicy/Condition", None),
        "a role that cannot use the key": ("StatusKeyPolicy", None),
    },
    rules.lambda_alone_may_take_on_a_role: {
        "a role for another account": (
            "WorkerRole/Properties/AssumeRolePolicyDocument/Statement/0/Principal",
            {"AWS": "111122223333"},
        ),
    },
    rules.api_gateway_alone_may_call_the_api_functions: {
        "a function that the API may not call": ("StatusPermission", None),
        "a function that everyone may call": ("StatusPermission/Properties/Principal", "*"),
    },
    rules.every_route_but_health_needs_a_token: {
        "a route without a token": ("TaskRoute/Properties/AuthorizationType", "NONE"),
        "a route without an authorizer": ("TaskRoute/Properties/AuthorizerId", None),
        "tokens for anyone": ("TokenAuthorizer/Properties/JwtConfiguration/Audience", []),
        "a key that is good long after it was revoked": ("KeyAuthorizer/Properties/AuthorizerResultTtlInSeconds", 300),
        "a route of the OpenAI API without API keys": ("OpenAiGetRoute/Properties/AuthorizationType", "JWT"),
    },
    rules.the_routes_are_those_of_the_handlers: {
        "a route that no handler has": ("TaskRoute/Properties/RouteKey", "GET /chat/tasks/{task_id}"),
        "a handler's route that is missing": ("CancelRoute", None),
        "a route to the other function": (
            "TaskRoute/Properties/Target",
            {"Fn::Sub": "integrations/${SubmitIntegration}"},
        ),
    },
    rules.a_route_key_ends_in_no_slash: {
        "a route key with a slash at its end": ("ChatRoute/Properties/RouteKey", "POST /chat/"),
    },
    rules.a_preflight_needs_no_token: {
        "preflights that the authorizer of $default answers": ("PreflightRoute/Properties/RouteKey", "GET /{proxy+}"),
        "preflights with a token": ("PreflightRoute/Properties/AuthorizationType", "JWT"),
    },
    rules.routes_are_made_one_after_the_other_and_the_stage_last: {
        "two routes at once": ("UsageRoute/DependsOn", "TaskRoute"),
        "a stage before its routes": ("HttpApiStage/DependsOn", None),
    },
    rules.cors_lets_the_browser_see_and_send_our_headers: {
        "a header that is not exposed": (f"{CORS}/ExposeHeaders", ["location", "retry-after", "preference-applied"]),
        "a header that is not allowed": (f"{CORS}/AllowHeaders", ["authorization", "content-type", "prefer"]),
        "a method that is not allowed": (f"{CORS}/AllowMethods", ["GET", "OPTIONS"]),
        "a tracing header that is not allowed": (
            "/Parameters/AllowedHeaders/Default",
            "traceparent,tracestate,baggage",
        ),
        "cookies": (f"{CORS}/AllowCredentials", True),
    },
    rules.a_line_of_the_access_log_stays_json_whatever_a_client_sends: {
        "a client's text in the access log": (
            "HttpApiStage/Properties/AccessLogSettings/Fn::If/1/Format",
            '{"token":"$context.authorizer.error"}',
        ),
    },
    rules.nobody_writes_a_claim_of_their_own_token: {
        "users who write their claims": ("UserPoolClient/Properties/WriteAttributes", None),
    },
    rules.a_public_url_is_bounded_and_for_the_pages_of_the_api: {
        "a public URL without a bound": ("StreamsFunction/Properties/ReservedConcurrentExecutions", None),
        "a public URL for other pages": ("StreamsFunction/Properties/FunctionUrlConfig/Cors/AllowOrigins", ["*"]),
        "a public URL with cookies": ("StreamsFunction/Properties/FunctionUrlConfig/Cors/AllowCredentials", True),
    },
    rules.every_table_forgets_and_recovers: {
        "no TTL": ("GuardsTable/Properties/TimeToLiveSpecification", None),
        "TTL by another attribute": ("TurnsTable/Properties/TimeToLiveSpecification/AttributeName", "ttl"),
        "no recovery": ("TurnsTable/Properties/PointInTimeRecoverySpecification", None),
    },
    rules.every_table_is_paid_by_the_request_and_has_no_index: {
        "a capacity": ("TurnsTable/Properties/BillingMode", "PROVISIONED"),
        "an index": ("TurnsTable/Properties/GlobalSecondaryIndexes", [{}]),
    },
    rules.every_queue_encrypts: {
        "no encryption of a queue": (
            "TurnQueue/Properties/SqsManagedSseEnabled",
            {"Fn::If": ["UseKmsKey", False, False]},
        ),
    },
    rules.a_bucket_is_nobody_elses_and_forgets: {
        "a bucket that may be public": (f"{BUCKET}/PublicAccessBlockConfiguration/BlockPublicPolicy", False),
        "a bucket without a block": (f"{BUCKET}/PublicAccessBlockConfiguration", None),
        "a bucket with ACLs": (f"{BUCKET}/OwnershipControls", None),
        "a bucket that encrypts nothing": (f"{BUCKET}/BucketEncryption", None),
        "a bucket with versions": (f"{BUCKET}/VersioningConfiguration", {"Status": "Enabled"}),
        "a bucket that keeps for ever": (f"{BUCKET}/LifecycleConfiguration", None),
        "a bucket that forgets before the turns": (f"{LIFECYCLE}/ExpirationInDays", 6),
        "a rule that is off": (f"{LIFECYCLE}/Status", "Disabled"),
        "a bucket that keeps parts": (f"{LIFECYCLE}/AbortIncompleteMultipartUpload", None),
        "a bucket for every origin": (f"{BUCKET}/CorsConfiguration/CorsRules/0/AllowedOrigins", ["*"]),
        "a bucket that pages may read": (f"{BUCKET}/CorsConfiguration/CorsRules/0/AllowedMethods", ["GET", "POST"]),
        "a bucket without TLS": ("MediaBucketPolicy", None),
        "a bucket that allows": ("MediaBucketPolicy/Properties/PolicyDocument/Statement/0/Effect", "Allow"),
    },
    rules.the_deployer_says_what_becomes_of_the_data: {
        "a bucket that goes with the stack": ("MediaBucket/DeletionPolicy", None),
        "data that goes with the stack": ("TurnsTable/DeletionPolicy", "Delete"),
        "data that goes with a replacement": ("TurnsTable/UpdateReplacePolicy", None),
        "data that goes by a Ref": ("UserPool/DeletionPolicy", {"Ref": "DataDeletionPolicy"}),
        "data that is kept whatever the deployer says": ("/Conditions/KeepData/Fn::Equals/0/Ref", "Architecture"),
        "data that goes by default": ("/Parameters/DataDeletionPolicy/Default", "Delete"),
    },
    rules.the_dashboard_is_one_that_cloudwatch_takes: {
        "a body that is text": ("Dashboard/Properties/DashboardBody", {"Fn::Sub": "{"}),
        "another top key": ("Dashboard/Properties/DashboardBody/Fn::ToJsonString/widget", []),
        "a widget without a place": (f"{WIDGET}/x", None),
        "a widget off the grid": (f"{WIDGET}/x", 10),
        "a widget of no type": (f"{WIDGET}/type", "graph"),
        "a widget without a region": (f"{WIDGET}/properties/region", None),
    },
    rules.no_two_widgets_lie_on_each_other: {
        "a widget on another": (f"{WIDGET}/y", 1),
    },
    rules.every_metric_that_is_watched_exists: {
        "a metric that we do not emit": (f"{METRIC}/1", "TaskSubmited"),
        "a metric of another service": (f"{METRIC}/3", "turns"),
        "a metric with another dimension": (f"{METRIC}/2", "function"),
        "a metric that SQS has not": (f"{SQS_METRIC}/1", "QueueDepth"),
        "a metric by a dimension that SQS has not": (f"{SQS_METRIC}/2", "QueueArn"),
        "a metric of a queue by its name": (f"{SQS_METRIC}/3", "turns.fifo"),
        "a metric of another namespace": (f"{METRIC}/0", "TurnQueue"),
        "an alarm over what we do not emit": (f"{ALARM}/MetricName", "TaskDeadlettered"),
        "an alarm with another dimension": (f"{ALARM}/Dimensions/0/Name", "Service"),
        "an alarm over a metric of REST APIs": (
            "Api5xxAlarm/Properties/Metrics/1/MetricStat/Metric/MetricName",
            "5XXError",
        ),
    },
    rules.a_share_of_requests_is_no_average: {
        "an average for a share": ("Api5xxAlarm/Properties/Metrics/1/MetricStat/Stat", "Average"),
        "an alarm that takes an average for a share": (
            ALARM,
            {"Namespace": "AWS/ApiGateway", "MetricName": "5xx", "Statistic": "Average"},
        ),
    },
    rules.what_the_emulated_account_cannot_hold_is_under_a_condition: {
        "metric math in every account": ("Api5xxAlarm/Condition", None),
        "an alarm over alarms in every account": ("OutageAlarm/Condition", None),
    },
    rules.every_metric_of_ours_is_watched: {
        "a metric that nobody watches": ("Dashboard/Properties/DashboardBody/Fn::ToJsonString/widgets/9", None),
    },
    rules.every_alarm_tells_the_deployer_when_it_rings_and_when_it_is_over: {
        "an alarm that tells nobody": (f"{ALARM}/AlarmActions", None),
        "an alarm over alarms that are not there": (
            "OutageAlarm/Properties/AlarmRule",
            {"Fn::Sub": 'ALARM("${OldMessageAlarm}")'},
        ),
        "an alarm that leaves it open what silence means": (f"{ALARM}/TreatMissingData", None),
    },
    rules.the_dashboard_shows_every_alarm_that_tells: {
        "an alarm that is not on the dashboard": (
            "Dashboard/Properties/DashboardBody/Fn::ToJsonString/widgets/0/properties/alarms/Fn::If/1/0",
            None,
        ),
    },
    rules.the_alarms_fit_what_they_watch: {
        "a duration that the worker never reaches": ("WorkerDurationAlarm/Properties/Threshold", 175_000),
        "an age past the deadline": ("OldestMessageAlarm/Properties/Threshold", 900),
        "a letter's first stay": ("StuckDeadLetterAlarm/Properties/Threshold", 180),
        "a period shorter than a malformed message's stay": ("MalformedMessageAlarm/Properties/Period", 60),
        "a success every minute": ("NoSuccessAlarm/Properties/Period", 60),
    },
}
"""How each rule is broken: the path in the resources, or in the template after a slash, that gets another value. None
removes what is there."""


@cache
def real() -> Template:
    return cfn.template()


@pytest.mark.parametrize("check", rules.RULES, ids=lambda check: check.__name__)
def test_the_template_keeps_the_rule(check: Rule) -> None:
    assert list(check(real())) == []


@pytest.mark.parametrize(
    ("check", "path", "value"),
    [pytest.param(check, *breach, id=name) for check, named in BREACHES.items() for name, breach in named.items()],
)
def test_a_breach_is_seen(check: Rule, path: str, value: Any) -> None:
    template = copy.deepcopy(real())
    change(template, path, copy.deepcopy(value))

    assert list(check(template)) != []


def test_every_rule_was_seen_to_be_broken() -> None:
    assert {check.__name__ for check in BREACHES} == {check.__name__ for check in rules.RULES}


def test_what_is_read_from_the_code_is_what_is_there() -> None:
    """The rules above are worth nothing if they find nothing in the code."""
    assert {"location", "retry-after", "preference-applied", "idempotency-replayed"} <= rules.headers_sent()
    assert rules.headers_read() == {
        *("content-type", "prefer", "idempotency-key", "cache-control", "accept", "last-event-id")
    }
    retry, openai = "POST /chat/task/{task_id}/retry", "POST /v1/{proxy+}"
    assert rules.routes_in_code("submit") == {"POST /chat", "POST /chat/", "POST /chat/media", retry, openai}
    assert "OPTIONS /{proxy+}" in rules.routes_in_code("status")
    assert rules.routes_in_code("worker") == set()
    assert rules.environment_in_code("deadletter") == {"TURNS_TABLE", "GUARDS_TABLE"}
    assert {"MODEL_BASE_URL", "QUEUE_URL"} <= rules.environment_in_code("worker")


def test_the_documentation_says_what_each_parameter_means_and_what_its_change_does() -> None:
    """tests/build/test_transform.py computes the rows."""
    meanings, effects = (cfn.ROOT / "docs/configuration.md").read_text().split("\n## What a change does\n")
    assert [name for name in real()["Parameters"] if f"| `{name}` | " not in effects] == []
    assert [name for name in real()["Parameters"] if f"`{name}`" not in meanings] == []
