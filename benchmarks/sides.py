"""The measured functions, packaged as on Lambda, and their events."""

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
"""The folder for the benchmarks' builds and temporary files."""

RUNTIME_PYTHON = find_tools().runtime_python


type Event = dict[str, Any]


_FILLED = {
    "QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/000000000000/TurnQueue.fifo",
    "MEDIA_BUCKET": "media-bucket",
    "MODEL_NAME": "gpt-stub",
    "MODEL_KEY_SECRET_ARN": "model-key",
    "POWERTOOLS_SERVICE_NAME": "turnqueue",
}
"""Values that CloudFormation would fill in."""


def ours(place: str) -> Function:
    """Turnqueue's function in the role `place` (submit, status or worker), with the template's settings."""
    document, name = cfn.template(), f"{place.title()}Function"
    own = document["Globals"]["Function"] | document["Resources"][name]["Properties"]
    properties: dict[str, Any] = cfn.resolved(own, document)
    return Function(
        name=place,
        arn=f"arn:aws:lambda:us-east-1:000000000000:function:{place}",
        role="",
        handler=properties["Handler"],
        code=built() / name,
        layers=(built() / "SharedLayer",),
        timeout=properties["Timeout"],
        memory=properties["MemorySize"],
        variables=cfn.environment() | _FILLED,
        label=place,
        log_format="JSON",
    )


@cache
def built() -> Path:
    """The folder of Turnqueue's artefacts for this machine, just built."""
    OWN.mkdir(parents=True, exist_ok=True)
    with Processes() as processes:
        sam = Sam(processes, find_tools().sam, root=ROOT, log=OWN / "build.log")
        with sam.alone():
            sam.build(architecture(), lambda line: None)
    return ROOT / ".aws-sam" / "build"


# ---- What they are asked


def submit_event() -> Event:
    """An asynchronous message. It has no Idempotency-Key, because that would add a call."""
    event: Event = json.loads((ROOT / "events/submit.json").read_text())
    del event["headers"]["idempotency-key"]
    return event


def status_event() -> Event:
    event: Event = json.loads((ROOT / "events/status.json").read_text())
    return event


def check(function: Function, result: Any) -> None:
    """Raises RuntimeError if the function failed, because the time of a failure must not count."""
    if function.label == "worker":
        done = result in (None, {"batchItemFailures": []})
    else:
        done = isinstance(result, dict) and result.get("statusCode") in (200, 202)
    if not done:
        raise RuntimeError(f"{function.name} answered {result}")


def worker_event(messages: int) -> Event:
    """A batch of `number` turns, each in a separate session."""
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
    """A turn that was just submitted, in DynamoDB's form and without its key; claimed if `attempt` is not 0. The stub
    stores nothing, so a worker finds its claim only if this item has it. The form is the product's, so a changed form
    makes Turnqueue's functions fail."""
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
