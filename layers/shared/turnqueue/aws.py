"""AWS clients, tuned for short calls within one region."""

import os
import random
import ssl
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import SSLError
from botocore.httpsession import DEFAULT_CA_BUNDLE
from botocore.loaders import Loader

from turnqueue import __version__

# Processes that start from one snapshot (SnapStart) would share one state of `random`, so each gets a new one here.
# botocore and the worker use `random` for the waits between tries. Unique values must come from `secrets`: the kernel
# gives different numbers to each process (docs.aws.amazon.com/lambda/latest/dg/snapstart-uniqueness.html).
with suppress(ModuleNotFoundError):  # snapshot_restore_py exists only in Lambda's runtime.
    from snapshot_restore_py import register_after_restore  # type: ignore[import-not-found]

    register_after_restore(random.seed)

SHIPPED = Path(__file__).with_name("aws_data")
"""The folder with the parts of botocore's data that the build (bundle/) selected. The folder does not exist when the
code runs from the repository."""


class _Descriptions(Loader):
    """Loads our trimmed service models. Otherwise botocore would list all 400 service models to find one. Everything
    else comes from botocore."""

    def list_available_services(self, type_name: str) -> list[str]:
        return [name for name in os.listdir(SHIPPED) if "." not in name]

    def is_builtin_path(self, path: str) -> bool:
        # botocore treats an endpoints.json outside its own folder as a user override. Then botocore ignores the
        # services' own rules, and FIPS, dual-stack and a few partitions get wrong addresses.
        return path.startswith(str(SHIPPED)) or bool(super().is_builtin_path(path))


class Authorities(os.PathLike[str]):
    """The file of certificate authorities that botocore loads for each new connection
    (github.com/urllib3/urllib3/issues/3623). At first this is `few`: the authorities that sign for AWS today. `every`
    has all public authorities, and takes eight times the CPU of `few`.

    If AWS changes to another authority, the connection fails before botocore sends the request. Then botocore tries
    again with `every`, and all later connections use `every` too.
    """

    def __init__(self, few: str, every: str) -> None:
        self._path = few
        self._every = every

    def __fspath__(self) -> str:
        return self._path

    def widen(self, attempts: int, caught_exception: BaseException | None, **_: Any) -> int | None:
        """Handles botocore's event `needs-retry`: if the first try failed because of an untrusted certificate, use all
        authorities. Returns the seconds until the next try (0), or None for no further try."""
        if attempts > 1 or not isinstance(caught_exception, SSLError) or not _is_untrusted(caught_exception):
            return None
        self._path = self._every
        return 0


def _is_untrusted(error: BaseException | None) -> bool:
    """Whether botocore refused the certificate of the server. Other SSL errors can come after botocore has sent the
    request, and then a second try may not be safe."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__context__
    return error is not None


_session = botocore.session.get_session()
_authorities: Any = _session.get_config_variable("ca_bundle")
if SHIPPED.exists():
    _session.register_component("data_loader", _Descriptions(extra_search_paths=[str(SHIPPED)]))
    if not _authorities:
        _authorities = Authorities(str(SHIPPED / "authorities.pem"), DEFAULT_CA_BUNDLE)
        _session.register("needs-retry", _authorities.widen)

# Only one client is made at a time, because a botocore session cannot make two clients at once. Without the lock,
# concurrent callers would also make one client each.
_making = Lock()


def client(service: str, *, attempts: int, read_timeout: float = 3) -> Any:
    """A client of the AWS service `service`. It tries a call `attempts` times, each for `read_timeout` seconds. Callers
    with the same arguments share one client and its connections."""
    with _making:
        return _shared(service, attempts, read_timeout)


def form_client(*, attempts: int) -> Any:
    """The S3 client, which also signs upload forms for browsers. Callers with the same `attempts` share it."""
    with _making:
        return _shared("s3", attempts, 3, signs_forms=True)


@cache
def _shared(service: str, attempts: int, read_timeout: float, signs_forms: bool = False) -> Any:
    more: dict[str, Any] = {}
    if signs_forms:
        # Use signature version 4, because KMS and new regions demand it. Use the region's address, because the global
        # address redirects requests for a new bucket, and an upload form fails after a redirect.
        more = {
            # Without this setting, botocore sends the body in chunks, and a checksum after them. The signature already
            # protects the body.
            "request_checksum_calculation": "when_required",
            "signature_version": "s3v4",
            "s3": {"addressing_style": "virtual", "us_east_1_regional_endpoint": "regional"},
        }
    # Use botocore and not boto3, because boto3 would take a twelfth of the start-up time, and no code here uses its
    # resources.
    return _session.create_client(
        service,
        verify=_authorities,
        config=Config(
            connect_timeout=1,
            read_timeout=read_timeout,  # seconds: the slowest call, a Query of 1 MB, takes 0.3 s
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=20,  # as many connections as the worker has threads
            tcp_keepalive=True,
            # A constant, because botocore would otherwise build this text for every call, which takes a tenth of the
            # CPU.
            user_agent=f"turnqueue/{__version__}",
            **more,
        ),
    )
