"""What a turn costs as everything around it grows: its conversation, the sessions, the queue, and its own answer."""

import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from benchmarks.bill import CHATS, MB_OF_A_CPU, dollars
from benchmarks.chats import OWNER, Chats, Item, conversation, in_large, message_of
from benchmarks.meter import Meter, Use
from benchmarks.paired import alternate, ratio, spread
from benchmarks.report import Chart, Section, draw
from local import model_server
from local.stack import LocalStack
from local.tools import ROOT
from tests import cfn

_TURNS = (1, 5, 20, 100, 500)
_ROUNDS_OF_TURNS = 7
_MANY = 10_000
_FEW = 10
_ROUNDS_OF_SESSIONS = 10
_CALLS_A_ROUND = 10
_TOKENS = (500, 1_000, 2_000, 4_000, 8_000)
_TOKENS_A_SECOND = 800
"""As quick as the stand-in streams; what slower models cost is reckoned from it."""
_USUAL_TOKENS_A_SECOND = 100

_CHUNKS = 300
_ROUNDS_OF_CHUNKS = 5

type Points = list[tuple[float, float]]


def run() -> Section:
    section = Section("growth", "What a turn costs as everything around it grows")
    with LocalStack(record=True, parameters={"WorkerConcurrency": "2"}) as stack:
        chats = Chats(stack, Meter(stack))
        turn = chats.a_turn()
        megabytes = stack.functions["WorkerFunction"].memory
        talks = conversations(chats, turn)
        sides = crowds(chats, turn)
        shares = sessions_of_a_batch(stack)
        answers = [answer(chats, tokens) for tokens in _TOKENS]
        chunks = cpu_of_chunks(chats)

    section.say(
        "CPU time is that of the functions' processes on the local stack, under Lambda's runtime client; units are "
        "counted from the items that the calls move. Small and large were measured in turns; what is in brackets are "
        "quartiles."
    )
    _tell_conversations(section, talks)
    _tell_crowds(section, sides, shares)
    _tell_answers(section, answers)
    _tell_chunks(section, chunks, megabytes)
    draw("growth.svg", *_charts(talks, sides, answers))
    section.plot("growth.svg", "what grows, and what does not")
    return section


def _measured(measure: Callable[..., float], *arguments: Any) -> Callable[[], float]:
    """A side of a measurement."""
    return lambda: measure(*arguments)


# ---- A conversation


@dataclass
class Talk:
    """What a turn behind so many others used, in each round."""

    cpu: list[float] = field(default_factory=list)  # seconds of the worker
    read_units: list[float] = field(default_factory=list)  # of the history
    prompt_tokens: list[float] = field(default_factory=list)


def conversations(chats: Chats, turn: Item) -> dict[str, dict[int, Talk]]:
    """By the kind of the turns before, and their number."""
    kinds = {"small": turn, "large": in_large(turn)}
    talks = {kind: {turns: Talk() for turns in _TURNS} for kind in kinds}
    for kind, before in kinds.items():
        for turns in _TURNS:
            chats.write(conversation(before, f"{kind}-{turns}", turns))

    def measure(kind: str, turns: int) -> float:
        talk = talks[kind][turns]
        with chats.meter.measured() as use:
            task = chats.say(message_of(), f"{kind}-{turns}")
        chats.forget(task["task_id"])
        talk.cpu.append(use["CPU seconds", "WorkerFunction"])
        talk.read_units.append(use["read units", "Query"])
        talk.prompt_tokens.append(task["usage"]["prompt_tokens"])
        return talk.cpu[-1]

    sides = {f"{kind} {turns}": _measured(measure, kind, turns) for kind in kinds for turns in _TURNS}
    alternate(sides, _ROUNDS_OF_TURNS)
    return talks


def _tell_conversations(section: Section, talks: Mapping[str, Mapping[int, Talk]]) -> None:
    section.say(
        "**The conversation grows to 500 turns: bounded.** The worker reads 20 turns and gives the model those of them "
        "that are 16,000 tokens together. Small turns have 100 characters of message and 300 of answer, large ones "
        "2,000 and 16,000."
    )
    rows = []
    for kind, by_turns in talks.items():
        few = by_turns[20]
        for turns, talk in by_turns.items():
            rows.append(
                [
                    f"{turns} {kind}",
                    f"{spread([1000 * seconds for seconds in talk.cpu])} ms",
                    str(ratio(talk.cpu, few.cpu)),
                    f"{statistics.median(talk.read_units):g}",
                    f"{statistics.median(talk.prompt_tokens):,.0f}",
                    f"${dollars('model_prompt_token', statistics.median(talk.prompt_tokens) * CHATS):,.0f}",
                ]
            )
    head = ["turns before", "worker's CPU", "to 20 turns", "read units of the history", "prompt tokens"]
    section.table([*head, "prompts of a million such turns"], rows)


# ---- Sessions and the queue


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
        measured[name] = _measured(measure, name, submit, status)
    alternate(measured, _ROUNDS_OF_SESSIONS)
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


def _tell_crowds(section: Section, sides: Mapping[str, Side], shares: Mapping[str, float]) -> None:
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


# ---- An answer


class Answer(NamedTuple):
    """What an answer of so many tokens used."""

    tokens: int
    seconds: float
    cpu: float  # seconds of the worker
    writes: float  # of its progress
    write_units: float


def progress_units(tokens: int, tokens_a_second: float) -> int:
    """A write each second of all that was said so far, 4 bytes a token, beside half a kilobyte of the turn."""
    seconds = math.floor(tokens / tokens_a_second)
    return sum(math.ceil((500 + 4 * tokens_a_second * second) / 1024) for second in range(1, seconds + 1))


def answer(chats: Chats, tokens: int) -> Answer:
    """One answer as it streams, two tokens a chunk."""
    words = next(words for words in itertools.count(1) if _characters(words) >= 4 * tokens)
    pause = tokens / words / _TOKENS_A_SECOND
    began = time.monotonic()
    with chats.meter.measured() as use:
        task = chats.say(f"[[drip={pause:.5f} words={words}]]")
    seconds = time.monotonic() - began
    return Answer(
        task["usage"]["completion_tokens"],
        seconds,
        use["CPU seconds", "WorkerFunction"],
        use["writes", "progress"],
        use["write units", "progress"],
    )


def _characters(words: int) -> int:
    """Of the stand-in's answer of so many words."""
    return len(" ".join(f"word{number}" for number in range(1, words + 1)))


def _tell_answers(section: Section, answers: Sequence[Answer]) -> None:
    section.say(
        f"**The answer grows to {_TOKENS[-1]:,} tokens: the worker's time and its CPU grow with it, and the writes of "
        "its progress by its square,** for each second another write is made of all that was said so far. Streamed at "
        f"{_TOKENS_A_SECOND} tokens a second, two a chunk; reckoned: a write each second, 4 bytes a token, half a "
        "kilobyte of the turn beside them, a unit for each KB begun."
    )
    usual = {each.tokens: progress_units(each.tokens, _USUAL_TOKENS_A_SECOND) for each in answers}
    rows = [
        [
            f"{each.tokens:,}",
            f"{each.seconds:.1f} s",
            f"{each.writes:.0f}",
            f"{each.write_units:.0f}",
            f"{progress_units(each.tokens, each.tokens / each.seconds)}",
            f"{usual[each.tokens]:,}",
            f"${dollars('dynamodb_write_unit', usual[each.tokens] * CHATS):,.0f}",
            f"${dollars('model_completion_token', each.tokens * CHATS):,.0f}",
            f"{1000 * each.cpu:.0f} ms",
        ]
        for each in answers
    ]
    head = ["tokens", "took", "progress writes", "their units", "reckoned", f"reckoned at {_USUAL_TOKENS_A_SECOND}/s"]
    section.table([*head, "that, for a million", "the model's tokens for them", "worker's CPU"], rows)
    least, most = answers[0], answers[-1]
    progress = dollars("dynamodb_write_unit", usual[most.tokens])
    spoken = dollars("model_completion_token", most.tokens)
    section.say(
        f"{most.tokens / least.tokens:.0f} times the answer takes {most.cpu / least.cpu:.1f} times the CPU and, at "
        f"{_USUAL_TOKENS_A_SECOND} tokens a second, {usual[most.tokens] / max(1, usual[least.tokens]):.0f} times the "
        f"units of progress, which are then {100 * progress / spoken:.0f} % of what the model's tokens cost."
    )


class Chunks(NamedTuple):
    """CPU seconds of the worker, in each round, for a turn without any, and for each chunk more of its stream."""

    turn: list[float]
    alone: list[float]
    together: list[float]


def cpu_of_chunks(chats: Chats) -> Chunks:
    """Chunks that come one by one, and as many that come all at once."""
    messages = {
        "none": "[[words=1]]",
        "alone": f"[[drip=0.005 words={_CHUNKS}]]",
        "together": f"[[words={_CHUNKS * model_server.WORDS_PER_CHUNK}]]",
    }

    def measure(message: str) -> float:
        with chats.meter.measured() as use:
            chats.say(message)
        return use["CPU seconds", "WorkerFunction"]

    rounds = alternate({name: _measured(measure, message) for name, message in messages.items()}, _ROUNDS_OF_CHUNKS)
    of_one = {
        name: [(some - none) / _CHUNKS for some, none in zip(rounds[name], rounds["none"], strict=True)]
        for name in ("alone", "together")
    }
    return Chunks(rounds["none"], of_one["alone"], of_one["together"])


def _tell_chunks(section: Section, chunks: Chunks, megabytes: int) -> None:
    turn, alone, together = (1000 * statistics.median(seconds) for seconds in chunks)
    share = megabytes / MB_OF_A_CPU
    section.say(
        f"**A chunk of the stream takes {spread([1000 * seconds for seconds in chunks.alone], 2)} ms of CPU when it "
        f"comes alone, and {spread([1000 * seconds for seconds in chunks.together], 2)} ms when it comes with many** "
        f"({ratio(chunks.alone, chunks.together)} times as much), beside {turn:.0f} ms for the turn. Most models send "
        f"each token alone. With {megabytes} MB, {share:.2f} of a CPU, the worker keeps up with "
        f"{share / alone * 1000:,.0f} chunks a second that come alone, {share / alone * 100:.0f} for each of ten "
        f"turns. One that falls behind finds more at each read, and so takes up to {share / together * 1000:,.0f}. Below, ten "
        f"answers at once, a token a chunk, {_USUAL_TOKENS_A_SECOND} a second: how long the CPU time that they take "
        "lasts at a function's share, if all chunks come together and if all come alone. Where that is more than the "
        "model takes, it is the worker that is waited for."
    )
    rows = []
    for tokens in (75, 300, 1_000):
        cpu = [10 * (turn + tokens * each) / 1000 for each in (together, alone)]
        rows.append(
            [
                f"{tokens:,}",
                f"{tokens / _USUAL_TOKENS_A_SECOND:.1f} s",
                *(
                    " to ".join(f"{seconds * MB_OF_A_CPU / memory:.1f}" for seconds in cpu) + " s"
                    for memory in (megabytes, 2 * megabytes, 4 * megabytes)
                ),
            ]
        )
    section.table(
        ["tokens", "the model takes", *(f"at {factor * megabytes:,} MB" for factor in (1, 2, 4))],
        rows,
    )


def _charts(
    talks: Mapping[str, Mapping[int, Talk]], sides: Mapping[str, Side], answers: Sequence[Answer]
) -> list[Chart]:
    def of_talks(value: Callable[[Talk], float]) -> dict[str, Points]:
        return {f"{kind} turns": [(turns, value(talk)) for turns, talk in talks[kind].items()] for kind in talks}

    cpu = of_talks(lambda talk: 1000 * statistics.median(talk.cpu))
    tokens = of_talks(lambda talk: statistics.median(talk.prompt_tokens))
    crowd: dict[str, Points] = {
        "submit": [(index, 1000 * statistics.median(side.submit_cpu)) for index, side in enumerate(sides.values())],
        "status": [(index, 1000 * statistics.median(side.status_cpu)) for index, side in enumerate(sides.values())],
    }
    usual = [(tokens, progress_units(tokens, _USUAL_TOKENS_A_SECOND)) for tokens in range(0, _TOKENS[-1] + 1, 500)]
    units: dict[str, Points] = {
        f"reckoned at {_USUAL_TOKENS_A_SECOND} tokens/s": [(float(tokens), float(units)) for tokens, units in usual],
        f"measured at {_TOKENS_A_SECOND} tokens/s": [(each.tokens, each.write_units) for each in answers],
    }
    return [
        Chart("worker's CPU by the turns before", "turns", "ms a turn", cpu, log=True),
        Chart("prompt by the turns before", "turns", "tokens", tokens, log=True),
        Chart("0: few; 1: 10,000 sessions; 2: and 10,000 waiting", "", "CPU, ms a call", crowd),
        Chart("units of progress by the answer", "tokens", "write units", units),
    ]
