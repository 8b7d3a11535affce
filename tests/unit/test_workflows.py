""".github/workflows: their rights are only the needed ones, and the files and commands that they run exist."""

import itertools
import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from caching import Caching, caching
from development import cfn
from local.loopback import LoopbackServer, Request, Response
from operations import deploy as deploying
from operations.__main__ import _parser
from operations.api import Api
from operations.deploy import TRAFFIC_SHIFTS
from operations.smoke import SmokeFailed, sign_in, smoke
from operations.stack import Stack

FOLDER = cfn.ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
OPERATIONS = (cfn.ROOT / "docs" / "operations.md").read_text()


def workflow(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.load(file.read_text(), Loader=yaml.BaseLoader)  # `on` is no boolean to GitHub
    return document


def steps(file: Path) -> list[dict[str, Any]]:
    return list(itertools.chain(*(job.get("steps", []) for job in workflow(file)["jobs"].values())))


def commands(file: Path) -> list[str]:
    return [step["run"] for step in steps(file) if "run" in step]


each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


RIGHTS = {"deploy": {"id-token": "write"}, "release": {"contents": "write", "actions": "write"}}
"""By job: what it may do besides reading the repository."""


def test_no_other_than_these() -> None:
    assert [file.stem for file in FILES] == ["ci", "deploy", "release"]


@each_file
def test_every_action_is_pinned_to_a_commit_and_says_its_version(file: Path) -> None:
    for line in re.findall(r"uses: (.*)", file.read_text()):
        assert line.startswith("./") or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


@each_file
def test_a_job_may_do_no_more_than_it_needs(file: Path) -> None:
    document = workflow(file)
    assert document["permissions"] == {"contents": "read"}
    for name, job in document["jobs"].items():
        expected = {"contents": "read"} | RIGHTS[name] if name in RIGHTS else {}
        assert job.get("permissions", {}) == expected
        assert ("environment" in job) == (name == "deploy")  # the secrets of an environment go to no other job


def test_the_job_with_the_role_builds_nothing_and_deploys_what_another_job_built() -> None:
    """Build scripts and what is downloaded for them run without a role. The role's job installs wheels with hashes of
    the lock files, and runs the SAM CLI and the operator's commands."""
    jobs = workflow(FOLDER / "deploy.yml")["jobs"]
    [handed] = [step["with"] for step in jobs["build"]["steps"] if "upload-artifact@" in step.get("uses", "")]
    [taken] = [step["with"] for step in jobs["deploy"]["steps"] if "download-artifact@" in step.get("uses", "")]
    assert (handed["name"], handed["path"]) == (taken["name"], taken["path"])
    assert handed["include-hidden-files"] == "true"  # .aws-sam is one
    assert handed["if-no-files-found"] == "error"
    assert "digest-mismatch" not in taken  # an error by default
    assert (jobs["build"]["needs"], jobs["deploy"]["needs"]) == ("ci", "build")
    runs = [step["run"] for step in jobs["deploy"]["steps"] if "run" in step]
    assert [run.partition(" --")[0] for run in runs] == [
        "make deployer",
        ".tools/operations/bin/python -m operations deploy",
        ".tools/operations/bin/python -m operations smoke",
    ]
    order = [step.get("uses", step.get("run", "")).partition("@")[0] for step in jobs["deploy"]["steps"]]
    role = order.index("aws-actions/configure-aws-credentials")
    assert all(name in order[:role] for name in ("make deployer", "actions/download-artifact"))


def test_a_person_may_choose_to_deploy_past_alarms_that_ring() -> None:
    document = workflow(FOLDER / "deploy.yml")
    shift = document["on"]["workflow_dispatch"]["inputs"]["traffic_shift"]
    assert shift["options"] == ["as in samconfig.toml", *TRAFFIC_SHIFTS]
    job = document["jobs"]["deploy"]
    assert "'--traffic-shift=AllAtOnce'" in job["env"]["TRAFFIC_SHIFT"]
    assert any("$TRAFFIC_SHIFT" in step.get("run", "") for step in job["steps"])


def test_a_pull_request_gets_no_secret_and_no_role() -> None:
    assert set(workflow(FOLDER / "ci.yml")["on"]) == {"push", "pull_request", "workflow_call"}
    assert "secrets" not in (FOLDER / "ci.yml").read_text()
    assert set(workflow(FOLDER / "deploy.yml")["on"]) == {"push", "workflow_dispatch"}
    assert set(workflow(FOLDER / "release.yml")["on"]) == {"workflow_dispatch"}


@each_file
def test_no_script_holds_an_expression(file: Path) -> None:
    """It would be put in as it is, and run: values go by way of the environment."""
    assert not [command for command in commands(file) if "${{" in command]


@each_file
def test_credentials_of_git_do_not_stay(file: Path) -> None:
    checkouts = [step for step in steps(file) if step.get("uses", "").startswith("actions/checkout@")]
    assert all(step["with"]["persist-credentials"] == "false" for step in checkouts)
    assert checkouts


@each_file
def test_what_is_run_is_there(file: Path) -> None:
    targets = re.findall(r"^([a-z]+):", (cfn.ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in commands(file):
        program, *arguments = shlex.split(command)
        if program == "make":
            assert set(arguments) <= set(targets)
        elif program == ".tools/operations/bin/python":
            assert arguments[:2] == ["-m", "operations"]
            values = {"$TRAFFIC_SHIFT": "--traffic-shift=AllAtOnce", "$STACK": "s", "$CONFIG_ENV": "default"}
            _parser().parse_args([values.get(argument, argument) for argument in arguments[2:]])  # exits if it is wrong
        elif program == ".tools/sam/bin/sam":
            assert arguments == ["build", "--config-env", "$CONFIG_ENV"]
        else:
            assert (cfn.ROOT / program).stat().st_mode & 0o111


def test_each_environment_has_its_table_of_samconfig_and_the_stack_of_it() -> None:
    jobs = workflow(FOLDER / "deploy.yml")["jobs"]
    job = jobs["deploy"]
    assert jobs["build"]["env"]["CONFIG_ENV"] == job["env"]["CONFIG_ENV"]
    choices = {name: re.findall(r"'([a-z-]+)'", text) for name, text in job["env"].items()}
    config = tomllib.loads((cfn.ROOT / "samconfig.toml").read_text())
    # Each expression is "tag, then for prod, then for dev".
    for config_env, stack in zip(choices["CONFIG_ENV"][1:], choices["STACK"][1:], strict=True):
        assert config[config_env]["deploy"]["parameters"]["stack_name"] == stack
    assert re.findall(r"'([a-z-]+)'", job["environment"])[1:] == ["prod", "dev"]


# ---- python -m operations deploy


def test_the_file_says_how_it_deploys() -> None:
    said = deploying.command("prod", traffic_shift=None, confirm=True)
    assert said == [str(cfn.ROOT / ".tools/sam/bin/sam"), "deploy", "--config-env", "prod"]
    assert deploying.command("prod", traffic_shift=None, confirm=False)[-1] == "--no-confirm-changeset"


@pytest.mark.parametrize("config_env", ["default", "prod"])
def test_for_one_deployment_traffic_moves_otherwise_and_nothing_else_changes(config_env: str) -> None:
    """As the SAM CLI understands the command."""
    said = deploying.command(config_env, traffic_shift="AllAtOnce", confirm=False)
    overrides = said[said.index("--parameter-overrides") + 1 :]
    table = tomllib.loads((cfn.ROOT / "samconfig.toml").read_text())[config_env]["deploy"]["parameters"]
    program = "import json, sys; from samcli.cli.types import CfnParameterOverridesType as Type; "
    program += "print(json.dumps([Type().convert(text, None, None) for text in json.loads(sys.argv[1])]))"
    both = json.dumps([table["parameter_overrides"], overrides])
    sam = [str(cfn.ROOT / ".tools/sam/bin/python"), "-c", program, both]
    before, after = json.loads(subprocess.run(sam, capture_output=True, text=True, check=True).stdout)
    assert before
    assert after == before | {"TrafficShift": "AllAtOnce"}


def test_a_table_that_is_not_there_is_told() -> None:
    with pytest.raises(deploying.NotDeployed, match="no table staging"):
        deploying.command("staging", traffic_shift="AllAtOnce", confirm=True)


# ---- docs/operations.md, "Deploy"


def policies() -> list[dict[str, Any]]:
    """The policies of the section, which begin and end with a brace in the first column of a block."""
    section = OPERATIONS.partition("## Deploy\n")[2].partition("\n## ")[0]
    return [json.loads(text) for text in re.findall(r"^    \{\n(?:    .*\n)*?    \}$", section, re.MULTILINE)]


def allowed() -> set[str]:
    """The actions of the role that deploys."""
    return {action for statement in policies()[1]["Statement"] for action in cfn.listed(statement["Action"])}


def test_the_role_trusts_one_repository_and_one_environment() -> None:
    trust = policies()[0]
    (statement,) = trust["Statement"]
    condition = statement["Condition"]["StringEquals"]
    assert set(statement["Condition"]) == {"StringEquals"}  # no wildcards
    assert condition["token.actions.githubusercontent.com:aud"] == "sts.amazonaws.com"
    assert condition["token.actions.githubusercontent.com:sub"].endswith(":environment:dev")
    assert statement["Action"] == "sts:AssumeRoleWithWebIdentity"


def test_the_role_may_make_every_kind_of_resource_that_the_template_has() -> None:
    kinds = {resource["Type"].split("::")[1] for resource in cfn.template()["Resources"].values()}
    services = {"ApiGatewayV2": "apigateway", "Cognito": "cognito-idp", "Serverless": "lambda"}
    needed = {services.get(kind, kind.lower()) for kind in kinds} | {"cloudformation", "codedeploy", "s3"}

    assert needed <= {action.partition(":")[0] for action in allowed()}


def test_the_role_may_delete_what_it_makes() -> None:
    """A deployment that fails is rolled back, with the same rights."""
    for action in allowed():
        service, _, verb = action.partition(":")
        if verb.startswith("Create") and action != "cloudformation:CreateChangeSet":
            assert f"{service}:{verb.replace('Create', 'Delete', 1)}" in allowed(), action


def test_the_role_of_prod_does_not_reach_dev() -> None:
    """Whose names begin as prod's do."""
    grants, [denial] = policies()[1]["Statement"], policies()[2]["Statement"]
    assert (denial["Effect"], denial["Action"]) == ("Deny", "*")
    names = [name for grant in grants for name in cfn.listed(grant["Resource"])]
    assert {name for name in names if "turnqueue-dev" in name} == set(denial["Resource"])


def test_what_the_environments_must_hold_is_written_down() -> None:
    section = OPERATIONS.partition("## Deploy\n")[2].partition("\n## ")[0]
    for name in re.findall(r"\$\{\{ (?:vars|secrets)\.(\w+) \}\}", (FOLDER / "deploy.yml").read_text()):
        assert f"`{name}`" in section, name


# ---- The smoke test


def test_its_chat_is_answered_by_the_model_and_not_by_the_answer_to_the_one_before() -> None:
    """Which would be given again with CacheSeconds, whatever has become of queue, worker and model."""
    sent: list[str] = []

    def answer(request: Request) -> Response:
        if request.method == "GET":
            return Response(200, b'{"status": "SUCCESS"}')
        sent.append(request.headers["Cache-Control"])
        return Response(202, b'{"task_id": "s.01KAN0000000000000000000ZZ"}')

    server = LoopbackServer(answer)
    try:
        with Api(server.url, "token") as api:
            smoke(api)
    finally:
        server.close()

    assert [caching({"headers": {"cache-control": control}}, 600) for control in sent] == [Caching(False, 0)]


# ---- The user of the smoke test


def test_a_user_of_the_pool_gets_a_token() -> None:
    asked: list[Any] = []

    def answer(params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        asked.append(json.loads(params["body"]))
        return type("Response", (), {"status_code": 200})(), {"AuthenticationResult": {"IdToken": "token"}}

    stack = Stack("turnqueue-test", "us-east-1")
    stack.__dict__["outputs"] = {"UserPoolClientId": "client"}
    stack.cognito.meta.events.register("before-call.cognito-identity-provider.InitiateAuth", answer)

    assert sign_in(stack, "smoke", "password") == "token"

    assert asked[0]["ClientId"] == "client"
    assert asked[0]["AuthParameters"] == {"USERNAME": "smoke", "PASSWORD": "password"}


def test_a_stack_without_a_pool_wants_a_token() -> None:
    stack = Stack("turnqueue-test", "us-east-1")
    stack.__dict__["outputs"] = {}
    with pytest.raises(SmokeFailed, match="API_TOKEN"):
        sign_in(stack, "smoke", "password")
