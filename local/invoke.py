"""`make invoke`: run one function of the running stack on one event, once.

With Docker, `sam local invoke` runs it in a container. Otherwise the local Lambda host runs it, as `make run` does. In
both cases the function uses the tables, the queue and the model of `make run`.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

from local import env_file, events
from local.account import Account
from local.deploy import architecture
from local.loopback import HOST
from local.tools import ROOT, find_tools

_BUILT = ROOT / ".aws-sam" / "build"


class Failed(Exception):
    """The function failed or did not run. The exception's message says why."""


def invoke(name: str, event: Path, folder: Path, variables: dict[str, str]) -> str:
    """Run a function and return its result as JSON. `name` is for example `submit` or SubmitFunction; `variables` are
    those of the running stack in `folder`. Raises Failed, env_file.NotRunning or OSError."""
    functions: dict[str, dict[str, str]] = json.loads((folder / "functions.json").read_text())
    label = name if name in functions else f"{name.capitalize()}Function"
    if label not in functions:
        raise Failed(f"FUNCTION: no function has the name {name}. The functions are {', '.join(sorted(functions))}.")
    try:
        payload = events.with_turn(event.read_text(), variables)
    except ValueError as error:
        raise Failed(f"EVENT: {event} is not JSON: {error}.") from error
    if _docker_runs():
        print(f"{label}, by `sam local invoke`, in a container:", file=sys.stderr)
        return _in_container(label, payload, folder, variables)
    print(f"{label}, in the local Lambda host, because no Docker runs here:", file=sys.stderr)
    return _in_host(variables["LAMBDA"], variables[env_file.shouted(label)], payload)


# ---- In the local Lambda host


def _in_host(endpoint: str, function: str, payload: str) -> str:
    """Invoke the function by Lambda's Invoke API."""
    url = f"{endpoint}/2015-03-31/functions/{quote(function)}/invocations"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, payload.encode(), method="POST")) as answer:
            text: str = answer.read().decode()
            failed = "X-Amz-Function-Error" in answer.headers
    except urllib.error.HTTPError as error:
        raise Failed(error.read().decode()) from error
    except urllib.error.URLError as error:
        raise env_file.NotRunning(f"Nothing answers at {endpoint}: start `make run` first.") from error
    if failed:
        raise Failed(text)
    return text


# ---- In a container. NOT TRIED, because its author had no Docker.


def _docker_runs() -> bool:
    """Whether a Docker engine runs. It is not enough that the command `docker` exists."""
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "info"], capture_output=True).returncode == 0


def _in_container(label: str, payload: str, folder: Path, variables: Mapping[str, str]) -> str:
    template = _BUILT / "invoke.json"
    template.write_text(json.dumps(declaring_endpoint(json.loads((_BUILT / "template.json").read_text()))))
    (folder / "event.json").write_text(payload)
    account = Account(variables["AWS_ENDPOINT_URL"])
    function = variables[env_file.shouted(label)]
    role = account.client("lambda").get_function_configuration(FunctionName=function)["Role"]
    environment = os.environ | account.variables(role) | {"SAM_CLI_TELEMETRY": "0"}
    urls = [urlsplit(variables[name]) for name in ("AWS_ENDPOINT_URL", "MODEL")]
    ports = [url.port for url in urls if url.hostname == HOST and url.port]
    with contextlib.ExitStack() as relays:
        gateway: str | None = _gateway()
        try:
            for port in ports:
                relays.enter_context(relay(str(gateway), port))
        # With Docker Desktop, the address belongs to Docker's virtual machine. Docker Desktop forwards connections to
        # this machine itself, so no relay is needed.
        except OSError:
            gateway = None
        command = sam_command(find_tools().sam, label, template, folder, gateway)
        ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if ran.returncode:
        raise Failed(f"sam local invoke ended with exit code {ran.returncode}.")
    return ran.stdout


def _gateway() -> str:
    """The address of this machine in Docker's default network."""
    command = ["docker", "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@contextlib.contextmanager
def relay(address: str, port: int) -> Iterator[None]:
    """Accepts connections at `address` and `port`, and relays them to the stack, which listens at the same port of
    loopback. Raises OSError if the address is not this machine's."""
    with socket.create_server((address, port)) as server:
        threading.Thread(target=_accept, args=(server, port), daemon=True).start()
        yield
        server.shutdown(socket.SHUT_RDWR)  # close() alone would not end an accept() that waits


def _accept(server: socket.socket, port: int) -> None:
    with contextlib.suppress(OSError):  # the error means that the server is closed
        while True:
            near, _ = server.accept()
            threading.Thread(target=_hand_on, args=(near, port), daemon=True).start()


def _hand_on(near: socket.socket, port: int) -> None:
    with contextlib.suppress(OSError), near, socket.create_connection((HOST, port)) as far:
        there = threading.Thread(target=_copy, args=(near, far), daemon=True)
        there.start()
        _copy(far, near)
        there.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the error means that one side has closed
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def declaring_endpoint(template: dict[str, object]) -> dict[str, object]:
    """The template with AWS_ENDPOINT_URL among the variables of every function, because SAM gives a container only the
    variables that the template declares."""
    changed = json.loads(json.dumps(template))
    changed["Globals"]["Function"]["Environment"]["Variables"]["AWS_ENDPOINT_URL"] = ""
    return changed  # type: ignore[no-any-return]


def sam_command(sam: Path, label: str, template: Path, folder: Path, gateway: str | None) -> Sequence[str]:
    """The command of `sam local invoke`. `gateway`: this machine's address in the container's network. None with Docker
    Desktop, where containers already know the address."""
    command = [str(sam), "local", "invoke", label, "--template", str(template), "--event", str(folder / "event.json")]
    command += ["--env-vars", str(folder / "functions.json")]
    command += ["--parameter-overrides", f"Architecture={architecture()}"]
    if gateway:
        command += ["--add-host", f"{env_file.CONTAINERS_NAME_OF_THIS_MACHINE}:{gateway}"]
    return command
