"""The template with every parameter off, and then with every parameter on, deployed to the emulated account."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from local.account import Account
from local.deploy import STACK_NAME, Sam, architecture
from local.processes import Processes
from local.tools import ROOT, Tools
from tests import parameters

pytestmark = pytest.mark.timeout(300)

# The emulated account has no CodeDeploy and no alarms over alarms: tests/build/test_transform.py tests these.
HERE = {"Architecture": architecture(), "CompositeAlarms": "false", "TrafficShift": "AllAtOnce"}
OFF = parameters.OFF | HERE
ON = parameters.ON | HERE

FUNCTIONS = ("SubmitFunction", "StatusFunction", "WorkerFunction", "DeadletterFunction")


class Deployed:
    """What the account held after a deployment."""

    def __init__(self, account: Account, outputs: dict[str, str]) -> None:
        resources = account.client("cloudformation").describe_stack_resources(StackName=STACK_NAME)["StackResources"]
        self.ids = {resource["LogicalResourceId"]: resource["PhysicalResourceId"] for resource in resources}
        functions, api = account.client("lambda"), account.client("apigatewayv2")
        self.live: dict[str, dict[str, Any]] = {}
        """The configuration to which the traffic of each function goes."""
        for name in FUNCTIONS:
            function = self.ids[name]
            self.live[name] = functions.get_function_configuration(FunctionName=function, Qualifier="live")
        self.stage = api.get_stage(ApiId=outputs["HttpApiId"], StageName="$default")
        authorizers = api.get_authorizers(ApiId=outputs["HttpApiId"])["Items"]
        [self.tokens] = [each["JwtConfiguration"] for each in authorizers if each["AuthorizerType"] == "JWT"]

    def variable(self, function: str, name: str) -> str:
        value: str = self.live[function]["Environment"]["Variables"][name]
        return value


@pytest.fixture(scope="module")
def deploy(
    tools: Tools, processes: Processes, account: Account, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[dict[str, str]], Deployed]]:
    sam = Sam(processes, tools.sam, root=ROOT, log=tmp_path_factory.mktemp("sam") / "sam.log")
    secret = account.client("secretsmanager").create_secret(Name="model-key", SecretString="x")["ARN"]
    with sam.alone():
        sam.build(architecture(), print)
        yield lambda given: Deployed(account, sam.deploy(account, {"ModelKeySecretArn": secret} | given, print))


@pytest.fixture(scope="module")
def off(deploy: Callable[[dict[str, str]], Deployed]) -> Deployed:
    return deploy(OFF)


@pytest.fixture(scope="module")
def on(off: Deployed, deploy: Callable[[dict[str, str]], Deployed]) -> Deployed:
    """By parameters alone: the build is the same."""
    return deploy(ON)


def test_everything_off(off: Deployed) -> None:
    assert {"UserPool", "UserPoolClient"} <= set(off.ids)
    assert off.ids["UserPool"] in off.tokens["Issuer"]
    assert off.tokens["Audience"] == [off.ids["UserPoolClient"]]
    assert not {"AccessLogGroup", "WorkerFallbackKeyPolicy"} & set(off.ids)
    assert not off.stage.get("AccessLogSettings")
    assert off.variable("SubmitFunction", "FEATURE_ASYNC_CHAT_ENABLED") == "false"


def test_everything_on(on: Deployed) -> None:
    assert not {"UserPool", "UserPoolClient"} & set(on.ids)
    assert on.tokens == {"Issuer": "https://issuer.example", "Audience": ["chat"]}
    assert on.ids["AccessLogGroup"] in on.stage["AccessLogSettings"]["DestinationArn"]
    assert on.variable("SubmitFunction", "FEATURE_ASYNC_CHAT_ENABLED") == "true"
    assert on.variable("WorkerFunction", "MODEL_NAME") == "another-model"
    assert "WorkerFallbackKeyPolicy" in on.ids


def test_a_changed_parameter_reaches_the_traffic(off: Deployed, on: Deployed) -> None:
    """An alias leads to a version, so that a change needs a new one."""
    for name in ("WorkerFunction", "SubmitFunction", "StatusFunction"):
        assert on.live[name]["Version"] != off.live[name]["Version"]


def test_the_traffic_starts_from_snapshots_while_they_are_wanted(off: Deployed, on: Deployed) -> None:
    def snapshots(deployed: Deployed) -> dict[str, str]:
        return {name: deployed.live[name]["SnapStart"]["ApplyOn"] for name in FUNCTIONS}

    assert snapshots(off) == dict.fromkeys(FUNCTIONS, "None")
    assert snapshots(on) == {
        name: "None" if name == "DeadletterFunction" else "PublishedVersions" for name in FUNCTIONS
    }


def test_the_lines_of_the_access_log_are_json(on: Deployed) -> None:
    line = json.loads(on.stage["AccessLogSettings"]["Format"])

    assert set(line.values()) == {value for value in line.values() if value.startswith("$context.")}
    # A path holds ids that are meant for their owner alone; an address or a browser is a person's.
    assert not [value for value in line.values() if re.search(r"path|sourceIp|userAgent|claims|identity", value)]
