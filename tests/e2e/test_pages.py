"""The requests of README.md and docs/api.md, the programs of docs/python.md and the commands of docs/tokens.md,
unchanged, against deployed stacks."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from development import cfn
from local.stack import AUDIENCE, LocalStack
from tests.e2e.conftest import Deployment
from tests.e2e.pages import blocks, commands, recipes, token_of
from tests.stand_in import StandIn


@pytest.mark.parametrize("name", ["sync", "async", "stream"])
def test_a_python_caller(name: str, deployment: Deployment) -> None:
    environment = {**os.environ, "API": deployment.url, "TOKEN": deployment.tokens["alice"], "NO_PROXY": "127.0.0.1"}
    program = [sys.executable, "-W", "error", "-c", recipes()[name]]
    ran = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert ran.returncode == 0, ran.stderr
    for text in ["Hello", "Tell me about queues"] if name == "async" else ["I need a haircut"]:
        assert deployment.stack is None or text in ran.stdout


# ---- Requests


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
@pytest.mark.parametrize("page", ["README.md", "docs/api.md", "local/README.md"])
def test_the_requests_of_a_page_are_answered_as_it_says(page: str, stack: LocalStack) -> None:
    """Each shown answer has the members of the real one. An answer about a task is about the one just made."""
    variables = {"API": stack.api_url, "TOKEN": stack.token("alice"), "MODEL": stack.model_url, "NO_PROXY": "127.0.0.1"}
    task_id, count = "", 0
    for block in blocks(page):
        parts = re.fullmatch(r"((?:.*\n)*?\$? ?curl (?:.*\\\n)*.*)\n((?:.*\n)*)", block)
        if not parts:
            continue
        command = re.sub(r"^(\$ )?set -a.*\n|^\$ ", "", parts[1], flags=re.MULTILINE)
        command = re.sub(r"session_123\.\w+", task_id, command) if task_id else command
        ran = subprocess.run(
            ["bash", "-ec", command], env={**os.environ, **variables}, capture_output=True, text=True, timeout=50
        )
        assert ran.returncode == 0, ran.stderr
        answer = json.loads(ran.stdout.split("\n\n")[-1])
        task_id = answer.get("task_id", task_id)
        if shown := parts[2].strip().split("\n\n")[-1].replace("{…}", "{}").replace(", …}", "}"):
            assert list(json.loads(shown.replace("\n", " "))) == list(answer), command
        count += 1
    StandIn(stack.model_url).faults()
    assert count


# ---- How to get a token


def chat(url: str, token: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.post(f"{url}/chat", json={"message": "hello"}, headers=headers, timeout=40, trust_env=False)


@pytest.mark.timeout(180)  # with the start of the second stack
def test_a_token_of_the_user_pool(second_stack: LocalStack, pool_token: str, deployment: Deployment) -> None:
    assert chat(second_stack.api_url, pool_token).status_code == 200
    assert chat(deployment.url, pool_token).status_code == 401, "another issuer's"
    assert chat(second_stack.api_url, deployment.tokens["alice"]).status_code == 401


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_a_token_of_an_issuer_of_ones_own(stack: LocalStack, tmp_path: Path) -> None:
    client = {"ISSUER": stack.issuer.url, "CLIENT": "a-program", "SECRET": "s", "AUDIENCE": AUDIENCE}

    token = token_of(commands(1), tmp_path, client)

    assert chat(stack.api_url, token).status_code == 200
    other = token_of(commands(1), tmp_path, client | {"AUDIENCE": "another"})
    assert chat(stack.api_url, other).status_code == 401


@pytest.mark.timeout(180)
def test_a_key_of_the_deployers_is_taken_for_queues_and_logs(second_stack: LocalStack) -> None:
    """And the stack answers with it, above. Of the tables' key MiniStack's CloudFormation knows nothing."""
    for queue in ("QueueUrl", "DeadLetterQueueUrl"):
        url = second_stack.outputs[queue]
        answer = second_stack.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        assert answer["KmsMasterKeyId"].startswith("arn:aws:kms:")
        assert answer.get("SqsManagedSseEnabled") != "true"
    groups = second_stack.client("logs").describe_log_groups()["logGroups"]
    assert len(groups) == len(cfn.resources("AWS::Logs::LogGroup"))
    assert {group["kmsKeyId"][:12] for group in groups} == {"arn:aws:kms:"}
    for function in second_stack.functions.values():
        name = function.role.rpartition("/")[2]
        assert "key" in second_stack.client("iam").list_role_policies(RoleName=name)["PolicyNames"]
