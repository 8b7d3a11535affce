"""The files that `make run` keeps below .local while it serves. Other programs read addresses, tokens and names from
them."""

import contextlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from local.deploy import STACK_NAME
from local.stack import LocalStack

CONTAINERS_NAME_OF_THIS_MACHINE = "host.docker.internal"


class NotRunning(Exception):
    """`make run` is not serving, so the file `env` is missing."""


def variables(stack: LocalStack) -> dict[str, str]:
    """The variables: the API, tokens, the account's root credentials, and the names of resources. TURNS_TABLE_NAME is
    the stack's output TurnsTableName, and SUBMIT_FUNCTION the name of the template's SubmitFunction."""
    tokens = stack.tokens()
    return {
        "API": stack.api_url,
        "CONSOLE": stack.console.url,
        "TOKEN": tokens["alice"],
        **{f"TOKEN_{owner.upper()}": token for owner, token in tokens.items()},
        "LAMBDA": stack.host.endpoint_url,
        "MODEL": stack.model_url,
        "STACK": STACK_NAME,
        **stack.emulator.account.variables(),
        **{shouted(name): value for name, value in stack.outputs.items()},
        **{shouted(label): function.name for label, function in stack.functions.items()},
    }


def shouted(name: str) -> str:
    """The name in capitals: "TurnsTableName" becomes "TURNS_TABLE_NAME"."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()


@contextlib.contextmanager
def left(stack: LocalStack) -> Iterator[None]:
    """During the block, the folder of the stack has two files: `env`, for a shell or as a dotenv file, and
    `functions.json`, for `sam local invoke --env-vars`. The end of the block deletes these files, and the folder
    `events`: its example events contain ids of turns that exist only while the stack runs."""
    env, functions = stack.folder / "env", stack.folder / "functions.json"
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in variables(stack).items()]
    for file, text in ((env, "".join(lines)), (functions, json.dumps(_for_containers(stack), indent=2))):
        file.touch(mode=0o600)  # only the user may read it, because it has tokens
        file.write_text(text)
    try:
        yield
    finally:
        env.unlink(missing_ok=True)
        functions.unlink(missing_ok=True)
        shutil.rmtree(stack.folder / "events", ignore_errors=True)


def lead_here(variables: Mapping[str, str]) -> None:
    """Make the AWS SDK of this process use only the emulated account."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update({name: value for name, value in variables.items() if name.startswith("AWS_")})


def _for_containers(stack: LocalStack) -> dict[str, dict[str, str]]:
    """The environment variables of each function for a container: loopback is replaced by this machine's address."""
    endpoint = {"AWS_ENDPOINT_URL": stack.emulator.account.endpoint_url}
    return {
        label: {
            name: value.replace("//127.0.0.1", f"//{CONTAINERS_NAME_OF_THIS_MACHINE}")
            for name, value in (endpoint | dict(function.variables)).items()
        }
        for label, function in stack.functions.items()
    }


def read(folder: Path) -> dict[str, str]:
    """The variables in the file `env` of a running stack in `folder`. Raises NotRunning if the file is missing."""
    try:
        text = (folder / "env").read_text()
    except FileNotFoundError:
        raise NotRunning(f"There is no {folder / 'env'}: start `make run` first.") from None
    return {name: "".join(shlex.split(value)) for name, _, value in (line.partition("=") for line in text.splitlines())}
