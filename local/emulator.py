"""MiniStack as a child process: the emulated account's storage, queues, secrets, CloudFormation and API
Gateway."""

import http.client
import subprocess
import time
from pathlib import Path

from local import guarded_ministack
from local.account import REGION, ROOT_KEY, Account
from local.guard import Guard, new_pass
from local.loopback import HOST
from local.processes import Process, Processes
from local.tools import ROOT

_SECONDS_TO_START = 30


class EmulatorFailed(Exception):
    """MiniStack did not start. The message ends with the last lines of its log."""


class Emulator:
    """A running MiniStack. Its state is only in memory."""

    def __init__(
        self,
        processes: Processes,
        python: Path,
        *,
        port: int,
        folder: Path,
        log: Path,
        upload_origins: frozenset[str] = frozenset(),
    ) -> None:
        """Start MiniStack on `port` of loopback, and wait until it answers. `folder` is for its temporary files. Pages
        of `upload_origins` may post forms to S3.

        Raises EmulatorFailed.
        """
        self.pass_ = new_pass()
        self.account = Account(f"http://{HOST}:{port}")
        folder.mkdir(parents=True, exist_ok=True)
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "BIND_HOST": HOST,
            "MINISTACK_HOST": HOST,  # the host name in the URLs that MiniStack returns
            "MINISTACK_REGION": REGION,
            "GATEWAY_PORT": str(port),
            "PYTHONPATH": str(ROOT),  # the folder from which MiniStack's Python imports the guard
            guarded_ministack.VARIABLE: Guard(upload_origins=upload_origins, pass_=self.pass_).to_json(),
            "LOG_LEVEL": "WARNING",
            # Enforce the policies of roles. Only the account's root key has all rights.
            "AUTH": "true",
            "AWS_ACCESS_KEY_ID": ROOT_KEY,
            "AWS_SECRET_ACCESS_KEY": ROOT_KEY,
            # The default quota of an AWS account. MiniStack would choose a value for this machine.
            "LAMBDA_ACCOUNT_CONCURRENCY": "1000",
            # Do not start MiniStack's servers for IoT and SFTP. Nothing here needs them, and they would listen on all
            # network interfaces.
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            # Without this variable, MiniStack would remove Docker containers that an earlier run left.
            "DOCKER_HOST": f"unix://{folder}/no-docker.sock",
            "PERSIST_STATE": "0",
            "S3_PERSIST": "0",
            "STATE_DIR": str(folder / "state"),
            "S3_DATA_DIR": str(folder / "s3"),
        }
        self.process = processes.start([python, "-m", guarded_ministack.__name__], env=environment, cwd=folder, log=log)
        try:
            _wait_until_ready(self.process, port)
        except TimeoutError as error:
            self.process.kill()
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise EmulatorFailed(f"MiniStack did not start ({error}):\n{tail}") from error

    def stop(self) -> None:
        self.process.stop()


def _wait_until_ready(process: Process, port: int) -> None:
    """Wait until MiniStack is ready. Raises TimeoutError if this takes too long, or if MiniStack's process ends
    first."""
    give_up_at = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < give_up_at:
        connection = http.client.HTTPConnection(HOST, port, timeout=5)
        try:
            connection.request("GET", "/_ministack/health")
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        try:
            code = process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        raise TimeoutError(f"ended with exit code {code}")
    raise TimeoutError(f"no answer in {_SECONDS_TO_START} s")
