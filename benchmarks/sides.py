"""The functions that are measured: ours, the floor and the conventional ones, as they lie in Lambda, and their events.

The boto3 of every side is the runtime's (.tools/runtime), which has bytecode there as it has on Lambda, and so is the
botocore, but for the conventional side: the SDK of its Tracer needs botocore, so pip puts one into the artefact.
"""

import compileall
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

from benchmarks.stub import Item, Stub
from development import cfn
from local.deploy import Sam, architecture
from local.functions import Function
from local.processes import Processes
from local.tools import ROOT, find_tools

OWN = ROOT / ".aws-sam" / "benchmarks"
"""What the benchmarks build and write besides their results."""

RUNTIME_PYTHON = find_tools().runtime_python

RUNTIME_PACKAGES = RUNTIME_PYTHON.parent.parent / "lib/python3.13/site-packages"
RUNTIME_BOTO3 = next(found.version for found in distributions(name="boto3", path=[str(RUNTIME_PACKAGES)]))

type Event = dict[str, Any]


def function(name: str, handler: str, code: Path, *layers: Path, **variables: str) -> Function:
    """A function of some side, with what the template says of the one of ours that has its place: submit, status or
    worker, the last word of `name`."""
    properties = _properties(name.split()[-1])
    return Function(
        name=name,
        arn=f"arn:aws:lambda:us-east-1:000000000000:function:{name}",
        role="",
        handler=handler,
        code=code,
        layers=layers,
        timeout=properties["Timeout"],
        memory=properties["MemorySize"],
        variables=cfn.environment() | _FILLED | variables,
        label=name,
        log_format="JSON",
    )


_FILLED = {
    "QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/000000000000/TurnQueue.fifo",
    "MEDIA_BUCKET": "media-bucket",
    "MODEL_NAME": "gpt-stub",
    "MODEL_KEY_SECRET_ARN": "model-key",
    "POWERTOOLS_SERVICE_NAME": "turnqueue",
}
"""What CloudFormation would fill in."""


def ours(place: str) -> Function:
    """Our function at `place`: submit, status or worker."""
    folder = built()
    return function(
        f"ours {place}", _properties(place)["Handler"], folder / f"{place.title()}Function", folder / "SharedLayer"
    )


@cache
def floor(place: str) -> Function:
    """The least that there can be at `place`, submit or status, with bytecode."""
    folder = OWN / "floor"
    shutil.copytree(Path(__file__).with_name("floor"), folder, dirs_exist_ok=True, ignore=_NOT_COPIED)
    compileall.compile_dir(folder, quiet=1, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    return function(f"floor {place}", f"{place}.handler", folder)


@cache
def conventional(place: str) -> Function:
    """What is most often written for `place`, built as `sam build` does it by itself: pip's wheels and the sources,
    with no bytecode."""
    source = Path(__file__).with_name("conventional")
    OWN.mkdir(parents=True, exist_ok=True)
    requirements = source / ("requirements-worker.txt" if place == "worker" else "requirements.txt")
    folder = OWN / f"conventional-{requirements.stem}-{_digest([*source.glob('*.txt'), *_REQUIREMENTS])}"
    if not folder.exists():
        pip: list[str | Path] = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
        pip += ["-qq", "--no-warn-conflicts", "--no-compile", "--only-binary", ":all:", "--require-hashes"]
        with tempfile.TemporaryDirectory(dir=OWN) as scratch:
            subprocess.run([*pip, "--target", scratch, "-r", requirements], check=True)
            shutil.copytree(scratch, folder)
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=_NOT_COPIED)
    return function(f"conventional {place}", f"{place}.handler", folder, OPENAI_API_KEY="sk-none")


_REQUIREMENTS = [
    ROOT / folder / "requirements.txt" for folder in ("layers/shared", "functions/submit", "functions/worker")
]
_NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.txt", "*.in")


def _digest(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(files))).hexdigest()[:12]


@cache
def built() -> Path:
    """The folder of our artefacts for this machine, built now."""
    OWN.mkdir(parents=True, exist_ok=True)
    with Processes() as processes:
        sam = Sam(processes, find_tools().sam, root=ROOT, log=OWN / "build.log")
        with sam.alone():
            sam.build(architecture(), lambda line: None)
    return ROOT / ".aws-sam" / "build"


def _properties(place: str) -> dict[str, Any]:
    document = cfn.template()
    own = document["Resources"][f"{place.title()}Function"]["Properties"]
    properties: dict[str, Any] = cfn.resolved(document["Globals"]["Function"] | own, document)
    return properties


def over_tls(function: Function, stub: Stub, *, every: bool = False) -> dict[str, str]:
    """As `stub.variables()`, to its TLS. The function reads the authorities that it reads on AWS and the stub's: those
    of its layer, or botocore's if it has none or if it is to read `every` one."""
    shipped = [] if every else [file for layer in function.layers for file in layer.rglob("*.pem")]
    botocores = RUNTIME_PACKAGES / "botocore" / "cacert.pem"

    def with_stubs(authorities: Path) -> str:
        assert stub.ca
        bundle = stub.ca.with_name(authorities.name)
        bundle.write_bytes(authorities.read_bytes() + b"\n" + stub.ca.read_bytes())
        return str(bundle)

    return {
        **stub.variables(),
        "AWS_ENDPOINT_URL": str(stub.https_url),
        "AWS_CA_BUNDLE": with_stubs(shipped[0] if shipped else botocores),
        "MODEL_BASE_URL": f"{stub.https_url}/v1",
        "SSL_CERT_FILE": with_stubs(botocores),  # the OpenAI SDK reads it
    }


# ---- What they are asked


def submit_event() -> Event:
    """A message with no Idempotency-Key, which would be one more call, to be answered at once."""
    event: Event = json.loads((ROOT / "events/submit.json").read_text())
    del event["headers"]["idempotency-key"]
    return event


def status_event() -> Event:
    event: Event = json.loads((ROOT / "events/status.json").read_text())
    return event


def event_for(function: Function) -> Event:
    """What the function gets of Lambda: ours a full batch, if it is a worker, and the conventional one a message."""
    side, place = function.name.split()
    match place:
        case "submit":
            return submit_event()
        case "status":
            return status_event()
    return worker_event(10 if side == "ours" else 1)


def check(function: Function, result: Any) -> None:
    """Raises RuntimeError if the function did not do its work: a benchmark of errors is none."""
    if function.name.endswith("worker"):
        done = result in (None, {"batchItemFailures": []})
    else:
        done = isinstance(result, dict) and result.get("statusCode") in (200, 202)
    if not done:
        raise RuntimeError(f"{function.name} answered {result}")


def worker_event(messages: int) -> Event:
    """A batch of so many turns, each of a session of its own."""
    event: Event = json.loads((ROOT / "events/worker.json").read_text())
    record = event["Records"][0]
    key = json.loads(record["body"])
    records = []
    for number in range(messages):
        session = f"{key['session']}{number}"
        records.append(
            record
            | {
                "messageId": str(uuid.UUID(int=number)),
                "receiptHandle": f"handle-{number}",
                "body": json.dumps({**key, "session": session}),
                "attributes": record["attributes"] | {"MessageGroupId": session},
            }
        )
    return {"Records": records}


def turn_item(attempt: int = 0) -> Item:
    """A turn that was submitted just now, as DynamoDB holds it, without its key; claimed, if `attempt` is not 0. For
    the stub keeps nothing: whoever is to find his claim must be given it. The form is the product's own: after a change
    of it ours would not run."""
    now = time.time()
    request = {"message": "I need a haircut", "role": "general"}
    return {
        "status": {"S": "STARTED" if attempt else "PENDING"},
        "request": {"S": json.dumps(request)},
        "created_at": {"N": f"{now:.3f}"},
        "deadline_at": {"N": f"{now + 900:.3f}"},
        "expires_at": {"N": f"{now + 604_800:.0f}"},
        "attempt": {"N": str(attempt)},
    }
