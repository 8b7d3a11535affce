"""The parts of the emulated account, for toy functions that a test writes itself."""

import io
import json
import subprocess
import textwrap
import threading
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local.account import Account
from local.emulator import Emulator
from local.functions import Function
from local.lambda_host import LambdaHost
from local.loopback import free_port
from local.processes import Processes
from local.tools import Tools, find_tools

type AddFunction = Callable[..., str]
"""(source of a module with a `handler`, **settings) -> name of the function"""


@pytest.fixture(scope="session")
def tools() -> Tools:
    return find_tools()


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    with Processes() as processes:
        yield processes


@pytest.fixture(scope="session")
def emulator(tools: Tools, processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    folder = tmp_path_factory.mktemp("emulator")
    log = folder / "emulator.log"
    return Emulator(processes, tools.emulator_python, port=free_port(0), folder=folder, log=log)


@pytest.fixture(scope="session")
def account(emulator: Emulator) -> Account:
    return emulator.account


@pytest.fixture
def host(tools: Tools, processes: Processes, account: Account, tmp_path: Path) -> Iterator[LambdaHost]:
    def aws(function: Function) -> dict[str, str]:
        return account.variables(function.role) if function.role else {}

    host = LambdaHost(processes, tools.runtime_python, aws=aws, logs=tmp_path, max_environments=8)
    yield host
    host.close()


@pytest.fixture
def add_function(host: LambdaHost, tmp_path: Path) -> AddFunction:
    """Makes a function of the source of a module with a `handler`, and returns its name. More settings by
    keyword."""

    def add(source: str, **settings: Any) -> str:
        name = f"toy-{uuid.uuid4().hex[:8]}"
        code = tmp_path / name
        code.mkdir()
        (code / "toy.py").write_text(textwrap.dedent(source))
        defaults: dict[str, Any] = {
            "arn": f"arn:aws:lambda:us-east-1:000000000000:function:{name}",
            "role": "",
            "handler": "toy.handler",
            "code": code,
            "layers": (),
            "timeout": 10.0,
            "memory": 128,
            "variables": {},
            "label": name,
        }
        host.add(Function(name=name, **defaults | settings))
        return name

    return add


@pytest.fixture(scope="session")
def role(account: Account) -> str:
    """The ARN of a role for functions, which may list the account's queues and nothing else."""
    trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    allowed = {"Effect": "Allow", "Action": "sqs:ListQueues", "Resource": "*"}
    iam = account.client("iam")
    made = iam.create_role(RoleName="toy", AssumeRolePolicyDocument=policy(trust))
    iam.put_role_policy(RoleName="toy", PolicyName="toy", PolicyDocument=policy(allowed))
    return str(made["Role"]["Arn"])


def policy(statement: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.fixture
def deploy_function(account: Account, role: str) -> AddFunction:
    """Deploys functions to MiniStack."""

    def deploy(source: str, **settings: Any) -> str:
        name = f"toy-{uuid.uuid4().hex[:8]}"
        account.client("lambda").create_function(
            FunctionName=name,
            Runtime="python3.13",
            Handler="toy.handler",
            Role=role,
            Code={"ZipFile": zipped({"toy.py": source})},
            **settings,
        )
        return name

    return deploy


@pytest.fixture
def deployed_function_name(deploy_function: AddFunction) -> str:
    return deploy_function("def handler(event, context): pass")


def zipped(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return buffer.getvalue()


def state_of(pid: int) -> str:
    """As `ps` tells it: T is stopped, Z is dead and not yet buried, empty is gone."""
    return subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()


def alive(pid: int) -> bool:
    return state_of(pid)[:1] not in ("", "Z")


def wait_until_gone(*pids: int) -> None:
    wait_for(lambda: not any(alive(pid) for pid in pids))


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Fails the test if the condition does not come true in `seconds`."""
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at, "it did not happen"
        threading.Event().wait(0.01)
