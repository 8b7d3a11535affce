"""The previous and the next version can read a version's items, because both run during a deployment. `samples/` has
the items and messages that each version writes, in each state of a turn. A version without a sample writes one here,
and the test fails until it is committed. See "Upgrade" in docs/operations.md.
"""

import json
import time
from pathlib import Path
from typing import Any

import pytest

import turnqueue
from operations.replay import Wanted, replay
from operations.stack import Stack
from tests.unit.conftest import Account, Clock, Parts, task_id_of
from turnqueue.turn import Key

SAMPLES = Path(__file__).parent / "samples"
FILES = sorted(SAMPLES.glob("*.json"))
MOMENT = 1795357000.125
"""When the samples were written."""

HEADERS = {"Idempotency-Key": "k-1", "Prefer": "respond-async"}
REQUEST = {"message": "once", "session_id": "s-guarded", "role": "booking", "metadata": {"from": "sample"}}
IMAGE = {"type": "image", "url": "https://example.com/x.png"}

ENDS = {
    "pending": ("PENDING", None),
    "handed back": ("PENDING", None),
    "started": ("STARTED", None),
    "cancel requested": ("STARTED", None),
    "answered": ("SUCCESS", None),
    "answered with a draft": ("SUCCESS", None),
    "failed": ("FAILURE", "prompt_refused"),
    "failed halfway": ("FAILURE", "model_timeout"),
    "replayed": ("PENDING", None),
    "guarded": ("PENDING", None),
}
"""How the turn of each sample stands."""

MOVED = {("partial", "S"), ("progress", "N")}
"""What version 0.1.0 wrote of a growing answer, and shows none where they are missing. They are in the event log."""

# One of each of DynamoDB's types: what a later version may write beside what we know.
UNKNOWN: dict[str, dict[str, Any]] = {
    "later_s": {"S": "x"},
    "later_n": {"N": "7"},
    "later_b": {"B": b"x"},
    "later_bool": {"BOOL": True},
    "later_null": {"NULL": True},
    "later_m": {"M": {"a": {"S": "x"}}},
    "later_l": {"L": [{"N": "1"}]},
    "later_ss": {"SS": ["x"]},
}


@pytest.fixture
def then(clock: Clock) -> None:
    """It is the time at which the samples were written."""
    clock.forward(MOMENT - time.time())


@pytest.fixture
def written(account: Account, worker: Parts, stack: Stack, then: None) -> dict[str, Any]:
    """What the code as it is writes: {turns, guard, message}."""
    tasks: dict[str, str] = {}

    def queued(name: str, message: str = "hello", **request: Any) -> Any:
        tasks[name] = account.queued(message, session_id=f"s-{len(tasks)}", **request)
        return Key.of_task("alice", tasks[name])

    def claimed(name: str) -> Any:
        return worker.store.claim(queued(name), MOMENT, MOMENT + 183)

    queued("answered")
    queued("answered with a draft", "I need a haircut", role="booking", media=[IMAGE], metadata={"a": "b"})
    queued("failed", "[[refuse]]")
    account.work()
    worker.store.fail(queued("replayed"), "worker_lost", MOMENT)
    replay(stack, Wanted(), say=lambda text: None)
    worker.store.release(claimed("handed back"))
    worker.show(claimed("started"), "half")
    worker.store.cancel(claimed("cancel requested").key, MOMENT)
    worker.store.fail_attempt(claimed("failed halfway"), "model_timeout", "half", MOMENT)
    queued("pending")
    tasks["guarded"] = account.post(REQUEST, headers=HEADERS)["json"]["task_id"]
    bodies = [record["body"] for _ in range(3) for record in account.receive()]
    [message] = [body for body in bodies if tasks["guarded"].rpartition(".")[2] in body]
    [guard] = [item for item in account.items("GuardsTable") if item["guard"]["S"].startswith("idempotency#")]
    turns = {name: account.item(task_id) for name, task_id in tasks.items()}
    return {"turns": turns, "guard": guard, "message": message}


def types(item: dict[str, Any]) -> dict[str, str]:
    return {name: next(iter(value)) for name, value in item.items()}


def test_this_version_has_a_sample(written: dict[str, Any]) -> None:
    sample = SAMPLES / f"{turnqueue.__version__}.json"
    if not sample.exists():
        sample.write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")
        pytest.fail(f"{sample.name} was written: commit it, and drop those older than the version before")


# ---- What is written now, to the eyes of another version


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_another_version_looks_for_is_written_still(written: dict[str, Any], file: Path) -> None:
    """The same attributes, of the same types. More may come; that they do no harm is tested below."""
    sample = json.loads(file.read_text())
    for name, item in sample["turns"].items():
        assert types(item).items() - MOVED <= types(written["turns"][name]).items(), name
        assert written["turns"][name]["status"] == item["status"], name
    assert types(sample["guard"]).items() <= types(written["guard"]).items()
    assert json.loads(sample["message"]).keys() <= json.loads(written["message"]).keys()


# ---- What another version has written


class Found:
    """A sample, laid into the tables as another version has left it."""

    def __init__(self, account: Account, sample: dict[str, Any], more: dict[str, Any]) -> None:
        for item in sample["turns"].values():
            account.dynamodb.put_item(TableName="TurnsTable", Item=item | more)
        account.dynamodb.put_item(TableName="GuardsTable", Item=sample["guard"] | more)
        self.tasks = {name: task_id_of(item) for name, item in sample["turns"].items()}
        self._message = {"later": {"a": [1]}} if more else {}
        self.message = json.dumps(json.loads(sample["message"]) | self._message)

    def message_of(self, account: Account, name: str) -> str:
        item = account.item(self.tasks[name])
        return json.dumps({name: item[name]["S"] for name in ("session", "turn")} | self._message)


@pytest.fixture(params=[{}, UNKNOWN], ids=["as it is", "with more than we know"])
def more(request: pytest.FixtureRequest) -> dict[str, Any]:
    attributes: dict[str, Any] = request.param
    return attributes


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def found(request: pytest.FixtureRequest, account: Account, then: None, more: dict[str, Any]) -> Found:
    return Found(account, json.loads(request.param.read_text()), more)


def test_every_turn_reads_as_it_stands(account: Account, found: Found) -> None:
    assert {name: account.outcome(task_id) for name, task_id in found.tasks.items()} == {
        name: ENDS[name] for name in found.tasks
    }
    answer = account.task(found.tasks["answered with a draft"])
    assert answer["result"]["draft"]["service"] == "haircut"
    assert answer["usage"]["prompt_tokens"] > 0
    assert account.task(found.tasks["started"])["partial"] == "half"
    assert account.task(found.tasks["failed halfway"])["retryable"] is True


def test_every_turn_is_in_its_conversation(account: Account, found: Found) -> None:
    for task_id in found.tasks.values():
        [turn] = account.session(task_id.partition(".")[0])["json"]["turns"]
        assert turn["task_id"] == task_id
        assert turn["message"]


def test_rows_of_a_later_version_are_read_as_far_as_they_are_known(account: Account, worker: Parts) -> None:
    """They may have more attributes, and there may be rows of another kind between them."""
    task_id = account.queued()
    worker.store.claim(Key.of_task("alice", task_id), time.time(), time.time() + 100)
    rows = [{"k": "d", "t": "one"}, {"k": "c"}, {"k": "d", "t": " two"}]
    for n, row in enumerate(rows, 1):
        known = {"task": {"S": f"alice#{task_id}"}, "n": {"N": str(n)}, "a": {"N": "1"}, "p": {"N": "0.1"}}
        text = {name: {"S": value} for name, value in row.items()}
        account.dynamodb.put_item(TableName="EventsTable", Item=UNKNOWN | known | text)

    told = [(each["event"], each["id"]) for each in account.news(task_id, 0)]
    assert told == [("start", 0), ("delta", 1), ("delta", 3)]
    assert account.task(task_id)["partial"] == "one two"


def test_an_attempt_of_this_version_follows_one_of_the_version_before(
    account: Account, found: Found, clock: Clock, worker: Parts
) -> None:
    """Which has shown its text in the turn: that is void, and the log begins."""
    task_id = found.tasks["started"]
    assert account.task(task_id)["partial"] == "half"
    clock.forward(200)
    claimed = worker.store.claim(Key.of_task("alice", task_id), time.time(), time.time() + 100)
    assert account.task(task_id)["partial"] is None

    worker.show(claimed, "new")

    assert account.task(task_id)["partial"] == "new"
    assert [each["event"] for each in account.news(task_id, 0)] == ["start", "delta"]


@pytest.mark.parametrize("name", ["pending", "handed back", "replayed", "guarded"])
def test_a_waiting_turn_is_run_and_keeps_what_we_do_not_know(
    account: Account, found: Found, more: dict[str, Any], name: str
) -> None:
    account.send(found.message_of(account, name))

    assert account.work() == []

    assert account.outcome(found.tasks[name]) == ("SUCCESS", None)
    assert more.items() <= account.item(found.tasks[name]).items()


def test_its_message_leads_to_its_turn(account: Account, found: Found) -> None:
    account.send(found.message)

    assert account.work() == []

    assert account.outcome(found.tasks["guarded"]) == ("SUCCESS", None)


@pytest.mark.parametrize("name", ["started", "cancel requested"])
def test_a_turn_that_its_worker_holds_is_left_to_it_and_taken_over_after_its_lease(
    account: Account, found: Found, clock: Clock, name: str
) -> None:
    account.send(found.message_of(account, name))

    assert len(account.work()) == 1

    assert account.outcome(found.tasks[name]) == ("STARTED", None)
    clock.forward(190)
    assert account.work() == []
    assert account.outcome(found.tasks[name])[0] in ("SUCCESS", "FAILURE")


def test_its_dead_letter_closes_its_turn(account: Account, found: Found) -> None:
    account.dead_letter(found.message)

    assert account.bury() == []

    assert account.outcome(found.tasks["guarded"]) == ("FAILURE", "worker_lost")


def test_its_idempotency_key_leads_to_its_task(account: Account, found: Found) -> None:
    """The key's hash and the request's fingerprint are the same in every version."""
    assert account.post(REQUEST, headers=HEADERS)["json"]["task_id"] == found.tasks["guarded"]
    assert account.post(REQUEST | {"message": "other"}, headers=HEADERS)["statusCode"] == 422


def test_a_code_that_we_do_not_know_is_a_failure_all_the_same(account: Account, found: Found) -> None:
    item = account.item(found.tasks["failed"]) | {"error_code": {"S": "later"}, "error": {"S": "Something else."}}
    account.dynamodb.put_item(TableName="TurnsTable", Item=item)

    task = account.task(found.tasks["failed"])

    told = [task[name] for name in ("status", "error", "error_code", "retryable")]
    assert told == ["FAILURE", "Something else.", "later", None]
