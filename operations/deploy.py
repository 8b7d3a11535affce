"""`python -m operations deploy` runs `sam deploy`, and can set TrafficShift for this one deployment."""

import subprocess
import tomllib
from pathlib import Path

from operations import CommandFailed

ROOT = Path(__file__).parents[1]

TRAFFIC_SHIFTS = ("AllAtOnce",)
"""The values that `--traffic-shift` allows. With AllAtOnce, CloudFormation deploys without CodeDeploy, which refuses a
deployment while an alarm of the stack is in ALARM."""


class NotDeployed(CommandFailed):
    """`sam deploy` did not start, or it failed. SAM has printed the reason."""


def deploy(config_env: str, *, traffic_shift: str | None = None, confirm: bool = True) -> None:
    """Deploy what `sam build` has built, with the table `config_env` of samconfig.toml. Raises NotDeployed.

    `traffic_shift` overrides the table's TrafficShift for this deployment only.
    """
    try:
        ran = subprocess.run(command(config_env, traffic_shift=traffic_shift, confirm=confirm), cwd=ROOT, check=False)
    except FileNotFoundError:
        raise NotDeployed("the SAM CLI is not in .tools/sam: run `make deployer` first") from None
    if ran.returncode:
        raise NotDeployed(f"sam deploy ended with exit code {ran.returncode}")


def command(config_env: str, *, traffic_shift: str | None, confirm: bool) -> list[str]:
    arguments = [str(ROOT / ".tools/sam/bin/sam"), "deploy", "--config-env", config_env]
    if not confirm:
        arguments.append("--no-confirm-changeset")
    if traffic_shift is not None:
        # The command line's list of parameters replaces the list in the file, so repeat the file's list here. If the
        # list has a parameter twice, the last value counts.
        arguments += ["--parameter-overrides", *_overrides(config_env), f"TrafficShift={traffic_shift}"]
    return arguments


def _overrides(config_env: str) -> list[str]:
    try:
        parameters = tomllib.loads((ROOT / "samconfig.toml").read_text())[config_env]["deploy"]["parameters"]
    except KeyError:
        raise NotDeployed(f"samconfig.toml has no table {config_env}.deploy.parameters") from None
    listed = parameters.get("parameter_overrides", [])
    if isinstance(listed, str):
        return [listed]
    if not (isinstance(listed, list) and all(isinstance(text, str) for text in listed)):
        raise NotDeployed(f"samconfig.toml: parameter_overrides of {config_env} must be a list of strings")
    return list(listed)
