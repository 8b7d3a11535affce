"""Builds the project's template with `sam build`, and deploys it to the emulated account with `sam deploy`. The
deployment cannot reach a real account, because SAM does not get the AWS settings of the caller's shell."""

import contextlib
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from local import transform
from local.account import Account
from local.processes import Processes, locked

STACK_NAME = "turnqueue-local"
_CONFIG_ENV = "local"
_LINES_OF_A_FAILURE = 40
_NOT_PASSED_ON = ("AWS_", "OPENAI_", "SAM_")


class DeployFailed(Exception):
    """A sam command failed. The message ends with the last lines of its output."""


def architecture() -> str:
    """This machine's architecture, as Lambda calls it. The functions run on this machine."""
    return "arm64" if platform.machine().lower() in ("arm64", "aarch64") else "x86_64"


class Sam:
    """The SAM CLI, used on the project in `root`. Its output is appended to the file `log`."""

    def __init__(self, processes: Processes, sam: Path, *, root: Path, log: Path) -> None:
        self._processes = processes
        self._sam = sam
        self._root = root
        self._log = log

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the build folder's lock, so that no other run builds at the same time. The deployed code is then the
        code that was just built."""
        folder = self._root / ".aws-sam"
        folder.mkdir(exist_ok=True)
        with locked(folder / "lock"):
            yield

    def build(self, architecture: str, tell: Callable[[str], None]) -> None:
        """Build everything that has changed since the last build, for `architecture` (x86_64 or arm64). `tell` gets
        each line of output. Raises DeployFailed."""
        overrides = ["--parameter-overrides", f"Architecture={architecture}"]
        self._run(["build", "--config-env", _CONFIG_ENV, *overrides], {}, tell)

    def deploy(self, account: Account, parameters: Mapping[str, str], tell: Callable[[str], None]) -> dict[str, str]:
        """Deploy the build. Parameters that are not in `parameters` have their defaults. Returns the outputs of the
        stack. Raises DeployFailed.

        AWS::LanguageExtensions is applied before the deployment, because MiniStack does not support it: MiniStack would
        leave references to parameters in the template.
        """
        built = self._root / ".aws-sam/build"
        try:
            template = transform.transform(self._sam.with_name("python"), built / "template.yaml", parameters)
        except transform.Refused as error:
            raise DeployFailed(f"AWS would refuse the template: {error}") from error
        (built / "template.json").write_text(json.dumps(template))
        defaults = {name: str(declared.get("Default", "")) for name, declared in template["Parameters"].items()}
        overrides = [
            f"{name}={value}" if value else f'{name}=""' for name, value in (defaults | dict(parameters)).items()
        ]
        command = ["deploy", "--config-env", _CONFIG_ENV, "--stack-name", STACK_NAME]
        command += [
            "--template-file",
            str(built / "template.json"),
            "--config-file",
            str(self._root / "samconfig.toml"),
        ]
        command += ["--no-confirm-changeset", "--parameter-overrides", *overrides]
        # Without this variable, SAM checks only every 5 s whether a step has ended.
        self._run(command, {**account.variables(), "SAM_CLI_POLL_DELAY": "0.2"}, tell)
        stack = account.client("cloudformation").describe_stacks(StackName=STACK_NAME)["Stacks"][0]
        return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    def _run(self, arguments: list[str], variables: Mapping[str, str], tell: Callable[[str], None]) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED_ON)}
        environment = inherited | {
            # the build needs a python3.13 in PATH: use the Python of this process
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "SAM_CLI_TELEMETRY": "0",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            **variables,
        }
        process = self._processes.start([self._sam, *arguments], env=environment, cwd=self._root, log=None)
        tail: list[str] = []
        try:
            with self._log.open("ab") as log:
                for line in process.output:
                    log.write(line)
                    text = line.decode(errors="replace").rstrip()
                    if text.strip():
                        tail = [*tail[1 - _LINES_OF_A_FAILURE :], text]
                        tell(text.strip())
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        if code != 0:
            raise DeployFailed(f"sam {arguments[0]} failed (its whole output: {self._log}):\n" + "\n".join(tail))
