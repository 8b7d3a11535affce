"""A Turnqueue in one process: its functions, tables, queues and model, API Gateway, Lambda and the clients.

It reports every event to the story and to the watch (guarantees.py).
"""

import itertools
import json
import math
import os
import random
import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any, Self
from unittest import mock

from development import cfn
from tests.faults import model, patches, source, wire
from tests.faults.faults import Call, Fault, Plan, Variant
from tests.faults.fifo_queue import FifoQueue
from tests.faults.guarantees import Watch, place_of
from tests.faults.lambdas import EventSource
from tests.faults.scheduler import EPOCH, Group, Killed, Scheduler
from tests.faults.table import Item, Table
from tests.payloads import Context, api_event

type JsonObject = dict[str, Any]

REGION = "us-east-1"
QUEUE_URL = f"https://sqs.{REGION}.amazonaws.com/123456789012/TurnQueue.fifo"
ENVIRONMENT = cfn.environment() | {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_LAMBDA_FUNCTION_NAME": "turnqueue-simulated",
    "POWERTOOLS_SERVICE_NAME": "turnqueue",
    "QUEUE_URL": QUEUE_URL,
    "MEDIA_BUCKET": "media-bucket",
    "MODEL_NAME": "stand-in",
    "MODEL_BASE_URL": "http://model.invalid/v1",
    "MODEL_KEY_SECRET_ARN": "model-key",
}
FUNCTIONS = {
    route["RouteKey"]: "submit" if "SubmitIntegration" in route["Target"]["Fn::Sub"] else "status"
    for route in cfn.resources("AWS::ApiGatewayV2::Route").values()
}
"""By route."""
GATEWAY_SECONDS = 30.0
COLD_START_SECONDS = 0.3
LATENCY = 0.004


@cache
def template(kind: str) -> dict[str, dict[str, Any]]:
    return cfn.resources(kind)


class Process(Group):
    """An execution environment of Lambda: the modules of a function, one invocation at a time."""

    def __init__(self, name: str, function: str, skew: float) -> None:
        super().__init__(name, skew)
        self.function = function
        self.module: ModuleType | None = None
        self.invocation: Invocation | None = None


@dataclass(eq=False)
class Invocation:
    function: str
    event: JsonObject
    process: Process
    began_at: float
    ends_at: float
    done: Callable[["Invocation"], None]
    response: Any = None
    fate: str = ""  # "answered", "raised", "died" or "timed out" when it is over
    acknowledged: list[str] = field(default_factory=list)
    """The turns whose message SQS has acknowledged to it."""


@dataclass(eq=False)
class Exchange:
    """A request of a client and its answer; no status before there is one."""

    number: int
    owner: str
    route: str
    request: JsonObject
    sent_at: float
    invocation: Invocation | None = None
    answered_at: float = math.inf
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    document: JsonObject = field(default_factory=dict)

    @property
    def accepted(self) -> bool:
        return 200 <= self.status < 300


class World:
    """Use as a context manager: it replaces clocks and network while it lives.

    `faults`: by the number of a call, what befalls it. `chance`: whether latencies, batches and clocks vary by the seed;
    otherwise all are regular.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        faults: Iterable[tuple[int, Variant]] = (),
        chance: bool = False,
        concurrency: int = 20,
    ) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.by_chance = chance
        self.scheduler = Scheduler()
        self.plan = Plan(faults)
        self.story: list[tuple[float, str, str]] = []
        self.throttled_until = 0.0
        self.per_minute = 0
        self.polls_are_first = False
        """Whether SQS gives a message to the poll of a worker before Lambda's event source."""
        self.polls_to_lose = 0
        """Of how many of the next polls that get messages the answer is lost."""
        self.has_old_workers = False
        """Whether each second worker is of the version before workers took turns themselves."""
        self.quota = 0
        self.exchanges: list[Exchange] = []
        self.invocations: list[Invocation] = []
        self.deaths = 0
        self.clocks: dict[str, float] = {}
        """By how many seconds the clock of a process is wrong, by its name."""
        self.tables = {
            name: Table(
                name,
                tuple(key["AttributeName"] for key in table["KeySchema"]),
                lambda: self.now,
                self._committed,
                self._staleness,
            )
            for name, table in template("AWS::DynamoDB::Table").items()
        }
        dead = template("AWS::SQS::Queue")["DeadLetterQueue"]
        turns = template("AWS::SQS::Queue")["TurnQueue"]
        self.dead_letters = FifoQueue(
            "dead",
            lambda: self.now,
            visibility=dead["VisibilityTimeout"],
            retention=dead["MessageRetentionPeriod"],
        )
        self.queue = FifoQueue(
            "turn",
            lambda: self.now,
            visibility=turns["VisibilityTimeout"],
            retention=turns["MessageRetentionPeriod"],
            most_receives=turns["RedrivePolicy"]["maxReceiveCount"],
            dead_letters=self.dead_letters,
        )
        self.queues = {QUEUE_URL: self.queue}
        self.queue.on_hand_out = lambda message: self.watch.handed_out(place_of(message.body))
        self.objects: dict[str, tuple[str, bytes]] = {}
        """What lies in the bucket by its key: content type and content."""
        self.model = model.StandIn(self)
        self.watch = Watch(self)
        self.source = EventSource(self, self.queue, "worker", concurrency)
        self.dead_source = EventSource(self, self.dead_letters, "deadletter", 2)
        self._processes: dict[str, list[Process]] = {}
        self._numbers = itertools.count(1)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(mock.patch.dict(os.environ, ENVIRONMENT))  # also ends what a story sets
        self._stack.enter_context(patches.applied(self.random, patches.Output(self.watch.printed)))
        model.Transport.world = self
        wire.connect(self)
        return self

    def have_limits(self) -> None:
        """Those submits that start from now on check the owners' limits. They are never reached."""
        os.environ.update(OWNER_LIMITS="default:60000/1000/1000000000", LIMIT_GROUP_CLAIM="plan")

    def have_a_quota(self, tokens: int) -> None:
        """Those submits that start from now on hold each owner to so many tokens a day."""
        self.quota = tokens
        os.environ.update(OWNER_LIMITS=f"default:60000/1000/{tokens}", LIMIT_GROUP_CLAIM="plan")

    def know_the_rate(self, per_minute: int) -> None:
        """Those workers that start from now on know how many calls a minute the model grants."""
        self.per_minute = per_minute
        os.environ.update(MODEL_REQUESTS_PER_MINUTE=str(per_minute))

    def hold_turns(self, number: int) -> None:
        """Those workers that start from now on hold so many turns at a time at most."""
        os.environ.update(TURNS_PER_WORKER=str(number))

    def keep_replies(self) -> None:
        """Those submits that start from now on give an answer again."""
        os.environ.update(CACHE_SECONDS="600")

    def have_a_fallback(self) -> None:
        """Those workers that start from now on have a second model."""
        os.environ.update(FALLBACK_MODEL_NAME="second", FALLBACK_BASE_URL=f"http://{model.FALLBACK_HOST}/v1")

    def __exit__(self, *error: object) -> None:
        self.scheduler.close()
        for processes in self._processes.values():
            for process in processes:
                for loop in process.loops:
                    loop.bury()
        source.aws_session.recycle()
        wire.connect(None)
        model.Transport.world = None
        self._stack.close()

    # ---- time and chance

    @property
    def now(self) -> float:
        return self.scheduler.now

    def run(self, seconds: float = math.inf, stop: Callable[[], bool] | None = None) -> None:
        self.scheduler.run(seconds, stop)

    def latency(self) -> float:
        if not self.by_chance:
            return LATENCY
        # Most calls are quick; now and then one takes long enough for much to happen meanwhile.
        kind = self.random.random()
        return self.random.uniform(0.001, 0.02) if kind < 0.85 else self.random.uniform(0.02, 2.0)

    def _staleness(self) -> float:
        return self.random.choice([0.0, 0.05, 1.0]) if self.by_chance else 0.0

    @property
    def has_trouble(self) -> bool:
        """Whether calls fail in this run, are slow, or clocks differ: then a living worker may lose a lease."""
        return self.by_chance or self.plan.has_faults or self.deaths > 0 or bool(self.clocks)

    def weather(self, call: Call) -> Fault | None:
        """What befalls any call at this time."""
        if self.now < self.throttled_until and self.random.random() < 0.6:
            return Fault.THROTTLED
        return None

    def tell(self, who: str, what: str) -> None:
        self.story.append((self.now, who, what))

    # ---- processes

    def invoke(self, function: str, event: JsonObject, done: Callable[[Invocation], None]) -> Invocation:
        """Hand an event to a process of the function: to an idle one or a new one."""
        processes = self._processes.setdefault(function, [])
        process = next((p for p in processes if not p.dead and not p.invocation), None)
        if process is None:
            name = f"{function}{len(processes) + 1}"
            skew = self.random.uniform(-0.5, 0.5) if self.by_chance else 0.0
            process = Process(name, function, self.clocks.get(name, skew))
            processes.append(process)
        timeout = template("AWS::Serverless::Function")[f"{function.capitalize()}Function"]["Timeout"]
        invocation = Invocation(function, event, process, self.now, self.now + timeout, done)
        self.invocations.append(invocation)
        process.invocation = invocation
        process.frozen = False
        self.scheduler.spawn(process.name, lambda: self._handle(invocation), process)
        self.scheduler.call_at(invocation.ends_at, lambda: self._time_out(invocation))
        return invocation

    def _handle(self, invocation: Invocation) -> None:
        process = invocation.process
        if process.module is None:
            self.scheduler.wait(COLD_START_SECONDS)
            invocation.ends_at += COLD_START_SECONDS  # the start is not counted against the function's time
            is_old = self.has_old_workers and process.function == "worker" and process.name.endswith(tuple("02468"))
            with mock.patch.dict(os.environ, {"TURNS_PER_WORKER": "0"} if is_old else {}):
                process.module = source.load(process.function)
        context = Context(lambda: invocation.ends_at - self.now, f"request-{next(self._numbers)}")
        try:
            response = process.module.handler(json.loads(json.dumps(invocation.event)), context)
            invocation.response = json.loads(json.dumps(response))
        except Exception as error:
            self.tell(process.name, f"raises {type(error).__name__}: {error}")
            self._end(invocation, "raised")
        else:
            self._end(invocation, "answered")
        process.frozen = True

    def _time_out(self, invocation: Invocation) -> None:
        if invocation.fate:
            return
        if invocation.ends_at > self.now:
            self.scheduler.call_at(invocation.ends_at, lambda: self._time_out(invocation))
            return
        self.die(invocation.process, "because its time is over", fate="timed out")

    def die(self, process: Group, when: str, fate: str = "died") -> None:
        """End a process at once. If the caller belongs to it, it must raise Killed or never return."""
        assert isinstance(process, Process)
        if process.dead:
            return
        self.deaths += 1
        self.tell(process.name, f"dies {when}")
        self.scheduler.kill(process)
        if process.invocation:
            self._end(process.invocation, fate)

    def _end(self, invocation: Invocation, fate: str) -> None:
        invocation.fate = fate
        invocation.process.invocation = None
        self.scheduler.call_at(self.now, lambda: invocation.done(invocation))

    def busy(self, function: str) -> list[Process]:
        return [p for p in self._processes.get(function, []) if p.invocation and not p.dead]

    # ---- API Gateway

    def send(
        self,
        owner: str,
        route: str,
        *,
        body: JsonObject | None = None,
        headers: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
        path: dict[str, str] | None = None,
    ) -> Exchange:
        """Send a request. The answer comes in its own time."""
        request = {"body": body, "headers": headers or {}, "query": query or {}, "path": path or {}}
        exchange = Exchange(len(self.exchanges) + 1, owner, route, request, self.now)
        self.exchanges.append(exchange)
        if body and (text := model.said(body)):
            self.watch.sent(owner, text)
        about = (path or {}).get("task_id", "")[-6:] or (path or {}).get("session_id", "")
        self.tell(owner, f"request {exchange.number}: {route} {about} {json.dumps(body) if body else ''}".strip())
        event = api_event(route, owner=owner, body=body, headers=headers, query=query, path=path)
        exchange.invocation = self.invoke(
            FUNCTIONS[route], event, lambda invocation: self._answer(exchange, invocation)
        )
        self.scheduler.call_at(self.now + GATEWAY_SECONDS, lambda: self._give_up(exchange))
        return exchange

    def _answer(self, exchange: Exchange, invocation: Invocation) -> None:
        if exchange.status:
            return
        if invocation.fate == "answered":
            exchange.status = invocation.response["statusCode"]
            exchange.headers = invocation.response["headers"]
            body = invocation.response["body"]
            if body.startswith("event: "):
                exchange.document = {"stream": [json.loads(data) for data in re.findall(r"^data: (.*)$", body, re.M)]}
            else:
                exchange.document = json.loads(body or "{}")  # a 204 has none
            if exchange.document.get("object") == "response":
                exchange.document |= as_task(exchange.document)
        else:
            exchange.status, exchange.document = 500, {"message": "Internal Server Error"}
        self._answered(exchange)

    def _give_up(self, exchange: Exchange) -> None:
        if not exchange.status:
            exchange.status, exchange.document = 503, {"message": "Service Unavailable"}
            self._answered(exchange)

    def _answered(self, exchange: Exchange) -> None:
        exchange.answered_at = self.now
        brief = {
            name: exchange.document[name]
            for name in ("task_id", "status", "error_code", "code", "message")
            if exchange.document.get(name) is not None
        }
        self.tell(exchange.owner, f"answer {exchange.number}: {exchange.status} {brief}")
        self.watch.answered(exchange)

    def ask(self, *args: Any, **kwargs: Any) -> Exchange:
        """Send a request from an actor and wait for the answer."""
        exchange = self.send(*args, **kwargs)
        self.scheduler.wait(condition=lambda: exchange.status != 0)
        return exchange

    # ---- what the services tell

    def _committed(self, table: Table, old: Item | None, new: Item) -> None:
        if table.name == "TurnsTable":
            self.watch.committed(old, new)
        elif table.name == "EventsTable":
            self.watch.logged(old, new)
        else:
            self.watch.guarded(new)

    def acknowledged(self, process: Group, message: JsonObject) -> None:
        assert isinstance(process, Process) and process.invocation
        process.invocation.acknowledged.append(message["MessageDeduplicationId"])

    def on_model_call(self, call: model.ModelCall) -> None:
        self.watch.model_called(call)

    # ---- the end

    def quiet(self) -> bool:
        """Whether no request is under way and no message waits, but for dead letters that are no turns: those stay."""
        dead = any(place_of(message.body) for message in self.dead_letters.waiting())
        return not dead and not self.queue.waiting() and all(invocation.fate for invocation in self.invocations)

    def settle(self, seconds: float = 7200.0) -> None:
        """Let time run on without further faults until nothing is left to do."""
        self.plan.end()
        self.throttled_until = 0.0
        self.model.outage = None
        self.run(seconds, self.quiet)

    def item(self, task_id: str, owner: str) -> Item | None:
        session_id, _, turn = task_id.rpartition(".")
        return self.tables["TurnsTable"].item({"session": {"S": f"{owner}#{session_id}"}, "turn": {"S": turn}})

    def marker(self, task_id: str, owner: str) -> str:
        session_id, _, turn = task_id.rpartition(".")
        return self.watch.turns[f"{owner}#{session_id}", turn].marker

    def final_after(self, task_id: str) -> float:
        """The seconds from the request that was accepted to the end of its task."""
        exchange = self.watch.accepted[task_id]
        session_id, _, turn = task_id.rpartition(".")
        final_at = self.watch.turns[f"{exchange.owner}#{session_id}", turn].final_at
        return math.inf if final_at is None else final_at - exchange.sent_at

    def calendar(self) -> float:
        return EPOCH + self.now


def as_task(response: JsonObject) -> JsonObject:
    """The task of a response of the OpenAI API, with the status and members that /chat gives it."""
    told = response["x_turnqueue"]
    status = {"queued": "PENDING", "in_progress": "STARTED", "completed": "SUCCESS"}.get(response["status"], "FAILURE")
    text = "".join(part["text"] for item in response["output"] for part in item["content"])
    return {"task_id": told["task_id"], "session_id": told["session_id"], "status": status, "message": text}


__all__ = ["Exchange", "Invocation", "Killed", "Process", "World"]
