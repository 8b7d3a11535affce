"""A fake AWS account in this process (moto): tables and queues from template.yaml, and the real handlers in it."""

import asyncio
import contextlib
import copy
import functools
import gc
import importlib
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import boto3
import moto.core.responses
import moto.sqs.models
import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from moto import mock_aws
from moto.core.botocore_stubber import BotocoreStubber
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.core.utils import unix_time_millis
from moto.dynamodb.models import dynamodb_backends
from moto.s3.models import s3_backends
from moto.secretsmanager.models import secretsmanager_backends
from moto.sqs.models import sqs_backends

from development import cfn
from local import model_server
from operations.stack import Stack
from tests.payloads import Context, Event, api_event
from tests.raw_server import Scripted as Scripted  # tests import it from here
from tests.stand_in import StandIn as StandIn

REGION = "us-east-1"
QUEUE_URL = f"https://sqs.{REGION}.amazonaws.com/{DEFAULT_ACCOUNT_ID}/"
MODEL_KEY = "sk-test"
ENVIRONMENT = cfn.environment() | {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_LAMBDA_FUNCTION_NAME": "turnqueue-test",
    "POWERTOOLS_SERVICE_NAME": "turnqueue",
    "QUEUE_URL": f"{QUEUE_URL}TurnQueue.fifo",
    "MEDIA_BUCKET": "media-bucket",
    "MODEL_NAME": "gpt-stand-in",
    "MODEL_KEY_SECRET_ARN": "model-key",
    "MODEL_PRICES": "gpt-stand-in:0.4/1.6",
    "TURNS_PER_WORKER": "1",  # those of the event only: test_refill.py sets more
}
for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
    os.environ.pop(name, None)
os.environ.update(ENVIRONMENT)

STACK_OUTPUTS = {
    "TurnsTableName": "TurnsTable",
    "GuardsTableName": "GuardsTable",
    "EventsTableName": "EventsTable",
    "QueueUrl": ENVIRONMENT["QUEUE_URL"],
    "MediaBucketName": ENVIRONMENT["MEDIA_BUCKET"],
}

type Record = dict[str, Any]
type Response = dict[str, Any]
type Action = Callable[[dict[str, Any]], object]


# moto loses acknowledged writes when threads meet in it. One at a time it is right.
_moto_lock = threading.RLock()
_moto_call = BotocoreStubber.__call__


def _locked_moto_call(self: BotocoreStubber, event_name: str, request: Any, **kwargs: Any) -> Any:
    with _moto_lock:
        return _moto_call(self, event_name, request, **kwargs)


BotocoreStubber.__call__ = _locked_moto_call  # type: ignore[method-assign]
# moto works these out anew for each call, which takes a third of its time.
for name in ("method_names_from_class", "camelcase_to_underscores"):
    setattr(moto.core.responses, name, functools.cache(getattr(moto.core.responses, name)))


# ---- What the product says to AWS


class Call(NamedTuple):
    operation: str
    params: dict[str, Any]


class Wire:
    """Every call that the product makes to AWS, in order, and trouble with them on order.

    An action is given the call's parameters and may raise, or do what somebody else does at just that moment.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.calls: list[Call] = []
        self._before: list[tuple[str, Action]] = []
        self._after: list[tuple[str, Action]] = []
        self._lost: list[str] = []

    def before(self, operation: str, action: Action, *, times: int = 1) -> None:
        """Do `action` before the next such call takes effect; if it raises, the call never does."""
        self._before += [(operation, action)] * times

    def after(self, operation: str, action: Action, *, times: int = 1) -> None:
        """Do `action` after the next such call took effect; if it raises, the caller never learns that it did."""
        self._after += [(operation, action)] * times

    def lose_answer(self, operation: str) -> None:
        """Lose the answer to the next such call on its way back, so that botocore repeats the call."""
        self._lost.append(operation)

    def made(self, *operations: str) -> list[dict[str, Any]]:
        """The parameters of the calls of these operations so far."""
        return [call.params for call in self.calls if call.operation in operations]

    def on_call(self, params: dict[str, Any], model: Any, context: dict[str, Any], **_: Any) -> None:
        if model.name == "CreateBucket":
            return  # To sign a form botocore begins one, and makes none.
        self.calls.append(Call(model.name, params.copy()))
        context["params"] = params
        if params.get("WaitTimeSeconds"):
            params["WaitTimeSeconds"] = 0  # moto waits, and lets nobody else call it meanwhile
        self._act(self._before, model.name, params)

    def on_send(self, request: Any, event_name: str, **_: Any) -> None:
        operation = event_name.rpartition(".")[2]
        if operation in self._lost:
            self._lost.remove(operation)
            raise ReadTimeoutError(endpoint_url=request.url)

    def on_answer(self, model: Any, context: dict[str, Any], **_: Any) -> None:
        self._act(self._after, model.name, context["params"])

    @staticmethod
    def _act(ordered: list[tuple[str, Action]], operation: str, params: dict[str, Any]) -> None:
        for index, (wanted, action) in enumerate(ordered):
            if wanted == operation:
                del ordered[index]
                action(params)
                return


_wire = Wire()


def refusing(code: str = "InternalServerError", status: int = 500) -> Action:
    """An action that makes the call fail as AWS refuses one."""

    def refuse(params: dict[str, Any]) -> None:
        error: Any = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
        raise ClientError(error, "Operation")

    return refuse


def unreachable(params: dict[str, Any]) -> None:
    """An action that makes the call fail as if AWS did not answer."""
    raise ReadTimeoutError(endpoint_url="https://aws.invalid")


class Crash(BaseException):
    """The end of the process: nothing catches it."""


def crash(params: dict[str, Any]) -> None:
    """An action that ends the process."""
    raise Crash


# ---- The account


class Account:
    """The account, and what a client and Lambda's event source do to it."""

    def __init__(self, functions: dict[str, ModuleType]) -> None:
        self.dynamodb, self.sqs, self.secrets, self.s3 = _clients()
        self.functions = functions
        if not _emptied():
            tables, queues = _tables_and_queues()
            for table in tables:
                self.dynamodb.create_table(**copy.deepcopy(table))
            for queue in queues:
                self.sqs.create_queue(**copy.deepcopy(queue))
            self.s3.create_bucket(Bucket=ENVIRONMENT["MEDIA_BUCKET"])
        self.secrets.create_secret(Name="model-key", SecretString=MODEL_KEY)

    def post(self, body: Any, *, seconds: float = 29.0, **request: Any) -> Response:
        return self.answer("submit", self.post_event(body, **request), seconds)

    @staticmethod
    def post_event(body: Any, *, route: str = "POST /chat", **request: Any) -> Event:
        """`request`: the owner, headers and query, as `api_event` takes them."""
        return api_event(route, body=body, **request)

    def answer(self, function: str, event: Event, seconds: float = 29.0) -> Response:
        return read(self.functions[function].handler(event, Context(seconds)))

    def submit(self, message: str = "hello", *, owner: str = "alice", **request: Any) -> Any:
        """Submit asynchronously. Returns the body of the 202."""
        response = self.post({"message": message, **request}, owner=owner, query={"async_mode": "true"})
        assert response["statusCode"] == 202, response
        return response["json"]

    def offer(self, content_type: str = "image/png", *, owner: str = "alice", **request: Any) -> Any:
        """Ask for a form to upload an image by. Returns the body of the 201."""
        request = {"type": "image", "content_type": content_type, **request}
        response = self.post(request, owner=owner, route="POST /chat/media")
        assert response["statusCode"] == 201, response
        return response["json"]

    def upload(self, content: bytes, content_type: str = "image/png", *, owner: str = "alice") -> dict[str, str]:
        """Upload an image, as S3 takes it from whoever has the form. Returns it as a message names it."""
        offered = self.offer(content_type, owner=owner)
        key = offered["fields"]["key"]
        self.s3.put_object(Bucket=ENVIRONMENT["MEDIA_BUCKET"], Key=key, Body=content, ContentType=content_type)
        return {"type": "image", "upload_id": offered["upload_id"]}

    def queued(self, message: str = "hello", **request: Any) -> str:
        """Submit asynchronously. Returns the task's id."""
        task_id: str = self.submit(message, **request)["task_id"]
        return task_id

    def get(self, task_id: str, **request: Any) -> Response:
        return self.answer("status", api_event("GET /chat/task/{task_id}", path={"task_id": task_id}, **request))

    def task(self, task_id: str, *, owner: str = "alice") -> dict[str, Any]:
        """The task, which must be there."""
        response = self.get(task_id, owner=owner)
        assert response["statusCode"] == 200, response
        task: dict[str, Any] = response["json"]
        return task

    def events(self, task_id: str, after: int | str | None = None, **request: Any) -> Any:
        """What the service says to a reader that has read up to `after`, raw."""
        query = None if after is None else {"after": str(after)}
        event = api_event("GET /chat/task/{task_id}/events", query=query, path={"task_id": task_id}, **request)
        return self.functions["status"].handler(event, Context(29.0))

    def news(self, task_id: str, after: int | None = None) -> Any:
        """The events of a 200 in JSON."""
        response = read(self.events(task_id, after))
        assert response["statusCode"] == 200, response
        return response["json"]["events"]

    def rows(self, task_id: str, owner: str = "alice") -> Any:
        """The rows of a task's event log, in order."""
        return self.dynamodb.query(
            TableName="EventsTable",
            KeyConditionExpression="task = :task AND n > :none",
            ExpressionAttributeValues={":task": {"S": f"{owner}#{task_id}"}, ":none": {"N": "0"}},
        )["Items"]

    def outcome(self, task_id: str) -> tuple[str, str | None]:
        """How the task stands: its status and its error's code."""
        task = self.task(task_id)
        return task["status"], task["error_code"]

    def cancel(self, task_id: str, **request: Any) -> Response:
        event = api_event("POST /chat/task/{task_id}/cancel", path={"task_id": task_id}, **request)
        return self.answer("status", event)

    def retry(self, task_id: str, **request: Any) -> Response:
        return self.post(None, route="POST /chat/task/{task_id}/retry", path={"task_id": task_id}, **request)

    def session(self, session_id: str, **request: Any) -> Response:
        event = api_event("GET /chat/session/{session_id}", path={"session_id": session_id}, **request)
        return self.answer("status", event)

    def receive(self, queue: str = "TurnQueue") -> list[Record]:
        """What Lambda would hand to the function now: up to 10 records of the queue."""
        _settle(queue)
        url = self._url(queue)
        received = self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, AttributeNames=["All"])
        names = {"messageId": "MessageId", "receiptHandle": "ReceiptHandle", "body": "Body", "attributes": "Attributes"}
        return [{name: message[ours] for name, ours in names.items()} for message in received.get("Messages", [])]

    def work(self, records: list[Record] | None = None, seconds: float = 400.0) -> list[str]:
        """Run the worker on what lies in the queue (or on `records`). Returns the message ids that it failed."""
        return self._invoke("worker", "TurnQueue", records, seconds)

    def bury(self, records: list[Record] | None = None) -> list[str]:
        """Run the deadletter function on what lies in its queue. Returns the message ids that it failed."""
        return self._invoke("deadletter", "DeadLetterQueue", records, 30.0)

    def _invoke(self, function: str, queue: str, records: list[Record] | None, seconds: float) -> list[str]:
        records = self.receive(queue) if records is None else records
        if not records:
            return []
        response = self.functions[function].handler({"Records": records}, Context(seconds))
        failed = [failure["itemIdentifier"] for failure in response["batchItemFailures"]]
        for record in records:  # Lambda deletes what was not failed.
            if record["messageId"] not in failed:
                with contextlib.suppress(ClientError):
                    self.sqs.delete_message(QueueUrl=self._url(queue), ReceiptHandle=record["receiptHandle"])
        return failed

    def dead_letter(self, body: str, group: str = "group") -> None:
        """Put a message into the dead-letter queue, as SQS does with what was received too often."""
        self.send(body, group, "DeadLetterQueue")

    def send(self, body: str, group: str = "group", queue: str = "TurnQueue") -> None:
        """Put a message into a queue that submit did not."""
        self.sqs.send_message(
            QueueUrl=self._url(queue),
            MessageBody=body,
            MessageGroupId=group,
            MessageDeduplicationId=str(time.monotonic_ns()),
        )

    def item(self, task_id: str, owner: str = "alice") -> Any:
        session_id, _, turn = task_id.rpartition(".")
        key = {"session": {"S": f"{owner}#{session_id}"}, "turn": {"S": turn}}
        return self.dynamodb.get_item(TableName="TurnsTable", Key=key)["Item"]

    def items(self, table: str = "TurnsTable") -> Any:
        return self.dynamodb.scan(TableName=table)["Items"]

    def remove(self, item: dict[str, Any]) -> None:
        """Delete an item of the turns table, as its time to live does."""
        self.dynamodb.delete_item(TableName="TurnsTable", Key={name: item[name] for name in ("session", "turn")})

    def waiting(self, queue: str = "TurnQueue") -> tuple[int, int]:
        """How many messages are visible, and how many in flight."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self._url(queue), AttributeNames=names)["Attributes"]
        return int(found[names[0]]), int(found[names[1]])

    @staticmethod
    def _url(queue: str) -> str:
        return f"{QUEUE_URL}{queue}.fifo"


@functools.cache
def _clients() -> list[Any]:
    return [boto3.client(name, region_name=REGION) for name in ("dynamodb", "sqs", "secretsmanager", "s3")]


@functools.cache
def _tables_and_queues() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What to ask of DynamoDB and SQS to get the template's tables and queues, the dead-letter queue first."""
    tables = [
        {"TableName": name} | {key: table[key] for key in ("BillingMode", "KeySchema", "AttributeDefinitions")}
        for name, table in cfn.resources("AWS::DynamoDB::Table").items()
    ]
    queues = []
    for name, queue in reversed(cfn.resources("AWS::SQS::Queue").items()):
        text = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in queue.items()}
        if "RedrivePolicy" in queue:
            target = queue["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"].partition(".")[0]
            arn = f"arn:aws:sqs:{REGION}:{DEFAULT_ACCOUNT_ID}:{target}.fifo"
            text["RedrivePolicy"] = json.dumps(queue["RedrivePolicy"] | {"deadLetterTargetArn": arn})
        queues.append({"QueueName": f"{name}.fifo", "Attributes": text})
    return tables, queues


def _emptied() -> bool:
    """Whether the tables and queues of an account before were there and are empty now, which is quicker than anew."""
    for bucket in s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets.values():
        bucket.keys.clear()
    tables, queues, secrets = _backends()
    secrets.clear()
    wanted, wanted_queues = _tables_and_queues()
    if {*tables, *queues} != {*(each["TableName"] for each in wanted), *(each["QueueName"] for each in wanted_queues)}:
        tables.clear()
        queues.clear()
        return False
    for table in tables.values():
        table.items.clear()
    for queue in queues.values():
        queue._messages.clear()
        queue.pending_messages.clear()
        queue.deleted_messages.clear()
    return True


def _backends() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """moto's tables, queues and secrets by their names."""
    return (
        dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION].tables,
        sqs_backends[DEFAULT_ACCOUNT_ID][REGION].queues,
        secretsmanager_backends[DEFAULT_ACCOUNT_ID][REGION].secrets,
    )


def task_id_of(item: dict[str, Any]) -> str:
    """The id of the task that is this item of the turns table."""
    return f"{item['session']['S'].rpartition('#')[2]}.{item['turn']['S']}"


def _settle(queue: str) -> None:
    """moto gives the second of two messages of a group first when both come back at once. SQS gives the first."""
    _, queues, _ = _backends()
    pending = queues[f"{queue}.fifo"].pending_messages
    pending -= {message for message in pending if message.visible}


def read(response: dict[str, Any]) -> Response:
    """A handler's response with its body parsed under "json"."""
    return {**response, "json": json.loads(response["body"])}


# ---- The worker


class Parts:
    """The worker of this process, and its parts by name."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.runner: asyncio.Runner = module.runner
        self._environment: dict[str, str] = {}
        self._connected: list[Any] = []

    @property
    def built(self) -> Any:
        return self.module.worker

    @built.setter
    def built(self, built: Any) -> None:
        self.module.worker = built  # type: ignore[attr-defined]
        while self._connected:
            self.run(self._connected.pop().close())

    @property
    def services(self) -> Any:
        return self.built.services

    @property
    def keys(self) -> Any:
        return self.built.keys

    @property
    def store(self) -> Any:
        return self.services.store

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    def claim(self, task_id: str, seconds: float = 50, owner: str = "alice") -> Any:
        """Claim a task, as another worker has done that now is at work, or dead."""
        key = importlib.import_module("turnqueue.turn").Key.of_task(owner, task_id)
        return self.store.claim(key, time.time(), time.time() + seconds)

    def rebuild(self, **environment: str) -> None:
        """Build the worker from these variables, and those of earlier rebuilds in this test, over the process's."""
        self._environment |= environment
        self.module.worker = self.run(self.module.build(os.environ | self._environment))  # type: ignore[attr-defined]
        self._connected += [server.model._client for server in self.services.servers]
        forget_breakers(self._environment)

    def be_watchful(self, seconds: float) -> None:
        """Write the rows of a growing answer, and look for cancellations, so often that a test need not last long."""
        cancellations = importlib.import_module("cancellations").Cancellations
        self.have(watch_seconds=seconds, cancellations=cancellations(self.services.log, seconds))

    def show(self, claimed: Any, text: str, progress: float = 0.5) -> None:
        """Show the text of an attempt of a claimed turn, as its first rows."""
        growing = importlib.import_module("turnqueue.events").Growing
        growing(self.services.log, claimed).show(text, progress, time.time())

    def have(self, **changes: Any) -> None:
        """Change fields of the services for this test."""
        self.module.worker = self.built._replace(services=self.services._replace(**changes))  # type: ignore[attr-defined]

    def forget(self) -> None:
        """Forget the models' keys and what is known of their circuit breakers, as a new process has."""
        self.built.keys._last.clear()
        breakers = importlib.import_module("turnqueue.circuit_breaker").BreakerStore(os.environ["GUARDS_TABLE"])
        admission = importlib.import_module("admission").Admission
        fresh = admission(breakers, os.environ["MODEL_BASE_URL"], os.environ["MODEL_NAME"])
        self.have(first=self.services.first._replace(admission=fresh))


def forget_breakers(environment: dict[str, str]) -> None:
    """Submit and status know nothing of the circuit breakers of these models, as new processes."""
    breakers = importlib.import_module("turnqueue.circuit_breaker").ModelBreakers
    for name in ("submit", "status"):
        sys.modules[name].breakers = breakers(os.environ["GUARDS_TABLE"], os.environ | environment)  # type: ignore[attr-defined]


# ---- Fixtures


LOOPBACK = ("127.0.0.1", "::1", "localhost", None)


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing leaves this machine, and no name is looked up elsewhere."""
    connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in LOOPBACK:
            raise AssertionError(f"a test reached for {address[0]}")
        connect(self, address)

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if (host.decode() if isinstance(host, bytes) else host) not in LOOPBACK:
            raise AssertionError(f"a test looked up {host}")
        return getaddrinfo(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)


class Shared[T]:
    """What is made once for all who use it: a folder's tests may take these fixtures by importing them."""

    def __init__(self, make: Callable[[], contextlib.AbstractContextManager[T]]) -> None:
        self._make = make
        self._users = 0
        self._made = contextlib.ExitStack()

    @contextlib.contextmanager
    def used(self) -> Iterator[T]:
        if self._users == 0:
            self._value = self._made.enter_context(self._make())
        self._users += 1
        try:
            yield self._value
        finally:
            self._users -= 1
            if self._users == 0:
                self._made.close()


_stand_in = Shared(model_server.serve)


@pytest.fixture(scope="session")
def model_url() -> Iterator[str]:
    with _stand_in.used() as url:
        yield url


@contextlib.contextmanager
def _loaded() -> Iterator[dict[str, ModuleType]]:
    session = importlib.import_module("turnqueue.aws")._session
    session.register("before-parameter-build", _wire.on_call)
    session.register("before-send", _wire.on_send)
    session.register("after-call", _wire.on_answer)
    modules = {name: importlib.import_module(name) for name in ("submit", "status", "worker", "deadletter")}
    importlib.import_module("turnqueue.telemetry").logger.registered_handler.setStream(_Stdout())
    gc.freeze()  # botocore's models are many, and stay
    yield modules
    parts = Parts(modules["worker"])
    parts.run(parts.services.first.model._client.close())
    parts.runner.close()


_functions = Shared(_loaded)


@pytest.fixture(scope="session")
def functions(model_url: str) -> Iterator[dict[str, ModuleType]]:
    """The modules of the four functions, in one process; what each may import is tested in test_imports.py."""
    os.environ.update(ENVIRONMENT | {"MODEL_BASE_URL": model_url})  # tests of another folder may have set others
    with _functions.used() as modules:
        yield modules


@pytest.fixture(scope="module")
def simulated_aws() -> Iterator[None]:
    aws = mock_aws()
    aws.start(reset=False)
    yield
    aws.stop(remove_data=False)


@pytest.fixture
def account(simulated_aws: None, functions: dict[str, ModuleType], model_url: str) -> Iterator[Account]:
    account = Account(functions)
    Parts(functions["worker"]).forget()
    forget_breakers({})
    StandIn(model_url).forget()
    _wire.clear()
    yield account
    _wire.clear()
    importlib.import_module("turnqueue.telemetry")._metrics.clear_metrics()


@pytest.fixture
def wire(account: Account) -> Wire:
    return _wire


@pytest.fixture
def stack(account: Account) -> Stack:
    """The account as an operator reaches it."""
    stack = Stack("turnqueue-test", REGION)
    # Where it keeps them: there is no CloudFormation here.
    stack.__dict__["outputs"] = STACK_OUTPUTS
    stack.__dict__["parameters"] = {
        name: os.environ[variable]
        for name, variable in (
            ("ModelBaseUrl", "MODEL_BASE_URL"),
            ("ModelName", "MODEL_NAME"),
            ("FallbackModelName", "FALLBACK_MODEL_NAME"),
            ("FallbackBaseUrl", "FALLBACK_BASE_URL"),
        )
    }
    return stack


@pytest.fixture
def model(account: Account, model_url: str) -> StandIn:
    return StandIn(model_url)


@pytest.fixture
def connect(worker: Parts) -> Callable[[str], None]:
    """Connects the worker with the model at another URL."""
    return lambda url: worker.rebuild(MODEL_BASE_URL=url)


@pytest.fixture
def fallback(account: Account, worker: Parts, model_url: str) -> StandIn:
    """The stand-in as the fallback, named `gpt-fallback`. The first model is where the test says."""
    account.secrets.create_secret(Name="fallback-key", SecretString="sk-fallback")
    worker.rebuild(
        FALLBACK_MODEL_NAME="gpt-fallback", FALLBACK_BASE_URL=model_url, FALLBACK_KEY_SECRET_ARN="fallback-key"
    )
    return StandIn(model_url)


@pytest.fixture
def scripted(account: Account, connect: Callable[[str], None]) -> Iterator[Scripted]:
    model = Scripted()
    connect(model.url)
    yield model
    model.close()


@pytest.fixture
def submit(functions: dict[str, ModuleType]) -> ModuleType:
    return functions["submit"]


@pytest.fixture
def status(functions: dict[str, ModuleType]) -> ModuleType:
    return functions["status"]


@pytest.fixture
def worker(functions: dict[str, ModuleType]) -> Iterator[Parts]:
    parts = Parts(functions["worker"])
    before = parts.built
    yield parts
    parts.built = before


class Clock:
    """Time that can be set forward: that of the product and that of the queues.

    `time.sleep` takes no time but sets the clock forward, and does what goes on `meanwhile`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.meanwhile: Callable[[], object] = lambda: None
        self.slept: list[float] = []
        self._offset = 0.0
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + self._offset)
        monkeypatch.setattr(time, "sleep", self._sleep)
        monkeypatch.setattr(moto.sqs.models, "unix_time_millis", lambda: unix_time_millis() + self._offset * 1000)
        monkeypatch.setattr(moto.sqs.models, "unix_time", lambda: unix_time_millis() / 1000 + self._offset)

    def forward(self, seconds: float) -> None:
        self._offset += seconds

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.forward(seconds)
        self.meanwhile()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def eager(account: Account, clock: Clock) -> None:
    """A worker that takes what is queued whenever submit waits."""
    clock.meanwhile = account.work


class _Stdout:
    """The standard output of the moment: pytest has another one for each test."""

    def write(self, text: str) -> None:
        sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


class Printed:
    """Whatever our process has written: log lines and metrics on stdout, and the log records of every library."""

    def __init__(self, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
        self._capsys, self._caplog = capsys, caplog
        self._text = ""

    @property
    def text(self) -> str:
        captured = self._capsys.readouterr()
        self._text += captured.out + captured.err
        return self._text

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    @property
    def everything(self) -> str:
        return self.text + self._caplog.text

    def metrics(self) -> dict[str, list[float]]:
        """The values of each metric that was written, by its name."""
        found: dict[str, list[float]] = {}
        for document in self.documents:
            for directive in document.get("_aws", {}).get("CloudWatchMetrics", ()):
                for metric in directive["Metrics"]:
                    found.setdefault(metric["Name"], []).extend(document[metric["Name"]])
        return found

    def logged(self, message: str) -> list[dict[str, Any]]:
        """The log lines with this message."""
        return [document for document in self.documents if document.get("message") == message]


@pytest.fixture
def printed(account: Account, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Printed:
    caplog.set_level(logging.INFO)  # that of Lambda's runtime: what a library says below it is not seen there either
    return Printed(capsys, caplog)
