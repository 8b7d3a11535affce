"""The emulated account: its region, its credentials (dummies), and clients that cannot reach a real
account."""

import os
import threading
from dataclasses import dataclass, field
from typing import Any

import boto3
import botocore.session
from botocore.config import Config

REGION = "us-east-1"
ACCESS_KEY = "local"
"""Not of 12 digits: MiniStack would take those as an account id and keep a second, empty account."""


def _session() -> boto3.Session:
    # Neither the profile that the shell has chosen nor the files with its credentials are looked at.
    nothing = (None, None, None, None)
    no_file = (None, None, os.devnull, None)
    variables = {"profile": nothing, "config_file": no_file, "credentials_file": no_file}
    return boto3.Session(
        botocore_session=botocore.session.Session(session_vars=variables),
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=ACCESS_KEY,
        region_name=REGION,
    )


@dataclass(frozen=True)
class Account:
    """The account at `endpoint_url`, a MiniStack on loopback."""

    endpoint_url: str
    _session: boto3.Session = field(default_factory=_session)
    _lock: threading.Lock = field(default_factory=threading.Lock)  # a session must not make two clients at once

    def client(self, service: str) -> Any:
        """A boto3 client of the AWS service named `service`; safe to share between threads."""
        config = Config(
            proxies={},  # the shell's proxy knows nothing of our loopback
            max_pool_connections=64,
            retries={"mode": "standard", "total_max_attempts": 3},
        )
        with self._lock:
            make: Any = self._session.client
            return make(service, endpoint_url=self.endpoint_url, config=config)

    def variables(self) -> dict[str, str]:
        """The environment variables that lead a child process's AWS SDK here, and nowhere else."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": ACCESS_KEY,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
