"""Each function's role allows what the function calls, on what it calls it, and nothing else."""

import re
from collections.abc import Iterator
from types import ModuleType

import pytest

from development import cfn
from tests.unit.conftest import Account, Call, Clock, Context, Parts, Scripted, StandIn, Wire, event_file, refusing

type Permission = tuple[str, str]

# What Lambda calls with the role of a function that it feeds from a queue.
EVENT_SOURCE = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")


def allowed(function: str) -> set[Permission]:
    """The actions of the function's role and the resource of each, but for its log."""
    role = cfn.role(f"{function.capitalize()}Function")
    return {(action, name) for action, name in cfn.permissions(role) if not action.startswith("logs:")}


def needed(calls: list[Call]) -> set[Permission]:
    permissions = set()
    for operation, params in calls:
        if "TableName" in params:
            permissions.add((f"dynamodb:{operation}", params["TableName"]))
        elif "QueueUrl" in params:
            queue = re.sub(r".*/|\.fifo$", "", params["QueueUrl"])
            permissions.add((f"sqs:{operation.removesuffix('Batch')}", queue))
        elif "Bucket" in params:
            permissions.add((f"s3:{operation}", "MediaBucket"))
        else:
            parameter = {"model-key": "ModelKeySecretArn", "fallback-key": "FallbackKeySecretArn"}[params["SecretId"]]
            permissions.add((f"secretsmanager:{operation}", parameter))
    return permissions


@pytest.fixture
def task_id(account: Account) -> str:
    return account.queued("hello", session_id="s-1")


@pytest.fixture
def calls(wire: Wire, task_id: str) -> Iterator[list[Call]]:
    wire.calls.clear()
    yield wire.calls


def test_submit(
    account: Account, calls: list[Call], wire: Wire, clock: Clock, submit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "limiter", submit.Limiter.of("default:60/9/100000", "", "GuardsTable"))
    monkeypatch.setattr(submit, "cache", {"seconds": 60, "shared": False})
    for _ in range(2):
        account.post({"message": "x"}, headers={"Idempotency-Key": "k-1", "Prefer": "wait=1"})
    wire.before("SendMessage", refusing())
    account.post({"message": "x"})

    account.offer()

    of_who_uploads = {("s3:PutObject", "MediaBucket")}  # by a form that the role has signed
    assert needed(calls) | of_who_uploads == allowed("submit")


def test_status(
    account: Account,
    calls: list[Call],
    task_id: str,
    clock: Clock,
    status: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(status, "limiter", status.Limiter.of("default:60/9/1000", "", "GuardsTable"))
    account.get(task_id, query={"wait": "1"})
    account.session("s-1")
    account.cancel(task_id)
    account.functions["status"].handler(event_file("usage"), Context(29.0))

    assert needed(calls) == allowed("status")


def test_worker(
    account: Account, calls: list[Call], worker: Parts, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.have(watch_seconds=0.03)
    account.queued("[[hang=0.2]]", session_id="s-2", media=[account.upload(b"GIF89a", "image/gif")])
    records = account.receive()
    calls.clear()

    account.functions["worker"].handler({"Records": records}, Context())

    of_the_event_source = {(action, "TurnQueue") for action in EVENT_SOURCE}
    assert needed(calls) | of_the_event_source == allowed("worker")


def test_worker_with_a_fallback(
    account: Account, calls: list[Call], clock: Clock, scripted: Scripted, fallback: StandIn
) -> None:
    """It needs one policy more, which is there under a condition; and no watch here, nor a second session."""
    scripted.status = 503
    for _ in range(3):
        account.functions["worker"].handler({"Records": account.receive()}, Context())
        clock.forward(7)  # longer than any back-off of these

    policy = cfn.resources("AWS::IAM::Policy")["WorkerFallbackKeyPolicy"]
    more = {(each["Action"], cfn.target(each["Resource"])) for each in cfn.statements(policy)}
    assert more <= needed(calls) <= allowed("worker") | more | {("sqs:ReceiveMessage", "TurnQueue")}


def test_deadletter(account: Account, calls: list[Call], submit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "limiter", submit.Limiter.of("default:60/9/100000", "", "GuardsTable"))
    account.receive()
    account.queued("hello", session_id="s-2")
    (record,) = account.receive()
    calls.clear()

    account.functions["deadletter"].handler({"Records": [record]}, Context())

    of_the_event_source = {(action, "DeadLetterQueue") for action in EVENT_SOURCE}
    assert needed(calls) | of_the_event_source == allowed("deadletter")
