"""Random histories: several owners chat, cancel and poll, while calls fail, processes die and messages come twice.
Hypothesis draws the actions, their order and their times. It shrinks a history that breaks a guarantee to a short one,
and prints it as a story.
"""

from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests import summary
from tests.faults.clients import post
from tests.faults.faults import WRITE_VARIANTS, Call, Variant
from tests.faults.guarantees import GuaranteeBroken, tell
from tests.faults.model import Answers
from tests.faults.scheduler import Stuck
from tests.faults.world import Exchange, World

OWNERS = st.sampled_from(["alice", "bob", "carol"])
SESSIONS = st.sampled_from(["s", "t"])  # the same names for all owners: they are different sessions
PAUSES = st.sampled_from([0.0, 0.05, 0.5, 3.0])
INDEX = st.integers(0, 1_000_000)
PLACES = (
    "submit",
    "worker",
    "status",
    "deadletter",
    "model",
    "Lambda",
    "PutItem",
    "GetItem",
    "UpdateItem",
    "Query",
    "SendMessage",
    "DeleteMessage",
    "ChangeMessageVisibility",
    "GetSecretValue",
)
MISFORTUNES = (
    "a_process_dies",
    "a_batch_comes_twice",
    "messages_become_visible_too_early",
    "aws_throttles",
    "the_model_is_out",
    "the_key_is_rotated",
    "a_message_was_received_too_often",
)

BEHAVIOURS = {
    "slow": Answers(seconds=12),
    "silent": Answers(silence=30, seconds=31),
    "hangs": Answers(silence=1000, seconds=1000),
    "past its time": Answers(seconds=400, chunks=40),
    "429": Answers(status=429, retry_after=7),
    "quota": Answers(status=429, code="insufficient_quota"),
    "500": Answers(status=500),
    "503": Answers(status=503),
    "400": Answers(status=400),
    "too long": Answers(status=400, code="context_length_exceeded"),
    "403": Answers(status=403),
    "cut": Answers(cut=True),
    "unreachable": Answers(unreachable=True),
    "refuses": Answers(refusal=True),
    "filtered": Answers(finish_reason="content_filter"),
    "garbled": Answers(garbled=True),
}
TROUBLES = st.lists(st.sampled_from(sorted(BEHAVIOURS)), max_size=3)


class HistoryBroken(AssertionError):
    def __init__(self, what: str, number: int | None) -> None:
        super().__init__(what)
        self.number = number


count = partial(summary.count, "faults, random histories")


class History(RuleBasedStateMachine):
    world: World
    failed = False

    @initialize(seed=st.integers(0, 2**32 - 1), concurrency=st.sampled_from([1, 3, 20]))
    def begin(self, seed: int, concurrency: int) -> None:
        self.world = World(seed=seed, chance=True, concurrency=concurrency)
        self.world.__enter__()
        self.world.have_limits()
        self.world.keep_replies()
        self.posts: list[tuple[Exchange, dict[str, Any]]] = []
        self.batches: list[Any] = []
        count("histories")

    # ---- what clients do

    @rule(
        owner=OWNERS,
        session=SESSIONS,
        sync=st.booleans(),
        has_key=st.booleans(),
        role=st.sampled_from([None, None, "booking"]),
        troubles=TROUBLES,
        pause=PAUSES,
    )
    def says(
        self,
        owner: str,
        session: str,
        sync: bool,
        has_key: bool,
        role: str | None,
        troubles: list[str],
        pause: float,
    ) -> None:
        marker = f"m{len(self.world.exchanges)}"
        key = f"planted-idem-{marker}" if has_key else None
        self.world.model.planned[marker] = [BEHAVIOURS[trouble] for trouble in troubles]
        arguments = post(marker, session, sync=sync, key=key, role=role)
        self._post(owner, arguments)
        self._pass(pause)

    @precondition(lambda self: any("idempotency-key" in arguments["headers"] for _, arguments in self.posts))
    @rule(which=INDEX, sync=st.booleans(), is_other=st.sampled_from([False, False, True]), pause=PAUSES)
    def says_again(self, which: int, sync: bool, is_other: bool, pause: float) -> None:
        keyed = [(e, a) for e, a in self.posts if "idempotency-key" in a["headers"]]
        exchange, arguments = keyed[which % len(keyed)]
        again = arguments | {"query": {} if sync else {"async_mode": "true"}}
        if is_other:
            again["body"] = arguments["body"] | {"message": f"planted-prompt-m{len(self.world.exchanges)}"}
        self._post(exchange.owner, again, is_new=not is_other)
        self._pass(pause)

    def _post(self, owner: str, arguments: dict[str, Any], is_new: bool = True) -> None:
        exchange = self.world.send(owner, "POST /chat", **arguments)
        if is_new:
            self.posts.append((exchange, arguments))

    def _task_id(self, which: int) -> str:
        ids = [e.document["task_id"] for e, _ in self.posts if "task_id" in e.document]
        return str(ids[which % len(ids)]) if ids else "s.01ARZ3NDEKTSV4RRFFQ69G5FAV"

    @rule(owner=OWNERS, which=INDEX, wait=st.sampled_from([0, 0, 5, 20]), pause=PAUSES)
    def looks(self, owner: str, which: int, wait: int, pause: float) -> None:
        path, query = {"task_id": self._task_id(which)}, {"wait": str(wait)} if wait else {}
        self.world.send(owner, "GET /chat/task/{task_id}", path=path, query=query)
        self._pass(pause)

    @rule(owner=OWNERS, which=INDEX, pause=PAUSES)
    def cancels(self, owner: str, which: int, pause: float) -> None:
        self.world.send(owner, "POST /chat/task/{task_id}/cancel", path={"task_id": self._task_id(which)})
        self._pass(pause)

    @rule(owner=OWNERS, which=INDEX, pause=PAUSES)
    def retries(self, owner: str, which: int, pause: float) -> None:
        self.world.send(owner, "POST /chat/task/{task_id}/retry", path={"task_id": self._task_id(which)})
        self._pass(pause)

    @rule(owner=OWNERS, session=SESSIONS, pause=PAUSES)
    def reads_the_session(self, owner: str, session: str, pause: float) -> None:
        self.world.send(owner, "GET /chat/session/{session_id}", path={"session_id": session})
        self._pass(pause)

    # ---- what the world does

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 20.0, 60.0, 190.0, 400.0, 950.0]))
    def time_passes(self, seconds: float) -> None:
        self._pass(seconds)

    @rule(seconds=st.sampled_from([0.1, 0.5, 2.0]))
    def a_moment_passes(self, seconds: float) -> None:
        self._pass(seconds)

    @rule(
        place=st.sampled_from(PLACES),
        variant=st.sampled_from(WRITE_VARIANTS),
        skip=st.sampled_from([0, 0, 0, 1, 2, 5]),
    )
    def a_call_will_fail(self, place: str, variant: Variant, skip: int) -> None:
        left = [skip]

        def matches(call: Call) -> bool:
            left[0] -= place in f"{call.process} {call.operation}"
            return left[0] < 0

        self.world.plan.armed.append((matches, variant))
        self.world.tell("fate", f"call {skip + 1} from now of {place}: {variant}")
        count("misfortunes")

    @rule(what=st.sampled_from(MISFORTUNES), which=INDEX, pause=PAUSES)
    def fate_strikes(self, what: str, which: int, pause: float) -> None:
        getattr(self, f"_{what}")(which)
        count("misfortunes")
        self._pass(pause)

    def _a_process_dies(self, which: int) -> None:
        busy = [process for name in ("worker", "submit", "status", "deadletter") for process in self.world.busy(name)]
        if busy:
            self.world.die(busy[which % len(busy)], "where it stands")

    def _aws_throttles(self, which: int) -> None:
        seconds = (2, 10, 60)[which % 3]
        self.world.throttled_until = self.world.now + seconds
        self.world.tell("fate", f"AWS throttles for {seconds} s")

    def _the_model_is_out(self, which: int) -> None:
        trouble, seconds = ("429", "500", "unreachable", "hangs")[which % 4], (5, 60)[which % 2]
        self.world.model.outage = BEHAVIOURS[trouble]
        self.world.scheduler.call_at(self.world.now + seconds, self._the_model_is_back)
        self.world.tell("fate", f"every call of the model for {seconds} s: {trouble}")

    def _the_model_is_back(self) -> None:
        self.world.model.outage = None

    def _the_key_is_rotated(self, which: int) -> None:
        key = f"planted-key-{which}"
        self.world.model.key, self.world.model.accepted_keys = key, {key}
        self.world.tell("fate", "the key of the model is another")

    def _a_batch_comes_twice(self, which: int) -> None:
        """At once, if the batch is in work; or late, when it is long done."""
        running = [batch for _, batch in self.world.source.running]
        self.batches += [batch for batch in running if batch not in self.batches]
        if batches := running or self.batches:
            self.world.source.deliver(batches[which % len(batches)])

    def _messages_become_visible_too_early(self, which: int) -> None:
        ids = {message.message_id for _, batch in self.world.source.running for message in batch}
        self.world.tell("fate", f"{sorted(ids)} become visible while they are in work")
        self.world.queue.expire(ids)

    def _a_message_was_received_too_often(self, which: int) -> None:
        if waiting := self.world.queue.waiting():
            message = waiting[which % len(waiting)]
            message.received = self.world.queue.most_receives or 0
            self.world.tell("fate", f"{message.message_id} counts as received {message.received} times")

    # ---- the run of it

    def _pass(self, seconds: float) -> None:
        count("steps")
        self._watched(lambda: self.world.run(seconds))

    def _watched(self, act: Any) -> None:
        try:
            act()
        except (AssertionError, Stuck) as error:
            self.failed = True
            number = error.number if isinstance(error, GuaranteeBroken) else None
            raise HistoryBroken(f"{error}\n\nThe story:\n{tell(self.world.story)}\n", number) from None

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            if not self.failed:
                self._watched(self.world.settle)
                self._watched(self.world.watch.check)
        finally:
            count("deaths", self.world.deaths)
            count("tasks accepted", len(self.world.watch.accepted))
            self.world.__exit__(None, None, None)
