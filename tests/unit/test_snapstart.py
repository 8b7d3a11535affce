"""Many environments may start from one snapshot of an initialised function (the parameter SnapStart)."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from development.cfn import ROOT
from local.loopback import LoopbackServer, Request, Response
from tests.unit.conftest import ENVIRONMENT

FUNCTIONS = ("submit", "status", "worker", "deadletter")
RUNTIME = next((ROOT / ".tools/runtime/lib").glob("python3.*/site-packages"))


def run(function: str, program: str, *, without: tuple[str, ...] = (), **variables: str) -> Any:
    """What the program prints, as JSON, in a fresh interpreter that has the function and what the runtime brings."""
    paths = [str(ROOT / "functions" / function), str(ROOT / "layers" / "shared")]
    start = f"import json, sys; sys.path[:0] = {paths}; sys.path.append({str(RUNTIME)!r})"
    environment = {"PATH": os.environ["PATH"], **ENVIRONMENT, "MODEL_BASE_URL": "http://127.0.0.1:9/v1", **variables}
    ran = subprocess.run(
        [sys.executable, "-I", "-B", "-c", f"{start}\n{program}"],
        env={name: value for name, value in environment.items() if name not in without},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


INITIALISED = """
reached = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        reached.append(event)
        raise OSError("no network")
sys.addaudithook(hook)
import {function}
import threading
print(json.dumps([reached, threading.active_count()]))
"""


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_init_reaches_nobody_and_starts_no_thread(function: str) -> None:
    """No connection can be in the snapshot, and nothing runs while it is taken."""
    assert run(function, INITIALISED.format(function=function)) == [[], 1]


RESTORED = """
import random
import sys
import {function}
from awslambdaric.lambda_runtime_hooks_runner import run_after_restore
from turnqueue.turn import new_session_id, new_ulid

snapshot = random.getstate()

def restored(hooks):
    random.setstate(snapshot)
    if hooks:
        run_after_restore()
    return {numbers}, [new_session_id(), new_ulid(0.0)]

print(json.dumps([[restored(hooks) for _ in range(2)] for hooks in (False, True)]))
"""


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_starts_from_one_snapshot_goes_apart(function: str) -> None:
    """With the hook that the runtime client calls. Ids do not need it."""
    more = ", sys.modules['decisions'].backoff(1, 0)" if function == "worker" else ""
    numbers = f"[random.random(){more}]"

    unhooked, hooked = run(function, RESTORED.format(function=function, numbers=numbers))

    assert unhooked[0][0] == unhooked[1][0]
    for one, other in zip(hooked[0][0], hooked[1][0], strict=True):
        assert one != other
    for (_, one), (_, other) in (unhooked, hooked):
        assert not set(one) & set(other)


CALL = """
import time
import status
from botocore.exceptions import ClientError
from turnqueue.turn import Key

try:
    status.store.read(Key("owner#session", "0" * 26), time.time())
except ClientError as error:
    print(json.dumps(error.response["Error"]["Code"]))
"""


def test_credentials_of_the_snapshot_that_have_expired_are_not_used() -> None:
    """Under SnapStart Lambda gives no keys in the environment but an address to fetch them from, which botocore does
    again when they are about to expire."""
    fetched, signed_with = 0, []

    def answer(request: Request) -> Response:
        nonlocal fetched
        if request.target != "/credentials":
            signed_with.append(request.headers["Authorization"].partition("Credential=")[2].partition("/")[0])
            return Response(400, b'{"__type": "Refused"}')
        fetched += 1
        # The first are those of the init, which was long ago when an environment starts from the snapshot.
        expires = datetime.now(UTC) + timedelta(hours=-1 if fetched == 1 else 1)
        keys = {"AccessKeyId": f"KEY{fetched}", "SecretAccessKey": "secret", "Token": "token"}
        return Response(200, json.dumps(keys | {"Expiration": f"{expires:%Y-%m-%dT%H:%M:%SZ}"}).encode())

    server = LoopbackServer(answer)
    try:
        refused = run(
            "status",
            CALL,
            without=("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
            AWS_CONTAINER_CREDENTIALS_FULL_URI=f"{server.url}/credentials",
            AWS_ENDPOINT_URL=server.url,
        )
    finally:
        server.close()

    assert refused == "Refused"
    assert signed_with == ["KEY2"]
