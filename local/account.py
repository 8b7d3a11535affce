"""The emulated account: its region, its credentials (dummies), and clients that cannot reach a real
account."""

import os
import threading
from dataclasses import dataclass, field
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import (
    CredentialProvider,
    CredentialResolver,
    Credentials,
    DeferredRefreshableCredentials,
    create_assume_role_refresher,
)

REGION = "us-east-1"
ROOT_KEY = "local"
"""Access key and secret of the account's root user, who has all rights."""


class _Fixed(CredentialProvider):
    """Uses only the given credentials, and never credentials of the shell, a profile or a file."""

    METHOD = "fixed"

    def __init__(self, credentials: Credentials) -> None:
        super().__init__()
        self._credentials = credentials

    def load(self) -> Credentials:
        return self._credentials


def _session(credentials: Credentials) -> boto3.Session:
    nothing = (None, None, None, None)
    no_file = (None, None, os.devnull, None)
    variables = {"profile": nothing, "config_file": no_file, "credentials_file": no_file}
    session = botocore.session.Session(session_vars=variables)
    session.register_component("credential_provider", CredentialResolver([_Fixed(credentials)]))
    return boto3.Session(botocore_session=session, region_name=REGION)


@dataclass(frozen=True)
class Account:
    """The account at `endpoint_url`, a MiniStack on loopback, used as root or with the rights of a role."""

    endpoint_url: str
    _credentials: Credentials = field(default_factory=lambda: Credentials(ROOT_KEY, ROOT_KEY), repr=False)
    _clients: dict[str, Any] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def client(self, service: str) -> Any:
        """The boto3 client of the AWS service `service`, shared by all threads."""
        with self._lock:
            if service not in self._clients:
                self._clients[service] = self._new_client(service)
            return self._clients[service]

    def _new_client(self, service: str) -> Any:
        config = Config(
            proxies={},  # use no proxy from the shell's variables, because a proxy cannot reach loopback
            max_pool_connections=64,
            retries={"mode": "standard", "total_max_attempts": 3},
        )
        make: Any = _session(self._credentials).client
        return make(service, endpoint_url=self.endpoint_url, config=config)

    def as_role(self, arn: str) -> "Account":
        """The account, used with the rights of the role `arn`. The credentials are renewed before they expire."""
        parameters = {"RoleArn": arn, "RoleSessionName": "local"}
        refresh = create_assume_role_refresher(self.client("sts"), parameters)
        return Account(self.endpoint_url, DeferredRefreshableCredentials(refresh, "assume-role"))

    def variables(self, role: str | None = None) -> dict[str, str]:
        """The environment variables that make a child process's AWS SDK use only this account. `role`: the ARN of a
        role, whose rights the process has for an hour. None for root."""
        keys = {"AWS_ACCESS_KEY_ID": ROOT_KEY, "AWS_SECRET_ACCESS_KEY": ROOT_KEY}
        if role:
            answer = self.client("sts").assume_role(RoleArn=role, RoleSessionName="local")["Credentials"]
            keys = {
                "AWS_ACCESS_KEY_ID": answer["AccessKeyId"],
                "AWS_SECRET_ACCESS_KEY": answer["SecretAccessKey"],
                "AWS_SESSION_TOKEN": answer["SessionToken"],
            }
        return keys | {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
