"""`python -m operations verify`: green on a stack as deployed, and red with a clear sentence for each broken part."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from local.deploy import STACK_NAME
from local.stack import LocalStack
from operations.verify import CHECKS
from tests.e2e.test_operations import operate

pytestmark = pytest.mark.timeout(180)  # the start of the stack

type Break = Callable[[LocalStack], Any]
"""A context manager that breaks something, and repairs it."""


def physical(stack: LocalStack, label: str) -> str:
    cloudformation = stack.client("cloudformation")
    answer = cloudformation.describe_stack_resource(StackName=STACK_NAME, LogicalResourceId=label)
    name: str = answer["StackResourceDetail"]["PhysicalResourceId"]
    return name


def route(stack: LocalStack, key: str) -> dict[str, Any]:
    routes = stack.client("apigatewayv2").get_routes(ApiId=stack.outputs["HttpApiId"])["Items"]
    [found] = [each for each in routes if each["RouteKey"] == key]
    return dict(found)


@pytest.fixture(scope="module")
def stack(second_stack: LocalStack) -> LocalStack:
    """Not the first stack: the emulator judges every alarm by the metrics of the last minutes."""
    return second_stack


type Verify = Callable[..., tuple[int, str]]
"""(*arguments) -> the exit code, and all that is printed"""


@pytest.fixture
def verify(stack: LocalStack, pool_token: str) -> Verify:
    def verify(*arguments: str) -> tuple[int, str]:
        command = ("verify", "--stack", STACK_NAME, "--url", stack.api_url, "--patience", "20s", *arguments)
        ran = operate(stack, *command, API_TOKEN=pool_token)
        return ran.returncode, ran.stdout + ran.stderr

    return verify


@pytest.fixture(autouse=True)
def calm(stack: LocalStack) -> None:
    """No alarm rings because of what an earlier test of this file has broken."""
    cloudwatch = stack.client("cloudwatch")
    for alarm in cloudwatch.describe_alarms(StateValue="ALARM")["MetricAlarms"]:
        cloudwatch.set_alarm_state(AlarmName=alarm["AlarmName"], StateValue="OK", StateReason="test")


def test_a_stack_as_it_is_deployed_passes(verify: Verify) -> None:
    code, printed = verify()

    assert "FAILED" not in printed, printed
    assert [line.split() for line in printed.splitlines()] == [
        *(["ok", name] for name in CHECKS),
        f"{len(CHECKS)} of {len(CHECKS)} checks passed".split(),
    ]
    assert code == 0


@contextmanager
def disabled_event_source(stack: LocalStack) -> Iterator[None]:
    functions, source = stack.client("lambda"), physical(stack, "WorkerFunctionTurns")
    functions.update_event_source_mapping(UUID=source, Enabled=False)
    yield
    functions.update_event_source_mapping(UUID=source, Enabled=True)


@contextmanager
def deleted_alarm(stack: LocalStack) -> Iterator[None]:
    cloudwatch, name = stack.client("cloudwatch"), physical(stack, "DeadLetterAlarm")
    [alarm] = cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"]
    known = cloudwatch.meta.service_model.operation_model("PutMetricAlarm").input_shape.members
    cloudwatch.delete_alarms(AlarmNames=[name])
    yield
    cloudwatch.put_metric_alarm(
        **{key: value for key, value in alarm.items() if key in known and value not in ([], "")}
    )


@contextmanager
def ringing_alarm(stack: LocalStack) -> Iterator[None]:
    cloudwatch, name = stack.client("cloudwatch"), physical(stack, "WorkerErrorAlarm")
    cloudwatch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="test")
    yield
    cloudwatch.set_alarm_state(AlarmName=name, StateValue="OK", StateReason="test")


@contextmanager
def emptied_dashboard(stack: LocalStack) -> Iterator[None]:
    cloudwatch, name = stack.client("cloudwatch"), stack.outputs["DashboardName"]
    body = cloudwatch.get_dashboard(DashboardName=name)["DashboardBody"]
    cloudwatch.put_dashboard(DashboardName=name, DashboardBody=json.dumps({"widgets": []}))
    yield
    cloudwatch.put_dashboard(DashboardName=name, DashboardBody=body)


@contextmanager
def deleted_route(stack: LocalStack) -> Iterator[None]:
    api, found = stack.client("apigatewayv2"), route(stack, "GET /chat/usage")
    api.delete_route(ApiId=stack.outputs["HttpApiId"], RouteId=found["RouteId"])
    yield
    kept = {name: found[name] for name in ("RouteKey", "Target", "AuthorizationType", "AuthorizerId")}
    api.create_route(ApiId=stack.outputs["HttpApiId"], **kept)


@contextmanager
def open_route(stack: LocalStack) -> Iterator[None]:
    api, found = stack.client("apigatewayv2"), route(stack, "GET /chat/task/{task_id}")
    named = {"ApiId": stack.outputs["HttpApiId"], "RouteId": found["RouteId"]}
    api.update_route(**named, AuthorizationType="NONE")
    yield
    api.update_route(**named, AuthorizationType="JWT", AuthorizerId=found["AuthorizerId"])


@contextmanager
def other_audience(stack: LocalStack) -> Iterator[None]:
    api, named = stack.client("apigatewayv2"), {"ApiId": stack.outputs["HttpApiId"]}
    named["AuthorizerId"] = physical(stack, "TokenAuthorizer")
    jwt = api.get_authorizer(**named)["JwtConfiguration"]
    api.update_authorizer(**named, JwtConfiguration=jwt | {"Audience": ["another"]})
    yield
    api.update_authorizer(**named, JwtConfiguration=jwt)


@contextmanager
def token_not_allowed(stack: LocalStack) -> Iterator[None]:
    api, api_id = stack.client("apigatewayv2"), stack.outputs["HttpApiId"]
    cors = api.get_api(ApiId=api_id)["CorsConfiguration"]
    api.update_api(ApiId=api_id, CorsConfiguration=cors | {"AllowHeaders": ["content-type"]})
    yield
    api.update_api(ApiId=api_id, CorsConfiguration=cors)


@contextmanager
def configuration_of_no_version(stack: LocalStack) -> Iterator[None]:
    """As if a changed parameter had made no new version: $LATEST has it, the alias does not."""
    functions, name = stack.client("lambda"), stack.outputs["WorkerFunctionName"]
    before = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    changed = {"Variables": before | {"MODEL_NAME": "another"}}
    functions.update_function_configuration(FunctionName=name, Environment=changed)
    yield
    functions.update_function_configuration(FunctionName=name, Environment={"Variables": before})


@contextmanager
def alias_of_another_configuration(stack: LocalStack) -> Iterator[None]:
    """As if someone had published a version by hand."""
    functions, name = stack.client("lambda"), stack.outputs["SubmitFunctionName"]
    live = functions.get_alias(FunctionName=name, Name="live")["FunctionVersion"]
    with_another = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    changed = {"Variables": with_another | {"OWNER_LIMITS": ""}}
    functions.update_function_configuration(FunctionName=name, Environment=changed)
    version = functions.publish_version(FunctionName=name)["Version"]
    functions.update_alias(FunctionName=name, Name="live", FunctionVersion=version)
    yield
    functions.update_function_configuration(FunctionName=name, Environment={"Variables": with_another})
    functions.update_alias(FunctionName=name, Name="live", FunctionVersion=live)


@contextmanager
def foreign_log_line(stack: LocalStack) -> Iterator[None]:
    logs, group = stack.client("logs"), physical(stack, "StatusLogGroup")
    logs.create_log_stream(logGroupName=group, logStreamName="foreign")
    later = 4_000_000_000_000  # since the verification began, whenever that is
    logs.put_log_events(
        logGroupName=group, logStreamName="foreign", logEvents=[{"timestamp": later, "message": "Traceback \x1b[2J"}]
    )
    yield
    logs.delete_log_stream(logGroupName=group, logStreamName="foreign")


@pytest.mark.parametrize(
    ("broken", "check", "sentence"),
    [
        (disabled_event_source, "event-sources", "the event source WorkerFunctionTurns is Disabled, so nothing calls"),
        (deleted_alarm, "alarms", "the alarm dead-letters does not exist"),
        (
            ringing_alarm,
            "alarms",
            'the alarm worker-errors is in ALARM: see docs/operations.md, "Alarms", "worker-errors"',
        ),
        (emptied_dashboard, "dashboard", "the dashboard is empty"),
        (deleted_route, "routes", "the route GET /chat/usage does not exist"),
        (open_route, "routes", "the route GET /chat/task/{task_id} has the authorization NONE, not JWT"),
        (other_audience, "token", "/chat/usage returns 401, not 200"),
        (token_not_allowed, "preflight", "the preflight of POST /chat does not allow the header Authorization"),
        (configuration_of_no_version, "versions", "which is older than the deployed Environment"),
        (
            alias_of_another_configuration,
            "configuration",
            "SubmitFunction runs with a value of OWNER_LIMITS that differs",
        ),
        (foreign_log_line, "logs", "StatusLogGroup has a line that is not JSON"),
    ],
)
def test_a_broken_stack_is_told_in_a_sentence_with_its_entry(
    stack: LocalStack, verify: Verify, broken: Break, check: str, sentence: str
) -> None:
    with broken(stack):
        code, printed = verify("--check", check)

    assert code == 1
    assert f"FAILED  {check}: " in printed
    assert sentence in printed
    assert f'docs/operations.md, "Verify", "{check}"' in printed
    assert "\x1b" not in printed
