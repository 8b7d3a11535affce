"""template.yaml keeps each of its rules, and each rule finds a template that breaks it."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from development import cfn
from tests.unit import template_rules as rules
from tests.unit.template_rules import NO_VALUE, Rule, Template

# How each rule is broken


def change(path: str, value: Any) -> Callable[[Template], None]:
    """Sets what the path names; None removes it."""
    *parents, last = path.split("/")

    def mutate(template: Template) -> None:
        node: Any = template["Resources"]
        for name in parents:
            node = node[int(name)] if isinstance(node, list) else node[name]
        key: Any = int(last) if isinstance(node, list) else last
        if value is None:
            del node[key]
        else:
            node[key] = value

    return mutate


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


def globally(path: str, value: Any) -> Callable[[Template], None]:
    def mutate(template: Template) -> None:
        change(path, value)({"Resources": template})

    return mutate


BREACHES: dict[str, tuple[Rule, Callable[[Template], None]]] = {
    "a visibility that outlasts the deadline": (
        rules.visibility_outlasts_the_function_not_the_deadline,
        change("TurnQueue/Properties/VisibilityTimeout", 900),
    ),
    "a longer timeout": (
        rules.visibility_outlasts_the_function_not_the_deadline,
        change(f"{WORKER}/Timeout", 401),
    ),
    "the default visibility": (
        rules.visibility_outlasts_the_function_not_the_deadline,
        change("DeadLetterQueue/Properties/VisibilityTimeout", None),
    ),
    "a batch of 11": (
        rules.a_fifo_trigger_takes_at_most_ten_messages_and_waits_for_none,
        change(f"{TRIGGER}/BatchSize", 11),
    ),
    "a batching window": (
        rules.a_fifo_trigger_takes_at_most_ten_messages_and_waits_for_none,
        change(f"{TRIGGER}/MaximumBatchingWindowInSeconds", 1),
    ),
    "no batch item failures": (
        rules.a_trigger_reports_its_failures_one_by_one,
        change(f"{TRIGGER}/FunctionResponseTypes", None),
    ),
    "a concurrency of 1": (
        rules.maximum_concurrency_is_at_least_two_and_alone,
        change("DeadletterFunction/Properties/Events/DeadLetters/Properties/ScalingConfig/MaximumConcurrency", 1),
    ),
    "a concurrency that may be 1": (
        rules.maximum_concurrency_is_at_least_two_and_alone,
        globally("Parameters/WorkerConcurrency/MinValue", 1),
    ),
    "provisioned pollers": (
        rules.maximum_concurrency_is_at_least_two_and_alone,
        change(f"{TRIGGER}/ProvisionedPollerConfig", {"MinimumPollers": 2}),
    ),
    "a standard queue": (
        rules.every_queue_is_fifo_with_a_limit_for_each_session,
        change("TurnQueue/Properties/FifoQueue", None),
    ),
    "one limit for the queue": (
        rules.every_queue_is_fifo_with_a_limit_for_each_session,
        change("TurnQueue/Properties/FifoThroughputLimit", "perQueue"),
    ),
    "deduplication by content": (
        rules.every_queue_is_fifo_with_a_limit_for_each_session,
        change("TurnQueue/Properties/ContentBasedDeduplication", True),
    ),
    "no redrive": (
        rules.what_a_queue_gives_up_on_goes_to_a_fifo_queue_that_a_function_reads,
        change("TurnQueue/Properties/RedrivePolicy", None),
    ),
    "a standard dead-letter queue": (
        rules.what_a_queue_gives_up_on_goes_to_a_fifo_queue_that_a_function_reads,
        change("DeadLetterQueue/Properties/FifoQueue", False),
    ),
    "dead letters that nobody reads": (
        rules.what_a_queue_gives_up_on_goes_to_a_fifo_queue_that_a_function_reads,
        change("DeadletterFunction/Properties/Events", {}),
    ),
    "three receives": (
        rules.more_is_received_than_attempted_and_kept_longer_than_any_deadline,
        change("TurnQueue/Properties/RedrivePolicy/maxReceiveCount", 3),
    ),
    "messages of ten minutes": (
        rules.more_is_received_than_attempted_and_kept_longer_than_any_deadline,
        change("TurnQueue/Properties/MessageRetentionPeriod", 600),
    ),
    "dead letters of an hour": (
        rules.more_is_received_than_attempted_and_kept_longer_than_any_deadline,
        change("DeadLetterQueue/Properties/MessageRetentionPeriod", 3600),
    ),
    "a queue's name": (rules.nothing_has_a_physical_name, change("TurnQueue/Properties/QueueName", "turns.fifo")),
    "a table's name": (rules.nothing_has_a_physical_name, change("TurnsTable/Properties/TableName", "turns")),
    "a function's name": (rules.nothing_has_a_physical_name, change(f"{WORKER}/FunctionName", "worker")),
    "a role's name": (rules.nothing_has_a_physical_name, change("WorkerRole/Properties/RoleName", "worker")),
    "a log group's name": (
        rules.nothing_has_a_physical_name,
        change("WorkerLogGroup/Properties/LogGroupName", "/worker"),
    ),
    "a dashboard's name": (rules.nothing_has_a_physical_name, change("Dashboard/Properties/DashboardName", "turns")),
    "an API's name": (rules.nothing_has_a_physical_name, change("HttpApi/Properties/Name", "turnqueue")),
    "a FIFO queue named without .fifo": (
        rules.a_fifo_queue_that_is_named_is_named_fifo,
        change("TurnQueue/Properties/QueueName", {"Fn::Sub": "${AWS::StackName}-turns"}),
    ),
    "a missing module": (rules.every_handler_exists, change(f"{WORKER}/Handler", "work.handler")),
    "a missing function": (rules.every_handler_exists, change(f"{WORKER}/Handler", "worker.main")),
    "a missing folder": (rules.every_handler_exists, change(f"{WORKER}/CodeUri", "functions/workers/")),
    "a folder that is no function": (rules.every_folder_is_a_function, change("StatusFunction", None)),
    "a variable that is missing": (
        rules.the_template_gives_the_environment_that_the_code_reads,
        change(f"{WORKER}/Environment/Variables/MODEL_NAME", None),
    ),
    "a variable that nobody reads": (
        rules.the_template_gives_the_environment_that_the_code_reads,
        change(f"{WORKER}/Environment/Variables/OWNER_LIMITS", {"Ref": "OwnerLimits"}),
    ),
    "no namespace": (
        rules.powertools_is_told_its_service_and_namespace,
        globally("Globals/Function/Environment/Variables/POWERTOOLS_METRICS_NAMESPACE", None),
    ),
    "events in the log": (
        rules.powertools_is_told_its_service_and_namespace,
        globally("Globals/Function/Environment/Variables/POWERTOOLS_LOGGER_LOG_EVENT", "true"),
    ),
    "no log group": (
        rules.every_function_has_a_log_group_of_its_own_that_forgets,
        change(f"{WORKER}/LoggingConfig", None),
    ),
    "a shared log group": (
        rules.every_function_has_a_log_group_of_its_own_that_forgets,
        change(f"{WORKER}/LoggingConfig", {"LogGroup": {"Ref": "SubmitLogGroup"}}),
    ),
    "a log group that keeps": (
        rules.every_function_has_a_log_group_of_its_own_that_forgets,
        change("WorkerLogGroup/Properties/RetentionInDays", None),
    ),
    "a submit of 30 s": (
        rules.the_api_answers_before_api_gateway_gives_up,
        change("SubmitFunction/Properties/Timeout", 30),
    ),
    "an impatient integration": (
        rules.the_api_answers_before_api_gateway_gives_up,
        change("StatusIntegration/Properties/TimeoutInMillis", 20_000),
    ),
    "no role": (rules.every_function_has_a_role_of_its_own_and_no_policy_of_sams, change(f"{WORKER}/Role", None)),
    "a shared role": (
        rules.every_function_has_a_role_of_its_own_and_no_policy_of_sams,
        change(f"{WORKER}/Role", {"Fn::GetAtt": "SubmitRole.Arn"}),
    ),
    "a SAM policy": (
        rules.every_function_has_a_role_of_its_own_and_no_policy_of_sams,
        change(f"{WORKER}/Policies", [{"DynamoDBCrudPolicy": {"TableName": {"Ref": "TurnsTable"}}}]),
    ),
    "a reservation that the description does not name": (
        rules.the_description_changes_with_what_a_version_does_not_hold,
        change("StatusFunction/Properties/Description", None),
    ),
    "a reservation by another parameter": (
        rules.the_description_changes_with_what_a_version_does_not_hold,
        change(f"{WORKER}/Description", {"Fn::If": ["ReserveWorker", "reserved", NO_VALUE]}),
    ),
    "tags, which no version holds": (
        rules.the_description_changes_with_what_a_version_does_not_hold,
        globally("Globals/Function/Tags", {"team": "chat"}),
    ),
    "a variable that may be too long": (
        rules.the_environment_fits_whatever_the_parameters,
        globally("Parameters/ModelBaseUrl/MaxLength", None),
    ),
    "variables that are too long together": (
        rules.the_environment_fits_whatever_the_parameters,
        globally("Parameters/ModelPrices/MaxLength", 3000),
    ),
    "a number in a condition": (
        rules.a_condition_compares_text_with_text,
        globally("Conditions/BoundApi/Fn::Not/0/Fn::Equals/1", 0),
    ),
    "a parameter of type Number in a condition": (
        rules.a_condition_compares_text_with_text,
        globally("Parameters/ApiConcurrency/Type", "Number"),
    ),
    "a null on the dashboard": (
        rules.nothing_is_left_out_of_a_json_string,
        change(METRIC, {"Fn::If": ["EstimateCost", ["Turnqueue", "MicroDollars"], NO_VALUE]}),
    ),
    "a line break in JSON": (
        rules.what_a_json_string_takes_needs_no_escape,
        change(f"{METRIC}/1", {"Fn::Sub": "${AWS::StackName}\nTaskSubmitted"}),
    ),
    "a quote in JSON": (
        rules.what_a_json_string_takes_needs_no_escape,
        change(f"{METRIC}/1", {"Fn::Sub": '"${AWS::StackName}"'}),
    ),
    "a snapshot that nobody has asked for": (
        rules.who_is_waited_for_starts_from_a_snapshot_if_asked_to,
        change(f"{WORKER}/SnapStart/ApplyOn", "PublishedVersions"),
    ),
    "a function that has no snapshot": (
        rules.who_is_waited_for_starts_from_a_snapshot_if_asked_to,
        change("SubmitFunction/Properties/SnapStart", None),
    ),
    "the fallback's key for whoever has none": (
        rules.the_worker_may_use_the_fallback_while_there_is_one,
        globally("Resources/WorkerFallbackKeyPolicy/Condition", None),
    ),
    "more than the fallback's key": (
        rules.the_worker_may_use_the_fallback_while_there_is_one,
        change("WorkerFallbackKeyPolicy/Properties/PolicyDocument/Statement/0/Resource", {"Ref": "ModelKeySecretArn"}),
    ),
    "a setting that makes no version": (
        rules.traffic_goes_to_the_alias,
        change(f"{WORKER}/AutoPublishAliasAllProperties", None),
    ),
    "a layer that makes no version": (
        rules.traffic_goes_to_the_alias,
        change("SharedLayer/Properties/PublishLambdaVersion", False),
    ),
    "an integration past the alias": (
        rules.traffic_goes_to_the_alias,
        change("SubmitIntegration/Properties/IntegrationUri", {"Fn::GetAtt": "SubmitFunction.Arn"}),
    ),
    "another reserve": (
        rules.what_is_reserved_for_the_worker_is_what_it_may_use,
        change(f"{WORKER}/ReservedConcurrentExecutions/Fn::If/1", 5),
    ),
    "no throttling": (
        rules.the_api_bounds_its_requests_and_logs_them,
        change("HttpApiStage/Properties/DefaultRouteSettings", None),
    ),
    "no access log": (
        rules.the_api_bounds_its_requests_and_logs_them,
        change("HttpApiStage/Properties/AccessLogSettings", None),
    ),
    "every action": (rules.no_role_may_more_than_it_names, change(f"{STATEMENT}/Action", "dynamodb:*")),
    "every reading action": (rules.no_role_may_more_than_it_names, change(f"{STATEMENT}/Action", ["dynamodb:Get*"])),
    "every resource": (rules.no_role_may_more_than_it_names, change(f"{STATEMENT}/Resource", "*")),
    "every table": (
        rules.no_role_may_more_than_it_names,
        change(f"{STATEMENT}/Resource", {"Fn::Sub": "arn:aws:dynamodb:${AWS::Region}:${AWS::AccountId}:table/*"}),
    ),
    "what it may not": (rules.no_role_may_more_than_it_names, change(f"{STATEMENT}/NotAction", "iam:PassRole")),
    "a managed policy": (
        rules.no_role_may_more_than_it_names,
        change("WorkerRole/Properties/ManagedPolicyArns", ["arn:aws:iam::aws:policy/AdministratorAccess"]),
    ),
    "a table that the key leaves out": (
        rules.the_deployers_key_encrypts_all_there_is,
        change("GuardsTable/Properties/SSESpecification/Fn::If/1/KMSMasterKeyId", None),
    ),
    "a log that the key leaves out": (
        rules.the_deployers_key_encrypts_all_there_is,
        change("WorkerLogGroup/Properties/KmsKeyId", None),
    ),
    "a key that a role may use by itself": (
        rules.each_role_may_use_the_deployers_key_for_what_it_does_and_while_there_is_one,
        change(f"{KEY_STATEMENT}/Condition", None),
    ),
    "a key for more than is done": (
        rules.each_role_may_use_the_deployers_key_for_what_it_does_and_while_there_is_one,
        change(f"{KEY_STATEMENT}/Action", ["kms:Decrypt", "kms:Encrypt"]),
    ),
    "any key": (
        rules.each_role_may_use_the_deployers_key_for_what_it_does_and_while_there_is_one,
        change(f"{KEY_STATEMENT}/Resource", {"Fn::Sub": "arn:aws:kms:${AWS::Region}:${AWS::AccountId}:key/1"}),
    ),
    "a key that there may not be": (
        rules.each_role_may_use_the_deployers_key_for_what_it_does_and_while_there_is_one,
        change("StatusKeyPolicy/Condition", None),
    ),
    "a role that cannot use the key": (
        rules.each_role_may_use_the_deployers_key_for_what_it_does_and_while_there_is_one,
        change("StatusKeyPolicy", None),
    ),
    "every key": (rules.no_role_may_more_than_it_names, change(f"{KEY_STATEMENT}/Resource", "*")),
    "a role for another account": (
        rules.lambda_alone_may_take_on_a_role,
        change("WorkerRole/Properties/AssumeRolePolicyDocument/Statement/0/Principal", {"AWS": "111122223333"}),
    ),
    "a function that the API may not call": (
        rules.api_gateway_alone_may_call_the_api_functions,
        change("StatusPermission", None),
    ),
    "a function that everyone may call": (
        rules.api_gateway_alone_may_call_the_api_functions,
        change("StatusPermission/Properties/Principal", "*"),
    ),
    "a route without a token": (
        rules.every_route_but_health_needs_a_token,
        change("TaskRoute/Properties/AuthorizationType", "NONE"),
    ),
    "a route without an authorizer": (
        rules.every_route_but_health_needs_a_token,
        change("TaskRoute/Properties/AuthorizerId", None),
    ),
    "tokens for anyone": (
        rules.every_route_but_health_needs_a_token,
        change("TokenAuthorizer/Properties/JwtConfiguration/Audience", []),
    ),
    "a key that is good long after it was revoked": (
        rules.every_route_but_health_needs_a_token,
        change("KeyAuthorizer/Properties/AuthorizerResultTtlInSeconds", 300),
    ),
    "a route of the OpenAI API without API keys": (
        rules.every_route_but_health_needs_a_token,
        change("OpenAiGetRoute/Properties/AuthorizationType", "JWT"),
    ),
    "a route that no handler has": (
        rules.the_routes_are_those_of_the_handlers,
        change("TaskRoute/Properties/RouteKey", "GET /chat/tasks/{task_id}"),
    ),
    "a handler's route that is missing": (rules.the_routes_are_those_of_the_handlers, change("CancelRoute", None)),
    "a route to the other function": (
        rules.the_routes_are_those_of_the_handlers,
        change("TaskRoute/Properties/Target", {"Fn::Sub": "integrations/${SubmitIntegration}"}),
    ),
    "a route key with a slash at its end": (
        rules.a_route_key_ends_in_no_slash,
        change("ChatRoute/Properties/RouteKey", "POST /chat/"),
    ),
    "preflights that the authorizer of $default answers": (
        rules.a_preflight_needs_no_token,
        change("PreflightRoute/Properties/RouteKey", "GET /{proxy+}"),
    ),
    "preflights with a token": (
        rules.a_preflight_needs_no_token,
        change("PreflightRoute/Properties/AuthorizationType", "JWT"),
    ),
    "two routes at once": (
        rules.routes_are_made_one_after_the_other_and_the_stage_last,
        change("UsageRoute/DependsOn", "TaskRoute"),
    ),
    "a stage before its routes": (
        rules.routes_are_made_one_after_the_other_and_the_stage_last,
        change("HttpApiStage/DependsOn", None),
    ),
    "a header that is not exposed": (
        rules.cors_lets_the_browser_see_and_send_our_headers,
        change(f"{CORS}/ExposeHeaders", ["location", "retry-after", "preference-applied"]),
    ),
    "a header that is not allowed": (
        rules.cors_lets_the_browser_see_and_send_our_headers,
        change(f"{CORS}/AllowHeaders", ["authorization", "content-type", "prefer"]),
    ),
    "a method that is not allowed": (
        rules.cors_lets_the_browser_see_and_send_our_headers,
        change(f"{CORS}/AllowMethods", ["GET", "OPTIONS"]),
    ),
    "a tracing header that is not allowed": (
        rules.cors_lets_the_browser_see_and_send_our_headers,
        globally("Parameters/AllowedHeaders/Default", "traceparent,tracestate,baggage"),
    ),
    "a client's text in the access log": (
        rules.a_line_of_the_access_log_stays_json_whatever_a_client_sends,
        change("HttpApiStage/Properties/AccessLogSettings/Fn::If/1/Format", '{"token":"$context.authorizer.error"}'),
    ),
    "users who write their claims": (
        rules.nobody_writes_a_claim_of_their_own_token,
        change("UserPoolClient/Properties/WriteAttributes", None),
    ),
    "cookies": (rules.cors_lets_the_browser_see_and_send_our_headers, change(f"{CORS}/AllowCredentials", True)),
    "a public URL without a bound": (
        rules.a_public_url_is_bounded_and_for_the_pages_of_the_api,
        change("StreamsFunction/Properties/ReservedConcurrentExecutions", None),
    ),
    "a public URL for other pages": (
        rules.a_public_url_is_bounded_and_for_the_pages_of_the_api,
        change("StreamsFunction/Properties/FunctionUrlConfig/Cors/AllowOrigins", ["*"]),
    ),
    "a public URL with cookies": (
        rules.a_public_url_is_bounded_and_for_the_pages_of_the_api,
        change("StreamsFunction/Properties/FunctionUrlConfig/Cors/AllowCredentials", True),
    ),
    "no TTL": (
        rules.every_table_forgets_and_recovers,
        change("GuardsTable/Properties/TimeToLiveSpecification", None),
    ),
    "TTL by another attribute": (
        rules.every_table_forgets_and_recovers,
        change("TurnsTable/Properties/TimeToLiveSpecification/AttributeName", "ttl"),
    ),
    "no recovery": (
        rules.every_table_forgets_and_recovers,
        change("TurnsTable/Properties/PointInTimeRecoverySpecification", None),
    ),
    "a table by AWS's key of the account": (
        rules.the_deployers_key_encrypts_all_there_is,
        change("TurnsTable/Properties/SSESpecification/Fn::If/2", {"SSEEnabled": True}),
    ),
    "a capacity": (
        rules.every_table_is_paid_by_the_request_and_has_no_index,
        change("TurnsTable/Properties/BillingMode", "PROVISIONED"),
    ),
    "an index": (
        rules.every_table_is_paid_by_the_request_and_has_no_index,
        change("TurnsTable/Properties/GlobalSecondaryIndexes", [{}]),
    ),
    "no encryption of a queue": (
        rules.every_queue_encrypts,
        change("TurnQueue/Properties/SqsManagedSseEnabled", {"Fn::If": ["UseKmsKey", False, False]}),
    ),
    "a bucket that may be public": (
        rules.a_bucket_is_nobody_elses_and_forgets,
        change(f"{BUCKET}/PublicAccessBlockConfiguration/BlockPublicPolicy", False),
    ),
    "a bucket without a block": (
        rules.a_bucket_is_nobody_elses_and_forgets,
        change(f"{BUCKET}/PublicAccessBlockConfiguration", None),
    ),
    "a bucket with ACLs": (rules.a_bucket_is_nobody_elses_and_forgets, change(f"{BUCKET}/OwnershipControls", None)),
    "a bucket that encrypts nothing": (
        rules.a_bucket_is_nobody_elses_and_forgets,
        change(f"{BUCKET}/BucketEncryption", None),
    ),
    "a bucket with versions": (
        rules.a_bucket_is_nobody_elses_and_forgets,
        change(f"{BUCKET}/VersioningConfiguration", {"Status": "Enabled"}),
    ),
    "a bucket that keeps for ever": (
        rules.a_bucket_is_nobody_elses_and_forgets,
        change(f"{BUCKET}/LifecycleConfiguration", None),
    ),
    "a bucket that forgets before the turns": (
        rules.a_bucket_is_nobody_elses_and_forgets,
        change(f"{LIFECYCLE}/ExpirationInDays", 6),
    ),
    "a rule that is off": (rules.a_bucket_is_nobody_elses_and_forgets, change(f"{LIFECYCLE}/Status", "Disabled")),
    "a bucket that keeps parts": (
        rules.a_bucket_is_nobody_elses_and_forgets,
        change(f"{LIFECYCLE}/AbortIncompleteMultipartUpload", None),
    ),
    "a bucket for every origin": (
        rules.a_bucket_is_nobody_elses_and_forgets,
        change(f"{BUCKET}/CorsConfiguration/CorsRules/0/AllowedOrigins", ["*"]),
    ),
    "a bucket that pages may read": (
        rules.a_bucket_is_nobody_elses_and_forgets,
        change(f"{BUCKET}/CorsConfiguration/CorsRules/0/AllowedMethods", ["GET", "POST"]),
    ),
    "a bucket without TLS": (rules.a_bucket_is_nobody_elses_and_forgets, change("MediaBucketPolicy", None)),
    "a bucket that allows": (
        rules.a_bucket_is_nobody_elses_and_forgets,
        change("MediaBucketPolicy/Properties/PolicyDocument/Statement/0/Effect", "Allow"),
    ),
    "a bucket that goes with the stack": (
        rules.the_deployer_says_what_becomes_of_the_data,
        change("MediaBucket/DeletionPolicy", None),
    ),
    "a bucket past the key": (
        rules.the_deployers_key_encrypts_all_there_is,
        change(f"{BUCKET}/BucketEncryption/ServerSideEncryptionConfiguration/0/ServerSideEncryptionByDefault", {}),
    ),
    "objects of any bucket": (
        rules.no_role_may_more_than_it_names,
        change(f"{STATEMENT}/Resource", {"Fn::Sub": "arn:aws:s3:::*/uploads/*"}),
    ),
    "data that goes with the stack": (
        rules.the_deployer_says_what_becomes_of_the_data,
        change("TurnsTable/DeletionPolicy", "Delete"),
    ),
    "data that goes with a replacement": (
        rules.the_deployer_says_what_becomes_of_the_data,
        change("TurnsTable/UpdateReplacePolicy", None),
    ),
    "data that goes by a Ref": (
        rules.the_deployer_says_what_becomes_of_the_data,
        change("UserPool/DeletionPolicy", {"Ref": "DataDeletionPolicy"}),
    ),
    "data that is kept whatever the deployer says": (
        rules.the_deployer_says_what_becomes_of_the_data,
        globally("Conditions/KeepData/Fn::Equals/0/Ref", "Architecture"),
    ),
    "data that goes by default": (
        rules.the_deployer_says_what_becomes_of_the_data,
        globally("Parameters/DataDeletionPolicy/Default", "Delete"),
    ),
    "a body that is text": (
        rules.the_dashboard_is_one_that_cloudwatch_takes,
        change("Dashboard/Properties/DashboardBody", {"Fn::Sub": "{"}),
    ),
    "another top key": (
        rules.the_dashboard_is_one_that_cloudwatch_takes,
        change("Dashboard/Properties/DashboardBody/Fn::ToJsonString/widget", []),
    ),
    "a widget without a place": (rules.the_dashboard_is_one_that_cloudwatch_takes, change(f"{WIDGET}/x", None)),
    "a widget off the grid": (rules.the_dashboard_is_one_that_cloudwatch_takes, change(f"{WIDGET}/x", 10)),
    "a widget of no type": (rules.the_dashboard_is_one_that_cloudwatch_takes, change(f"{WIDGET}/type", "graph")),
    "a widget without a region": (
        rules.the_dashboard_is_one_that_cloudwatch_takes,
        change(f"{WIDGET}/properties/region", None),
    ),
    "a widget on another": (rules.no_two_widgets_lie_on_each_other, change(f"{WIDGET}/y", 1)),
    "a metric that we do not emit": (rules.every_metric_that_is_watched_exists, change(f"{METRIC}/1", "TaskSubmited")),
    "a metric of another service": (rules.every_metric_that_is_watched_exists, change(f"{METRIC}/3", "turns")),
    "a metric with another dimension": (rules.every_metric_that_is_watched_exists, change(f"{METRIC}/2", "function")),
    "a metric that SQS has not": (rules.every_metric_that_is_watched_exists, change(f"{SQS_METRIC}/1", "QueueDepth")),
    "a metric by a dimension that SQS has not": (
        rules.every_metric_that_is_watched_exists,
        change(f"{SQS_METRIC}/2", "QueueArn"),
    ),
    "a metric of a queue by its name": (
        rules.every_metric_that_is_watched_exists,
        change(f"{SQS_METRIC}/3", "turns.fifo"),
    ),
    "a metric of another namespace": (rules.every_metric_that_is_watched_exists, change(f"{METRIC}/0", "TurnQueue")),
    "an alarm over what we do not emit": (
        rules.every_metric_that_is_watched_exists,
        change(f"{ALARM}/MetricName", "TaskDeadlettered"),
    ),
    "an alarm with another dimension": (
        rules.every_metric_that_is_watched_exists,
        change(f"{ALARM}/Dimensions/0/Name", "Service"),
    ),
    "an alarm over a metric of REST APIs": (
        rules.every_metric_that_is_watched_exists,
        change("Api5xxAlarm/Properties/Metrics/1/MetricStat/Metric/MetricName", "5XXError"),
    ),
    "an average for a share": (
        rules.a_share_of_requests_is_no_average,
        change("Api5xxAlarm/Properties/Metrics/1/MetricStat/Stat", "Average"),
    ),
    "an alarm that takes an average for a share": (
        rules.a_share_of_requests_is_no_average,
        change(ALARM, {"Namespace": "AWS/ApiGateway", "MetricName": "5xx", "Statistic": "Average"}),
    ),
    "metric math in every account": (
        rules.what_the_emulated_account_cannot_hold_is_under_a_condition,
        change("Api5xxAlarm/Condition", None),
    ),
    "a metric that nobody watches": (
        rules.every_metric_of_ours_is_watched,
        change("Dashboard/Properties/DashboardBody/Fn::ToJsonString/widgets/9", None),
    ),
    "an alarm that tells nobody": (
        rules.every_alarm_tells_the_deployer_when_it_rings_and_when_it_is_over,
        change(f"{ALARM}/AlarmActions", None),
    ),
    "an alarm over alarms that are not there": (
        rules.every_alarm_tells_the_deployer_when_it_rings_and_when_it_is_over,
        change("OutageAlarm/Properties/AlarmRule", {"Fn::Sub": 'ALARM("${OldMessageAlarm}")'}),
    ),
    "an alarm that leaves it open what silence means": (
        rules.every_alarm_tells_the_deployer_when_it_rings_and_when_it_is_over,
        change(f"{ALARM}/TreatMissingData", None),
    ),
    "an alarm that is not on the dashboard": (
        rules.the_dashboard_shows_every_alarm_that_tells,
        change("Dashboard/Properties/DashboardBody/Fn::ToJsonString/widgets/0/properties/alarms/Fn::If/1/0", None),
    ),
    "an alarm over alarms in every account": (
        rules.what_the_emulated_account_cannot_hold_is_under_a_condition,
        change("OutageAlarm/Condition", None),
    ),
    "an alarm's own name": (rules.nothing_has_a_physical_name, change(f"{ALARM}/AlarmName", "dead-letters")),
    "a duration that the worker never reaches": (
        rules.the_alarms_fit_what_they_watch,
        change("WorkerDurationAlarm/Properties/Threshold", 175_000),
    ),
    "an age past the deadline": (
        rules.the_alarms_fit_what_they_watch,
        change("OldestMessageAlarm/Properties/Threshold", 900),
    ),
    "a letter's first stay": (
        rules.the_alarms_fit_what_they_watch,
        change("StuckDeadLetterAlarm/Properties/Threshold", 180),
    ),
    "a period shorter than a malformed message's stay": (
        rules.the_alarms_fit_what_they_watch,
        change("MalformedMessageAlarm/Properties/Period", 60),
    ),
    "a success every minute": (
        rules.the_alarms_fit_what_they_watch,
        change("NoSuccessAlarm/Properties/Period", 60),
    ),
}


@cache
def real() -> Template:
    return cfn.template()


@pytest.mark.parametrize("check", rules.RULES, ids=lambda check: check.__name__)
def test_the_template_keeps_the_rule(check: Rule) -> None:
    assert list(check(real())) == []


@pytest.mark.parametrize(("check", "breach"), BREACHES.values(), ids=BREACHES)
def test_a_breach_is_seen(check: Rule, breach: Callable[[Template], None]) -> None:
    template = copy.deepcopy(real())
    breach(template)

    assert list(check(template)) != []


def test_every_rule_was_seen_to_be_broken() -> None:
    assert {check.__name__ for check, _ in BREACHES.values()} == {check.__name__ for check in rules.RULES}


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
