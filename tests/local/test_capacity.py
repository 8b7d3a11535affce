"""The cost of each access to the tables is as in docs/data.md, computed from the items of the calls."""

import itertools
import math
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pytest

from development import cfn
from local.account import Account
from tests.local.clients import own_clients
from turnqueue import aws
from turnqueue.events import EventLog, Growing
from turnqueue.idempotency import IdempotencyKeys, Reservation
from turnqueue.rate_limits import Rate, RateLimiter
from turnqueue.store import TurnStore
from turnqueue.turn import Key, Turn, new_ulid, session_key
from turnqueue.usage import UsageStore, day_of

DOCUMENT = (cfn.ROOT / "docs" / "data.md").read_text()
READS = ("GetItem", "Query")
KEYS = {"TurnsT": ("session", "turn"), "Guards": ("guard",), "Events": ("task", "n")}
CONVERSATIONS = {"5 small turns": (5, 100, 300), "500 large turns": (500, 2_000, 16_000)}
"""By the heads of the table's columns: the turns, and the characters of each message and answer."""

pytestmark = pytest.mark.timeout(180)

type Item = Mapping[str, Mapping[str, Any]]
"""An item in the form of the API: {"name": {"S": "text"}}."""


# ---- The units that DynamoDB bills, by its developer guide. The emulator ignores the size of the items that it reads.


def write_units(item: Item) -> int:
    return max(1, math.ceil(size(item) / 1024))


def read_units(items: Iterable[Item], *, consistent: bool) -> float:
    """Read units of a GetItem, or of a Query that has read these items."""
    blocks = max(1, math.ceil(sum(map(size, items)) / 4096))
    return blocks if consistent else blocks / 2


def size(item: Item) -> int:
    """The size of an item in bytes: names and text in UTF-8, and for a number half its digits and one byte."""
    return sum(len(name) + _value_size(*next(iter(value.items()))) for name, value in item.items())


def _value_size(kind: str, value: Any) -> int:
    if kind not in ("S", "N", "BOOL"):
        raise ValueError(f"nothing here writes a value of the kind {kind}")
    return len(value.encode()) if kind == "S" else math.ceil(len(value) / 2) + 1 if kind == "N" else 1


def test_items_are_measured_as_the_developer_guide_says() -> None:
    item: Item = {"session": {"S": "ä" * 10}, "attempt": {"N": "123"}, "cancel_requested": {"BOOL": True}}
    large: Item = {"a": {"S": "x" * 4095}}

    assert size(item) == (7 + 20) + (7 + 3) + (16 + 1)
    assert (write_units(item), write_units(large)) == (1, 4)
    assert read_units([large], consistent=True) == read_units([], consistent=True) == 1
    assert read_units([large, item], consistent=True) == 2
    assert read_units([large], consistent=False) == 0.5


# ---- The accesses


class Meter:
    """Adds up what calls cost, from the items that they read and wrote."""

    def __init__(self, account: Account) -> None:
        self._dynamodb = account.client("dynamodb")
        self._request: dict[str, Any] = {}
        self._spent: list[tuple[str, float]] = []

    def ask(self, **told: Any) -> None:
        self._request = told["params"]

    def note(self, **told: Any) -> None:
        request, parsed, operation = self._request, told["parsed"], told["model"].name
        refused = parsed.get("Error")
        assert refused is None or refused["Code"] == "ConditionalCheckFailedException", refused
        if operation == "BatchGetItem":  # each costs as one of 4 KB, also one that is not there
            keys = sum(len(asked["Keys"]) for asked in request["RequestItems"].values())
            self._spent.append(("read", keys * read_units([], consistent=False)))
        elif operation in READS:
            items = parsed["Items"] if operation == "Query" else [parsed["Item"]] if "Item" in parsed else []
            self._spent.append(("read", read_units(items, consistent=request.get("ConsistentRead", False))))
        else:
            key = request.get("Key") or {name: request["Item"][name] for name in KEYS[request["TableName"][:6]]}
            item = self._dynamodb.get_item(TableName=request["TableName"], Key=key, ConsistentRead=True)["Item"]
            self._spent.append(("write", write_units(item)))

    def units(self, access: Callable[[], object]) -> str:
        """What an access costs: "1 write"."""
        self._spent.clear()
        access()
        [kind] = {kind for kind, _ in self._spent}
        return f"{sum(units for _, units in self._spent):g} {kind}"


@pytest.fixture(scope="module")
def meter(account: Account) -> Iterator[Meter]:
    meter, session = Meter(account), aws._session
    session.register("provide-client-params.dynamodb", meter.ask)
    session.register("after-call.dynamodb", meter.note)
    yield meter
    session.unregister("provide-client-params.dynamodb", meter.ask)
    session.unregister("after-call.dynamodb", meter.note)


@pytest.fixture(scope="module")
def tables(account: Account) -> Iterator[Mapping[str, str]]:
    """Those of the template, under names of their own; the product's clients lead to them."""
    names = {}
    for name, table in cfn.resources("AWS::DynamoDB::Table").items():
        names[name] = f"{name}-{uuid.uuid4().hex[:8]}"
        wanted = {key: table[key] for key in ("BillingMode", "KeySchema", "AttributeDefinitions")}
        account.client("dynamodb").create_table(TableName=names[name], **wanted)
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in account.variables().items():
            patch.setenv(variable, value)
        with own_clients():
            yield names


def measured(meter: Meter, tables: Mapping[str, str], turns: int, message: int, answer: int) -> dict[str, str]:
    """What each access costs in a conversation of so many turns, by its name in the document."""
    store = TurnStore(tables["TurnsTable"], attempts=1)
    keys = IdempotencyKeys(tables["GuardsTable"], attempts=1)
    rates = RateLimiter(tables["GuardsTable"], attempts=1, read_timeout=3)
    usages = UsageStore(tables["GuardsTable"], attempts=1)
    owner, began = f"owner-{turns}", time.time() - turns
    result = {"message": "a" * answer, "data": None, "draft": None}
    usage = {"model": "m", "prompt_tokens": 1, "completion_tokens": 1, "cached_tokens": 0, "finish_reason": "stop"}

    def turn(number: int) -> Turn:
        key = Key(session_key(owner, "session"), new_ulid(began + number))
        return Turn.submitted(key, {"message": "q" * message, "role": "general"}, time.time())

    numbers = itertools.count(turns)

    def submitted() -> Turn:
        made = turn(next(numbers))
        store.create(made)
        return made

    def claimed() -> Turn:
        return store.claim(submitted().key, time.time(), time.time() + 100)

    for number in range(turns):
        store.create(past := turn(number))
        store.succeed(store.claim(past.key, time.time(), time.time() + 100), result, usage, time.time())
    log = EventLog(tables["EventsTable"], attempts=1)
    last, running, handed_back, waiting = past, claimed(), claimed(), submitted()
    failing, to_claim, new = claimed(), submitted(), turn(next(numbers))
    growing, now = Growing(log, running), time.time()
    return {
        "record a turn": meter.units(lambda: store.create(new)),
        "bind an Idempotency-Key": meter.units(lambda: keys.reserve(owner, "k", Reservation("t", "f"), now)),
        "count a message against the rate": meter.units(lambda: rates.take(owner, Rate(1, 5), now)),
        "count a message that comes before it is due": meter.units(lambda: rates.take(owner, Rate(1, 5), now)),
        "count a waiting request": meter.units(lambda: rates.take(owner, Rate(1, 5), now, kind="waits")),
        "see whether the previous turn has ended": meter.units(lambda: store.waits_for_another(running.key)),
        "reserve tokens of the day": meter.units(lambda: usages.reserve(owner, 2000, 100_000, now)),
        "read the usage of a day": meter.units(lambda: usages.read(owner, day_of(now))),
        "claim": meter.units(lambda: store.claim(to_claim.key, now, now + 100)),
        "read the history": meter.units(lambda: store.history(running.key, now, limit=20)),
        "add a row to the log": meter.units(lambda: growing.show("a" * (answer // 20), 0.5, now)),
        "look for cancellations": meter.units(lambda: log.cancellations([running, handed_back])),
        "read the log": meter.units(lambda: log.after(running.key, 0)),
        "record the answer": meter.units(lambda: store.succeed(running, result, usage, now)),
        "record a failure": meter.units(lambda: store.fail_attempt(failing, "model_timeout", "", now)),
        "return the turn to the queue": meter.units(lambda: store.release(handed_back)),
        "add to the usage of the day": meter.units(lambda: usages.settle(running, usage, now, is_final=True)),
        "read a task": meter.units(lambda: store.read(last.key, now)),
        "read a task again while waiting": meter.units(lambda: store.read(last.key, now, consistent=False)),
        "cancel": meter.units(lambda: store.cancel(waiting.key, now)),
        "read a page of a conversation": meter.units(lambda: store.page(owner, "session", now, after=None, limit=50)),
    }


def told(column: str) -> dict[str, str]:
    """The units in a column of the document's table, by access."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in DOCUMENT.splitlines() if line[:1] == "|"]
    head = next(index for index, row in enumerate(rows) if column in row)
    return {row[0]: row[rows[head].index(column)] for row in rows[head + 2 :]}


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_each_access_costs_what_the_document_tells(meter: Meter, tables: Mapping[str, str], conversation: str) -> None:
    assert measured(meter, tables, *CONVERSATIONS[conversation]) == told(conversation)


def test_an_access_is_one_of_these_and_a_query_of_turns_is_bounded() -> None:
    """There is no other operation in the code of the functions."""
    files = [*(cfn.ROOT / "layers/shared/turnqueue").glob("*.py"), *(cfn.ROOT / "functions").glob("*/*.py")]
    code = {path.name: text for path in files if "import aws" in (text := path.read_text())}

    operations = set(re.findall(r"_client\.(\w+)\(", "".join(code.values())))

    of_other_services = {name for name in operations if re.search("message|object|presigned|invoke", name)}
    of_one_item = {"put_item", "get_item", "update_item", "delete_item"}
    assert operations - of_other_services == of_one_item | {"query", "batch_get_item", "transact_write_items"}
    turns = code["store.py"]
    assert turns.count("_client.query(") == len(re.findall(r"Limit=(?:limit|1)\b", turns)) == 3
