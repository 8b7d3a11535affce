"""Functions and an HTTP API deployed to MiniStack, run by the local Lambda host and called through the front."""

import http.client
import json
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local import gateway
from local.account import Account
from local.emulator import Emulator
from local.environment import THROTTLED, Result
from local.front import serve_api
from local.functions import CodeStore, deployed_function, hand_over
from local.issuer import Issuer
from local.lambda_host import LambdaHost
from local.repairs import repair, repair_permissions
from tests.local.conftest import AddFunction, policy, zipped

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
        },
        "Table": {
            "Type": "AWS::DynamoDB::Table",
            "Properties": {
                "BillingMode": "PAY_PER_REQUEST",
                "KeySchema": [{"AttributeName": "key", "KeyType": "HASH"}],
                "AttributeDefinitions": [{"AttributeName": "key", "AttributeType": "S"}],
                "TimeToLiveSpecification": {"AttributeName": "expires_at", "Enabled": True},
            },
        },
    }
}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: Any


class Api:
    """The toy API, behind its front door, and who gives tokens for it."""

    def __init__(self, stack: str, address: str, issuer: Issuer, function: str) -> None:
        self.stack = stack
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


@pytest.fixture
def api(
    emulator: Emulator, host: LambdaHost, issuer: Issuer, deploy_function: AddFunction, tmp_path: Path
) -> Iterator[Api]:
    account = emulator.account
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
    repair(account, stack)
    resource = cloudformation.describe_stack_resource(StackName=stack, LogicalResourceId="Api")
    api_id = resource["StackResourceDetail"]["PhysicalResourceId"]
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
    front = serve_api(emulator, api_id, 0)
    yield Api(stack, front.address, issuer, name)
    front.close()


def test_who_may_send_a_message_may_send_a_batch(account: Account, role: str) -> None:
    url = account.client("sqs").create_queue(QueueName=uuid.uuid4().hex)["QueueUrl"]
    statement = {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": "*"}
    iam = account.client("iam")
    iam.put_role_policy(RoleName="toy", PolicyName="send", PolicyDocument=policy(statement))
    sqs = account.as_role(role).client("sqs")

    repair_permissions(account, "toy")

    answer = sqs.send_message_batch(QueueUrl=url, Entries=[{"Id": "1", "MessageBody": "hello"}])
    assert len(answer["Successful"]) == 1
    with pytest.raises(ClientError, match="not authorized to perform: sqs:ReceiveMessage"):
        sqs.receive_message(QueueUrl=url)


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


def test_what_a_table_declares_as_its_time_to_live_is_switched_on(account: Account, api: Api) -> None:
    [table] = [name for name in account.client("dynamodb").list_tables()["TableNames"] if api.stack in name]

    answer = account.client("dynamodb").describe_time_to_live(TableName=table)

    wanted = {"TimeToLiveStatus": "ENABLED", "AttributeName": "expires_at"}
    assert answer["TimeToLiveDescription"] == wanted


@pytest.mark.parametrize("fault", ["exit", "raise"])
def test_a_function_that_fails_is_a_500_that_tells_nothing(api: Api, fault: str) -> None:
    answer = api.call("GET", f"/open?{fault}=1")

    assert (answer.status, answer.body) == (500, {"message": "Internal Server Error"})
    assert api.call("GET", "/open").status == 202


def test_a_preflight_is_refused_if_only_a_route_with_an_authorizer_takes_it(
    account: Account, emulator: Emulator
) -> None:
    """As on AWS, where $default takes OPTIONS too."""
    client = account.client("apigatewayv2")
    api_id = client.create_api(Name="toy", ProtocolType="HTTP", CorsConfiguration={"AllowOrigins": ["*"]})["ApiId"]
    client.create_stage(ApiId=api_id, StageName="$default", AutoDeploy=True)

    def preflight() -> int:
        front = serve_api(emulator, api_id, 0)
        connection = http.client.HTTPConnection(front.address, timeout=60)
        connection.request("OPTIONS", "/chat/", headers={"Origin": "http://a.example"})
        status = connection.getresponse().status
        connection.close()
        front.close()
        return status

    client.create_route(ApiId=api_id, RouteKey="$default", AuthorizationType="JWT")
    assert preflight() == 401
    client.create_route(ApiId=api_id, RouteKey="OPTIONS /{proxy+}", AuthorizationType="NONE")
    assert preflight() == 204


@pytest.mark.parametrize(
    ("method", "path", "key"),
    [
        ("GET", "/chat/task/s.1", "GET /chat/task/{id}"),
        ("GET", "/chat/task/", "GET /{proxy+}"),
        ("GET", "/chat/task/s.1/events", "GET /{proxy+}"),
        ("POST", "/chat", "ANY /chat"),
        ("POST", "/chat/", "$default"),
        ("GET", "/", "$default"),
    ],
)
def test_the_most_exact_route_is_chosen(method: str, path: str, key: str) -> None:
    keys = ["$default", "GET /{proxy+}", "ANY /chat", "GET /chat/task/{id}"]

    chosen = gateway.chosen_route([{"RouteKey": each} for each in keys], method, path)

    assert chosen == {"RouteKey": key}


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


def test_code_is_unpacked_once_for_each_content(account: Account, deploy_function: AddFunction, tmp_path: Path) -> None:
    lambda_client, store = account.client("lambda"), CodeStore(tmp_path / "code")
    source = "def handler(event, context): return 1"
    name = deploy_function(source)
    first = deployed_function(lambda_client, name, store)
    other = deployed_function(lambda_client, deploy_function(source + "1"), store)

    digest = lambda_client.get_function(FunctionName=name)["Configuration"]["CodeSha256"]
    assert store.unpacked(digest, "http://127.0.0.1:1/not-asked-for") == first.code != other.code
    assert (first.code / "toy.py").read_text() == source


def test_a_function_that_was_handed_over_can_be_read_again(
    account: Account, host: LambdaHost, deploy_function: AddFunction, tmp_path: Path
) -> None:
    lambda_client, store = account.client("lambda"), CodeStore(tmp_path / "code")
    name = deploy_function("", Environment={"Variables": {"TABLE": "turns"}})

    hand_over(lambda_client, deployed_function(lambda_client, name, store), "http://127.0.0.1:1/")

    assert deployed_function(lambda_client, name, store).variables == {"TABLE": "turns"}
