"""Rules of template.yaml that the linters do not check. A rule gets a template and returns its errors."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from development import cfn
from development.cfn import target
from turnqueue.telemetry import METRICS

type Template = dict[str, Any]
type Rule = Callable[[Template], Iterator[str]]

NO_VALUE = {"Ref": "AWS::NoValue"}
KEY = {"Fn::If": ["UseKmsKey", {"Ref": "KmsKeyArn"}, NO_VALUE]}
HTTP_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
BY_DEFAULT = {"POST /chat/"}
"""What $default answers: the function that it leads to finds it by method and path."""
WITHOUT_A_TOKEN = ("GET /health", "HEAD /health", "OPTIONS /{proxy+}")
DEADLINE_SECONDS = 15 * 60
LONGEST_ANSWER_SECONDS = 3 * 60

MAX_ATTEMPTS = 3
LONGEST_DEADLINE_SECONDS = 720 * 60

type Breach = tuple[str, Any]
"""A path in the resources, or in the template after a slash, and the value that it gets. None removes it."""

RULES: dict[Rule, tuple[Breach, ...]] = {}
"""Each rule, and changes of the template that break it."""


def rule(*breaches: Breach) -> Callable[[Rule], Rule]:
    """Decorates a rule, so that it is tested, and seen to be broken by each of these changes."""

    def register(check: Rule) -> Rule:
        RULES[check] = breaches
        return check

    return register


WORKER = "WorkerFunction/Properties"
TRIGGER = f"{WORKER}/Events/Turns/Properties"
STATEMENT = "WorkerRole/Properties/Policies/0/PolicyDocument/Statement/0"
KEY_STATEMENT = "StatusKeyPolicy/Properties/PolicyDocument/Statement/0"
WIDGETS = "Dashboard/Properties/DashboardBody/Fn::ToJsonString/widgets"
WIDGET = f"{WIDGETS}/1"
METRIC = f"{WIDGET}/properties/metrics/0"
SQS_METRIC = f"{WIDGETS}/2/properties/metrics/0"
ALARM = "DeadLetterAlarm/Properties"
CORS = "HttpApi/Properties/CorsConfiguration"


# ---- Reading a template


def properties(template: Template, kind: str) -> dict[str, dict[str, Any]]:
    """As the parameters' defaults have it."""
    return {
        name: cfn.resolved(resource.get("Properties", {}), template)
        for name, resource in template["Resources"].items()
        if resource["Type"] == kind
    }


def functions(template: Template) -> dict[str, dict[str, Any]]:
    return properties(template, "AWS::Serverless::Function")


def queues(template: Template) -> dict[str, dict[str, Any]]:
    return properties(template, "AWS::SQS::Queue")


def queue_events(template: Template) -> Iterator[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """For each SQS trigger its name, the function, the properties of the trigger, and the queue."""
    for name, function in functions(template).items():
        for event in function.get("Events", {}).values():
            if event["Type"] == "SQS":
                trigger = event["Properties"]
                yield name, function, trigger, queues(template)[target(trigger["Queue"])]


def number(template: Template, value: Any) -> Any:
    """A number, or the least that its parameter can be."""
    if isinstance(value, dict):
        parameter = template["Parameters"][value["Ref"]]
        return min(parameter["Default"], parameter.get("MinValue", 0))
    return int(value)


def short(function: dict[str, Any]) -> str:
    """The name by which a function's folder goes."""
    return Path(function["CodeUri"]).name


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value below, with the names that lead to it."""
    yield path, value
    children: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from walk(child, f"{path}.{name}")


# ---- Reading the code


@cache
def trees(function: str) -> list[ast.Module]:
    return [ast.parse(path.read_text()) for path in sorted((cfn.ROOT / "functions" / function).glob("*.py"))]


@cache
def layer() -> list[ast.Module]:
    return [ast.parse(path.read_text()) for path in sorted((cfn.ROOT / "layers/shared/turnqueue").glob("*.py"))]


def nodes(modules: list[ast.Module]) -> Iterator[ast.AST]:
    for module in modules:
        yield from ast.walk(module)


def texts(node: ast.AST) -> set[str]:
    return {inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant) and isinstance(inner.value, str)}


def routes_in_code(function: str) -> set[str]:
    pattern = rf"(?:{'|'.join(HTTP_METHODS)}) /\S*"
    return {text for tree in trees(function) for text in texts(tree) if re.fullmatch(pattern, text)}


def environment_in_code(function: str) -> set[str]:
    modules = trees(function)
    if any("ModelBreakers" in ast.unparse(module) for module in modules):
        modules = [*modules, ast.parse((cfn.ROOT / "layers/shared/turnqueue/circuit_breaker.py").read_text())]
    return {
        node.slice.value
        for node in nodes(modules)
        if isinstance(node, ast.Subscript)
        and ast.unparse(node.value) in ("os.environ", "environment", "variables")
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
    }


@cache
def headers_sent() -> set[str]:
    """The names in the handlers' dictionaries, and set in one, that are headers of a response."""
    http = ast.parse((cfn.ROOT / "layers/shared/turnqueue/http.py").read_text())
    keys: list[ast.expr | None] = []
    for node in nodes([*trees("submit"), *trees("status"), http]):
        if isinstance(node, ast.Dict):
            keys += node.keys
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            keys.append(node.slice)
    names = {text for key in keys if key for text in texts(key)}
    return {name.lower() for name in names if re.fullmatch(r"[A-Z][a-z]+(-[A-Z][a-z]+)*", name)}


@cache
def headers_read() -> set[str]:
    stream = ast.parse((cfn.ROOT / "layers/shared/turnqueue/stream.py").read_text())
    return {
        text
        for node in nodes([*trees("submit"), *trees("status"), stream])
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "header"
        for text in texts(node.args[1])
    }


# ---- Queues and their triggers


@rule(
    ("TurnQueue/Properties/VisibilityTimeout", 900),
    (f"{WORKER}/Timeout", 401),
    ("DeadLetterQueue/Properties/VisibilityTimeout", None),
)
def visibility_outlasts_the_function_not_the_deadline(template: Template) -> Iterator[str]:
    """Lambda demands the first; docs/decisions.md says why it is not six times the time-out."""
    given = functions(template)["SubmitFunction"]["Environment"]["Variables"]["DEADLINE_MINUTES"]
    deadline = DEADLINE_SECONDS if isinstance(given, dict) else 60 * int(given)
    for name, function, _, queue in queue_events(template):
        if queue.get("VisibilityTimeout", 30) < function["Timeout"] + 20:
            yield f"{name}: its queue's visibility timeout is hardly longer than its own"
        if queue.get("VisibilityTimeout", 30) + 2 * LONGEST_ANSWER_SECONDS >= deadline:
            yield f"{name}: after a crash no time is left for two answers"


@rule(
    (f"{TRIGGER}/BatchSize", 11),
    (f"{TRIGGER}/MaximumBatchingWindowInSeconds", 1),
    (f"{TRIGGER}/FunctionResponseTypes", None),
    (f"{TRIGGER}/ProvisionedPollerConfig", {"MinimumPollers": 2}),
    ("TurnQueue/Properties/ContentBasedDeduplication", True),
    ("DeadletterFunction/Properties/Events/DeadLetters/Properties/ScalingConfig/MaximumConcurrency", 1),
    ("/Parameters/WorkerConcurrency/MinValue", 1),
)
def a_trigger_loses_no_message(template: Template) -> Iterator[str]:
    for name, _, trigger, queue in queue_events(template):
        if queue.get("ContentBasedDeduplication"):
            yield f"{name}: its queue drops messages because of their content"
        if trigger.get("BatchSize", 10) > 10 or "MaximumBatchingWindowInSeconds" in trigger:
            yield f"{name}: a FIFO queue has no batches of more than 10 and no batching window"
        if trigger.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
            yield f"{name}: a failed message fails its whole batch"
        if not 2 <= number(template, trigger["ScalingConfig"]["MaximumConcurrency"]) <= 1000:
            yield f"{name}: MaximumConcurrency is not from 2 to 1000"
        if "ProvisionedPollerConfig" in trigger:
            yield f"{name}: MaximumConcurrency and provisioned pollers exclude each other"


@rule(
    ("TurnQueue/Properties/RedrivePolicy", None),
    ("TurnQueue/Properties/RedrivePolicy/maxReceiveCount", 3),
    ("TurnQueue/Properties/MessageRetentionPeriod", 600),
    ("DeadLetterQueue/Properties/MessageRetentionPeriod", 3600),
    ("DeadletterFunction/Properties/Events", {}),
)
def every_message_is_kept_and_read(template: Template) -> Iterator[str]:
    """SQS gives up on a message after the worker does, and keeps it longer than the longest deadline."""
    turns, dead = (queues(template)[name] for name in ("TurnQueue", "DeadLetterQueue"))
    if at(turns, "RedrivePolicy/deadLetterTargetArn") != {"Fn::GetAtt": "DeadLetterQueue.Arn"}:
        yield "dead letters go nowhere"
    elif turns["RedrivePolicy"]["maxReceiveCount"] < MAX_ATTEMPTS + 2:
        yield "SQS gives up before the worker does"
    if not 2 * LONGEST_DEADLINE_SECONDS <= turns["MessageRetentionPeriod"] <= dead["MessageRetentionPeriod"]:
        yield "SQS forgets messages of open tasks, or dead letters before messages"
    yield from set(queues(template)) - {target(trigger["Queue"]) for _, _, trigger, _ in queue_events(template)}


# ---- Names


ANY = object()
SETTINGS: dict[str, dict[str, Any]] = {
    "AWS::ApiGatewayV2::Api": {"Name": {"Ref": "AWS::StackName"}},
    "AWS::ApiGatewayV2::Authorizer": {"IdentitySource": ["$request.header.Authorization"]},
    "AWS::ApiGatewayV2::Stage": {
        "AccessLogSettings": ANY,
        "DefaultRouteSettings/ThrottlingBurstLimit": ANY,
        "DefaultRouteSettings/ThrottlingRateLimit": ANY,
    },
    "AWS::CloudWatch::Dashboard": {"DashboardName": None},
    "AWS::Cognito::UserPool": {"UserPoolName": None},
    # By default the users may write every attribute, and so the claims of their tokens.
    "AWS::Cognito::UserPoolClient": {"ClientName": None, "WriteAttributes": ["name"]},
    "AWS::DynamoDB::Table": {
        "BillingMode": "PAY_PER_REQUEST",
        "GlobalSecondaryIndexes": None,
        "LocalSecondaryIndexes": None,
        "SSESpecification": {
            "Fn::If": [
                "UseKmsKey",
                {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": {"Ref": "KmsKeyArn"}},
                NO_VALUE,
            ]
        },
        "TableName": None,
        "TimeToLiveSpecification": {"AttributeName": "expires_at", "Enabled": True},
    },
    "AWS::IAM::Role": {
        "AssumeRolePolicyDocument/Statement": [
            {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ],
        "ManagedPolicyArns": None,
        "RoleName": None,
    },
    "AWS::Lambda::Permission": {"Principal": "apigateway.amazonaws.com", "SourceArn": ANY},
    "AWS::Logs::LogGroup": {"KmsKeyId": KEY, "LogGroupName": None, "RetentionInDays": {"Ref": "LogRetentionDays"}},
    "AWS::S3::Bucket": {
        **{
            f"PublicAccessBlockConfiguration/{name}": True
            for name in ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
        },
        "BucketEncryption/ServerSideEncryptionConfiguration/0/ServerSideEncryptionByDefault": {
            "SSEAlgorithm": {"Fn::If": ["UseKmsKey", "aws:kms", "AES256"]},
            "KMSMasterKeyID": KEY,
        },
        "BucketName": None,
        "CorsConfiguration/CorsRules/0/AllowedMethods": ["POST"],
        "CorsConfiguration/CorsRules/0/AllowedOrigins": {"Ref": "AllowedOrigins"},
        "LifecycleConfiguration/Rules/0/AbortIncompleteMultipartUpload": ANY,
        "LifecycleConfiguration/Rules/0/ExpirationInDays": 8,  # an image comes up to a day before its turn, of 7 days
        "LifecycleConfiguration/Rules/0/Status": "Enabled",
        "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
        "VersioningConfiguration": None,
    },
    "AWS::S3::BucketPolicy": {
        "Bucket": {"Ref": "MediaBucket"},
        "PolicyDocument/Statement": [
            {
                "Sid": "TlsOnly",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [{"Fn::GetAtt": "MediaBucket.Arn"}, {"Fn::Sub": "${MediaBucket.Arn}/*"}],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ],
    },
    "AWS::SQS::Queue": {
        "DeduplicationScope": "messageGroup",
        "FifoQueue": True,
        "FifoThroughputLimit": "perMessageGroupId",
        "KmsMasterKeyId": KEY,
        "QueueName": None,
        "SqsManagedSseEnabled": {"Fn::If": ["UseKmsKey", NO_VALUE, True]},
    },
    "AWS::Serverless::Function": {"AutoPublishAliasAllProperties": True, "FunctionName": None, "Policies": None},
    "AWS::Serverless::LayerVersion": {"LayerName": None, "PublishLambdaVersion": True},
}
"""The required setting at each path in the properties of a resource, by the resource's type. ANY: the path exists, with
any value. None: the path must not exist.

Nothing has a name, so an account can hold many stacks, and CloudFormation can replace a resource. Everything that can
be encrypted is encrypted by the deployer's key, if there is one.
"""


def at(value: Any, path: str) -> Any:
    """The value at the path, or None if the path does not exist."""
    for name in path.split("/"):
        if isinstance(value, list):
            value = dict(enumerate(value)).get(int(name))
        else:
            value = value.get(name) if isinstance(value, dict) else None
    return value


@rule(("MediaBucketPolicy", None))
def every_resource_has_its_settings(template: Template) -> Iterator[str]:
    """test_template.py changes each setting."""
    for kind, settings in SETTINGS.items():
        found = properties(template, kind)
        if not found:
            yield f"there is no {kind}"
        for name, given in found.items():
            for path, wanted in settings.items():
                if at(given, path) != wanted and (wanted is not ANY or at(given, path) is None):
                    yield f"{name}: {path}"


@rule((f"{ALARM}/AlarmName", "dead-letters"))
def an_alarm_is_named_after_its_stack(template: Template) -> Iterator[str]:
    """People read the names at night."""
    for name, alarm in alarms(template).items():
        if not re.fullmatch(r"\$\{AWS::StackName\}-[a-z0-9-]+", at(alarm, "AlarmName/Fn::Sub") or ""):
            yield name


# ---- Functions


@rule(("StatusFunction", None), (f"{WORKER}/Handler", "work.handler"), (f"{WORKER}/CodeUri", "functions/workers/"))
def every_folder_is_a_function(template: Template) -> Iterator[str]:
    yield from {path.parent.name for path in (cfn.ROOT / "functions").glob("*/*.py")} ^ {
        short(function) for function in functions(template).values()
    }
    for name, function in functions(template).items():
        if function["Handler"] != f"{short(function)}.handler":
            yield f"{name}: {function['Handler']}"


OF_THE_RUNTIME = {"AWS_LAMBDA_EXEC_WRAPPER", "AWS_LAMBDA_RUNTIME_API", "LAMBDA_RUNTIME_DIR", "_HANDLER"}
"""Lambda reads the first, and gives the others to a runtime client."""
OF_THE_LIBRARIES = {
    *("POWERTOOLS_SERVICE_NAME", "POWERTOOLS_METRICS_NAMESPACE", "POWERTOOLS_LOG_LEVEL", "PYDANTIC_DISABLE_PLUGINS")
}


@rule(
    (f"{WORKER}/Environment/Variables/MODEL_NAME", None),
    (f"{WORKER}/Environment/Variables/OWNER_LIMITS", {"Ref": "OwnerLimits"}),
    ("/Globals/Function/Environment/Variables/POWERTOOLS_METRICS_NAMESPACE", None),
    ("/Globals/Function/Environment/Variables/POWERTOOLS_LOGGER_LOG_EVENT", "true"),  # prompts in the log
)
def the_template_gives_the_environment_that_the_code_reads(template: Template) -> Iterator[str]:
    everyones = set(template["Globals"]["Function"]["Environment"]["Variables"])
    yield from everyones - OF_THE_LIBRARIES - environment_in_code("submit")
    yield from OF_THE_LIBRARIES - everyones
    for name, function in functions(template).items():
        own = set(function.get("Environment", {}).get("Variables", {})) - OF_THE_RUNTIME
        read = environment_in_code(short(function)) - OF_THE_RUNTIME
        for variable in sorted(read - everyones - own):
            yield f"{name}: reads {variable}, which the template does not give"
        for variable in sorted(own - read):
            yield f"{name}: is given {variable}, which it does not read"


def parameters_in(value: Any, template: Template) -> set[str]:
    """The names of the parameters to which a value refers, itself or by a condition."""
    referred = {inner["Ref"] for _, inner in walk(value) if isinstance(inner, dict) and "Ref" in inner}
    for _, inner in walk(value):
        if isinstance(inner, dict) and "Fn::Sub" in inner:
            referred |= set(re.findall(r"\$\{([\w:]+)\}", json.dumps(inner)))
        if isinstance(inner, dict) and "Fn::If" in inner:
            referred |= parameters_in(template["Conditions"][inner["Fn::If"][0]], template)
    return referred & set(template["Parameters"])


# SAM hashes these into the name of a version, and Lambda does not keep them with it. Lambda publishes no version if
# nothing that it keeps has changed, and CloudFormation rolls back.
HASHED_AND_NOT_HELD = (
    *("CodeSigningConfigArn", "RecursiveLoop", "ReservedConcurrentExecutions", "RuntimeManagementConfig", "Tags"),
)


@rule(
    ("StatusFunction/Properties/Description", None),
    (f"{WORKER}/Description", {"Fn::If": ["ReserveWorker", "reserved", NO_VALUE]}),
    ("/Globals/Function/Tags", {"team": "chat"}),
)
def the_description_changes_with_what_a_version_does_not_hold(template: Template) -> Iterator[str]:
    for name, function in functions(template).items():
        given = template["Globals"]["Function"] | function
        described = parameters_in(given.get("Description"), template)
        for each in HASHED_AND_NOT_HELD:
            used = parameters_in(given.get(each), template)
            if each in given and (not used or used - described):
                yield f"{name}: Description does not change with {each}"


MOST_OF_AN_ENVIRONMENT = 4096  # characters of JSON, Lambda's limit
LONGEST_NAME = 160  # of a table, whose name begins with that of the stack (128); a queue's URL is shorter


@rule(("/Parameters/ModelBaseUrl/MaxLength", None), ("/Parameters/ModelPrices/MaxLength", 3000))
def the_environment_fits_whatever_the_parameters(template: Template) -> Iterator[str]:
    def longest(value: Any) -> str:
        if isinstance(value, str):
            return value
        if "Fn::If" in value:
            return max(map(longest, value["Fn::If"][1:]), key=len)
        if "Fn::Sub" in value:  # a region, a suffix and an id
            return "x" * LONGEST_NAME
        parameter = template["Parameters"].get(value["Ref"], {"MaxLength": LONGEST_NAME})
        allowed = max(map(len, [*parameter.get("AllowedValues", ()), str(parameter.get("MaxValue", ""))]))
        return "x" * int(allowed or parameter.get("MaxLength", MOST_OF_AN_ENVIRONMENT))

    everyones = template["Globals"]["Function"]["Environment"]["Variables"]
    for name, function in functions(template).items():
        given = everyones | function.get("Environment", {}).get("Variables", {})
        length = len(json.dumps({variable: longest(value) for variable, value in given.items()}))
        if length > MOST_OF_AN_ENVIRONMENT:
            yield f"{name}: {length} characters"


@rule(("/Conditions/BoundApi/Fn::Not/0/Fn::Equals/1", 0), ("/Parameters/ApiConcurrency/Type", "Number"))
def a_condition_compares_text_with_text(template: Template) -> Iterator[str]:
    """A transform may compare types, too, and nobody says whether it gets a parameter of type Number as text."""
    for name, condition in template["Conditions"].items():
        for _, part in walk(condition):
            for compared in part.get("Fn::Equals", []) if isinstance(part, dict) else []:
                parameter = template["Parameters"].get(compared["Ref"], {}) if isinstance(compared, dict) else {}
                if not isinstance(compared, str | dict) or parameter.get("Type", "String") != "String":
                    yield f"{name}: compares {compared}"


def json_strings(template: Template) -> Iterator[tuple[str, Any]]:
    """Each part of what Fn::ToJsonString makes a text of, with its path."""
    for path, part in walk(template["Resources"]):
        if isinstance(part, dict) and "Fn::ToJsonString" in part:
            yield from walk(part["Fn::ToJsonString"], path)


@rule(
    (METRIC, {"Fn::If": ["EstimateCost", ["Turnqueue", "MicroDollars"], NO_VALUE]}),
    (f"{METRIC}/1", {"Fn::Sub": "${AWS::StackName}\nTaskSubmitted"}),
    (f"{METRIC}/1", {"Fn::Sub": '"${AWS::StackName}"'}),
)
def what_becomes_json_is_complete_and_needs_no_escape(template: Template) -> Iterator[str]:
    """In Fn::ToJsonString AWS::NoValue becomes null, and CloudFormation puts the text of an Fn::Sub in as it is."""
    for path, part in json_strings(template):
        if part == NO_VALUE or (
            isinstance(part, dict) and "Fn::Sub" in part and re.search(r'["\\\x00-\x1f]', part["Fn::Sub"])
        ):
            yield path


@rule((f"{WORKER}/SnapStart/ApplyOn", "PublishedVersions"), ("SubmitFunction/Properties/SnapStart", None))
def who_is_waited_for_starts_from_a_snapshot_if_asked_to(template: Template) -> Iterator[str]:
    """Nobody waits for a dead letter, few requests for the authorizer or a new stream. A snapshot is paid for by the
    month."""
    without = ("deadletter", "authorizer", "streams")
    for name, function in functions(template).items():
        wanted = {"ApplyOn": {"Fn::If": ["StartFromSnapshot", "PublishedVersions", "None"]}}
        if function.get("SnapStart") != (None if short(function) in without else wanted):
            yield f"{name}: {function.get('SnapStart')}"


@rule(
    ("/Globals/Function/AutoPublishAlias", None),
    ("SubmitIntegration/Properties/IntegrationUri", {"Fn::GetAtt": "SubmitFunction.Arn"}),
    ("SubmitPermission/Properties/FunctionName", {"Ref": "SubmitFunction"}),
)
def traffic_goes_to_the_alias(template: Template) -> Iterator[str]:
    if template["Globals"]["Function"].get("AutoPublishAlias") != "live":
        yield "there is none"
    for kind, called in (("ApiGatewayV2::Integration", "IntegrationUri"), ("Lambda::Permission", "FunctionName")):
        for name, caller in properties(template, f"AWS::{kind}").items():
            if not caller[called].get("Ref", "").endswith(".Alias"):
                yield f"{name}: calls the function past its alias"


@rule((f"{WORKER}/ReservedConcurrentExecutions/Fn::If/1", 5))
def what_is_reserved_for_the_worker_is_what_it_may_use(template: Template) -> Iterator[str]:
    """Less would make Lambda's pollers count throttled receives; more would be kept from everybody for nothing."""
    for name, function, trigger, _ in queue_events(template):
        reserved = function.get("ReservedConcurrentExecutions")
        if reserved and reserved["Fn::If"][1:] != [trigger["ScalingConfig"]["MaximumConcurrency"], NO_VALUE]:
            yield f"{name}: reserves {reserved['Fn::If'][1]}"


@rule(("SubmitFunction/Properties/Timeout", 30), ("StatusIntegration/Properties/TimeoutInMillis", 20_000))
def the_api_answers_before_api_gateway_gives_up(template: Template) -> Iterator[str]:
    for name, function in functions(template).items():
        if routes_in_code(short(function)) and function["Timeout"] >= 30:
            yield f"{name}: runs longer than API Gateway waits"
    for name, integration in properties(template, "AWS::ApiGatewayV2::Integration").items():
        timeout = functions(template)[target(integration["IntegrationUri"])]["Timeout"]
        if integration.get("TimeoutInMillis", 30_000) <= timeout * 1000:
            yield f"{name}: does not wait for its function"


# ---- Permissions


@rule(
    (f"{WORKER}/Role", None),
    (f"{WORKER}/Role", {"Fn::GetAtt": "SubmitRole.Arn"}),
    (f"{WORKER}/LoggingConfig", None),
    (f"{WORKER}/LoggingConfig", {"LogGroup": {"Ref": "SubmitLogGroup"}}),
)
def every_function_has_a_role_and_a_log_group_of_its_own(template: Template) -> Iterator[str]:
    for path in ("Role", "LoggingConfig/LogGroup"):
        used = [target(at(function, path) or {"Ref": "none"}) for function in functions(template).values()]
        for name, resource in zip(functions(template), used, strict=True):
            if resource not in template["Resources"] or used.count(resource) > 1:
                yield f"{name}: {path} is {resource}"


OBJECTS = ("${MediaBucket.Arn}/uploads/*", "${MediaBucket.Arn}/uploads/*/data/*")
"""The one place where nobody knows the names: uploads, and the data URLs below each owner's prefix."""


@rule(
    (f"{STATEMENT}/Action", ["dynamodb:Get*"]),
    (f"{STATEMENT}/Resource", "*"),
    (f"{STATEMENT}/Resource", {"Fn::Sub": "arn:aws:dynamodb:${AWS::Region}:${AWS::AccountId}:table/*"}),
    (f"{STATEMENT}/Resource", {"Fn::Sub": "arn:aws:s3:::*/uploads/*"}),
    (f"{STATEMENT}/NotAction", "iam:PassRole"),
    (f"{KEY_STATEMENT}/Resource", "*"),
)
def no_role_may_more_than_it_names(template: Template) -> Iterator[str]:
    for name, given in (properties(template, "AWS::IAM::Role") | properties(template, "AWS::IAM::Policy")).items():
        for statement in cfn.statements(given):
            if statement["Effect"] != "Allow" or {"NotAction", "NotResource"} & set(statement):
                yield f"{name}: names what it may not"
            for _, value in [*walk(statement["Action"]), *walk(statement["Resource"])]:
                if isinstance(value, str) and "*" in value and value not in OBJECTS:
                    yield f"{name}: {value}"


@rule(
    (f"{KEY_STATEMENT}/Condition", None),
    (f"{KEY_STATEMENT}/Action", ["kms:Decrypt", "kms:Encrypt"]),
    (f"{KEY_STATEMENT}/Resource", {"Fn::Sub": "arn:aws:kms:${AWS::Region}:${AWS::AccountId}:key/1"}),
    ("StatusKeyPolicy/Condition", None),
    ("StatusKeyPolicy", None),
)
def each_role_may_use_the_deployers_key_for_what_it_does_and_while_there_is_one(template: Template) -> Iterator[str]:
    """Who sends to an encrypted queue, or puts an object, needs a data key; who does that, or receives, reads an
    object or calls a table, Decrypt. Neither by calling KMS itself."""
    policies = {
        name: policy
        for name, policy in properties(template, "AWS::IAM::Policy").items()
        if any("kms:" in action for each in cfn.statements(policy) for action in cfn.listed(each["Action"]))
    }
    roles = properties(template, "AWS::IAM::Role")
    for name, policy in policies.items():
        # EncryptStreams: the role has a condition, too
        if template["Resources"][name].get("Condition") not in ("UseKmsKey", "EncryptStreams"):
            yield f"{name}: is always there"
        (role,), (statement,) = map(target, policy["Roles"]), cfn.statements(policy)
        called = {action for each in cfn.statements(roles[role]) for action in cfn.listed(each["Action"])}
        services = {action.partition(":")[0] for action in called} - {"lambda", "logs"}
        needed = {"kms:Decrypt"} | ({"kms:GenerateDataKey"} if called & {"sqs:SendMessage", "s3:PutObject"} else set())
        if set(cfn.listed(statement["Action"])) != needed or statement["Resource"] != {"Ref": "KmsKeyArn"}:
            yield f"{name}: allows other actions than {needed}"
        via = statement.get("Condition", {}).get("StringEquals", {}).get("kms:ViaService", [])
        if [text["Fn::Sub"] for text in via] != [f"{each}.${{AWS::Region}}.amazonaws.com" for each in sorted(services)]:
            yield f"{name}: is not for {services}"
    yield from sorted(set(roles) - {target(policy["Roles"][0]) for policy in policies.values()})


@rule(
    ("WorkerFallbackKeyPolicy/Condition", None),
    ("WorkerFallbackKeyPolicy/Properties/PolicyDocument/Statement/0/Resource", {"Ref": "ModelKeySecretArn"}),
)
def the_worker_may_use_the_fallback_while_there_is_one(template: Template) -> Iterator[str]:
    for name, policy in properties(template, "AWS::IAM::Policy").items():
        (statement,) = cfn.statements(policy)
        if any("kms:" in action for action in cfn.listed(statement["Action"])):
            continue
        given = (template["Resources"][name].get("Condition"), policy["Roles"], statement)
        secret = {"Action": "secretsmanager:GetSecretValue", "Resource": {"Ref": "FallbackKeySecretArn"}}
        if given != ("UseFallbackKey", [{"Ref": "WorkerRole"}], {"Effect": "Allow"} | secret):
            yield f"{name}: allows {given}"


@rule(("StatusPermission", None))
def api_gateway_may_call_the_functions_of_the_api(template: Template) -> Iterator[str]:
    allowed = {target(each["FunctionName"]) for each in properties(template, "AWS::Lambda::Permission").values()}
    called = {
        target(integration["IntegrationUri"])
        for integration in properties(template, "AWS::ApiGatewayV2::Integration").values()
    }
    for authorizer in properties(template, "AWS::ApiGatewayV2::Authorizer").values():
        called |= set(re.findall(r'"Ref": "(\w+)\.Alias"', json.dumps(authorizer.get("AuthorizerUri"))))
    yield from sorted(allowed ^ called)


# ---- Routes


@rule(
    ("TaskRoute/Properties/AuthorizationType", "NONE"),
    ("TaskRoute/Properties/AuthorizerId", None),
    ("TokenAuthorizer/Properties/JwtConfiguration/Audience", []),
    ("KeyAuthorizer/Properties/AuthorizerResultTtlInSeconds", 300),
    ("OpenAiGetRoute/Properties/AuthorizationType", "JWT"),
)
def every_route_but_health_needs_a_token(template: Template) -> Iterator[str]:
    authorizers = properties(template, "AWS::ApiGatewayV2::Authorizer")
    for name, route in properties(template, "AWS::ApiGatewayV2::Route").items():
        if route["RouteKey"] in WITHOUT_A_TOKEN:
            continue
        authorizer = route.get("AuthorizerId")
        known = authorizers.get(target(authorizer)) if authorizer else None
        wanted = "CUSTOM" if " /v1/" in route["RouteKey"] else "JWT"
        kind = {"JWT": "JWT", "REQUEST": "CUSTOM"}[known["AuthorizerType"]] if known else None
        if route.get("AuthorizationType") != wanted or kind != wanted:
            yield f"{name}: anybody may call {route['RouteKey']}"
    for name, authorizer in authorizers.items():
        if authorizer["AuthorizerType"] == "JWT" and not authorizer["JwtConfiguration"].get("Audience"):
            yield f"{name}: takes the tokens of others"
        if authorizer.get("AuthorizerResultTtlInSeconds", 0) > 60:
            yield f"{name}: takes a revoked key for longer than a minute"


@rule(
    ("TaskRoute/Properties/RouteKey", "GET /chat/tasks/{task_id}"),
    ("CancelRoute", None),
    ("TaskRoute/Properties/Target", {"Fn::Sub": "integrations/${SubmitIntegration}"}),
)
def the_routes_are_those_of_the_handlers(template: Template) -> Iterator[str]:
    integrations = properties(template, "AWS::ApiGatewayV2::Integration")
    routed: dict[str, set[str]] = {}
    for route in properties(template, "AWS::ApiGatewayV2::Route").values():
        integration = re.fullmatch(r"integrations/\$\{(\w+)\}", route["Target"]["Fn::Sub"])
        assert integration
        routed.setdefault(target(integrations[integration[1]]["IntegrationUri"]), set()).add(route["RouteKey"])
    for name, function in functions(template).items():
        keys = routed.get(name, set())
        given = keys - {"$default"} | (BY_DEFAULT if "$default" in keys else set())
        for key in sorted(given ^ routes_in_code(short(function))):
            yield f"{name}: {key} is not on both sides"


@rule(("PreflightRoute/Properties/RouteKey", "GET /{proxy+}"), ("PreflightRoute/Properties/AuthorizationType", "JWT"))
def a_preflight_needs_no_token(template: Template) -> Iterator[str]:
    """The route that API Gateway chooses for the preflight of each route has no authorizer."""
    routes = {route["RouteKey"]: route for route in properties(template, "AWS::ApiGatewayV2::Route").values()}
    for key in routes:
        path = key.partition(" ")[2]
        chosen = routes.get(f"OPTIONS {path}") or routes.get("OPTIONS /{proxy+}") or routes.get("$default", {})
        if chosen.get("AuthorizationType", "NONE") != "NONE":
            yield f"{key}: its preflight needs a token"


@rule(("UsageRoute/DependsOn", "TaskRoute"), ("HttpApiStage/DependsOn", None))
def routes_are_made_one_after_the_other_and_the_stage_last(template: Template) -> Iterator[str]:
    """API Gateway refuses some of many changes of an API at once. A new route depends on the last, the stage on it."""
    routes = list(properties(template, "AWS::ApiGatewayV2::Route"))
    stages = list(properties(template, "AWS::ApiGatewayV2::Stage"))
    for before, name in zip([None, *routes], [*routes, *stages], strict=True):
        if template["Resources"][name].get("DependsOn") != before:
            yield f"{name}: DependsOn is not {before}"


TRACING = {"traceparent", "tracestate", "baggage", "sentry-trace"}
"""What OpenTelemetry (W3C Trace Context, Baggage) and Sentry add to the requests of a page."""


def _split(value: Any, template: Template) -> list[str]:
    """A list, or a !Split of a !Sub whose parameters have their defaults."""
    if isinstance(value, list):
        return value
    separator, text = value["Fn::Split"]
    filled = re.sub(r"\$\{(\w+)\}", lambda name: str(template["Parameters"][name[1]]["Default"]), text["Fn::Sub"])
    return filled.split(separator)


@rule(("HttpApiStage/Properties/AccessLogSettings/Fn::If/1/Format", '{"token":"$context.authorizer.error"}'))
def a_line_of_the_access_log_stays_json_whatever_a_client_sends(template: Template) -> Iterator[str]:
    """API Gateway escapes no variable, so each must be one that no client's text is in."""
    ours = {
        *("requestId", "routeKey", "status", "responseLatency", "integrationLatency"),
        *("integration.requestId", "error.responseType"),
    }
    for name, stage in properties(template, "AWS::ApiGatewayV2::Stage").items():
        for variable in re.findall(r"\$context\.([\w.]+)", json.dumps(stage.get("AccessLogSettings"))):
            if variable not in ours:
                yield f"{name}: $context.{variable} is not escaped"


@rule(
    (f"{CORS}/ExposeHeaders", ["location", "retry-after", "preference-applied"]),
    (f"{CORS}/AllowHeaders", ["authorization", "content-type", "prefer"]),
    (f"{CORS}/AllowMethods", ["GET", "OPTIONS"]),
    ("/Parameters/AllowedHeaders/Default", "traceparent,tracestate,baggage"),
    (f"{CORS}/AllowCredentials", True),
)
def cors_lets_the_browser_see_and_send_our_headers(template: Template) -> Iterator[str]:
    (api,) = properties(template, "AWS::ApiGatewayV2::Api").values()
    cors = api["CorsConfiguration"]
    plain = {"content-type", "cache-control"}  # which every browser shows
    for header in sorted(headers_sent() - plain - {name.lower() for name in cors["ExposeHeaders"]}):
        yield f"{header} is not exposed"
    allowed = _split(cors["AllowHeaders"], template)
    needed = headers_read() - {"accept"} | {"authorization"} | TRACING  # every browser may send Accept
    for header in sorted(needed - {name.lower() for name in allowed}):
        yield f"{header} is not allowed"
    keys = {route["RouteKey"] for route in properties(template, "AWS::ApiGatewayV2::Route").values()} - {"$default"}
    yield from sorted({key.split()[0] for key in keys} - set(cors["AllowMethods"]))
    if cors.get("AllowCredentials"):
        yield "cookies are allowed, and with every origin"


@rule(
    ("StreamsFunction/Properties/ReservedConcurrentExecutions", None),
    ("StreamsFunction/Properties/FunctionUrlConfig/Cors/AllowOrigins", ["*"]),
    ("StreamsFunction/Properties/FunctionUrlConfig/Cors/AllowCredentials", True),
)
def a_public_url_is_bounded_and_for_the_pages_of_the_api(template: Template) -> Iterator[str]:
    """The API's throttle and its CORS do not count for it."""
    (api,) = properties(template, "AWS::ApiGatewayV2::Api").values()
    for name, function in functions(template).items():
        if url := function.get("FunctionUrlConfig"):
            if "ReservedConcurrentExecutions" not in function:
                yield f"{name}: takes all places of the account"
            for part in ("AllowOrigins", "AllowHeaders", "MaxAge"):
                if url.get("Cors", {}).get(part) != api["CorsConfiguration"][part]:
                    yield f"{name}: {part} is not that of the API"
            if url.get("Cors", {}).get("AllowCredentials"):
                yield f"{name}: cookies are allowed"


# ---- Data


@rule(("TurnsTable/Properties/PointInTimeRecoverySpecification", None))
def every_table_but_the_event_log_can_be_recovered(template: Template) -> Iterator[str]:
    """The rows of the event log are worth nothing after a day."""
    for name, table in properties(template, "AWS::DynamoDB::Table").items():
        recovered = at(table, "PointInTimeRecoverySpecification/PointInTimeRecoveryEnabled") is True
        if recovered != (name != "EventsTable"):
            yield f"{name}: {'is' if recovered else 'cannot be'} recovered"


@rule(
    ("MediaBucket/DeletionPolicy", None),
    ("TurnsTable/DeletionPolicy", "Delete"),
    ("TurnsTable/UpdateReplacePolicy", None),
    ("UserPool/DeletionPolicy", {"Ref": "DataDeletionPolicy"}),
    ("/Conditions/KeepData/Fn::Equals/0/Ref", "Architecture"),
    ("/Parameters/DataDeletionPolicy/Default", "Delete"),
)
def the_deployer_says_what_becomes_of_the_data(template: Template) -> Iterator[str]:
    kinds = ("AWS::DynamoDB::Table", "AWS::SQS::Queue", "AWS::Cognito::UserPool", "AWS::S3::Bucket")
    # No Ref: AWS::LanguageExtensions refuses it on a resource whose condition is false.
    chosen = {"Fn::If": ["KeepData", "Retain", "Delete"]}
    for name, resource in template["Resources"].items():
        for policy in ("DeletionPolicy", "UpdateReplacePolicy"):
            if resource["Type"] in kinds and resource.get(policy) != chosen:
                yield f"{name}: {policy}"
    if template["Conditions"]["KeepData"] != {"Fn::Equals": [{"Ref": "DataDeletionPolicy"}, "Retain"]}:
        yield "KeepData does not follow DataDeletionPolicy"
    if template["Parameters"]["DataDeletionPolicy"]["Default"] != "Retain":
        yield "by default the data goes with the stack"


# ---- Watching

# What AWS documents: the dimensions of its metrics, and the names of those that may be watched here.
AWS_METRICS = {
    # Amazon SQS Developer Guide, "Available CloudWatch metrics for Amazon SQS"
    "AWS/SQS": (
        {"QueueName"},
        {
            "ApproximateAgeOfOldestMessage",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesVisible",
        },
    ),
    # AWS Lambda Developer Guide, "Types of metrics for Lambda functions"
    "AWS/Lambda": ({"FunctionName"}, {"ConcurrentExecutions", "Duration", "Errors", "Invocations", "Throttles"}),
    # Amazon API Gateway Developer Guide, "Monitor CloudWatch metrics for HTTP APIs in API Gateway"
    "AWS/ApiGateway": ({"ApiId"}, {"4xx", "5xx", "Count", "IntegrationLatency", "Latency"}),
}


def widgets(template: Template) -> Iterator[dict[str, Any]]:
    for dashboard in properties(template, "AWS::CloudWatch::Dashboard").values():
        yield from dashboard["DashboardBody"]["Fn::ToJsonString"]["widgets"]


@rule(
    ("Dashboard/Properties/DashboardBody", {"Fn::Sub": "{"}),
    ("Dashboard/Properties/DashboardBody/Fn::ToJsonString/widget", []),
    (f"{WIDGET}/x", None),
    (f"{WIDGET}/x", 10),
    (f"{WIDGET}/type", "graph"),
    (f"{WIDGET}/properties/region", None),
)
def the_dashboard_is_one_that_cloudwatch_takes(template: Template) -> Iterator[str]:
    for dashboard in properties(template, "AWS::CloudWatch::Dashboard").values():
        body = dashboard["DashboardBody"]
        if set(body) != {"Fn::ToJsonString"}:
            yield "the body is not written as YAML"
            return
        if unknown := set(body["Fn::ToJsonString"]) - {"widgets", "start", "end", "periodOverride", "variables"}:
            yield f"the body has {sorted(unknown)}"
        if not body["Fn::ToJsonString"].get("widgets"):
            yield "there is no widget"
    for widget in widgets(template):
        name = widget.get("properties", {}).get("title", "a widget")
        if set(widget) != {"type", "x", "y", "width", "height", "properties"}:
            yield f"{name}: has {sorted(widget)}"
        elif widget["type"] not in ("metric", "text", "log", "alarm", "explorer"):
            yield f"{name}: is of type {widget['type']}"
        elif not (widget["width"] >= 1 and 1 <= widget["height"] <= 1000 and 0 <= widget["x"] <= 24 - widget["width"]):
            yield f"{name}: is off the grid of 24"
        elif widget["type"] == "metric" and not {"title", "region", "metrics"} <= set(widget["properties"]):
            yield f"{name}: lacks a title, a region or metrics"


@rule((f"{WIDGET}/y", 1))
def no_two_widgets_lie_on_each_other(template: Template) -> Iterator[str]:
    taken: dict[tuple[int, int], str] = {}
    for widget in widgets(template):
        title = widget.get("properties", {}).get("title", "a widget")
        for x in range(widget["x"], widget["x"] + widget["width"]):
            for y in range(widget["y"], widget["y"] + widget["height"]):
                if taken.setdefault((x, y), title) != title:
                    yield f"{title} lies on {taken[x, y]}"
                    return


def is_options(part: Any) -> bool:
    """Whether the last part of a metric is {label: ...} and not !GetAtt."""
    return isinstance(part, dict) and not {"Ref", "Fn::GetAtt", "Fn::Sub"} & set(part)


class Watched(NamedTuple):
    """A metric as a widget or an alarm names it."""

    where: str
    namespace: str
    name: str
    dimensions: dict[str, Any]


def alarms(template: Template) -> dict[str, dict[str, Any]]:
    return properties(template, "AWS::CloudWatch::Alarm") | composites(template)


def composites(template: Template) -> dict[str, dict[str, Any]]:
    return properties(template, "AWS::CloudWatch::CompositeAlarm")


def watched(template: Template) -> Iterator[Watched]:
    for widget in widgets(template):
        for metric in widget.get("properties", {}).get("metrics", []):
            if isinstance(metric, dict) or is_options(metric[0]):
                continue  # an expression over the others
            namespace, name, *rest = metric
            dimensions = rest[:-1] if rest and is_options(rest[-1]) else rest
            where = widget["properties"].get("title", "a widget")
            yield Watched(where, namespace, name, dict(zip(dimensions[::2], dimensions[1::2], strict=True)))
    for logical_id, alarm in properties(template, "AWS::CloudWatch::Alarm").items():
        parts = [part["MetricStat"]["Metric"] for part in alarm.get("Metrics", []) if "MetricStat" in part]
        for metric in parts or [alarm]:
            dimensions = {dimension["Name"]: dimension["Value"] for dimension in metric.get("Dimensions", [])}
            yield Watched(logical_id, metric["Namespace"], metric["MetricName"], dimensions)


@rule(
    (f"{METRIC}/1", "TaskSubmited"),
    (f"{METRIC}/3", "turns"),
    (f"{METRIC}/2", "function"),
    (f"{SQS_METRIC}/1", "QueueDepth"),
    (f"{SQS_METRIC}/2", "QueueArn"),
    (f"{SQS_METRIC}/3", "turns.fifo"),
    (f"{METRIC}/0", "TurnQueue"),
    (f"{ALARM}/MetricName", "TaskDeadlettered"),
    (f"{ALARM}/Dimensions/0/Name", "Service"),
    ("Api5xxAlarm/Properties/Metrics/1/MetricStat/Metric/MetricName", "5XXError"),
)
def every_metric_that_is_watched_exists(template: Template) -> Iterator[str]:
    given = template["Globals"]["Function"]["Environment"]["Variables"]
    for where, namespace, name, dimensions in watched(template):
        if namespace == given.get("POWERTOOLS_METRICS_NAMESPACE"):
            if name not in METRICS:
                yield f"{where}: our code does not emit {name}"
            if dimensions != {"service": given["POWERTOOLS_SERVICE_NAME"]}:
                yield f"{where}: our code emits {name} with other dimensions"
        elif namespace in AWS_METRICS:
            wanted, documented = AWS_METRICS[namespace]
            if name not in documented:
                yield f"{where}: {namespace} does not document {name}"
            if set(dimensions) != wanted:
                yield f"{where}: {namespace} documents other dimensions of {name}"
            if any(
                isinstance(value, str) or target(value) not in template["Resources"] for value in dimensions.values()
            ):
                yield f"{where}: {name} is of no resource of ours"
        else:
            yield f"{where}: whose is {namespace}?"


@rule((f"{WIDGETS}/9", None))
def every_metric_of_ours_is_watched(template: Template) -> Iterator[str]:
    """Each is paid for by the month."""
    yield from sorted(set(METRICS) - {metric.name for metric in watched(template)})


@rule(
    (f"{ALARM}/AlarmActions", None),
    ("OutageAlarm/Properties/AlarmRule", {"Fn::Sub": 'ALARM("${OldMessageAlarm}")'}),
    (f"{ALARM}/TreatMissingData", None),
)
def every_alarm_tells_the_deployer_when_it_rings_and_when_it_is_over(template: Template) -> Iterator[str]:
    topic = {"Fn::If": ["TellOfAlarms", [{"Ref": "AlarmTopicArn"}], {"Ref": "AWS::NoValue"}]}
    parts = set(re.findall(r"\$\{(\w+)\}", json.dumps([alarm["AlarmRule"] for alarm in composites(template).values()])))
    yield from sorted(parts - set(alarms(template)))
    for name, alarm in alarms(template).items():
        told = [alarm.get("AlarmActions"), alarm.get("OKActions")]
        if told != [topic, topic] and not (name in parts and told == [None, None]):
            yield f"{name}: tells nobody"
        if name not in composites(template) and alarm.get("TreatMissingData") not in ("breaching", "notBreaching"):
            yield f"{name}: what if nothing is measured?"


@rule(("Dashboard/Properties/DashboardBody/Fn::ToJsonString/widgets/0/properties/alarms/Fn::If/1/0", None))
def the_dashboard_shows_every_alarm_that_tells(template: Template) -> Iterator[str]:
    shown = {
        match
        for widget in widgets(template)
        for match in re.findall(r'"Fn::GetAtt": "(\w+)\.Arn"', json.dumps(widget["properties"].get("alarms", [])))
    }
    yield from sorted(shown ^ {name for name, alarm in alarms(template).items() if "AlarmActions" in alarm})


@rule(("Api5xxAlarm/Condition", None), ("OutageAlarm/Condition", None))
def what_the_emulated_account_cannot_hold_is_under_a_condition(template: Template) -> Iterator[str]:
    """local/README.md: no alarm over metric math, no composite alarm."""
    for name, alarm in alarms(template).items():
        if ("Metrics" in alarm or "AlarmRule" in alarm) and "Condition" not in template["Resources"][name]:
            yield name


@rule(
    ("Api5xxAlarm/Properties/Metrics/1/MetricStat/Stat", "Average"),
    (ALARM, {"Namespace": "AWS/ApiGateway", "MetricName": "5xx", "Statistic": "Average"}),
)
def a_share_of_requests_is_no_average(template: Template) -> Iterator[str]:
    """Only REST APIs document that the average of their errors is a share."""
    for name, alarm in properties(template, "AWS::CloudWatch::Alarm").items():
        stats = [alarm, *(part.get("MetricStat", {}) for part in alarm.get("Metrics", []))]
        of_api = any(metric.namespace == "AWS/ApiGateway" for metric in watched(template) if metric.where == name)
        if of_api and any("Average" in (each.get("Statistic"), each.get("Stat")) for each in stats):
            yield name


@rule(
    ("WorkerDurationAlarm/Properties/Threshold", 175_000),
    ("OldestMessageAlarm/Properties/Threshold", 900),
    ("StuckDeadLetterAlarm/Properties/Threshold", 180),
    ("MalformedMessageAlarm/Properties/Period", 60),
    ("NoSuccessAlarm/Properties/Period", 60),
)
def the_alarms_fit_what_they_watch(template: Template) -> Iterator[str]:
    """With whatever parameters. test_alarms.py has the numbers of each LongestAnswer."""
    alarm = properties(template, "AWS::CloudWatch::Alarm")
    worker, dead = functions(template)["WorkerFunction"], queues(template)["DeadLetterQueue"]
    if worker["Timeout"] - alarm["WorkerDurationAlarm"]["Threshold"] / 1000 != 5:
        yield "worker-duration: a busy worker takes all of its Timeout but the last 10 s"
    if not LONGEST_ANSWER_SECONDS < alarm["OldestMessageAlarm"]["Threshold"] < 2 * worker["Timeout"]:
        yield "oldest-message: rings for one slow answer, or leaves little of the deadline"
    if alarm["StuckDeadLetterAlarm"]["Threshold"] < 2 * dead["VisibilityTimeout"]:
        yield "dead-letters-stay: rings before the letter was tried again"
    if alarm["MalformedMessageAlarm"]["Period"] <= dead["VisibilityTimeout"]:
        yield "malformed-messages: ends between two looks at the message"
    if alarm["NoSuccessAlarm"]["Period"] <= LONGEST_ANSWER_SECONDS:
        yield "no-success: rings for one slow answer"
