"""Connects the real AWS clients with the services of the simulation. botocore builds and sends a request as always, but
without a signature, which no service of the simulation reads. Instead of the network (`before-send`), the simulated
service answers it. So the serialisation, the parsing of errors and the retries are botocore's.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import botocore
import botocore.awsrequest
from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError

from tests.faults.faults import POLL_VARIANTS, READ_VARIANTS, WRITE_VARIANTS, Call, Fault, fault_of
from tests.faults.fifo_queue import FifoQueue, QueueError, Received
from tests.faults.lambdas import POLL_SECONDS
from tests.faults.scheduler import Actor, Killed, here
from tests.faults.source import aws_session
from tests.faults.table import Refusal, transact

if TYPE_CHECKING:
    from tests.faults.world import World

type JsonObject = dict[str, Any]

SECOND_POLL_SECONDS = 2 * POLL_SECONDS

_world: "World | None" = None
_open: dict[Actor, Call] = {}


def connect(world: "World | None") -> None:
    """From now on requests go to the services of this world."""
    global _world
    _world = world
    _open.clear()


def _begin(*, model: Any = None, params: Any = None, context: Any = None, **kwargs: Any) -> None:
    """botocore begins a call; its tries follow."""
    found = here()
    if not _world or not found or not found[1].group:
        return
    scheduler, actor = found
    assert actor.group
    service = str(model.service_model.service_name)
    is_read = model.name.startswith(("Get", "Query", "BatchGet"))
    is_poll = model.name == "ReceiveMessage"  # the worker itself repeats it
    variants = READ_VARIANTS if is_read else POLL_VARIANTS if is_poll else WRITE_VARIANTS
    call = _world.plan.begin(actor.group.name, f"{service} {model.name}", variants, scheduler.now)
    config = context["client_config"]
    if is_read or is_poll:
        call.read = b"poll" if is_poll else params["body"]  # each poll has another attempt id
    call.connect_timeout, call.read_timeout = float(config.connect_timeout), float(config.read_timeout)
    _open[actor] = call


def _send(*, request: Any = None, event_name: str = "", **kwargs: Any) -> Any:
    found = here()
    if not _world or not found or not found[1].group:
        return None
    scheduler, actor = found
    process = actor.group
    assert process
    call = _open[actor]
    call.tries += 1
    service = event_name.split(".")[1]
    if service == "s3":  # whose calls are told by method and path
        operation, body = event_name.split(".")[2], {"Key": urlsplit(request.url).path.lstrip("/")}
        if operation == "PutObject":
            # botocore sends the content as a stream
            body |= {"type": request.headers["Content-Type"].decode(), "content": request.body.getvalue()}
    else:
        body = json.loads(request.body)
        target = request.headers["X-Amz-Target"]
        operation = (target.decode() if isinstance(target, bytes) else target).partition(".")[2]
    fault = fault_of(call) or _world.weather(call)
    if fault is Fault.DIES_BEFORE:
        _world.die(process, f"before {operation}")
        raise Killed
    scheduler.wait(_world.latency())
    if fault is Fault.REFUSED:
        _world.tell(process.name, f"{_brief(operation, body)} is refused")
        return _response(request.url, 500, {"__type": "InternalServerError", "message": "as planned"}, service)
    if fault is Fault.THROTTLED:
        _world.tell(process.name, f"{_brief(operation, body)} is throttled")
        return _response(request.url, 400, {"__type": "ThrottlingException", "message": "as planned"}, service)
    if fault is Fault.UNREACHABLE:
        scheduler.wait(call.connect_timeout)
        _world.tell(process.name, f"{_brief(operation, body)} does not arrive")
        raise ConnectTimeoutError(endpoint_url=request.url)
    status, answer = _serve(service, operation, body)
    outcome = "" if status == 200 else f" -> {answer['__type'].rpartition('#')[2]}"
    _world.tell(process.name, f"{_brief(operation, body)}{outcome}")
    if fault is Fault.DIES_AFTER:
        _world.die(process, f"after {operation}")
        raise Killed
    if answer.get("Messages") and _world.polls_to_lose:
        _world.polls_to_lose -= 1
        fault = Fault.UNANSWERED
    if fault is Fault.UNANSWERED:
        scheduler.wait(call.read_timeout)
        _world.tell(process.name, f"{operation} has timed out")
        raise ReadTimeoutError(endpoint_url=request.url)
    scheduler.wait(_world.latency())
    call.answered_at = scheduler.now
    if status == 200 and operation == "SendMessage":
        _world.acknowledged(process, body)
    return _response(request.url, status, answer, service)


def _brief(operation: str, body: JsonObject) -> str:
    """A call in a few words, for the story."""
    if "TransactItems" in body:
        (put, mark) = (next(iter(part.values())) for part in body["TransactItems"])
        return f"{operation} {put['Item']['turn']['S'][-6:]} answers {mark['Key']['turn']['S'][-6:]}"
    values = body.get("ExpressionAttributeValues", {})
    status = values.get(":set_status", {}).get("S")
    key = body.get("Key") or body.get("Item") or {}
    turn = key[-26:] if isinstance(key, str) else key.get("turn", {}).get("S") or key.get("guard", {}).get("S", "")[:18]
    if operation == "ChangeMessageVisibilityBatch":
        return "hides " + ", ".join(
            f"{entry['ReceiptHandle']} for {entry['VisibilityTimeout']} s" for entry in body["Entries"]
        )
    if operation == "DeleteMessageBatch":
        return "deletes " + ", ".join(entry["ReceiptHandle"] for entry in body["Entries"])
    if "task" in key:
        return f"{operation} {key['task']['S'][-6:]} row {key['n']['N']}"
    about = turn[-6:] or body.get("MessageDeduplicationId", "")[-6:]
    return " ".join(filter(None, [operation, about, f"to {status}" if status else ""]))


def _serve(service: str, operation: str, body: JsonObject) -> tuple[int, JsonObject]:
    """Let a service do what is asked. Its effect is in one instant: nobody sees half of it."""
    assert _world
    try:
        match service:
            case "dynamodb" if operation == "BatchGetItem":
                [(table, asked)] = body["RequestItems"].items()
                return 200, {"Responses": {table: _world.tables[table].batch_get(asked)}, "UnprocessedKeys": {}}
            case "dynamodb" if operation == "TransactWriteItems":
                return 200, transact(_world.tables.__getitem__, body)
            case "dynamodb":
                return 200, _world.tables[body["TableName"]].call(operation, body)
            case "sqs":
                return 200, _sqs(_world.queues[body["QueueUrl"]], operation, body)
            case "s3" if operation == "GetObject":
                return _object(body["Key"])
            case "s3" if operation == "PutObject":
                _world.objects[body["Key"]] = (body["type"], body["content"])
                return 200, {"type": "application/xml", "content": b""}
            case "secrets-manager" if operation == "GetSecretValue":
                secret = _world.model.key
                return 200, {"ARN": body["SecretId"], "Name": "model-key", "SecretString": secret}
    except Refusal as refusal:
        code = f"com.amazonaws.dynamodb.v20120810#{refusal.code}"
        return 400, {"__type": code, "message": str(refusal), **refusal.members}
    except QueueError as error:
        return 400, {"__type": f"com.amazonaws.sqs#{error.code}", "message": str(error)}
    raise NotImplementedError(f"{service} {operation}")


def _object(key: str) -> tuple[int, JsonObject]:
    """An object; of one that is not there S3 tells who may not list the bucket that he may not read it."""
    assert _world
    if key not in _world.objects:
        return 403, {"__type": "AccessDenied", "message": "Access Denied"}
    content_type, content = _world.objects[key]
    return 200, {"type": content_type, "content": content}


def _sqs(queue: FifoQueue, operation: str, body: JsonObject) -> JsonObject:
    match operation:
        case "ReceiveMessage":
            return {"Messages": [_message(each) for each in _long_poll(queue, body)]}
        case "SendMessage":
            message = queue.send(body["MessageBody"], body["MessageGroupId"], body["MessageDeduplicationId"])
            return {"MessageId": message.message_id, "SequenceNumber": str(message.sequence)}
        case "ChangeMessageVisibilityBatch":
            return _batch(
                body["Entries"],
                lambda entry: queue.change_visibility(entry["ReceiptHandle"], entry["VisibilityTimeout"]),
            )
        case "DeleteMessageBatch":
            return _batch(body["Entries"], lambda entry: queue.delete(entry["ReceiptHandle"]))
    raise NotImplementedError(f"sqs {operation}")


def _long_poll(queue: FifoQueue, body: JsonObject) -> list[Received]:
    """SQS's part of a poll goes on whatever becomes of its caller, so that messages may be handed to nobody. Lambda's event
    source is as a rule the first to get a message, if it may begin another invocation."""
    assert _world
    world, scheduler = _world, _world.scheduler
    handed_out: list[list[Received]] = []

    def serve() -> None:
        until = scheduler.now + body["WaitTimeSeconds"]
        messages: list[Received] = []
        while not messages and scheduler.now < until:
            scheduler.wait(until - scheduler.now, lambda: not world.source.paused and queue.has_some())
            is_first = world.random.random() < 0.5 if world.by_chance else world.polls_are_first
            scheduler.wait(0.0 if is_first else SECOND_POLL_SECONDS)
            if not world.source.paused:
                messages = queue.receive(
                    body["MaxNumberOfMessages"],
                    visibility=body["VisibilityTimeout"],
                    attempt_id=body["ReceiveRequestAttemptId"],
                )
        handed_out.append(messages)

    scheduler.spawn("SQS", serve)
    scheduler.wait(condition=lambda: bool(handed_out))
    return handed_out[0]


def _message(received: Received) -> JsonObject:
    """A message in the answer to ReceiveMessage."""
    return {
        "MessageId": received.message_id,
        "ReceiptHandle": received.handle,
        "Body": received.body,
        "MD5OfBody": hashlib.md5(received.body.encode(), usedforsecurity=False).hexdigest(),
        "Attributes": {
            "MessageGroupId": received.group,
            "ApproximateReceiveCount": str(received.receive_count),
        },
    }


def _batch(entries: list[JsonObject], act: Any) -> JsonObject:
    done: list[JsonObject] = []
    failed: list[JsonObject] = []
    for entry in entries:
        try:
            act(entry)
            done.append({"Id": entry["Id"]})
        except QueueError as error:
            failed.append({"Id": entry["Id"], "SenderFault": True, "Code": error.code, "Message": str(error)})
    return {"Successful": done, "Failed": failed}


class _Raw:
    """The body of an answer, as urllib3 would hand it over."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, **kwargs: Any) -> Any:
        yield self._content

    def read(self, amount: int | None = None) -> bytes:
        content, self._content = self._content, b""
        return content

    def close(self) -> None:
        pass


def _response(url: str, status: int, body: JsonObject, service: str = "") -> botocore.awsrequest.AWSResponse:
    headers: Any = {"Content-Type": "application/x-amz-json-1.0", "x-amzn-RequestId": "simulated"}
    if service != "s3":
        content = json.dumps(body).encode()
    elif status == 200:
        content = body["content"]
        headers |= {"Content-Type": body["type"], "Content-Length": str(len(content))}
    else:
        content = f"<Error><Code>{body['__type']}</Code><Message>{body['message']}</Message></Error>".encode()
    raw: Any = _Raw(content)
    return botocore.awsrequest.AWSResponse(url, status, headers, raw)


aws_session.register("choose-signer.*.*", lambda **kwargs: botocore.UNSIGNED)
aws_session.register("before-call.*.*", _begin)
aws_session.register("before-send.*.*", _send)
