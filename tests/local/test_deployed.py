"""Functions and an HTTP API as MiniStack has them, run here and called through its front door."""

import http.client
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from local import gateway
from local.account import Account
from local.environment import THROTTLED, Result
from local.front import serve_api
from local.functions import CodeStore, deployed_function, hand_over
from local.gateway import repair_cors
from local.issuer import Issuer
from local.lambda_host import LambdaHost
from tests.local.conftest import zipped

HANDLER = """
import os, json, shared

def handler(event, context):
    query = event.get("queryStringParameters", {})
    if "exit" in query:
        os._exit(1)
    if "raise" in query:
        raise ValueError("something secret")
    return {
        "statusCode": 202,
        "headers": {"content-type": "application/problem+json", "location": "/chat/task/1"},
        "body": json.dumps({"event": event, "shared": shared.text, "variables": dict(os.environ)}),
    }
"""

TEMPLATE = {
    "Resources": {
        "Api": {
            "Type": "AWS::ApiGatewayV2::Api",
            "Properties": {
                "Name": "toy",
                "ProtocolType": "HTTP",
                "CorsConfiguration": {
                    "AllowOrigins": ["http://console.example"],
                    "AllowMethods": ["GET", "POST"],
                    "AllowHeaders": ["authorization", "prefer"],
                    "ExposeHeaders": ["location"],
                    "MaxAge": 600,
                },
            },
        }
    }
}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: Any


class Api:
    """The toy API, behind its front door, and who gives tokens for it."""

    def __init__(self, address: str, issuer: Issuer, function: str) -> None:
        self.address = address
        self.issuer = issuer
        self.function = function

    def call(self, method: str, target: str, body: Any = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        sent = None if body is None else json.dumps(body)
        content = {} if sent is None else {"Content-Type": "application/json"}
        connection.request(method, target, sent, content | headers)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        headers_got = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers_got, json.loads(text) if text else None)

    def token(self, **claims: Any) -> str:
        return "Bearer " + self.issuer.token(**{"sub": "alice", "audience": "toy"} | claims)


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    issuer.close()


@pytest.fixture
def api(
    account: Account, host: LambdaHost, issuer: Issuer, deploy_function: Callable[..., str], tmp_path: Path
) -> Iterator[Api]:
    lambda_client = account.client("lambda")
    layer = lambda_client.publish_layer_version(
        LayerName="shared", Content={"ZipFile": zipped({"python/shared.py": "text = 'from the layer'"})}
    )
    name = deploy_function(HANDLER, Layers=[layer["LayerVersionArn"]], Environment={"Variables": {"TABLE": "turns"}})
    function = deployed_function(lambda_client, name, CodeStore(tmp_path / "code"))
    host.add(function)
    hand_over(lambda_client, function, host.url(name))

    cloudformation, gateway_client = account.client("cloudformation"), account.client("apigatewayv2")
    stack = f"toy-{uuid.uuid4().hex[:8]}"
    cloudformation.create_stack(StackName=stack, TemplateBody=json.dumps(TEMPLATE))
    cloudformation.get_waiter("stack_create_complete").wait(StackName=stack, WaiterConfig={"Delay": 0.05})
    [resource] = cloudformation.describe_stack_resources(StackName=stack)["StackResources"]
    api_id = resource["PhysicalResourceId"]
    repair_cors(account, api_id)
    integration = gateway_client.create_integration(
        ApiId=api_id,
        IntegrationType="AWS_PROXY",
        IntegrationUri=function.arn,
        PayloadFormatVersion="2.0",
    )["IntegrationId"]
    authorizer = gateway_client.create_authorizer(
        ApiId=api_id,
        Name="token",
        AuthorizerType="JWT",
        IdentitySource=["$request.header.Authorization"],
        JwtConfiguration={"Issuer": issuer.url, "Audience": ["toy"]},
    )["AuthorizerId"]
    target = {"ApiId": api_id, "Target": f"integrations/{integration}"}
    gateway_client.create_route(RouteKey="GET /open", **target)
    for route in ("POST /chat/", "POST /chat", "GET /chat/task/{task_id}"):
        gateway_client.create_route(RouteKey=route, AuthorizationType="JWT", AuthorizerId=authorizer, **target)
    gateway_client.create_stage(ApiId=api_id, StageName="$default", AutoDeploy=True)
    front = serve_api(account.endpoint_url, api_id, 0)
    yield Api(front.address, issuer, name)
    front.close()


def test_a_deployed_function_runs_here_with_its_layer_and_variables(account: Account, api: Api) -> None:
    answer = account.client("lambda").invoke(FunctionName=api.function, Payload=b"{}")

    told = json.loads(json.loads(answer["Payload"].read())["body"])
    assert told["shared"] == "from the layer"
    assert told["variables"]["TABLE"] == "turns"
    assert told["variables"]["AWS_EXECUTION_ENV"] == "AWS_Lambda_python3.13"
    assert not [name for name in told["variables"] if name.startswith("MINISTACK")]


def test_the_event_of_a_request_is_that_of_aws(api: Api) -> None:
    answer = api.call("POST", "/chat/?wait=5&x=%C3%BC", {"a": "ü"}, Authorization=api.token(), Prefer="wait=1")

    event = answer.body["event"]
    assert event["routeKey"] == "POST /chat/"
    assert event["rawPath"] == "/chat/"
    assert event["rawQueryString"] == "wait=5&x=%C3%BC"
    assert event["queryStringParameters"] == {"wait": "5", "x": "ü"}
    assert event["requestContext"]["authorizer"]["jwt"]["claims"]["sub"] == "alice"
    assert event["headers"]["prefer"] == "wait=1"
    assert json.loads(event["body"]) == {"a": "ü"}
    assert event["isBase64Encoded"] is False
    assert "pathParameters" not in event
    assert "TABLE" in answer.body["variables"]


def test_path_parameters_and_the_response_come_through(api: Api) -> None:
    answer = api.call("GET", "/chat/task/s.01J%2E", Authorization=api.token())

    assert answer.status == 202
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["location"] == "/chat/task/1"
    assert answer.body["event"]["pathParameters"] == {"task_id": "s.01J."}
    assert answer.body["event"]["routeKey"] == "GET /chat/task/{task_id}"


def test_only_a_valid_token_of_the_issuer_is_let_in(api: Api) -> None:
    other = Issuer()
    header, claims, signature = api.token().split(".")
    refused = {
        "none": "",
        "expired": api.token(ttl=-60),
        "other audience": api.token(audience="another"),
        "other issuer": "Bearer " + other.token("alice", "toy"),
        "forged": f"{header}.{claims}.{signature[:-4]}AAAA",
        "no token": "Bearer nonsense",
    }
    other.close()

    for why, token in refused.items():
        assert api.call("POST", "/chat", {}, Authorization=token).status == 401, why
    assert api.call("POST", "/chat", {}, Authorization=api.token()).status == 202
    assert api.call("GET", "/open").status == 202
    assert api.call("GET", "/nowhere").status == 404


@pytest.mark.parametrize("fault", ["exit", "raise"])
def test_a_function_that_fails_is_a_500_that_tells_nothing(api: Api, fault: str) -> None:
    answer = api.call("GET", f"/open?{fault}=1")

    assert (answer.status, answer.body) == (500, {"message": "Internal Server Error"})
    assert api.call("GET", "/open").status == 202


def test_a_preflight_is_answered_from_the_templates_cors_configuration(api: Api) -> None:
    preflight = {"Origin": "http://console.example", "Access-Control-Request-Method": "POST"}

    answer = api.call("OPTIONS", "/chat", **preflight)

    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "http://console.example"
    assert answer.headers["access-control-allow-headers"] == "authorization,prefer"
    answer = api.call("GET", "/open", Origin="http://console.example")
    assert answer.headers["access-control-allow-origin"] == "http://console.example"
    assert answer.headers["access-control-expose-headers"] == "location"


def test_a_function_that_takes_longer_than_the_gateway_waits_is_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "SECONDS_TO_ANSWER", 0.1)
    go_on = threading.Event()

    def invoke() -> Result:
        go_on.wait(10)
        return Result(b"{}")

    pieces = b"".join(gateway.answer(invoke))
    go_on.set()

    assert json.loads(pieces)["statusCode"] == 503


def test_a_function_without_a_free_environment_is_a_503() -> None:
    pieces = b"".join(gateway.answer(lambda: Result(b"{}", THROTTLED)))

    assert json.loads(pieces)["statusCode"] == 503


def test_an_answer_that_takes_its_time_is_announced_by_blanks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "_SECONDS_BETWEEN_SIGNS", 0.01)
    go_on = threading.Event()

    def invoke() -> Result:
        go_on.wait(10)
        return Result(b'{"statusCode": 200}')

    pieces = gateway.answer(invoke)
    assert next(pieces) == b" "
    go_on.set()
    assert json.loads(b"".join(pieces)) == {"statusCode": 200}


def test_code_is_unpacked_once_for_each_content(account: Account, deploy_function: Any, tmp_path: Path) -> None:
    lambda_client, store = account.client("lambda"), CodeStore(tmp_path / "code")
    source = "def handler(event, context): return 1"
    first = deployed_function(lambda_client, deploy_function(source), store)
    second = deployed_function(lambda_client, deploy_function(source), store)
    third = deployed_function(lambda_client, deploy_function(source + "1"), store)

    assert first.code == second.code != third.code
    assert (first.code / "toy.py").read_text() == source
