"""The functions that are measured, as they lie in Lambda, and their events."""

import json
import time
import uuid
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.stub import Item
from development import cfn
from local.deploy import Sam, architecture
from local.functions import Function
from local.processes import Processes
from local.tools import ROOT, find_tools

OWN = ROOT / ".aws-sam" / "benchmarks"
"""What the benchmarks build and write besides their results."""

RUNTIME_PYTHON = find_tools().runtime_python


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


# ---- What they are asked


def submit_event() -> Event:
    """A message with no Idempotency-Key, which would be one more call, to be answered at once."""
    event: Event = json.loads((ROOT / "events/submit.json").read_text())
    del event["headers"]["idempotency-key"]
    return event


def status_event() -> Event:
    event: Event = json.loads((ROOT / "events/status.json").read_text())
    return event


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
