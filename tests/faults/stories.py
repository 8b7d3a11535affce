"""The stories in which every call fails once: the actions of clients, and the events around them. Each must keep the
guarantees without faults and with any fault, so no action may depend on an answer.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.faults.clients import Client
from tests.faults.faults import Variant
from tests.faults.model import Answers
from tests.faults.world import COLD_START_SECONDS, Exchange, World

type Tell = Callable[[World, Client], None]
"""A story of this world. The client is that of the owner alice."""


@dataclass(frozen=True)
class Story:
    name: str
    tell: Tell
    ends: dict[str, frozenset[str]]
    """The allowed ends of the turn with each marker when one call fails: SUCCESS, or error codes. So a single fault may
    cost no accepted task, unless the story itself is about the task's end."""
    seconds: float = 10.0
    """The seconds of the longest turn without a fault. A single fault may add a lease to them."""
    at_most: dict[str, float] = field(default_factory=dict)
    """The maximum seconds of some turns in a run without a fault."""
    calls: int | None = None
    """The maximum number of calls to the model without a fault."""
    after: float = 0.0
    """The second from which on calls are made to fail; the others are like those of another story."""


def _all_succeed(turns: int) -> dict[str, Any]:
    """The ends of m0, m1 and so on."""
    return {f"m{number}": "SUCCESS" for number in range(turns)}


STORIES: dict[str, Story] = {}
RACES: dict[str, Story] = {}
"""Stories about two who meet: told over and over with other seeds, not with faults at every call."""


def story(
    seconds: float = 10.0,
    at_most: dict[str, float] | None = None,
    after: float = 0.0,
    is_race: bool = False,
    calls: int | None = None,
    **ends: str,
) -> Callable[[Tell], Tell]:
    def add(tell: Tell) -> Tell:
        allowed = {marker: frozenset(codes.split()) for marker, codes in ends.items()}
        (RACES if is_race else STORIES)[tell.__name__] = Story(
            tell.__name__, tell, allowed, seconds, at_most or {}, calls, after
        )
        return tell

    return add


@story(a="SUCCESS")
def submit_sync(world: World, alice: Client) -> None:
    alice.insist("a", sync=True)


@story(seconds=40.0, after=23.0, a="SUCCESS")
def submit_sync_in_vain(world: World, alice: Client) -> None:
    """The workers are all busy for longer than a request waits."""
    with world.source.pause():
        posted = alice.insist("a", sync=True)
    alice.look(posted, wait=5)


@story(a="SUCCESS")
def submit_async(world: World, alice: Client) -> None:
    posted = alice.insist("a")
    alice.look(posted)
    alice.rest(3)
    alice.look(posted)


@story(a="SUCCESS")
def submit_with_key(world: World, alice: Client) -> None:
    alice.insist("a", key="planted-idem-1", sync=True)


@story(a="SUCCESS")
def submit_with_key_and_replay(world: World, alice: Client) -> None:
    world.have_limits()
    alice.insist("a", key="planted-idem-1")
    alice.insist("a", key="planted-idem-1")
    alice.rest(5)
    alice.insist("a", key="planted-idem-1", sync=True)
    alice.say("b", key="planted-idem-1")


@story(a="SUCCESS")
def submit_with_key_twice_at_once(world: World, alice: Client) -> None:
    world.scheduler.spawn("alice again", lambda: alice.insist("a", key="planted-idem-1", sync=True))
    alice.insist("a", key="planted-idem-1")


@story(a="SUCCESS")
def create_with_key(world: World, alice: Client) -> None:
    """A response of the OpenAI API."""
    created = alice.create("a", "planted-idem-1")
    alice.retrieve(created)
    alice.rest(3)
    alice.create("a", "planted-idem-1")
    alice.retrieve(created)


@story(seconds=130.0, calls=2, after=math.inf, a="SUCCESS")
def create_and_be_cut(world: World, alice: Client) -> None:
    """A response whose first worker dies while it writes. Its reader is cut at each event."""
    created = alice.create("a", "planted-idem-1", [Answers(seconds=6, chunks=12), Answers(seconds=40, chunks=6)])
    alice.rest(4)
    for process in world.busy("worker"):
        world.die(process, "while it writes")
    alice.read_stream(created)


@story(a="SUCCESS", b="SUCCESS", c="SUCCESS")
def call_functions(world: World, alice: Client) -> None:
    """The model asks for two functions. Two clients bring the results at the same time, and one of them again. Calls of
    an attempt that was not recorded get no results."""
    posted = alice.insist("a", tools=True, answers=[Answers(calls=2)] * 4)
    alice.rest(2)
    if calls := alice.calls(posted):
        _bring_results_of_lost_attempts(world, alice, calls)
        world.scheduler.spawn("alice's tablet", lambda: alice.insist("b", results_of=calls))
        alice.insist("b", results_of=calls, key="planted-idem-1")
        alice.insist("b", results_of=calls, key="planted-idem-1")
        alice.insist("c")


def _bring_results_of_lost_attempts(world: World, alice: Client, recorded: list[str]) -> None:
    """Bring results of all functions that the model has asked for in vain."""
    for calls in world.model.call_ids["a"]:
        if calls != recorded:
            alice.insist("lost", results_of=calls)


@story(a="SUCCESS", b="SUCCESS")
def run_after_429(world: World, alice: Client) -> None:
    alice.insist("a", answers=[Answers(status=429, retry_after=2)])
    alice.insist("b")
    alice.rest(10)


@story(seconds=20.0, at_most={"c": 5.0, "d": 5.0}, after=15.0, a="SUCCESS", b="SUCCESS", c="SUCCESS", d="SUCCESS")
def run_by_the_fallback(world: World, alice: Client) -> None:
    """The first model is down: a has only its last attempt, b opens the circuit, c finds it open, d finds the first back."""
    world.have_a_fallback()
    world.model.outage = Answers(status=503)
    alice.insist("a")
    alice.rest(15)
    alice.insist("b", "t")
    alice.rest(8)
    alice.insist("c", "u")
    alice.rest(40)
    world.model.outage = None
    alice.insist("d", "v")


@story(seconds=100.0, calls=10, after=33.0, a="SUCCESS", b="SUCCESS", c="SUCCESS", d="SUCCESS", e="SUCCESS")
def run_through_an_outage(world: World, alice: Client) -> None:
    """The model refuses every call for 40 s. Three sessions wait, and a call now and then finds it back."""
    world.model.outage = Answers(status=503)
    alice.insist("a", "s")
    alice.insist("b", "s")
    alice.insist("c", "t")
    alice.rest(8)
    alice.insist("d", "u")
    alice.rest(32)
    world.model.outage = None
    alice.insist("e", "t")


@story(seconds=150.0, calls=13, after=math.inf, **_all_succeed(10))
def many_meet_a_half_open_breaker(world: World, alice: Client) -> None:
    """Ten turns are delivered at once, a minute after the breaker has opened, and the model is still down: one probes."""
    world.model.outage = Answers(status=503)
    alice.insist("m0", "s0")
    alice.insist("m1", "s1")
    alice.rest(1)
    with world.source.pause():
        for number in range(2, 10):
            alice.insist(f"m{number}", f"s{number}")
        alice.rest(60)
    alice.rest(2)
    world.model.outage = None


@story(seconds=150.0, after=math.inf, a="SUCCESS", b="SUCCESS", c="SUCCESS")
def probe_dies(world: World, alice: Client) -> None:
    """The worker that probes a model after an outage is killed: another probes when its lease is over."""
    world.model.outage = Answers(status=503)
    alice.insist("a", "s")
    alice.insist("b", "t")
    alice.rest(4)
    world.model.outage = Answers(silence=20, seconds=21)
    calls = len(world.model.calls)
    world.scheduler.wait(condition=lambda: len(world.model.calls) > calls)
    for process in world.busy("worker"):
        world.die(process, "while it probes")
    world.model.outage = None
    alice.insist("c", "u")


@story(seconds=1000.0, after=880.0, a="model_unavailable", b="SUCCESS")
def outage_past_the_deadline(world: World, alice: Client) -> None:
    """A task whose model never came back says so, whoever closes it."""
    world.model.outage = Answers(unreachable=True)
    posted = alice.insist("a")
    alice.rest(3)
    with world.source.pause():  # so that a reader closes it, and no worker
        alice.rest(898)
        alice.look(posted)
        world.model.outage = None
    alice.insist("b")


@story(seconds=25.0, after=math.inf, a="SUCCESS")
def cut_until_the_last_attempt(world: World, alice: Client) -> None:
    """The first model is not down, but cuts its answers: the last attempt goes to the fallback."""
    world.have_a_fallback()
    world.model.outage = Answers(cut=True)
    alice.insist("a")


@story(seconds=40.0, after=8.0, a="SUCCESS", b="SUCCESS", c="SUCCESS", d="SUCCESS")
def below_a_known_rate(world: World, alice: Client) -> None:
    """Twelve calls a minute are allowed: each takes its place, 5 s after the one before."""
    world.know_the_rate(12)
    for marker in "abcd":
        alice.insist(marker, marker)


@story(seconds=20.0, after=1.0, a="SUCCESS")
def watched(world: World, alice: Client) -> None:
    """A streamed answer of some rows. One client looks often, and another now and then, and comes back at each row."""
    posted = alice.insist("a", stream=True, answers=[Answers(seconds=3.5, chunks=7)])
    world.scheduler.spawn("alice's tablet", lambda: alice.watch(posted, 1.6, again=True))
    alice.watch(posted, 0.5)


@story(seconds=130.0, after=15.0, a="SUCCESS", b="SUCCESS")
def a_slow_answer(world: World, alice: Client) -> None:
    """An answer of nearly two minutes: the worker renews its lease, and that of the message behind it."""
    with world.source.pause():
        alice.insist("a", answers=[Answers(seconds=110, silence=100)])
        alice.insist("b")


@story(
    seconds=20.0, at_most={"b": 4.0, "c": 4.0, "d": 4.0}, after=9.0, a="SUCCESS", b="SUCCESS", c="SUCCESS", d="SUCCESS"
)
def taken_while_another_runs(world: World, alice: Client) -> None:
    """Lambda begins no second worker. The one that runs a takes what comes, and ends when a does."""
    world.source.concurrency = 1
    alice.insist("a", answers=[Answers(seconds=12)])
    alice.rest(3)
    alice.insist("b", "t")
    alice.insist("c", "u")
    alice.rest(6)
    alice.insist("d", "t")


@story(at_most={"b": 2.0}, after=math.inf, a="SUCCESS", b="SUCCESS")
def sent_while_the_last_poll_is_open(world: World, alice: Client) -> None:
    """The only turn of a worker ends while it polls, and SQS gives that poll a message."""
    world.polls_are_first = True
    alice.insist("a", sync=True, answers=[Answers(seconds=3)])
    alice.insist("b", "t")


@story(seconds=40.0, at_most={"b": 8.0, "c": 8.0}, after=math.inf, a="SUCCESS", b="SUCCESS", c="SUCCESS")
def the_answer_to_a_poll_is_lost(world: World, alice: Client) -> None:
    """It brought b; the repetition brings it again, also when a is over meanwhile."""
    world.source.concurrency = 1
    alice.insist("a", answers=[Answers(seconds=20)])
    alice.rest(2)
    world.polls_to_lose = 1
    alice.insist("b", "t")
    alice.rest(16)
    world.polls_to_lose = 1
    alice.insist("c", "u")


@story(seconds=140.0, after=130.0, a="SUCCESS", b="SUCCESS", c="SUCCESS")
def taken_and_slow(world: World, alice: Client) -> None:
    """A turn that the worker has taken itself lasts longer than a lease, and another of its session waits behind it."""
    world.source.concurrency = 1
    alice.insist("a", answers=[Answers(seconds=5)])
    alice.rest(2)
    world.source.paused = True
    alice.insist("b", "t", answers=[Answers(seconds=110, silence=100)])
    alice.insist("c", "t")
    world.source.paused = False


@story(seconds=60.0, after=math.inf, a="SUCCESS", b="SUCCESS", c="SUCCESS", d="SUCCESS")
def some_of_an_event_and_some_taken_come_back(world: World, alice: Client) -> None:
    """One invocation: b of its event must come back, and so must d, which it has taken itself."""
    world.source.concurrency = 1
    with world.source.pause():
        alice.insist("a", "s", answers=[Answers(seconds=20)])
        alice.insist("b", "t", answers=[Answers(status=500)])
    alice.rest(3)
    alice.insist("c", "u")
    alice.insist("d", "v", answers=[Answers(cut=True)] * 2)


@story(seconds=180.0, at_most={"c": 50.0}, after=math.inf, a="SUCCESS", b="SUCCESS", c="SUCCESS")
def a_worker_that_stops_takes_nothing(world: World, alice: Client) -> None:
    """It runs b, and has less than a longest answer left: c is for the next worker. SQS allows few receives here; with a
    longest answer of 14 minutes a worker could use up the real ones."""
    world.queue.most_receives = 5
    world.source.concurrency = 1
    alice.insist("a", answers=[Answers(seconds=150)])
    alice.rest(145)
    alice.insist("b", "t", answers=[Answers(seconds=110)])
    alice.rest(75)
    alice.insist("c", "u")


@story(seconds=70.0, at_most={"h": 12.0, "i": 12.0}, after=math.inf, a="SUCCESS", h="SUCCESS", i="SUCCESS")
def slots_are_free_again(world: World, alice: Client) -> None:
    """A worker holds three turns: one that is slow, and others that fail, are malformed, or answered, one after the other."""
    world.hold_turns(3)
    world.source.concurrency = 1
    alice.insist("a", answers=[Answers(seconds=60, silence=50)])
    alice.rest(1)
    for number in range(2):
        alice.insist(f"cut{number}", f"c{number}", answers=[Answers(cut=True)])
        world.queue.send("no turn", f"malformed{number}", f"malformed{number}").received = 998
    alice.rest(12)
    alice.insist("h", "h")
    alice.insist("i", "i")


@story(seconds=60.0, after=math.inf, a="SUCCESS", b="SUCCESS", c="SUCCESS")
def visible_again_while_at_work(world: World, alice: Client) -> None:
    """SQS gives a worker a turn that it is at work on once more, and the one behind it."""
    world.source.concurrency = 1
    alice.insist("a", answers=[Answers(seconds=10)])
    alice.insist("c", "u", answers=[Answers(seconds=20)])
    alice.rest(2)
    alice.insist("b")
    world.queue.expire([message.message_id for message in world.queue.waiting()])


@story(seconds=60.0, after=math.inf, **_all_succeed(12))
def while_workers_of_two_versions_run(world: World, alice: Client) -> None:
    """Each second worker is one of before: it runs what Lambda gives it and takes nothing. Sessions go to and fro."""
    world.has_old_workers = True
    world.source.concurrency = 2
    for number in range(12):
        alice.insist(f"m{number}", f"s{number % 3}", answers=[Answers(seconds=(2, 4, 1)[number % 3])])
        alice.rest((0.5, 3)[number % 2])


@story(seconds=60.0, after=math.inf, a="SUCCESS", b="SUCCESS")
def metrics_of_a_long_invocation(world: World, alice: Client) -> None:
    """What befalls b shows in the metrics while a still runs."""
    world.source.concurrency = 1
    alice.insist("a", answers=[Answers(seconds=50, silence=40)])
    alice.rest(2)
    alice.insist("b", "t", answers=[Answers(status=503)])


@story(seconds=30.0, after=math.inf, **_all_succeed(24))
def a_long_conversation(world: World, alice: Client) -> None:
    """More turns than the model is told: it is told the newest."""
    for number in range(24):
        alice.insist(f"m{number}", sync=True)


@story(a="SUCCESS")
def run_after_cut(world: World, alice: Client) -> None:
    alice.insist("a", sync=True, answers=[Answers(cut=True)])


@story(a="SUCCESS", b="SUCCESS")
def run_structured(world: World, alice: Client) -> None:
    alice.insist("a", role="booking")
    alice.rest(3)
    alice.insist("b", role="booking", sync=True)


@story(a="SUCCESS")
def run_slow(world: World, alice: Client) -> None:
    """Slower than a request may wait; the progress is shown meanwhile."""
    posted = alice.insist("a", sync=True, wait=4, answers=[Answers(seconds=6.5, chunks=2)])
    alice.look(posted, wait=20)


@story(a="SUCCESS", b="SUCCESS", c="media_missing", d="SUCCESS")
def run_with_uploads(world: World, alice: Client) -> None:
    """An image of the message's own, one of the message before it, and one that nobody has uploaded."""
    image = alice.upload()
    alice.insist("a", media=image and [image])
    alice.rest(3)
    alice.insist("b")
    alice.insist("c", media=[{"type": "image", "upload_id": "01KANEC0X00000000000000000"}])
    alice.insist("d")


@story(a="SUCCESS", b="SUCCESS")
def run_with_data_urls(world: World, alice: Client) -> None:
    """Two images that go to S3 with their message, and are a part of the next one's history."""
    image = {"type": "image", "url": "data:image/png;base64," + "A" * 8000}
    alice.insist("a", key="planted-idem-1", media=[image, image])
    alice.rest(3)
    alice.insist("b")


@story(a="prompt_refused", b="SUCCESS")
def run_refused(world: World, alice: Client) -> None:
    alice.insist("a", sync=True, answers=[Answers(refusal=True)] * 3)
    alice.insist("b")


@story(after=3.3, a="SUCCESS")
def run_with_rotated_key(world: World, alice: Client) -> None:
    alice.insist("warm")
    alice.rest(3)
    world.model.key = "planted-key-new"
    world.model.accepted_keys = {"planted-key-new"}
    alice.insist("a", sync=True)


@story(seconds=30.0, after=0.38, a="SUCCESS", b="SUCCESS", e="SUCCESS", c="SUCCESS", d="SUCCESS")
def run_sessions_in_one_batch(world: World, alice: Client) -> None:
    """Two sessions of two owners in one batch; a turn in the middle of one is refused three times."""
    bob = Client(world, "bob")
    with world.source.pause():
        alice.insist("a")
        alice.insist("b", answers=[Answers(status=429)] * 3)
        alice.insist("e")
        bob.insist("c")
        bob.insist("d", answers=[Answers(seconds=5)])
    alice.rest(30)
    bob.page("s")


@story(seconds=30.0, a="cancelled", b="SUCCESS")
def cancel_pending(world: World, alice: Client) -> None:
    world.have_limits()
    with world.source.pause():
        posted = alice.insist("a")
        alice.cancel(posted) and alice.cancel(posted)  # a cancellation that failed is asked for again
    alice.insist("b")


@story(seconds=60.0, after=math.inf, a="SUCCESS", b="SUCCESS")
def quota_used_up(world: World, alice: Client) -> None:
    """Queued messages count: those that wait have reserved all tokens of the day, and the next one is refused."""
    world.have_a_quota(30_000)
    with world.source.pause():
        alice.insist("a")
        alice.insist("b")
        alice.say("c")


@story(seconds=6.0, a="cancelled SUCCESS", b="SUCCESS")
def cancel_started(world: World, alice: Client) -> None:
    posted = alice.insist("a", answers=[Answers(seconds=8)])
    alice.rest(2)
    alice.cancel(posted)
    alice.cancel(posted)
    alice.insist("b")


@story(seconds=200.0, a="worker_lost deadline_exceeded", b="SUCCESS")
def dead_letter(world: World, alice: Client) -> None:
    """A message that was received as often as SQS allows, in whatever way."""
    with world.source.pause():
        posted = alice.insist("a")
        for message in world.queue.waiting():
            message.received = world.queue.most_receives or 0
        alice.insist("b")
    alice.rest(3)
    alice.look(posted)


@story(seconds=1000.0, a="deadline_exceeded", b="SUCCESS")
def read_repair(world: World, alice: Client) -> None:
    """A turn that no message tells of any more, read past its deadline: by its id, and in its conversation."""
    world.source.paused = True
    posted = alice.insist("a")
    for message in world.queue.waiting():
        world.queue.lose(message.message_id)
    world.source.paused = False
    alice.insist("b", session="other", sync=True)
    alice.rest(901)
    alice.page("s")
    alice.look(posted)


@story(seconds=910.0, after=900.0, a="deadline_exceeded", b="SUCCESS")
def delivered_past_its_deadline(world: World, alice: Client) -> None:
    with world.source.pause():
        alice.insist("a")
        alice.rest(901)
    alice.insist("b", sync=True)


@story(a="SUCCESS", b="SUCCESS")
def malformed_message(world: World, alice: Client) -> None:
    """A message that is no turn lies between two of a session, and ends with the dead letters, for an operator to see."""
    with world.source.pause():
        alice.insist("a")
        before = world.queue.waiting()
        message = world.queue.send("no turn", before[-1].group if before else "g", "malformed")
        message.received = (world.queue.most_receives or 0) - 2
        alice.insist("b")
    alice.rest(10)


@story(a="SUCCESS")
def dead_letter_of_an_answered_turn(world: World, alice: Client) -> None:
    """Its message could not be deleted, and has come back too often."""
    for _ in range(2):
        world.plan.armed.append((lambda call: "DeleteMessage" in call.operation, Variant.REFUSED))
    alice.insist("a", sync=True)
    for message in world.queue.waiting():
        message.received = world.queue.most_receives or 0


@story(a="SUCCESS", b="SUCCESS", c="SUCCESS")
def delivered_twice_at_once(world: World, alice: Client) -> None:
    with world.source.pause():
        alice.insist("a", answers=[Answers(seconds=3)])
        alice.insist("b")
    alice.rest(2)
    for _, batch in list(world.source.running):
        world.source.deliver(batch)
    alice.insist("c")


@story(seconds=200.0, a="SUCCESS", b="SUCCESS")
def delivered_late(world: World, alice: Client) -> None:
    """Again while it is in work, for its visibility was too short; and once more when all is done."""
    alice.insist("a", answers=[Answers(seconds=3)])
    alice.rest(2)
    batches = [batch for _, batch in world.source.running]
    world.queue.expire([message.message_id for message in world.queue.waiting()])
    alice.rest(5)
    alice.insist("b")
    for batch in batches:
        world.source.deliver(batch)


@story(seconds=200.0, a="SUCCESS")
def zombie(world: World, alice: Client) -> None:
    """A worker whose clock is slow takes a lease that is over for all others, and is taken over while it works."""
    _overtaken(world, alice, 2.0, Answers(seconds=5))


@story(seconds=200.0, after=math.inf, a="SUCCESS")
def zombie_that_gives_up(world: World, alice: Client) -> None:
    """Its attempt fails between two looks at the turn, and it would hand back what another has."""
    _overtaken(world, alice, 2.7, Answers(silence=3.5, status=500))


@story(seconds=200.0, after=math.inf, a="SUCCESS")
def watched_zombie(world: World, alice: Client) -> None:
    """It has shown some of its answer, and goes on showing it while another answers."""
    _overtaken(world, alice, 2.0, Answers(seconds=6, chunks=12), stream=True)


@story(seconds=200.0, after=math.inf, a="SUCCESS", b="SUCCESS")
def zombie_that_asks_for_functions(world: World, alice: Client) -> None:
    """Another has taken its turn over, and asks for the functions again."""
    posted = _overtaken(world, alice, 2.0, Answers(seconds=5, calls=1))
    if calls := alice.calls(posted):
        _bring_results_of_lost_attempts(world, alice, calls)
        alice.insist("b", results_of=calls)


def _overtaken(world: World, alice: Client, after: float, first: Answers, *, stream: bool = False) -> Exchange:
    world.clocks["worker1"] = -200.0
    second = Answers(seconds=8, chunks=8, calls=first.calls)
    posted = alice.insist("a", stream=stream, tools=first.calls > 0, answers=[first, second])
    if stream:
        world.scheduler.spawn("alice's tablet", lambda: alice.watch(posted, 0.3))
    alice.rest(after)
    for _, batch in list(world.source.running):
        world.source.deliver(batch)
    alice.rest(15)
    return posted


@story(seconds=600.0, after=math.inf, a="worker_lost SUCCESS", b="SUCCESS")
def every_worker_dies(world: World, alice: Client) -> None:
    """A turn that costs every worker its life costs three, and then its session moves on. (A fault that kills a worker
    before it has the turn may take the place of such a death; then it is answered.)"""
    alice.insist("a", answers=[Answers(seconds=30)] * 4)
    alice.insist("b")
    for _ in range(3):
        world.scheduler.wait(condition=lambda: bool(world.busy("worker")))
        alice.rest(5)
        for process in world.busy("worker"):
            world.die(process, "in the middle of a call")


@story(a="SUCCESS", m="SUCCESS")
def stranger(world: World, alice: Client) -> None:
    """Another owner who knows every id and key, and says that it is the first."""
    mallory = Client(world, "mallory")
    posted = alice.insist("a", key="planted-idem-1", answers=[Answers(seconds=4)])
    mallory.insist("m", key="planted-idem-1", metadata={"owner": "alice"})
    mallory.look(posted)
    mallory.cancel(posted)
    mallory.page("s")
    alice.rest(5)
    alice.page("s")


@story(
    seconds=20.0,
    after=math.inf,
    at_most={"fine": 3.0, "well": 3.0},
    hangs="SUCCESS",
    fails="SUCCESS",
    fine="SUCCESS",
    well="SUCCESS",
)
def neighbours(world: World, alice: Client) -> None:
    """A session that hangs and one that fails, in one batch with two that do neither."""
    with world.source.pause():
        alice.insist("hangs", session="h", answers=[Answers(silence=12, seconds=13)])
        alice.insist("fails", session="f", answers=[Answers(status=500)] * 2)
        alice.insist("fine", session="s")
        Client(world, "bob").insist("well", session="h")


@story(a="SUCCESS", b="SUCCESS")
def answered_again(world: World, alice: Client) -> None:
    """A message that was answered before, sent with a key and without, by its owner and another, and in a conversation."""
    world.keep_replies()
    mallory = Client(world, "mallory")
    alice.insist("a", session=None)
    alice.rest(3)
    alice.insist("a", session=None, sync=True)
    posted = alice.insist("a", session=None, key="planted-idem-1")
    alice.insist("a", session=None, key="planted-idem-1", sync=True)
    mallory.insist("a", session=None)
    session = posted.document.get("session_id", "s")
    alice.insist("b", session=session)
    alice.insist("a", session=session)


@story(a="SUCCESS")
def answered_meanwhile(world: World, alice: Client) -> None:
    """Between two tries of a message with a key there comes to be a reply that answers it."""
    world.keep_replies()
    alice.say("a", session=None, key="planted-idem-1")
    alice.insist("a", session=None)
    alice.rest(3)
    alice.insist("a", session=None, key="planted-idem-1", sync=True)


@story(a="prompt_refused SUCCESS", b="SUCCESS")
def retried(world: World, alice: Client) -> None:
    """A failed task is tried again by two clicks at once, by one later, and by another owner."""
    world.have_limits()
    failed = alice.insist("a", answers=[Answers(refusal=True)])
    alice.insist("b")
    alice.rest(3)
    world.scheduler.spawn("a second click", lambda: alice.retry(failed))
    again = alice.retry(failed)
    Client(world, "mallory").retry(failed)
    alice.rest(3)
    alice.retry(failed)
    if again:
        alice.look(again, wait=5)
        alice.retry(again)


@story(is_race=True, seconds=1000.0, a="SUCCESS deadline_exceeded model_timeout")
def finish_against_deadline(world: World, alice: Client) -> None:
    """The answer comes in the moment in which readers find that its time is over."""
    deadline = 900.3 + world.random.uniform(0.0, 0.1)
    with world.source.pause():
        posted = alice.insist("a", answers=[Answers(ends_at=deadline - world.random.uniform(0.0, 0.06))])
        _at_about(world, deadline, 14, lambda: alice.look(posted))
        alice.rest(860)
    alice.rest(60)


@story(is_race=True, a="SUCCESS cancelled")
def cancel_against_finish(world: World, alice: Client) -> None:
    ends_at = 4.0 + world.random.random()
    posted = alice.insist("a", answers=[Answers(ends_at=ends_at)])
    _at_about(world, ends_at, 4, lambda: alice.cancel(posted))
    alice.rest(10)


@story(is_race=True, a="SUCCESS cancelled")
def cancel_against_claim(world: World, alice: Client) -> None:
    posted = alice.insist("a")
    _at_about(world, world.now + 0.2, 3, lambda: alice.cancel(posted))
    alice.rest(10)


@story(is_race=True, a="SUCCESS")
def many_with_one_key(world: World, alice: Client) -> None:
    _at_about(world, 0.5, 8, lambda: alice.insist("a", key="planted-idem-1"))
    world.scheduler.wait(5)
    alice.insist("a", key="planted-idem-1")


@story(is_race=True, a="SUCCESS")
def many_with_one_key_while_a_reply_comes(world: World, alice: Client) -> None:
    """One of them records a turn to be answered, and another finds the reply that answers it."""
    world.keep_replies()
    at = 4.0 + world.random.uniform(0.0, 0.3)
    alice.insist("a", session=None, answers=[Answers(ends_at=4.0)])
    _at_about(world, at, 8, lambda: alice.insist("a", session=None, key="planted-idem-1", sync=True))
    alice.rest(10)


def _at_about(world: World, at: float, times: int, act: Callable[[], object]) -> None:
    """Do something several times at once, each at a moment near `at`. A request that comes beside others needs a new
    process, so it is sent earlier by the time that one takes to start."""

    def later() -> None:
        moment = at - COLD_START_SECONDS + world.random.uniform(-0.1, 0.1)
        world.scheduler.wait(max(0.0, moment - world.now))
        act()

    for number in range(times):
        world.scheduler.spawn(f"one of {times} ({number})", later)
