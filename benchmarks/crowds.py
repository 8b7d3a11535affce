"""What a submit and a poll cost as the sessions are many, and the queue is full."""

import itertools
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from benchmarks.chats import OWNER, Chats, Item, conversation, message_of
from benchmarks.meter import Use
from benchmarks.paired import alternate, ratio, spread
from benchmarks.report import Section
from development import cfn
from local.stack import LocalStack
from local.tools import ROOT

_MANY = 10_000
_FEW = 10
_ROUNDS = 10
_CALLS_A_ROUND = 10


class Side(NamedTuple):
    """What a call used: of submit, and of status for the task that it made."""

    submit_cpu: list[float]  # seconds, of each round
    status_cpu: list[float]
    submit_lasts: list[float]  # seconds, of which most are the emulator's
    units: str


def crowds(chats: Chats, turn: Item) -> dict[str, Side]:
    """The same two functions on tables and queues that are nearly empty, and on full ones."""
    stack = chats.stack
    few, many = _table(chats, "few"), _table(chats, "many")
    chats.write(_sessions(turn, _FEW), few)
    chats.write(_sessions(turn, _MANY), many)
    waiting = _queue(stack, "waiting")
    fill(stack, waiting, (f"group-{index}" for index in range(_MANY)))
    settings = {
        f"{_FEW} sessions, queue empty": (few, _queue(stack, "empty-1")),
        f"{_MANY:,} sessions, queue empty": (many, _queue(stack, "empty-2")),
        f"{_MANY:,} sessions, {_MANY:,} waiting": (many, waiting),
    }
    sides = {name: Side([], [], [], "") for name in settings}
    numbers = itertools.count()

    def measure(name: str, submit: str, status: str) -> float:
        with chats.meter.measured() as submitted:
            sessions = [f"session-{next(numbers) % _FEW}" for _ in range(_CALLS_A_ROUND)]
            tasks = [_invoke(stack, submit, _submit_event(session))["task_id"] for session in sessions]
        with chats.meter.measured() as polled:
            for task_id in tasks:
                assert _invoke(stack, status, _status_event(task_id))["status"] == "PENDING"
        sides[name].submit_cpu.append(submitted["CPU seconds", submit] / _CALLS_A_ROUND)
        sides[name].status_cpu.append(polled["CPU seconds", status] / _CALLS_A_ROUND)
        sides[name].submit_lasts.append(submitted["seconds", submit] / _CALLS_A_ROUND)
        sides[name] = sides[name]._replace(units=_units(submitted, polled))
        return sides[name].submit_cpu[-1]

    measured = {}
    for index, (name, (table, queue)) in enumerate(settings.items()):
        submit = _copy(stack, "SubmitFunction", f"Submit{index}", TURNS_TABLE=table, QUEUE_URL=queue)
        status = _copy(stack, "StatusFunction", f"Status{index}", TURNS_TABLE=table)
        _invoke(stack, status, _status_event(_invoke(stack, submit, _submit_event("first"))["task_id"]))  # starts them
        measured[name] = partial(measure, name, submit, status)
    alternate(measured, _ROUNDS)
    return sides


def _units(submitted: Use, polled: Use) -> str:
    """Of one submit and one poll."""
    writes, sends = submitted["write units", "TurnsTable"], submitted["SQS requests", "SendMessage"]
    reads = polled["read units", "GetItem"]
    return f"{writes / _CALLS_A_ROUND:g} write, {sends / _CALLS_A_ROUND:g} send; {reads / _CALLS_A_ROUND:g} read"


def _copy(stack: LocalStack, label: str, copied: str, **variables: str) -> str:
    """Adds a function like that with this label, with other variables and the rights of the root."""
    function = stack.functions[label]
    copy = replace(function, name=copied, label=copied, role="", variables={**function.variables, **variables})
    stack.host.add(copy)
    stack.functions[copied] = copy
    return copied


def _table(chats: Chats, name: str) -> str:
    table = cfn.resources("AWS::DynamoDB::Table")["TurnsTable"]
    wanted = {key: table[key] for key in ("BillingMode", "KeySchema", "AttributeDefinitions")}
    chats.stack.client("dynamodb").create_table(TableName=name, **wanted)
    chats.meter.tables[name] = "TurnsTable"
    return name


def _sessions(turn: Item, number: int) -> Iterator[Item]:
    return itertools.chain.from_iterable(conversation(turn, f"session-{index}", 1) for index in range(number))


def _queue(stack: LocalStack, name: str) -> str:
    url: str = stack.client("sqs").create_queue(QueueName=f"{name}.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    return url


def fill(stack: LocalStack, queue: str, groups: Iterable[str]) -> None:
    """Put a message into a queue for each of these groups, in this order."""
    for number, some in enumerate(itertools.batched(groups, 10, strict=False)):
        entries = [
            {
                "Id": str(index),
                "MessageBody": "{}",
                "MessageGroupId": group,
                "MessageDeduplicationId": f"{number}-{index}",
            }
            for index, group in enumerate(some)
        ]
        stack.client("sqs").send_message_batch(QueueUrl=queue, Entries=entries)


def _invoke(stack: LocalStack, function: str, event: dict[str, Any]) -> dict[str, Any]:
    result = stack.host.invoke(function, event)
    assert result.error is None, result.payload
    body: dict[str, Any] = json.loads(result.json()["body"])
    return body


def _submit_event(session: str) -> dict[str, Any]:
    event = _event("submit")
    event["headers"].pop("idempotency-key", None)
    event["queryStringParameters"] = {"async_mode": "true"}
    event["body"] = json.dumps({"message": message_of(), "session_id": session})
    return event


def _status_event(task_id: str) -> dict[str, Any]:
    return _event("status") | {"pathParameters": {"task_id": task_id}}


def _event(name: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((ROOT / "events" / f"{name}.json").read_text())
    assert event["requestContext"]["authorizer"]["jwt"]["claims"]["sub"] == OWNER
    return event


def sessions_of_a_batch(stack: LocalStack) -> dict[str, float]:
    """How many sessions there are in a batch of 10, by what waits: 1,000 messages."""
    sessions = [f"group-{index}" for index in range(100)]
    orders = {
        "one message of each": [f"group-{index}" for index in range(1_000)],
        "ten of each, sent in turns": sessions * 10,
        "ten of each, one session's after the other's": [session for session in sessions for _ in range(10)],
    }
    sqs, found = stack.client("sqs"), {}
    for number, (order, groups) in enumerate(orders.items()):
        queue = _queue(stack, f"order-{number}")
        fill(stack, queue, groups)
        batches = [
            sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, MessageSystemAttributeNames=["MessageGroupId"])
            for _ in range(5)
        ]
        found[order] = statistics.mean(
            len({message["Attributes"]["MessageGroupId"] for message in batch["Messages"]}) for batch in batches
        )
    return found


def tell_crowds(section: Section, sides: Mapping[str, Side], shares: Mapping[str, float]) -> None:
    section.say(
        f"**Sessions grow to {_MANY:,}, and {_MANY:,} messages wait: flat.** An access is by key, and a send does not "
        "look at the queue. What a submit lasts is the emulator's, which looks at all that waits; a process that waits "
        "for longer finds less in the CPU's caches afterwards, which is what is left of a difference."
    )
    first = next(iter(sides.values()))
    section.table(
        [
            "",
            "submit, CPU",
            "to the first",
            "status, CPU",
            "to the first",
            "units of submit; of a poll",
            "a submit lasts",
        ],
        [
            [
                name,
                f"{spread([1000 * seconds for seconds in side.submit_cpu], 2)} ms",
                str(ratio(side.submit_cpu, first.submit_cpu)),
                f"{spread([1000 * seconds for seconds in side.status_cpu], 2)} ms",
                str(ratio(side.status_cpu, first.status_cpu)),
                side.units,
                f"{1000 * statistics.median(side.submit_lasts):.0f} ms",
            ]
            for name, side in sides.items()
        ],
    )
    section.say(
        "Sessions in a batch of 10 of a backlog: "
        + ", ".join(f"{order}: {sessions:.0f}" for order, sessions in shares.items())
        + ". That is the emulator, which gives messages in the order in which they came. SQS gives as many of one "
        "session as it can (its developer guide, FIFO delivery logic), so of sessions with ten messages each it may "
        "give ten turns of one. They run one after the other, and such a batch costs what ten turns alone cost. A "
        "client that waits for the answer before it asks again never has more than one waiting."
    )
