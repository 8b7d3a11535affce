"""The parts of `make invoke` with Docker that can be tested without Docker: SAM's template and command, and the relay.
No test uses Docker."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from local import transform
from local.deploy import architecture
from local.invoke import declaring_endpoint, relay, sam_command
from local.loopback import LoopbackServer, Response
from local.tools import ROOT, Tools

SEEN_BY_SAM = """
import json, sys
from samcli.commands.local.lib.debug_context import DebugContext
from samcli.lib.providers.sam_function_provider import SamFunctionProvider
from samcli.lib.providers.sam_stack_provider import SamLocalStackProvider

overrides = dict(override.split("=") for override in sys.argv[2:])
stacks, _ = SamLocalStackProvider.get_stacks(sys.argv[1], parameter_overrides=overrides)
functions = {f.name: f for f in SamFunctionProvider(stacks).get_all()}
print(json.dumps({
    name: {"variables": f.environment["Variables"], "architectures": f.architectures, "code": f.codeuri}
    for name, f in functions.items()
}))
"""
PARAMETERS = {
    "Architecture": architecture(),
    "ModelKeySecretArn": "arn:aws:secretsmanager:us-east-1:000000000000:secret:x",
}


@pytest.fixture
def template(tools: Tools, tmp_path: Path) -> Path:
    """The template as `make run` deploys it, with the endpoint declared."""
    deployed = transform.transform(tools.sam.with_name("python"), ROOT / "template.yaml", PARAMETERS)
    path = tmp_path / "invoke.json"
    path.write_text(json.dumps(declaring_endpoint(deployed)))
    return path


def test_sam_sees_the_endpoint_and_this_machines_architecture(tools: Tools, template: Path) -> None:
    python = tools.sam.with_name("python")
    command = list(sam_command(tools.sam, "SubmitFunction", template, template.parent, None))
    override = command[command.index("--parameter-overrides") + 1]
    ran = subprocess.run([python, "-c", SEEN_BY_SAM, template, override], capture_output=True, text=True, check=True)
    functions: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    assert {"SubmitFunction", "StatusFunction", "WorkerFunction", "DeadletterFunction"} <= functions.keys()
    for name, function in functions.items():
        assert "AWS_ENDPOINT_URL" in function["variables"], name
        assert function["architectures"] == [architecture()], name


def test_the_command_is_one_that_sam_takes_up_to_the_missing_docker(
    tools: Tools, template: Path, tmp_path: Path
) -> None:
    (tmp_path / "event.json").write_text("{}")
    (tmp_path / "functions.json").write_text("{}")
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "DOCKER_HOST": f"unix://{tmp_path}/no-docker.sock",
        "SAM_CLI_TELEMETRY": "0",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = sam_command(tools.sam, "SubmitFunction", template, tmp_path, "172.17.0.1")
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 1
    assert "requires a container runtime" in ran.stderr
    assert command[-2:] == ["--add-host", "host.docker.internal:172.17.0.1"]
    assert "--add-host" not in sam_command(tools.sam, "SubmitFunction", template, tmp_path, None)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a second loopback address")
def test_the_relay_hands_on_both_ways_and_ends() -> None:
    server = LoopbackServer(lambda request: Response(200, request.body))
    body = b"x" * 300_000
    with relay("127.0.0.2", server.port), socket.create_connection(("127.0.0.2", server.port)) as client:
        head = f"POST / HTTP/1.1\r\nHost: host.docker.internal\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(body)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port))
    server.close()


def test_an_address_of_another_machine_is_not_relayed() -> None:
    with pytest.raises(OSError, match="assign"), relay("192.0.2.1", 4566):
        pass
