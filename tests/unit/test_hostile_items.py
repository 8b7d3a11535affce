"""`python -m operations` on a table with malformed items, and against a server that is not the API. Their text reaches
the terminal only escaped, and a malformed item does not stop the rest.
"""

import ast
import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from development.cfn import ROOT
from local.loopback import LoopbackServer, Request, Response
from operations.__main__ import main
from operations.api import Api
from operations.forget import forget
from operations.output import printable
from operations.replay import Wanted, replay
from operations.restore import restore
from operations.stack import Stack
from operations.verify import verify
from tests.unit.conftest import Account, Action, Parts, refusing
from turnqueue.turn import Key

ESCAPES = "\x1b[2J\x1b]0;owned\x07"
ULID = "01KAN0000000000000000000ZZ"

type Item = dict[str, Any]
type Change = Callable[[Item], Item]
type Failed = Callable[..., Item]


@pytest.fixture
def failed(account: Account, worker: Parts) -> Failed:
    """Puts a task into the table that is FAILURE(worker_lost), changed as wanted. Returns its item."""
    numbers = iter(range(1000))

    def put(change: Change = lambda item: item) -> Item:
        task_id = account.queued(session_id=f"s-{next(numbers)}")
        worker.store.fail(Key.of_task("alice", task_id), "worker_lost", time.time())
        item = account.item(task_id)
        account.remove(item)
        changed = change(item)
        account.dynamodb.put_item(TableName="TurnsTable", Item=changed)
        return changed

    return put


def once(stack: Stack, operation: str, action: Callable[..., object]) -> None:
    """Do `action`, which may raise, before the operator's next such call to DynamoDB."""
    events = stack.turns.meta.client.meta.events

    def act(params: dict[str, Any], **_: Any) -> None:
        events.unregister(f"before-parameter-build.dynamodb.{operation}", act)
        action(params)

    events.register(f"before-parameter-build.dynamodb.{operation}", act)


def without(name: str) -> Change:
    return lambda item: {key: value for key, value in item.items() if key != name}


def with_(**values: Any) -> Change:
    return lambda item: item | values


NEEDED = ("status", "expires_at", "finished_at", "error_code", "deadline_at", "attempt")
MALFORMED: dict[str, Change] = {f"no {name}": without(name) for name in NEEDED} | {
    "a session that is none": with_(session={"S": f"alice#{ESCAPES}"}),
    "a session without an owner": with_(session={"S": "s-1"}),
    "a turn that is no ULID": with_(turn={"S": f"one\ntwo{ESCAPES}"}),
    "another status": with_(status={"S": ESCAPES}),
    "a status of another type": with_(status={"N": "1"}),
    "expires_at as text": with_(expires_at={"S": "soon"}),
    "expires_at far away": with_(expires_at={"N": "1E+100"}),
    "finished_at as a list": with_(finished_at={"L": []}),
    "deadline_at below 0": with_(deadline_at={"N": "-1"}),
    "attempt as text": with_(attempt={"S": "1"}),
    "attempt as a fraction": with_(attempt={"N": "0.5"}),
    "attempt far away": with_(attempt={"N": "1E+50"}),
    "replayed_at as a map": with_(replayed_at={"M": {}}),
    "last_attempt as a truth": with_(last_attempt={"BOOL": True}),
    "lease_until as text": with_(status={"S": "STARTED"}, lease_until={"S": "now"}),
}


# ---- replay


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_item_is_reported_and_left_alone(name: str, account: Account, stack: Stack, failed: Failed) -> None:
    failed()
    bad = failed(MALFORMED[name])
    failed()
    said: list[str] = []

    done = replay(stack, Wanted(), say=said.append)

    assert (len(done.task_ids), done.malformed) == (2, 1)
    [line] = [line for line in said if "malformed" in line]
    assert "left alone" in line
    assert bad in account.items()


def test_an_item_that_dynamodb_does_not_take_back_is_left_alone_too(stack: Stack, failed: Failed) -> None:
    """One of 400 KB, for example, which another attribute makes too large."""
    failed()
    failed()
    once(stack, "UpdateItem", refusing("ValidationException", 400))

    done = replay(stack, Wanted(), say=lambda text: None)

    assert (len(done.task_ids), done.malformed) == (1, 1)


def test_a_malformed_item_of_another_owner_is_none_of_this_command(stack: Stack, failed: Failed) -> None:
    failed(MALFORMED["no status"])

    done = replay(stack, Wanted(owner="bob"), say=lambda text: None)

    assert (done.task_ids, done.malformed) == ([], 0)


# ---- restore and forget


@pytest.fixture
def spoiled(account: Account, stack: Stack, failed: Failed) -> Iterator[str]:
    """A restored table of three items, of which the stack's table has none; one is malformed."""
    account.dynamodb.create_table(
        TableName="spoiled",
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "session", "KeyType": "HASH"}, {"AttributeName": "turn", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("session", "turn")],
    )
    yield "spoiled"
    account.dynamodb.delete_table(TableName="spoiled")


@pytest.mark.parametrize(
    "name",
    [name for name in MALFORMED if name.startswith(("a session", "a turn", "no expires_at", "expires_at"))],
)
def test_a_malformed_item_is_not_restored_and_the_rest_is(
    name: str, account: Account, stack: Stack, failed: Failed, spoiled: str
) -> None:
    items = [failed(), failed(MALFORMED[name]), failed()]
    for item in items:
        account.dynamodb.put_item(TableName=spoiled, Item=item)
        account.remove(item)

    said: list[str] = []
    done = restore(stack, spoiled, say=said.append)

    assert (done.turns, done.malformed, len(said)) == (2, 1, 1)
    assert items[1] not in account.items()


def test_a_table_that_holds_no_turns_restores_nothing(account: Account, stack: Stack) -> None:
    account.queued()
    account.dynamodb.put_item(TableName="GuardsTable", Item={"guard": {"S": f"x#{ESCAPES}"}})

    done = restore(stack, "GuardsTable", say=lambda text: None)

    assert (done.turns, done.malformed) == (0, 1)


def test_malformed_items_of_an_owner_are_deleted_too(account: Account, stack: Stack, failed: Failed) -> None:
    """They are the owner's data all the same."""
    for name in ("a session that is none", "a turn that is no ULID", "no status"):
        failed(MALFORMED[name])
    account.dynamodb.put_item(TableName="GuardsTable", Item={"guard": {"S": "x"}, "task_id": {"L": []}})
    account.dynamodb.put_item(TableName="GuardsTable", Item={"guard": {"S": "y"}, "owner": {"S": "alice"}})

    assert len(forget(stack, "alice").turns) == 3

    assert account.items() == []
    assert [item["guard"]["S"] for item in account.items("GuardsTable")] == ["x"]


# ---- The terminal


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("one\ntwo\r\n", r"one\ntwo\r\n"),
        (ESCAPES, r"\x1b[2J\x1b]0;owned\x07"),
        ("\x9b2J\x00\x7f", r"\x9b2J\x00\x7f"),  # \x9b: the start of a sequence in one character
        ("\u202eevil\u2066\u200b", r"\u202eevil\u2066\u200b"),  # turns the direction of the text
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\ud800\U000e0001", r"\ud800\U000e0001"),
        ("Zoë 東京 a b", "Zoë 東京 a b"),
    ],
)
def test_what_could_steer_a_terminal_is_printed_as_an_escape(text: str, printed: str) -> None:
    assert printable(text) == printed


def test_a_line_has_an_end() -> None:
    assert len(printable("x" * 100_000)) < 1100


def test_all_output_goes_by_one_way() -> None:
    """So that a new command cannot forget to escape."""
    for path in sorted((ROOT / "operations").glob("*.py")):
        if path.name == "output.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""
            assert name not in ("print", "sys.stdout", "sys.stderr", "logging"), f"{path.name}:{node.lineno}"  # type: ignore[attr-defined]


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def is_harmless(self) -> bool:
        return all(c == "\n" or c.isprintable() for c in self.out + self.err)


type Run = Callable[..., Ran]


@pytest.fixture
def run(stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command, which finds the account's stack by any name. Before, it drops what was printed so far."""
    monkeypatch.setattr("operations.__main__.Stack", lambda name, region: stack)

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["operations", *arguments])
        capsys.readouterr()
        try:
            code = main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Ran(code, *capsys.readouterr())

    return run


REPLAY = ("replay", "--stack", "turnqueue-test")


def test_nothing_of_the_table_steers_the_terminal(run: Run, failed: Failed) -> None:
    failed()
    for change in MALFORMED.values():
        failed(change)

    ran = run(*REPLAY)

    assert ran.code == 1  # not all went as it should
    assert ran.is_harmless
    lines = ran.out.splitlines()
    assert len(lines) == 1 + len(MALFORMED) + 1
    assert f"tasks queued: 1, changed meanwhile: 0, malformed: {len(MALFORMED)}" in lines[-1]


def bug(params: dict[str, Any]) -> None:
    raise LookupError(ESCAPES)


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (refusing(f"Odd{ESCAPES}\nName", 400), [r"Odd\x1b[2J\x1b]0;owned\x07\nName"]),
        (bug, [r"LookupError: \x1b[2J", "replay.py"]),
    ],
    ids=["an error of AWS", "a bug, with its place"],
)
def test_no_error_steers_the_terminal(run: Run, stack: Stack, trouble: Action, told: list[str]) -> None:
    once(stack, "Scan", trouble)

    ran = run(*REPLAY)

    assert ran.code == 1
    assert ran.is_harmless
    for text in told:
        assert text in ran.err


def test_a_terminal_of_another_encoding_shows_what_it_can(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))

    assert run("forget", "--stack", "turnqueue-test", "--owner", "Zoë", "--yes").code == 0

    assert b"0 turns" in raw.getvalue()


# ---- Arguments


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["replay", "--stack", f"x{ESCAPES}"], "--stack"),
        (["replay", "--stack", "x", "--region", "us-east-1\n"], "--region"),
        (["replay", "--stack", "x", "--owner", ""], "--owner"),
        (["replay", "--stack", "x", "--owner", "o" * 256], "--owner"),
        (["replay", "--stack", "x", "--owner", "\udc80"], "--owner"),
        (["replay", "--stack", "x", "--session", "a#b"], "--session"),
        (["replay", "--stack", "x", "--limit", "0"], "--limit"),
        (["replay", "--stack", "x", "s-1.short"], "TASK_ID"),
        (["replay", "--stack", "x", f"s-1.{ULID}{ESCAPES}"], "TASK_ID"),
        (["replay", "--stack", "x", f"--{ESCAPES}"], "unrecognized arguments"),
        (["forget", "--stack", "x", "--owner", ""], "--owner"),
        (["restore", "--stack", "x", "--from", f"table{ESCAPES}"], "--from"),
        (["smoke", "--url", "http://example.com"], "--url"),
        (["smoke", "--url", "https://user:secret@example.com"], "--url"),
        (["smoke", "--url", "file:///etc/passwd"], "--url"),
        (["smoke", "--url", f"https://example.com/{ESCAPES}"], "--url"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_by_name(run: Run, arguments: list[str], named: str) -> None:
    ran = run(*arguments)

    assert ran.code == 2
    assert ran.is_harmless
    assert named in ran.err
    assert "secret" not in ran.err


# ---- The API, or what answers in its place


class OtherApi:
    """A server that answers every request by `response`, and keeps the requests in `asked`."""

    def __init__(self) -> None:
        self.response = Response(200, b"{}")
        self.asked: list[Request] = []
        self._server = LoopbackServer(self._answer)
        self.url, self.close = self._server.url, self._server.close

    def _answer(self, request: Request) -> Response:
        self.asked.append(request)
        return self.response


@pytest.fixture(scope="module")
def servers() -> Iterator[list[OtherApi]]:
    servers = [OtherApi(), OtherApi()]
    yield servers
    for server in servers:
        server.close()


@pytest.fixture
def other(servers: list[OtherApi], monkeypatch: pytest.MonkeyPatch) -> OtherApi:
    monkeypatch.setenv("API_TOKEN", "planted-token")
    return servers[0]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_token_follows_no_redirect(run: Run, other: OtherApi, servers: list[OtherApi], status: int) -> None:
    elsewhere = servers[1]
    other.response = Response(status, headers=[("Location", elsewhere.url)])

    ran = run("smoke", "--url", other.url)

    assert ran.code == 1
    assert f"returns {status}" in ran.err
    assert elsewhere.asked == []


@pytest.mark.parametrize(
    "body",
    [
        b"no JSON",
        b"[]",
        b"{}",
        b'{"task_id": "../../other", "status": "SUCCESS"}',
        b'{"task_id": 7}',
        b'{"task_id": "s.%s", "status": "FAILURE", "error_code": "\\u001b[2J\\nx"}' % ULID.encode(),
        b'{"task_id": "s.%s", "status": ["\\u001b[2J"]}' % ULID.encode(),
        b'{"x": "%s"}' % (b"x" * 3_000_000),
        b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:30]),
)
def test_an_answer_that_cannot_be_ends_the_smoke_test_with_a_sentence(run: Run, other: OtherApi, body: bytes) -> None:
    other.response = Response(200, body)

    ran = run("smoke", "--url", other.url)

    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert ran.is_harmless
    assert "planted-token" not in ran.out + ran.err


@pytest.mark.parametrize("token", ["planted\ntoken", "planted token", "planted-tokën"])
def test_an_odd_token_is_not_quoted(run: Run, other: OtherApi, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("API_TOKEN", token)

    ran = run("smoke", "--url", other.url)

    assert ran.code == 1
    assert "API_TOKEN" in ran.err
    assert "planted" not in ran.out + ran.err


@pytest.mark.parametrize("name", ["health", "sync", "async", "idempotency", "order", "cancel", "upload"])
@pytest.mark.parametrize("status", [200, 201, 202, 500])
@pytest.mark.parametrize(
    "members", [{}, {"status": "SUCCESS", "turns": ["x"]}, {"status": ["x"], "url": "https://\x1b", "fields": "x"}]
)
def test_an_answer_that_cannot_be_is_a_failed_check_and_no_more(
    stack: Stack, other: OtherApi, name: str, status: int, members: dict[str, Any]
) -> None:
    document = json.dumps({"task_id": f"s.{ULID}", "finished_at": [], **members}).encode()
    other.response = Response(status, document)
    told: list[str] = []
    with Api(other.url, "planted-token") as api:
        failed = verify(stack, api, told.append, only=[name], patience=0)

    assert set(failed) == {name}
    assert all(sentence.strip() for sentence in failed[name])
    assert told[-1] == f'        docs/operations.md, "Verify", "{name}"'
    assert "planted-token" not in " ".join(told)
