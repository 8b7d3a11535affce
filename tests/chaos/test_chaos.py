"""Kills, stops and delays processes while turns run. Every task must end; the tests print the times."""

import os
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos.conftest import LEASE_SECONDS, WORKER_SECONDS, Lab, at, last, outcomes, row
from tests.e2e.conftest import FINAL

FEW_SECONDS = 6.0
"""Seconds that a recovery may take in addition to known waits: for polling, a cold start, and a busy machine."""


def test_a_worker_is_killed_in_mid_call(lab: Lab) -> None:
    """The killed worker's task ends with the next attempt. Its session waits for the lease. No other session waits."""
    session = lab.session()
    calm = lab.bystander()
    first = lab.api.submit(f"[[drip=0.5 tokens=120 times=1]] {uuid.uuid4()}", session_id=session)
    lab.started([first])
    [victim] = lab.busy_workers()
    second = lab.api.submit("and then?", session_id=session)
    lab.bystander().chat()  # the cold start does not count for the killed worker
    for _ in range(15):
        calm.chat()

    killed_at = time.time()
    os.kill(victim, signal.SIGKILL)
    lease_until = lab.lease_until(first)
    time.sleep(1)  # Until then SQS may give a message to the dead worker's poll.
    assert lease_until - killed_at <= LEASE_SECONDS
    troubled = lab.bystander()
    troubled.until(lambda: lab.api.task(first)["status"] in FINAL or time.time() > lease_until + 60)

    one, two = lab.ended([first, second], 60)
    assert (one["status"], one["attempt"]) == ("SUCCESS", 2)
    assert (two["status"], two["attempt"]) == ("SUCCESS", 1)
    assert at(two["started_at"]) >= at(one["finished_at"])
    recovered = at(one["finished_at"]) - killed_at
    assert recovered <= LEASE_SECONDS + FEW_SECONDS
    assert at(one["finished_at"]) <= lease_until + FEW_SECONDS
    fault = f"worker killed {LEASE_SECONDS - (lease_until - killed_at):.0f} s into a lease of {LEASE_SECONDS} s"
    row(fault, "its task", f"SUCCESS on attempt 2 after {recovered:.1f} s = {recovered / LEASE_SECONDS:.2f} leases")
    row(fault, "after the end of its lease", f"{at(one['finished_at']) - lease_until:.1f} s")
    row(fault, "its session, from then on", f"{at(two['finished_at']) - at(one['finished_at']):.1f} s")
    row(fault, "the bystanders before", f"median {calm.median:.2f} s, at most {max(calm.seconds):.2f} s")
    row(
        fault,
        f"the bystanders meanwhile ({len(troubled.seconds)})",
        f"median {troubled.median:.2f} s, at most {max(troubled.seconds):.2f} s",
    )
    assert troubled.median <= 1.5 * calm.median + 0.3
    assert max(troubled.seconds) <= max(calm.seconds) + FEW_SECONDS


def test_all_workers_are_killed_with_thirty_turns_in_hand(lab: Lab) -> None:
    sessions = [lab.session() for _ in range(10)]
    firsts = [lab.api.submit(f"[[drip=0.5 tokens=120 times=1]] {uuid.uuid4()}", session_id=each) for each in sessions]
    others = [lab.api.submit(f"and {which}", session_id=each) for which in ("then?", "now?") for each in sessions]
    lab.started(firsts)

    killed_at = time.time()
    killed = lab.stack.host.kill(lab.worker)
    tasks = lab.ended(firsts + others, LEASE_SECONDS + 60)

    assert [task["status"] for task in tasks] == ["SUCCESS"] * 30, outcomes(tasks)
    assert {task["attempt"] for task in tasks} <= {1, 2}
    recovered = last(tasks) - killed_at
    assert recovered <= LEASE_SECONDS + 2 * FEW_SECONDS
    fault = f"all {killed} workers killed, 30 turns of 10 sessions"
    row(fault, outcomes(tasks), f"the last after {recovered:.1f} s = {recovered / LEASE_SECONDS:.2f} leases")


def test_idle_workers_are_killed(lab: Lab) -> None:
    """All idle environments die. The next invocation gets a new one, and no task is lost."""
    calm, troubled = lab.bystander(), lab.bystander()
    for _ in range(5):
        calm.chat()
        killed = lab.stack.host.kill(lab.worker)
        assert killed
        troubled.chat()
    row(
        "idle workers killed",
        "the next answer",
        f"median {troubled.median:.2f} s with a cold start, {calm.median:.2f} s without",
    )
    assert max(troubled.seconds) <= max(calm.seconds) + FEW_SECONDS


@pytest.mark.parametrize("outage", [4, 25])
def test_the_model_stops_and_comes_back(lab: Lab, outage: float) -> None:
    """The model's connections break, and it refuses new ones. Every task waits for its return."""
    orders = f"[[drip=0.3 tokens=30]] {uuid.uuid4()}"
    sessions = [lab.session() for _ in range(8)]
    running = [lab.api.submit(orders, session_id=each) for each in sessions]
    lab.started(running)

    lab.model.kill()
    down_at = time.time()
    with ThreadPoolExecutor(len(sessions)) as pool:
        waiting = list(pool.map(lambda each: lab.api.submit("what is this?", session_id=each), sessions))
        others = list(pool.map(lab.api.submit, ["hello"] * 8))
    time.sleep(max(0.0, down_at + outage - time.time()))
    lab.model.start()
    up_at = time.time()
    after = [lab.api.submit("hello again", session_id=each) for each in sessions]

    tasks = lab.ended(running + waiting + others, 120)
    later = lab.ended(after, 120)
    fault = f"model stopped for {up_at - down_at:.0f} s"
    row(fault, outcomes(tasks), f"the last {max(0.0, last(tasks) - up_at):.1f} s after its return")
    row(fault, f"asked after it: {outcomes(later)}", f"the last {last(later) - up_at:.1f} s after its return")
    assert {task["status"] for task in tasks} == {"SUCCESS"}
    assert last(tasks) <= up_at + 60
    assert {task["status"] for task in later} == {"SUCCESS"}


def test_the_queues_consumer_stops_and_comes_back(lab: Lab) -> None:
    """Running workers end their turns. Later turns wait until the consumer is back. All are answered by their first
    attempt."""
    sessions = [lab.session() for _ in range(6)]
    running = [lab.api.submit(f"[[drip=0.3 tokens=20]] {each}", session_id=each) for each in sessions]
    lab.started(running)

    lab.stop_consuming()
    in_flight = lab.ended(running, 60)
    waiting = [lab.api.submit("and then?", session_id=each) for each in sessions]
    waiting += [lab.api.submit("hello", session_id=lab.session()) for _ in range(6)]
    time.sleep(5)
    assert {lab.api.task(each)["status"] for each in waiting} == {"PENDING"}
    lab.source.start()
    back_at = time.time()

    tasks = lab.ended(waiting, 60)
    assert {(task["status"], task["attempt"]) for task in in_flight + tasks} == {("SUCCESS", 1)}
    recovered = last(tasks) - back_at
    row("consumer stopped", f"in flight: {outcomes(in_flight)}", "answered meanwhile")
    row("consumer stopped", f"waiting: {outcomes(tasks)}", f"the last {recovered:.1f} s after its return")
    assert recovered <= 2 * FEW_SECONDS


def test_the_worker_cannot_start_for_a_while(lab: Lab) -> None:
    """A bad deployment, rolled back. No worker could shorten the visibility of the messages, so they come back after
    the queue's visibility timeout."""
    lab.hide_for(visibility := 15)
    lab.break_the_deployment()
    sessions = [lab.session() for _ in range(5)]
    tasks_ids = [lab.api.submit("hello", session_id=each) for each in sessions]
    time.sleep(5)
    assert {lab.api.task(each)["status"] for each in tasks_ids} == {"PENDING"}
    lab.mend_the_deployment()
    mended_at = time.time()
    others = lab.ended([lab.api.submit("hello") for _ in range(5)], 60)

    tasks = lab.ended(tasks_ids, 60)
    assert {(task["status"], task["attempt"]) for task in tasks + others} == {("SUCCESS", 1)}
    recovered = last(tasks) - mended_at
    fault = f"worker cannot start for 5 s, messages hidden for {visibility} s"
    row(fault, outcomes(tasks), f"the last {recovered:.1f} s after it can")
    row(fault, f"asked after it: {outcomes(others)}", f"the last {last(others) - mended_at:.1f} s after it can")
    assert recovered <= visibility + FEW_SECONDS


def test_the_model_hangs(lab: Lab) -> None:
    """The model is silent or endlessly slow, once or always, longer than a call or the task may take. The session
    continues."""
    sessions = {what: lab.session() for what in ("silent", "slow", "silent once", "deadline", "late")}
    lab.stop_consuming()
    orders = {
        "silent": "[[hang=900]]",
        "slow": "[[drip=1 tokens=900]]",
        "silent once": "[[hang=900 times=1]]",
        "deadline": "[[hang=900]]",
        "late": "hello",
    }
    began_at = time.time()
    hung = {what: lab.api.submit(f"{orders[what]} {what}", session_id=each) for what, each in sessions.items()}
    behind = {what: lab.api.submit("still there?", session_id=each) for what, each in sessions.items()}
    # Shorten the deadline instead of waiting 15 minutes: one task runs at that time, the other still waits.
    lab.let_it_end_at(hung["deadline"], began_at + 20)
    lab.let_it_end_at(hung["late"], began_at + 1)
    time.sleep(max(0.0, began_at + 1.1 - time.time()))
    assert lab.api.task(hung["late"])["error_code"] == "deadline_exceeded"  # the read makes the overdue task final
    lab.source.start()
    bystander = lab.bystander()
    watching = threading.Thread(target=bystander.until, args=(lambda: lab.api.task(hung["slow"])["status"] in FINAL,))
    watching.start()

    ended = dict(zip(hung, lab.ended(hung.values(), 3 * WORKER_SECONDS + 60), strict=True))
    later = dict(zip(behind, lab.ended(behind.values(), 60), strict=True))
    watching.join()
    for what, task in ended.items():
        outcome = task["error_code"] or task["status"]
        moved_on = at(later[what]["finished_at"]) - at(task["finished_at"])
        took = f"{outcome} after {at(task['finished_at']) - began_at:.1f} s on attempt {task['attempt']}"
        row(f"model hangs: {what}", took, f"its session moves on {moved_on:.1f} s later")
    row("model hangs", "the bystanders", f"median {bystander.median:.2f} s, at most {max(bystander.seconds):.2f} s")
    assert {what: (task["error_code"], task["attempt"]) for what, task in ended.items()} == {
        "silent": ("model_timeout", 3),
        "slow": ("model_timeout", 3),
        "silent once": (None, 2),
        "deadline": ("deadline_exceeded", 1),
        "late": ("deadline_exceeded", 0),
    }
    assert ended["slow"]["partial"]
    assert at(ended["deadline"]["finished_at"]) <= began_at + 20 + FEW_SECONDS
    assert {task["status"] for task in later.values()} == {"SUCCESS"}


@pytest.mark.parametrize("retry_after", [None, 30], ids=["without Retry-After", "Retry-After 30"])
def test_the_model_refuses_everyone_for_a_minute(lab: Lab, retry_after: int | None) -> None:
    """Each task is answered, within a minute after the trouble."""
    lab.model.faults(status=429, for_seconds=60, **({} if retry_after is None else {"retry_after": retry_after}))
    began_at = time.time()
    sessions = [lab.session() for _ in range(10)]
    tasks_ids = []
    while time.time() < began_at + 60:
        tasks_ids += [lab.api.submit("hello", session_id=each) for each in sessions]
        time.sleep(10)
    over_at = began_at + 60

    tasks = lab.ended(tasks_ids, 240)
    fault = f"429 for a minute, {'no Retry-After' if retry_after is None else f'Retry-After {retry_after}'}"
    row(fault, outcomes(tasks), f"the last {max(0.0, last(tasks) - over_at):.1f} s after its end")
    assert {task["status"] for task in tasks} == {"SUCCESS"}, outcomes(tasks)
    assert last(tasks) <= over_at + 60
    [now] = lab.ended([lab.api.submit("hello")], 60)
    assert now["status"] == "SUCCESS"


def test_a_session_with_ten_turns_while_the_model_refuses(lab: Lab) -> None:
    """No turn is lost, however often SQS delivers it."""
    lab.model.faults(status=429)
    session = lab.session()
    tasks_ids = [lab.api.submit(f"turn {number}", session_id=session) for number in range(10)]
    time.sleep(30)
    lab.model.faults()
    over_at = time.time()

    tasks = lab.ended(tasks_ids, 120)
    row("429, ten turns of one session", outcomes(tasks), f"the last {last(tasks) - over_at:.1f} s after its end")
    assert {task["status"] for task in tasks} == {"SUCCESS"}, outcomes(tasks)


@pytest.mark.parametrize("seconds", [20, 65])
def test_a_worker_stands_still(lab: Lab, seconds: int) -> None:
    """A worker that pauses for 20 s keeps its turn, with one model call. After 65 s its lease is over, so
    another worker has the turn, and the table refuses the first worker's writes."""
    task_id = lab.api.submit(f"[[drip=0.5 tokens=80 times=1]] {uuid.uuid4()}", session_id=lab.session())
    lab.started([task_id])
    [victim] = lab.busy_workers()

    os.kill(victim, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(victim, signal.SIGCONT)

    [task] = lab.ended([task_id], 120)
    assert (task["status"], task["attempt"]) == ("SUCCESS", 1 if seconds == 20 else 2)
    row(f"worker stopped for {seconds} s", "its task", f"SUCCESS on attempt {task['attempt']}")
