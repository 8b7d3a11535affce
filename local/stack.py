"""Runs the whole of Turnqueue on this machine: the emulated account, the project's template deployed to it, and a
model."""

import contextlib
import itertools
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from local.cloudwatch import CloudWatch
from local.console import serve_console
from local.deploy import STACK_NAME, Sam, architecture
from local.emulator import Emulator
from local.event_source import EventSource, take_over_mappings
from local.front import serve_api
from local.function_url import serve_url
from local.functions import CodeStore, Function, deployed_function, hand_over
from local.issuer import Issuer
from local.lambda_host import LambdaHost
from local.loopback import LoopbackServer, free_port
from local.processes import Processes, locked
from local.progress import Progress
from local.recorder import Recorder
from local.repairs import repair
from local.tools import ROOT, find_tools

AUDIENCE = "turnqueue-local"
API_PORT = 8000
CONSOLE_PORT = 8001
STREAM_PORT = 8002
EMULATOR_PORT = 4566
OWNERS = ("alice", "bob")
"""The owners for whom the console has tokens."""
TOKEN_SECONDS = 12 * 3600
"""The tokens last for a working day. Their signing key exists only until the stack stops."""
POLLER = "'s event source"
"""The end of the name under which the recorder lists an event source: "WorkerFunction's event source"."""


@dataclass(frozen=True)
class Model:
    """A model server that the worker can call."""

    base_url: str  # the base URL, which ends with /v1
    key: str
    name: str  # the model's name; empty for the template's default
    stand_in: bool


def model_of_the_shell() -> Model | None:
    """The real model's server, if OPENAI_API_KEY or OPENAI_BASE_URL is set. The model's name comes
    from MODEL, if that is set."""
    key, url = os.environ.get("OPENAI_API_KEY", ""), os.environ.get("OPENAI_BASE_URL", "")
    if not key and not url:
        return None
    return Model(url or "https://api.openai.com/v1", key or "none", os.environ.get("MODEL", ""), stand_in=False)


class LocalStack:
    """All of Turnqueue between start and stop, as a context manager. All its processes end when this process ends, even
    if this process is killed.

    These members are set by the start: `api_url`; `stream_url`, which is empty without StreamFunction; `outputs` of the
    CloudFormation stack; `model`; `issuer`; `console`, the server of the console's page; `host`, the Lambda service;
    `event_sources` and `functions`, both by the function's name in the template; `emulator`; `recorder`, if `record`
    was set; `folder`, the folder of this run; and `logs`, the folder of its log files.
    """

    emulator: Emulator
    issuer: Issuer
    model: Model
    host: LambdaHost
    functions: dict[str, Function]
    event_sources: dict[str, EventSource]
    recorder: Recorder | None = None
    outputs: dict[str, str]
    console: LoopbackServer
    api_url: str
    stream_url: str = ""
    folder: Path
    logs: Path

    def __init__(
        self,
        *,
        state: Path = ROOT / ".local",
        api_port: int = API_PORT,
        console_port: int = CONSOLE_PORT,
        stream_port: int = STREAM_PORT,
        emulator_port: int = EMULATOR_PORT,
        parameters: dict[str, str] | None = None,
        model: Model | None = None,
        fallback: Model | None = None,
        record: bool = False,
        watch: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """`state` is the folder for logs and unpacked code. If a port is in use, a free one replaces it. `parameters`
        override the parameters of the template that this module sets. `model` replaces the stand-in, and `fallback` is
        the fallback model. `record` records the functions' calls by a proxy, which makes the calls slower. `watch`
        brings the functions' log lines and metrics to the account's CloudWatch."""
        self._state = state
        self._ports = {"the API": api_port, "the console": console_port, "MiniStack": emulator_port}
        self._ports |= {"the streams": stream_port}
        self._parameters = parameters or {}
        self._model = model
        self._fallback = fallback
        self._record = record
        self._watch = watch
        self._progress = progress or Progress(quiet=True)
        self._open = contextlib.ExitStack()
        self.api_url = ""

    def start(self) -> None:
        """Start everything. Raises ToolMissing, EmulatorFailed, DeployFailed or OSError, after all processes have
        ended."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End everything, in reverse order. Safe to call again."""
        self._open.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def model_url(self) -> str:
        return self.model.base_url

    def token(self, owner: str, ttl: int = 3600) -> str:
        """A bearer token for `owner`, valid for `ttl` seconds."""
        return self.issuer.token(owner, AUDIENCE, ttl)

    def tokens(self) -> dict[str, str]:
        """A new token for each development owner, valid for `TOKEN_SECONDS`."""
        return {owner: self.token(owner, TOKEN_SECONDS) for owner in OWNERS}

    def client(self, service: str) -> Any:
        """A boto3 client of the emulated account."""
        return self.emulator.account.client(service)

    def _start(self) -> None:
        tools = find_tools()
        folder = self._own_folder()
        # Start the console's server first, because MiniStack's guard needs the console's origin.
        self.console = serve_console(lambda: self.api_url, self.tokens, self._port("the console"))
        self._open.callback(self.console.close)
        # Open the thread pool before the processes, so that the pool closes after the processes: the pool's thread
        # waits for a process.
        pool = self._open.enter_context(ThreadPoolExecutor(1))
        processes = self._open.enter_context(Processes())
        sam = Sam(processes, tools.sam, root=ROOT, log=self.logs / "sam.log")
        with sam.alone():
            with self._progress.step("sam build, and MiniStack and the model server meanwhile") as step:
                build = pool.submit(sam.build, architecture(), step.tell)
                self.emulator = Emulator(
                    processes,
                    tools.emulator_python,
                    port=self._port("MiniStack"),
                    folder=folder / "emulator",
                    log=self.logs / "emulator.log",
                    upload_origins=self._upload_origins,
                )
                self._open.callback(self.emulator.stop)
                self.issuer = Issuer()
                self._open.callback(self.issuer.close)
                self.model = self._model or self._stand_in(processes)
                build.result()
            with self._progress.step("sam deploy") as step:
                self.outputs = sam.deploy(self.emulator.account, self._stack_parameters(), step.tell)
        with self._progress.step("starting the deployed functions") as step:
            self._take_over(processes, tools.runtime_python)
            step.note = f"{len(self.functions)} functions, {len(self.event_sources)} event sources"

    def _own_folder(self) -> Path:
        """Choose this run's folder: `state`, or a folder below it if another run uses `state`. Empties its `logs`."""
        self._state.mkdir(parents=True, exist_ok=True)
        (self._state / ".gitignore").write_text("*\n")
        for number in itertools.count(1):
            folder = self._state if number == 1 else self._state / f"run-{number}"
            folder.mkdir(exist_ok=True)
            try:
                self._open.enter_context(locked(folder / "run.lock", wait=False))
            except BlockingIOError:
                continue
            break
        self.folder = folder
        self.logs = folder / "logs"
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir()
        self._open.enter_context(_logged_to(self.logs / "local.log"))
        return folder

    @property
    def _upload_origins(self) -> frozenset[str]:
        """The origins of the console's page, and the origins in the environment variable UPLOAD_ORIGINS, for another
        front end that is being developed."""
        own = (f"http://{name}:{self.console.port}" for name in ("127.0.0.1", "localhost"))
        return frozenset([*own, *os.environ.get("UPLOAD_ORIGINS", "").split()])

    def _port(self, whose: str) -> int:
        wished = self._ports[whose]
        port = free_port(wished)
        if port != wished:
            self._progress.say(f"  Port {wished} is taken: {whose} uses {port} instead.")
        return port

    def _stand_in(self, processes: Processes) -> Model:
        log = self.logs / "model.log"
        environment = {"PATH": os.environ.get("PATH", os.defpath)}
        command = [sys.executable, "-m", "local.model_server"]
        process = processes.start(command, env=environment, cwd=ROOT, log=log, announces=True)
        self._open.callback(process.stop)
        return Model(process.first_line(), "stand-in-key", "", stand_in=True)

    def _stack_parameters(self) -> dict[str, str]:
        secret = self.client("secretsmanager").create_secret(Name="model-key", SecretString=self.model.key)
        return {
            "Architecture": architecture(),
            "ModelBaseUrl": self.model.base_url,
            "ModelKeySecretArn": secret["ARN"],
            "JwtIssuer": self.issuer.url,
            "JwtAudience": AUDIENCE,
            # The minimum of the template, because each worker process takes about 100 MB. Two workers run up to 80
            # turns at a time (TurnsPerWorker).
            "WorkerConcurrency": "2",
            "CompositeAlarms": "false",
            "StreamFunction": "true",
            "StreamConcurrency": "10",
            "DataDeletionPolicy": "Delete",
            **({"ModelName": self.model.name} if self.model.name else {}),
            **(self._fallback_parameters(self._fallback) if self._fallback else {}),
            **self._parameters,
        }

    def _fallback_parameters(self, fallback: Model) -> dict[str, str]:
        secret = self.client("secretsmanager").create_secret(Name="fallback-key", SecretString=fallback.key)
        return {
            "FallbackModelName": fallback.name,
            "FallbackBaseUrl": fallback.base_url,
            "FallbackKeySecretArn": secret["ARN"],
        }

    def _take_over(self, processes: Processes, runtime_python: Path) -> None:
        """Run the deployed functions, event sources and API here instead of in MiniStack."""
        account = self.emulator.account
        repair(account, STACK_NAME)
        if self._record:
            self.recorder = Recorder(self.emulator, self._upload_origins)
            self._open.callback(self.recorder.close)
        lambda_client = account.client("lambda")
        store = CodeStore(self._state / "code")
        store.forget_old()
        self.host = LambdaHost(processes, runtime_python, aws=self._variables, logs=self.logs)
        self._open.callback(self.host.close)
        resources = account.client("cloudformation").describe_stack_resources(StackName=STACK_NAME)["StackResources"]
        self.functions = {}
        for resource in resources:
            if resource["ResourceType"] == "AWS::Lambda::Function":
                function = deployed_function(lambda_client, resource["PhysicalResourceId"], store)
                self.host.add(function)
                hand_over(lambda_client, function, self.host.url(function.name))
                self.functions[function.label] = function
        if self._watch:
            self._open.callback(CloudWatch(account, self.functions.values(), self.logs).close)
        self._start_event_sources(lambda_client)
        [api_id] = [r["PhysicalResourceId"] for r in resources if r["ResourceType"] == "AWS::ApiGatewayV2::Api"]
        front = serve_api(self.emulator, api_id, self._port("the API"))
        self._open.callback(front.close)
        self.api_url = front.url
        if streams := self.functions.get("StreamsFunction"):
            self._serve_streams(lambda_client, streams)

    def _serve_streams(self, lambda_client: Any, function: Function) -> None:
        configured = lambda_client.get_function_url_config(FunctionName=function.name, Qualifier="live")
        server = serve_url(self.host, function.name, configured.get("Cors", {}), self._port("the streams"))
        self._open.callback(server.close)
        self.stream_url = self.outputs["StreamUrl"] = server.url

    def _variables(self, function: Function) -> dict[str, str]:
        """The variables that select the account for the function's AWS SDK, with the rights of its role."""
        variables = self.emulator.account.variables(function.role)
        return variables | ({"AWS_ENDPOINT_URL": self.recorder.endpoint(function.label)} if self.recorder else {})

    def _start_event_sources(self, lambda_client: Any) -> None:
        self.event_sources = {}
        for mapping in take_over_mappings(lambda_client, self.client("sqs")):
            function = self.host.function(mapping.function)
            # As on AWS, the event source polls with the permissions of the function's role.
            poller = self.emulator.account.as_role(function.role)
            if self.recorder:
                poller = replace(poller, endpoint_url=self.recorder.endpoint(f"{function.label}{POLLER}"))
            source = EventSource(mapping, poller.client("sqs"), self.host.invoke)
            self.event_sources[function.label] = source
            source.start()
            self._open.callback(source.abandon)


@contextlib.contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """Write the log of these modules to a file."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("local")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
