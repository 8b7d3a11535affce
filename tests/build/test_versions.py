"""What SAM makes of the template's versions, aliases and gradual deployments: its own transform, run as AWS runs it."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests import cfn

SAM_PYTHON = cfn.ROOT / ".tools/sam/bin/python"
TRANSFORM = """
import json, logging, sys
from samtranslator.translator.transform import transform
logging.disable()
given = json.load(sys.stdin)
no_policies = type("NoPolicies", (), {"load": lambda self: {}})()
print(json.dumps(transform(given["template"], given["parameters"], no_policies)["Resources"]))
"""

ROLLBACK_ALARMS = {"WorkerErrorAlarm", "FailureRateAlarm", "Api5xxAlarm", "OldestMessageAlarm"}

type Resources = dict[str, dict[str, Any]]


def packaged() -> dict[str, Any]:
    """The template as `sam deploy` sends it: with the code in a bucket."""
    template = cfn.template()
    template["Transform"] = "AWS::Serverless-2016-10-31"
    for name, resource in template["Resources"].items():
        for uri in {"CodeUri", "ContentUri"} & set(resource.get("Properties", {})):
            resource["Properties"][uri] = f"s3://bucket/{name}"
    return template


def transformed(template: dict[str, Any], **parameters: str) -> Resources:
    defaults = {name: declared.get("Default", "given") for name, declared in template["Parameters"].items()}
    given = {"template": template, "parameters": defaults | parameters}
    ran = subprocess.run(
        [SAM_PYTHON, "-c", TRANSFORM],
        input=json.dumps(given),
        env={"AWS_DEFAULT_REGION": "us-east-1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    resources: Resources = json.loads(ran.stdout.splitlines()[-1])
    return resources


def of_type(resources: Resources, kind: str) -> Resources:
    return {name: resource for name, resource in resources.items() if resource["Type"] == kind}


def versions(resources: Resources) -> dict[str, str]:
    """The logical id of each function's version: another id is another version."""
    return {
        resource["Properties"]["FunctionName"]["Ref"]: name
        for name, resource in of_type(resources, "AWS::Lambda::Version").items()
    }


@pytest.fixture(scope="module")
def resources() -> Resources:
    return transformed(packaged())


def test_requests_and_messages_go_to_the_alias(resources: Resources) -> None:
    aliases = set(of_type(resources, "AWS::Lambda::Alias"))
    callers = [
        *(
            each["Properties"]["IntegrationUri"]
            for each in of_type(resources, "AWS::ApiGatewayV2::Integration").values()
        ),
        *(
            each["Properties"]["FunctionName"]
            for each in of_type(resources, "AWS::Lambda::EventSourceMapping").values()
        ),
        *(each["Properties"]["FunctionName"] for each in of_type(resources, "AWS::Lambda::Permission").values()),
    ]

    assert len(aliases) == len(of_type(resources, "AWS::Lambda::Function")) == 4
    assert {caller["Ref"] for caller in callers} == aliases


def new_code(template: dict[str, Any]) -> None:
    template["Resources"]["WorkerFunction"]["Properties"]["CodeUri"] += "-2"


def new_layer(template: dict[str, Any]) -> None:
    template["Resources"]["SharedLayer"]["Properties"]["ContentUri"] += "-2"


def new_timeout(template: dict[str, Any]) -> None:
    template["Resources"]["WorkerFunction"]["Properties"]["Timeout"] += 1


def new_memory(template: dict[str, Any]) -> None:
    template["Globals"]["Function"]["MemorySize"] += 1


@pytest.mark.parametrize(
    ("change", "anew"),
    [(new_code, {"WorkerFunction"}), (new_timeout, {"WorkerFunction"}), (new_layer, None), (new_memory, None)],
)
def test_a_change_makes_a_new_version(
    resources: Resources, change: Callable[[dict[str, Any]], None], anew: set[str] | None
) -> None:
    template = packaged()
    change(template)

    before, after = versions(resources), versions(transformed(template))

    assert {name for name in before if before[name] != after[name]} == (anew or set(before))


def test_by_default_all_traffic_goes_over_at_once(resources: Resources) -> None:
    assert not [name for name, resource in resources.items() if "CodeDeploy" in resource["Type"]]


def test_a_gradual_deployment_covers_every_function() -> None:
    resources = transformed(packaged(), TrafficShift="Canary10Percent5Minutes")

    groups = of_type(resources, "AWS::CodeDeploy::DeploymentGroup")
    assert len(groups) == 4
    for group in groups.values():
        config = group["Properties"]["DeploymentConfigName"]["Fn::Sub"]
        assert (
            config[0].replace("${ConfigName}", config[1]["ConfigName"])
            == "CodeDeployDefault.LambdaCanary10Percent5Minutes"
        )
        assert "DEPLOYMENT_STOP_ON_ALARM" in group["Properties"]["AutoRollbackConfiguration"]["Events"]
        assert group["Properties"]["AlarmConfiguration"]["Enabled"]
        assert {
            alarm["Name"]["Ref"] for alarm in group["Properties"]["AlarmConfiguration"]["Alarms"]
        } == ROLLBACK_ALARMS
    for alias in of_type(resources, "AWS::Lambda::Alias").values():
        assert alias["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]["DeploymentGroupName"]["Ref"] in groups


@pytest.mark.parametrize("parameter", ["ModelPrices", "FallbackModelName", "FallbackBaseUrl", "FallbackKeySecretArn"])
def test_a_parameter_for_which_a_version_has_no_room_makes_a_new_layer_and_so_a_version(parameter: str) -> None:
    def layer(resources: Resources) -> str:
        """The one to whose version the description of the worker's version refers."""
        name = next(name for name in resources if name.startswith("WorkerFunctionVersion"))
        _, values = resources[name]["Properties"]["Description"]["Fn::Sub"]
        (colon, arn) = values["Layer"]["Fn::Select"][1]["Fn::Split"]
        assert (colon, set(of_type(resources, "AWS::Lambda::LayerVersion"))) == (":", {arn["Ref"]})
        return str(arn["Ref"])

    assert layer(transformed(packaged())) != layer(
        transformed(packaged(), **{parameter: "arn:aws:secretsmanager:us-east-1:0:secret:x"})
    )
