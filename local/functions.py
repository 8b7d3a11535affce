"""Reads the deployed functions of the account from the Lambda API: their configuration, code and layers."""

import base64
import os
import shutil
import stat
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROXY_URL = "MINISTACK_LAMBDA_PROXY_URL"
"""The environment variable that makes MiniStack forward a function's invocations to a URL. Here, the function itself
does not get this variable."""

_SECONDS_KEPT = 7 * 24 * 3600


@dataclass(frozen=True)
class Function:
    """A deployed function, ready to be invoked."""

    name: str
    arn: str
    role: str  # the ARN of the function's role
    handler: str
    code: Path  # the folder of the code, which is /var/task on AWS
    layers: tuple[Path, ...]  # the folders of the layers; on AWS they are merged into /opt
    timeout: float  # the timeout in seconds
    memory: int  # the memory in MB
    variables: Mapping[str, str]
    label: str  # the function's name in the template
    reserved_concurrency: int | None = None
    log_group: str = ""
    log_format: str = "Text"
    log_level: str = ""


class CodeStore:
    """Unpacks deployed code. Each archive is unpacked only once, into a separate folder below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def unpacked(self, digest: str, url: str) -> Path:
        """The folder with the content of the zip archive at `url`, whose SHA-256 in base64 is `digest`."""
        target = self._folder / base64.b64decode(digest).hex()[:32]
        if target.exists():
            os.utime(target)
            return target
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            archive = Path(scratch, "code.zip")
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(url) as source, archive.open("wb") as copy:
                shutil.copyfileobj(source, copy)
            _unpack(archive, Path(scratch, "code"))
            try:
                Path(scratch, "code").rename(target)
            except OSError:
                if not target.exists():  # otherwise, another stack has just made it
                    raise
        return target

    def forget_old(self) -> None:
        """Delete code that no stack has used for a week."""
        for folder in self._folder.iterdir():
            if folder.stat().st_mtime < time.time() - _SECONDS_KEPT:
                shutil.rmtree(folder, ignore_errors=True)


def _unpack(archive: Path, target: Path) -> None:
    """Unpack the archive like Lambda: keep the modes and times of the files, because Python compares bytecode with the
    times."""
    with zipfile.ZipFile(archive) as files:
        for info in files.infolist():
            path = Path(files.extract(info, target))
            if not info.is_dir():
                if mode := stat.S_IMODE(info.external_attr >> 16):
                    path.chmod(mode)
                written = time.mktime((*info.date_time, 0, 0, -1))
                os.utime(path, (written, written))
    target.mkdir(exist_ok=True)  # an empty archive makes no folder


def deployed_function(lambda_client: Any, name: str, store: CodeStore) -> Function:
    """The function `name`, with its code and its layers unpacked. Raises botocore's ClientError if the function does
    not exist."""
    answer = lambda_client.get_function(FunctionName=name)
    configuration = answer["Configuration"]
    # Convert values to text, as on AWS. MiniStack keeps the default of a Number parameter as a number, which boto3 does
    # not accept.
    variables = {name: str(value) for name, value in configuration.get("Environment", {}).get("Variables", {}).items()}
    variables.pop(PROXY_URL, None)
    logging = configuration.get("LoggingConfig", {})
    return Function(
        name=name,
        arn=configuration["FunctionArn"],
        role=configuration["Role"],
        handler=configuration["Handler"],
        code=store.unpacked(configuration["CodeSha256"], answer["Code"]["Location"]),
        layers=tuple(_deployed_layer(lambda_client, layer["Arn"], store) for layer in configuration.get("Layers", [])),
        timeout=configuration["Timeout"],
        memory=configuration["MemorySize"],
        variables=variables,
        label=answer.get("Tags", {}).get("aws:cloudformation:logical-id", name),
        reserved_concurrency=answer.get("Concurrency", {}).get("ReservedConcurrentExecutions"),
        log_group=logging.get("LogGroup") or f"/aws/lambda/{name}",
        log_format=logging.get("LogFormat", "Text"),
        log_level=logging.get("ApplicationLogLevel", ""),
    )


def _deployed_layer(lambda_client: Any, arn: str, store: CodeStore) -> Path:
    content = lambda_client.get_layer_version_by_arn(Arn=arn)["Content"]
    return store.unpacked(content["CodeSha256"], content["Location"])


def hand_over(lambda_client: Any, function: Function, url: str) -> None:
    """Make MiniStack forward all invocations of the function to `url`, including those by API Gateway. The
    function's aliases then point to a new version that has this setting."""
    lambda_client.update_function_configuration(
        FunctionName=function.name, Environment={"Variables": {**function.variables, PROXY_URL: url}}
    )
    version = lambda_client.publish_version(FunctionName=function.name)["Version"]
    for alias in lambda_client.list_aliases(FunctionName=function.name)["Aliases"]:
        lambda_client.update_alias(FunctionName=function.name, Name=alias["Name"], FunctionVersion=version)
