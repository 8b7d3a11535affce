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

# What starts from one snapshot (SnapStart) has one state of `random`, by which botocore and our worker choose how long
# to wait before another try. What must be unique comes from `secrets`, and that from the kernel, whose numbers Lambda
# keeps apart (docs.aws.amazon.com/lambda/latest/dg/snapstart-uniqueness.html).
with suppress(ModuleNotFoundError):  # Lambda's runtime has it, nobody else
    from snapshot_restore_py import register_after_restore  # type: ignore[import-not-found]

    register_after_restore(random.seed)

SHIPPED = Path(__file__).with_name("aws_data")
"""What the build (bundle/) has taken from botocore's data; not there when the code runs from the repository."""


class _Descriptions(Loader):
    """Those of the services that we call: botocore would list all 400 to find one. What it may ask for besides, it
    finds among its own."""

    def list_available_services(self, type_name: str) -> list[str]:
        return [name for name in os.listdir(SHIPPED) if "." not in name]

    def is_builtin_path(self, path: str) -> bool:
        # botocore takes endpoints.json of another folder for a customer's own: then no address is made by the services'
        # rules, and FIPS, dual-stack and a few partitions get others than they should.
        return path.startswith(str(SHIPPED)) or bool(super().is_builtin_path(path))


class Authorities(os.PathLike[str]):
    """The file of authorities that a new connection trusts: at first a `few`, then all public ones.

    botocore loads the file for each connection (github.com/urllib3/urllib3/issues/3623), and `every` takes eight times
    the CPU of the `few` that sign for AWS today. The day these do not do, a connection fails before a byte of the
    request is sent; botocore then tries again with `every`, as does each connection after that.
    """

    def __init__(self, few: str, every: str) -> None:
        self._path = few
        self._every = every

    def __fspath__(self) -> str:
        return self._path

    def widen(self, attempts: int, caught_exception: BaseException | None, **_: Any) -> int | None:
        """The handler of botocore's event `needs-retry`: 0 (seconds) for one more try, None if that is not for it."""
        if attempts > 1 or not isinstance(caught_exception, SSLError) or not _is_untrusted(caught_exception):
            return None
        self._path = self._every
        return 0


def _is_untrusted(error: BaseException | None) -> bool:
    """Whether the server's certificate was refused. Other errors of TLS may come after the request was sent."""
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

# Ten turns that begin together would each make a client of their own, and a session makes one at a time.
_making = Lock()


def client(service: str, *, attempts: int, read_timeout: float = 3) -> Any:
    """The client of the AWS service `service` that tries a call `attempts` times, each for `read_timeout` seconds: one
    for all who want such, with one set of connections."""
    with _making:
        return _shared(service, attempts, read_timeout)


def form_client(*, attempts: int) -> Any:
    """The client of S3 that can sign forms by which a browser uploads; one for all, too."""
    with _making:
        return _shared("s3", attempts, 3, signs_forms=True)


@cache
def _shared(service: str, attempts: int, read_timeout: float, signs_forms: bool = False) -> Any:
    more: dict[str, Any] = {}
    if signs_forms:
        # A signature of version 4, which KMS and new regions demand, and the region's own address: from the global one
        # a new bucket is redirected, which a browser's form does not survive.
        more = {
            "signature_version": "s3v4",
            "s3": {"addressing_style": "virtual", "us_east_1_regional_endpoint": "regional"},
        }
    # botocore and not boto3: nothing here uses boto3's resources, and it is a twelfth of the start-up less.
    return _session.create_client(
        service,
        verify=_authorities,
        config=Config(
            connect_timeout=1,
            read_timeout=read_timeout,  # 3: the slowest call, a Query of 1 MB, takes a tenth of it
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=20,  # as many as the worker has threads
            tcp_keepalive=True,
            user_agent=f"turnqueue/{__version__}",  # botocore rebuilds its own for every call, a tenth of the CPU
            **more,
        ),
    )
