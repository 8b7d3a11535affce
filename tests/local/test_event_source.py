"""The event source mapping, between a FIFO queue of MiniStack and functions that a test controls."""

import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from local.account import Account
from local.environment import Result
from local.event_source import EventSource, Mapping, failed_ids, take_over_mappings
from local.lambda_host import LambdaHost
from tests.local.conftest import AddFunction, wait_for

SUCCESS = Result(b'{"batchItemFailures": []}')

type Answer = Callable[[list[dict[str, Any]]], Result]


@dataclass
class Queue:
    """A FIFO queue with a dead-letter queue behind it."""

    sqs: Any
    url: str
    arn: str
    dead_url: str

    def send(self, body: str, group: str) -> None:
        self.sqs.send_message(
            QueueUrl=self.url, MessageBody=body, MessageGroupId=group, MessageDeduplicationId=uuid.uuid4().hex
        )

    def gives_again_after(self, seconds: int) -> None:
        """Change its visibility timeout."""
        self.sqs.set_queue_attributes(QueueUrl=self.url, Attributes={"VisibilityTimeout": str(seconds)})

    def left(self, url: str = "") -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self.sqs.get_queue_attributes(QueueUrl=url or self.url, AttributeNames=names)
        return sum(int(count) for count in answer["Attributes"].values())


@dataclass
class Function:
    """Invoked by the event source in place of a Lambda. It answers as `answer` does, and remembers what it
    was asked."""

    answer: Answer = lambda records: SUCCESS
    records: list[dict[str, Any]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, name: str, event: dict[str, Any]) -> Result:
        with self.lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            self.records += event["Records"]
        try:
            return self.answer(event["Records"])
        finally:
            with self.lock:
                self.running -= 1

    def bodies(self) -> list[str]:
        return [record["body"] for record in self.records]


@pytest.fixture(scope="session")
def sqs(account: Account) -> Any:
    return account.client("sqs")


@pytest.fixture
def queue(sqs: Any) -> Queue:
    """Hides a message for a minute, and gives it up after two deliveries."""
    name = uuid.uuid4().hex[:8]
    fifo = {"FifoQueue": "true", "DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"}
    dead = sqs.create_queue(QueueName=f"{name}-dead.fifo", Attributes=fifo)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 2})
    attributes = {**fifo, "VisibilityTimeout": "60", "RedrivePolicy": redrive}
    url = sqs.create_queue(QueueName=f"{name}.fifo", Attributes=attributes)["QueueUrl"]
    return Queue(sqs, url, arn.replace("-dead", ""), dead)


def waiting_for(go_on: threading.Event, body: str = "") -> Answer:
    """Ends well, but with a message that has this body only after the event."""

    def answer(records: list[dict[str, Any]]) -> Result:
        if any(body in record["body"] for record in records):
            assert go_on.wait(50)
        return SUCCESS

    return answer


type Connect = Callable[..., EventSource]


@pytest.fixture
def connect(queue: Queue) -> Iterator[Connect]:
    """Starts an event source from the queue to a function."""
    sources = []

    def connect(invoke: Any, **settings: Any) -> EventSource:
        mapping = Mapping(queue.arn, queue.url, settings.pop("function", "toy"), **settings)
        source = EventSource(mapping, queue.sqs, invoke)
        source.start()
        sources.append(source)
        return source

    yield connect
    for source in sources:
        source.abandon()


def test_a_batch_is_delivered_as_on_aws_and_deleted(
    queue: Queue, connect: Connect, host: LambdaHost, add_function: AddFunction
) -> None:
    name = add_function(
        """
        import json, os

        def handler(event, context):
            path = os.environ["SEEN"]
            with open(path + ".part", "w") as file:
                json.dump(event, file)
            os.rename(path + ".part", path)
        """,
        variables={"SEEN": f"/tmp/{uuid.uuid4().hex}"},
    )
    seen = host.function(name).variables["SEEN"]
    queue.send("hello", "a group")

    connect(host.invoke, function=name)
    wait_for(lambda: os.path.exists(seen))
    wait_for(lambda: queue.left() == 0)

    with open(seen) as file:
        event = json.load(file)
    os.unlink(seen)
    assert list(event) == ["Records"]
    [record] = event["Records"]
    attributes = record.pop("attributes")
    assert set(record) == {
        "messageId",
        "receiptHandle",
        "body",
        "messageAttributes",
        "md5OfBody",
        "eventSource",
        "eventSourceARN",
        "awsRegion",
    }
    assert record["body"] == "hello"
    assert record["eventSource"] == "aws:sqs"
    assert record["eventSourceARN"] == queue.arn
    assert record["awsRegion"] == "us-east-1"
    assert attributes["MessageGroupId"] == "a group"
    assert attributes["ApproximateReceiveCount"] == "1"
    assert attributes.keys() >= {
        "SequenceNumber",
        "MessageDeduplicationId",
        "SentTimestamp",
        "ApproximateFirstReceiveTimestamp",
        "SenderId",
    }


def test_a_slow_group_holds_up_no_other(queue: Queue, connect: Connect) -> None:
    go_on = threading.Event()

    function = Function(waiting_for(go_on, "slow"))
    connect(function)
    queue.send("slow", "a")
    wait_for(lambda: function.bodies() == ["slow"])

    for number in range(3):
        queue.send(f"fast {number}", "b")
        wait_for(lambda: function.bodies()[-1].startswith("fast") and queue.left() == 1)
    assert function.bodies() == ["slow", "fast 0", "fast 1", "fast 2"]
    queue.send("next", "a")

    go_on.set()
    wait_for(lambda: queue.left() == 0)
    assert function.bodies()[-1] == "next"


def test_a_group_is_delivered_in_order_one_batch_after_the_other(queue: Queue, connect: Connect) -> None:
    function = Function()
    connect(function, batch_size=2)

    wanted = [f"{number}" for number in range(12)]
    for body in wanted:
        queue.send(body, "one group")
    wait_for(lambda: queue.left() == 0)

    assert function.bodies() == wanted
    assert function.most_running == 1


def test_no_more_than_the_maximum_concurrency_at_once(queue: Queue, connect: Connect) -> None:
    go_on = threading.Event()
    function = Function(waiting_for(go_on))
    connect(function, batch_size=1, max_concurrency=2)
    for group in "abcd":
        queue.send(group, group)

    wait_for(lambda: function.running == 2)
    go_on.set()
    wait_for(lambda: queue.left() == 0)

    assert function.most_running == 2
    assert sorted(function.bodies()) == ["a", "b", "c", "d"]


def test_only_what_is_reported_as_failed_comes_back(queue: Queue, connect: Connect) -> None:
    def answer(records: list[dict[str, Any]]) -> Result:
        failed = [
            {"itemIdentifier": record["messageId"]}
            for record in records
            if record["body"] == "bad" and record["attributes"]["ApproximateReceiveCount"] == "1"
        ]
        return Result(json.dumps({"batchItemFailures": failed}).encode())

    function = Function(answer)
    queue.gives_again_after(1)
    for body in ("good", "bad", "fine"):
        queue.send(body, group=body)

    connect(function)
    wait_for(lambda: queue.left() == 0)

    assert sorted(function.bodies()) == ["bad", "bad", "fine", "good"]
    again = [record for record in function.records if record["body"] == "bad"][-1]
    assert again["attributes"]["ApproximateReceiveCount"] == "2"


def test_what_a_failing_function_was_given_comes_back_and_then_goes_to_the_dead_letters(
    queue: Queue, connect: Connect
) -> None:
    function = Function(lambda records: Result(b"{}", "Sandbox.Timedout"))
    queue.gives_again_after(1)
    queue.send("poison", "a")

    connect(function)
    wait_for(lambda: queue.left(queue.dead_url) == 1)

    assert function.bodies() == ["poison", "poison"]
    assert queue.left() == 0


def test_stopped_it_takes_nothing_and_started_again_it_goes_on(queue: Queue, connect: Connect) -> None:
    function = Function()
    source = connect(function, function="stopped")

    source.stop()
    # Not even a poll is left that might be given the message.
    assert "poll for stopped" not in {thread.name for thread in threading.enumerate()}
    queue.send("meanwhile", "a")

    source.start()
    wait_for(lambda: queue.left() == 0)
    assert [record["attributes"]["ApproximateReceiveCount"] for record in function.records] == ["1"]


def test_a_draining_stop_waits_for_the_invocations_under_way(queue: Queue, connect: Connect) -> None:
    go_on = threading.Event()
    ended = threading.Event()
    function = Function(waiting_for(go_on))
    source = connect(function)
    queue.send("slow", "a")
    wait_for(lambda: function.running == 1)

    def stop() -> None:
        source.stop(drain=True)
        ended.set()

    threading.Thread(target=stop).start()
    assert not ended.wait(1.5)  # longer than a poll
    go_on.set()
    assert ended.wait(50)
    assert queue.left() == 0


@pytest.mark.parametrize(
    ("payload", "failed"),
    [
        (b'{"batchItemFailures": []}', set()),
        (b'{"batchItemFailures": null}', set()),
        (b"{}", set()),
        (b"null", set()),
        (b"", set()),
        (b'{"batchItemFailures": [{"itemIdentifier": "b"}]}', {"b"}),
        (b'{"batchItemFailures": [{"itemIdentifier": "b"}, {"itemIdentifier": "a"}]}', {"a", "b"}),
        (b'{"batchItemFailures": [{"itemIdentifier": "unknown"}]}', {"a", "b", "c"}),
        (b'{"batchItemFailures": [{"itemIdentifier": "b"}, {"itemIdentifier": ""}]}', {"a", "b", "c"}),
        (b'{"batchItemFailures": [{"itemIdentifier": null}]}', {"a", "b", "c"}),
        (b'{"batchItemFailures": [{"itemIdentifier": ["b"]}]}', {"a", "b", "c"}),
        (b'{"batchItemFailures": [{"messageId": "b"}]}', {"a", "b", "c"}),
        (b'{"batchItemFailures": ["b"]}', {"a", "b", "c"}),
        (b'{"batchItemFailures": "b"}', {"a", "b", "c"}),
        (b'{"batchItemFailures": 1}', {"a", "b", "c"}),
        (b'"done"', {"a", "b", "c"}),
        (b"[1]", {"a", "b", "c"}),
        (b"not json", {"a", "b", "c"}),
    ],
)
def test_a_response_is_read_as_aws_reads_it(payload: bytes, failed: set[str]) -> None:
    assert failed_ids(payload, ["a", "b", "c"]) == failed


def test_deployed_mappings_are_taken_over_from_ministack(
    account: Account, queue: Queue, deployed_function_name: str
) -> None:
    lambda_client = account.client("lambda")
    made = lambda_client.create_event_source_mapping(
        EventSourceArn=queue.arn,
        FunctionName=deployed_function_name,
        BatchSize=7,
        FunctionResponseTypes=["ReportBatchItemFailures"],
        ScalingConfig={"MaximumConcurrency": 3},
    )

    try:
        mappings = take_over_mappings(lambda_client, queue.sqs)

        wanted = Mapping(queue.arn, queue.url, deployed_function_name, batch_size=7, max_concurrency=3)
        assert mappings == [wanted]
        assert lambda_client.get_event_source_mapping(UUID=made["UUID"])["State"] == "Enabled"
    finally:
        lambda_client.delete_event_source_mapping(UUID=made["UUID"])
