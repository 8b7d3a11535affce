"""Each function's role allows exactly the function's calls, on exactly the resources that it uses."""

import re
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from types import ModuleType

import pytest

from development import cfn
from tests.payloads import Context, event_file
from tests.unit.conftest import Account, Call, Clock, Parts, Scripted, StandIn, Wire, refusing
from tests.unit.openai_client import client
from turnqueue.attachments import moved
from turnqueue.turn import Key, Turn, new_ulid, upload_key

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
        if operation == "TransactWriteItems":
            parts = [part for item in params["TransactItems"] for part in item.items()]
            permissions |= {(f"dynamodb:{kind}Item", part["TableName"]) for kind, part in parts}
        elif "RequestItems" in params:
            permissions |= {(f"dynamodb:{operation}", table) for table in params["RequestItems"]}
        elif "TableName" in params:
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


LARGE = {"type": "image", "url": "data:image/png;base64," + "A" * 8000}


@pytest.fixture(autouse=True)
def limits(submit: ModuleType, status: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "cache", {"seconds": 60, "shared": False})
    for function in (submit, status):
        monkeypatch.setattr(function, "limiter", function.Limiter.of("default:60/9/100000", "", "GuardsTable"))


@pytest.fixture
def call_id(account: Account) -> str:
    """A function that the answer in session s-2 asks for."""
    store, now = account.functions["submit"].store, time.time()
    turn = Turn.submitted(Key("alice#s-2", new_ulid(now)), {"message": "3", "role": "general"}, now)
    store.create(turn)
    calls = [{"call_id": "call-1", "name": "add", "arguments": "{}"}]
    store.succeed(store.claim(turn.key, now, now + 50), {"message": "", "tool_calls": calls}, {}, now)
    return "call-1"


@pytest.fixture
def task_id(account: Account, call_id: str) -> str:
    return account.queued("hello", session_id="s-1", media=[LARGE])


@pytest.fixture
def calls(wire: Wire, task_id: str) -> Iterator[list[Call]]:
    wire.calls.clear()
    yield wire.calls


def test_submit(
    account: Account, calls: list[Call], task_id: str, call_id: str, wire: Wire, clock: Clock, submit: ModuleType
) -> None:
    for _ in range(2):
        account.post({"message": "x"}, headers={"Idempotency-Key": "k-1", "Prefer": "wait=1"})
    wire.before("SendMessage", refusing())
    account.post({"message": "x"})

    client(account).responses.create(model="general", input="x", background=True, stream=True, timeout=1).close()
    account.post({"session_id": "s-2", "tool_outputs": [{"call_id": call_id, "output": "4"}]})

    account.post({"message": "x", "media": [LARGE]})

    key = Key.of_task("alice", task_id)  # as the OpenAI API's cancellation
    submit.store.claim(key, time.time(), time.time() + 50)
    submit.store.cancel(key, time.time())

    assert needed(calls) == allowed("submit")


def test_status(
    account: Account, calls: list[Call], task_id: str, clock: Clock, status: ModuleType, worker: Parts
) -> None:
    account.get(task_id, query={"wait": "1"})
    account.session("s-1")
    key = Key.of_task("alice", task_id)
    worker.store.claim(key, time.time(), time.time() + 50)
    account.events(task_id)
    account.cancel(task_id)
    account.functions["status"].handler(event_file("usage"), Context(29.0))
    clock.forward(901)
    account.get(task_id)
    status.store.empty(key)  # as the OpenAI API's deletion

    assert needed(calls) == allowed("status")


def test_status_may_read_and_delete_data_urls_and_no_uploads() -> None:
    [pattern] = [
        statement["Resource"]["Fn::Sub"].partition("/")[2]
        for statement in cfn.statements(cfn.resources("AWS::IAM::Role")[cfn.role("StatusFunction")])
        if "s3:GetObject" in statement["Action"]
    ]
    [data_url] = moved({"message": "", "media": [LARGE]}, new_ulid(0))[1]

    assert fnmatchcase(upload_key("alice", data_url), pattern)
    assert not fnmatchcase(upload_key("alice", new_ulid(0)), pattern)


def test_worker(account: Account, calls: list[Call], worker: Parts, clock: Clock, wire: Wire) -> None:
    worker.be_watchful(0.03)
    lost = account.queued("[[drip=0.02 words=100]]", session_id="s-3")
    worker.store.claim(Key.of_task("alice", lost), time.time(), time.time() - 1)
    account.queued("[[hang=0.2]]", session_id="s-2", media=[account.upload(b"GIF89a", "image/gif")])
    records = account.receive()
    log, store = worker.services.log, worker.store
    wire.before(
        "PutItem", lambda _: log.ask_to_cancel(store.cancel(Key.of_task("alice", lost), time.time()), time.time())
    )
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


def test_deadletter(account: Account, calls: list[Call]) -> None:
    (record,) = account.receive()
    calls.clear()

    account.functions["deadletter"].handler({"Records": [record]}, Context())

    of_the_event_source = {(action, "DeadLetterQueue") for action in EVENT_SOURCE}
    assert needed(calls) | of_the_event_source == allowed("deadletter")
