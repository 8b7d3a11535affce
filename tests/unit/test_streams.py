"""Streams as one long response: the function behind the URL, as OpenAI's own client and a plain reader see it."""

import importlib
import io
import json
import time
import uuid
from types import ModuleType
from typing import Any

import httpx2
import openai
import pytest

from local.issuer import Issuer
from operations import keys
from operations.stack import Stack
from tests.payloads import Context, Event
from tests.unit.conftest import Account, Clock, Parts, Printed, Wire, read, refusing, task_id_of
from turnqueue.events import Event as Row
from turnqueue.events import EventLog
from turnqueue.stream import END
from turnqueue.turn import Key

AUDIENCE = "turnqueue-test"


class Lambda:
    """Lambda, when a function is invoked by its alias."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self.invoked: list[str] = []

    def invoke(self, *, FunctionName: str, Payload: bytes) -> dict[str, Any]:
        name = FunctionName.removesuffix("Function.Alias").lower()
        self.invoked.append(name)
        answer = self._account.functions[name].handler(json.loads(Payload), Context(29.0))
        return {"StatusCode": 200, "Payload": io.BytesIO(json.dumps(answer).encode())}


@pytest.fixture
def streams(account: Account, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = importlib.import_module("streams")
    monkeypatch.setattr(module.callers, "_tokens", module.Tokens(issuer.url, AUDIENCE))
    monkeypatch.setattr(module.functions, "_client", Lambda(account))
    return module


class FunctionUrl(httpx2.BaseTransport):
    """Lambda behind a function's URL. The pieces of a response come while the function writes them."""

    def __init__(self, streams: ModuleType, seconds: float = 300.0) -> None:
        self._streams = streams
        self._seconds = seconds

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        event: Event = {
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": request.url.path,
            "rawQueryString": request.url.query.decode(),
            "headers": {name.lower(): value for name, value in request.headers.items()},
            "requestContext": {
                "http": {"method": request.method, "path": request.url.path},
                "requestId": str(uuid.uuid4()),
            },
            "isBase64Encoded": False,
        }
        if request.url.query:
            event["queryStringParameters"] = dict(request.url.params.items())
        if body := request.read():
            event["body"] = body.decode()
        pieces = self._streams.handler(event, Context(self._seconds))
        head = json.loads(json.dumps(next(pieces)))
        content = (piece.encode() for piece in pieces)
        return httpx2.Response(head["statusCode"], headers=head["headers"], content=content)


@pytest.fixture
def plain(streams: ModuleType, issuer: Issuer) -> httpx2.Client:
    """Alice, without a client library."""
    headers = {"Authorization": f"Bearer {issuer.token('alice', AUDIENCE)}", "Accept": "text/event-stream"}
    return httpx2.Client(transport=FunctionUrl(streams), base_url="https://id.example", headers=headers)


@pytest.fixture
def alice(streams: ModuleType, issuer: Issuer) -> openai.OpenAI:
    return client(streams, issuer.token("alice", AUDIENCE))


def client(streams: ModuleType, secret: str, seconds: float = 300.0) -> openai.OpenAI:
    http = httpx2.Client(transport=FunctionUrl(streams, seconds))
    options: Any = {"max_retries": 0, "_strict_response_validation": True}
    return openai.OpenAI(base_url="https://id.example/v1", api_key=secret, http_client=http, **options)


class Writing:
    """A worker that has claimed the only turn, and adds a row to its log whenever a reader waits."""

    def __init__(self, account: Account, clock: Clock, worker: Parts, *texts: str | None) -> None:
        self._account = account
        self._worker = worker
        self._left = list(texts)
        self._number = 0
        self._turn: Any = None
        clock.meanwhile = self.goes_on

    def goes_on(self) -> None:
        """The next text; None voids what was written, as another attempt does. After them, the answer."""
        store, now = self._worker.store, time.time()
        (item,) = self._account.items()
        key = Key(item["session"]["S"], item["turn"]["S"])
        if self._turn is None:
            self._turn = store.claim(key, now, now + 60)
        if not self._left:
            result = {"message": ANSWER, "data": None, "draft": None}
            if not store.read(key, now).final:
                store.succeed(self._turn, result, {"prompt_tokens": 5, "completion_tokens": 4}, now)
            return
        text = self._left.pop(0)
        self._number += 1
        if text is None:
            self._lose(key)
            self._turn = store.claim(key, now, now + 60)
        row = Row(self._number, "s" if text is None else "d", self._turn.attempt, text or "")
        EventLog("EventsTable", attempts=1).put(key, row, now)

    def _lose(self, key: Key) -> None:
        """The lease is over."""
        names = {"session": {"S": key.session}, "turn": {"S": key.turn}}
        change = {"UpdateExpression": "SET lease_until = :past", "ExpressionAttributeValues": {":past": {"N": "1"}}}
        self._account.dynamodb.update_item(TableName="TurnsTable", Key=names, **change)


ANSWER = '[stand-in model] You said "hello".'
SAID: Any = [{"role": "user", "content": "hello"}]


# ---- Responses


@pytest.mark.parametrize("background", [False, True])
def test_a_response_comes_while_it_is_written(
    account: Account, alice: openai.OpenAI, clock: Clock, worker: Parts, background: bool
) -> None:
    Writing(account, clock, worker, "[stand-in", " model]")

    events = list(alice.responses.create(model="general", input="hello", background=background, stream=True))

    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == ANSWER
    assert deltas[:2] == ["[stand-in", " model]"] or deltas[0] == "[stand-in model]"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"


def test_even_a_short_answer_is_shown_from_its_first_word(account: Account, alice: openai.OpenAI, clock: Clock) -> None:
    clock.meanwhile = account.work

    list(alice.responses.create(model="general", input="[[drip=0.05 words=10]]", stream=True))

    (item,) = account.items()
    assert account.rows(task_id_of(item))


def test_a_stream_that_was_cut_anywhere_is_resumed_to_the_byte(
    account: Account, alice: openai.OpenAI, clock: Clock, worker: Parts
) -> None:
    Writing(account, clock, worker, "lost", None, "[stand-in", " model]")
    events: list[Any] = list(alice.responses.create(model="general", input="hello", background=True, stream=True))

    for after in range(-1, len(events)):
        cut: Any = {} if after < 0 else {"starting_after": after}
        rest = alice.responses.retrieve(events[0].response.id, stream=True, **cut)
        assert list(rest) == events[after + 1 :], after


@pytest.mark.parametrize("kind", ["response", "completion"])
def test_a_foreground_stream_takes_no_text_back(
    account: Account, alice: openai.OpenAI, clock: Clock, worker: Parts, kind: str
) -> None:
    Writing(account, clock, worker, "lost", None, "[stand-in")

    with pytest.raises(openai.APIError, match=r"GET /v1/responses/resp_") as refused:
        if kind == "response":
            list(alice.responses.create(model="general", input="hello", stream=True))
        else:
            list(alice.chat.completions.create(model="general", messages=SAID, stream=True))

    assert refused.value.code == "response_restarted"
    (item,) = account.items()
    assert alice.responses.retrieve(f"resp_{task_id_of(item)}").status == "in_progress"


def test_a_stream_without_time_ends_with_an_error_and_goes_on_later(
    account: Account, streams: ModuleType, issuer: Issuer, clock: Clock
) -> None:
    brief = client(streams, issuer.token("alice", AUDIENCE), seconds=20.0)
    seen: list[Any] = []

    with pytest.raises(openai.APIError, match=r"GET /v1/responses/resp_") as refused:
        for event in brief.responses.create(model="general", input="hello", background=True, stream=True):
            seen.append(event)

    assert refused.value.code == "response_in_progress"
    assert sum(clock.slept) <= 15.5
    account.work()
    last = seen[-1].sequence_number
    seen += brief.responses.retrieve(seen[0].response.id, stream=True, starting_after=last)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].type == "response.completed"


def test_a_silent_stream_shows_that_it_is_alive(account: Account, plain: httpx2.Client, clock: Clock) -> None:
    task_id = account.queued("hello")

    text = plain.get(f"/chat/task/{task_id}/events").text

    assert [event["event"] for event in sse(text)] == ["snapshot"]
    assert 10 <= text.count(": still there\n\n") <= 20  # of 295 s


def test_reads_that_fail_delay_a_stream(
    account: Account, alice: openai.OpenAI, clock: Clock, worker: Parts, wire: Wire, printed: Printed
) -> None:
    Writing(account, clock, worker, "[stand-in")
    refused: list[str] = []

    def refuse_a_look(params: dict[str, Any]) -> None:
        if params["TableName"] == "EventsTable" or not params["ConsistentRead"]:  # the stream asks, not the worker
            refused.append(params["TableName"])
            refusing()(params)

    with alice.responses.create(model="general", input="hello", background=True, stream=True) as stream:
        first = next(iter(stream))
        wire.before("GetItem", refuse_a_look, times=20)
        wire.before("Query", refuse_a_look, times=3)
        rest = list(stream)

    assert (first.type, rest[-1].type) == ("response.created", "response.completed")
    assert {"TurnsTable", "EventsTable"} == set(refused)


def test_a_mistake_of_ours_ends_a_stream_with_an_error(
    account: Account, alice: openai.OpenAI, streams: ModuleType, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(turn: Any, rows: Any) -> str:
        raise ZeroDivisionError("a secret")

    events = alice.responses.create(model="general", input="hello", background=True, stream=True)
    assert next(iter(events)).type == "response.created"
    monkeypatch.setattr(streams.ResponseStream, "_events", broken)

    with pytest.raises(openai.APIError) as refused:
        list(events)

    assert refused.value.code == "response_in_progress"


# ---- Chat completions


def test_a_chat_completion_comes_while_it_is_written(
    account: Account, alice: openai.OpenAI, clock: Clock, worker: Parts
) -> None:
    Writing(account, clock, worker, "[stand-in", " model]")
    options: Any = {"include_usage": True}

    chunks = list(alice.chat.completions.create(model="general", messages=SAID, stream=True, stream_options=options))

    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(texts) == ANSWER
    assert len(texts) > 1
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage and chunks[-1].usage.total_tokens > 0


def test_an_answer_that_fails_before_its_first_word_is_an_error(
    account: Account, alice: openai.OpenAI, clock: Clock
) -> None:
    clock.meanwhile = account.work
    said: Any = [{"role": "user", "content": "[[status=429 code=insufficient_quota]]"}]

    with pytest.raises(openai.APIStatusError) as refused:
        alice.chat.completions.create(model="general", messages=said, stream=True)

    assert refused.value.response.headers["x-should-retry"] == "false"
    assert len(account.items()) == 1


# ---- The events of a task


def sse(text: str) -> list[dict[str, Any]]:
    """The events of a text, each with its `id`, `event` and data."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.partition(": ")[::2] for line in block.splitlines())
        if "data" in fields:
            found.append({"id": int(fields["id"]), "event": fields["event"], **json.loads(fields["data"])})
    return found


def test_the_events_of_a_task_come_in_one_response_and_are_those_of_the_api(
    account: Account, plain: httpx2.Client, clock: Clock, worker: Parts
) -> None:
    task_id = account.queued("hello", stream=True)
    writing = Writing(account, clock, worker, "lost", None, "[stand-in", " model]")
    for _ in range(3):
        writing.goes_on()
    there = account.news(task_id, after=0)

    def here(after: int) -> httpx2.Response:
        return plain.get(f"/chat/task/{task_id}/events", headers={"Last-Event-ID": str(after)})

    events = sse(here(0).text)
    assert events[: len(there)] == there
    assert [event["event"] for event in events[len(there) :]] == ["delta", "done"]
    assert events[-1]["task"]["result"]["message"] == ANSWER
    assert [event["event"] for event in sse(here(1).text)] == ["done"]
    assert (here(END).status_code, here(END).text) == (204, "")


def test_a_task_that_is_overdue_ends_its_stream(account: Account, plain: httpx2.Client, clock: Clock) -> None:
    task_id = account.queued("hello")
    clock.forward(15 * 60 - 30)

    events = sse(plain.get(f"/chat/task/{task_id}/events").text)

    assert events[-1]["task"]["error_code"] == "deadline_exceeded"


# ---- Who may, and what else there is


def test_everything_else_of_the_openai_api_is_passed_on(account: Account, alice: openai.OpenAI, clock: Clock) -> None:
    clock.meanwhile = account.work

    created = alice.responses.create(model="general", input="hello")

    assert created.output_text == ANSWER
    assert alice.responses.retrieve(created.id).output_text == ANSWER
    assert alice.models.retrieve("general").id == "general"
    assert alice.responses.input_items.list(created.id).data
    alice.responses.delete(created.id)
    for call in (alice.responses.retrieve, lambda gone: alice.responses.retrieve(gone, stream=True)):
        with pytest.raises(openai.NotFoundError):
            call(created.id)
    with pytest.raises(openai.BadRequestError):
        alice.responses.create(model="general", input="hello", stream=True, truncation="x")  # type: ignore[call-overload]


def test_a_function_that_fails_is_unavailable(
    alice: openai.OpenAI, streams: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = {"StatusCode": 200, "FunctionError": "Unhandled", "Payload": io.BytesIO(b"{}")}
    monkeypatch.setattr(streams.functions._client, "invoke", lambda **_: failed)

    with pytest.raises(openai.InternalServerError) as refused:
        alice.models.list()

    assert refused.value.status_code == 503


def test_a_caller_is_known_by_key_or_token(
    stack: Stack, account: Account, streams: ModuleType, alice: openai.OpenAI, plain: httpx2.Client, clock: Clock
) -> None:
    clock.meanwhile = account.work
    hers, his = (client(streams, keys.create(stack, owner).key) for owner in ("alice", "bob"))
    answer = alice.responses.create(model="general", input="a secret")

    with hers.responses.retrieve(answer.id, stream=True) as stream:
        assert list(stream)[-1].type == "response.completed"
    with pytest.raises(openai.NotFoundError):
        his.responses.retrieve(answer.id, stream=True)
    for wrong in ("tq_" + "A" * 43, "a.b.c", "x"):
        with pytest.raises(openai.AuthenticationError):
            client(streams, wrong).responses.retrieve(answer.id, stream=True)
    task = f"/chat/task/{answer.id.removeprefix('resp_')}/events"
    assert plain.get(task).status_code == 200
    for headers in ({"Authorization": f"Bearer {hers.api_key}"}, {"Authorization": ""}):
        assert plain.get(task, headers=headers).status_code == 401
    assert plain.get("/chat/usage").status_code == plain.post("/chat", json={}).status_code == 404


def test_no_client_can_say_that_it_is_the_function(
    account: Account, alice: openai.OpenAI, streams: ModuleType, clock: Clock
) -> None:
    """The caller's identity and the mark of a stream are in members that only AWS and the function write."""
    event = account.post_event({"model": "general", "input": "x", "stream": True, "requestContext": {"streams": True}})
    event |= {"routeKey": "POST /v1/{proxy+}", "pathParameters": {"proxy": "responses"}}
    event["requestContext"]["authorizer"] = {"lambda": {"sub": "alice"}}

    refused = read(account.functions["submit"].handler(event, Context(29.0)))

    assert refused["statusCode"] == 400 and "stream" not in refused


def test_an_owner_without_a_place_gets_a_stream_that_ends(
    account: Account, alice: openai.OpenAI, streams: ModuleType, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "limiter", streams.Limiter.of("default:1/1", "", "GuardsTable"))
    while streams.limiter.may_wait({}, "alice"):
        pass

    with pytest.raises(openai.APIError) as refused:
        list(alice.responses.create(model="general", input="hello", background=True, stream=True))

    assert refused.value.code == "response_in_progress"
    assert clock.slept == []


def test_nothing_private_is_printed(
    account: Account, alice: openai.OpenAI, clock: Clock, worker: Parts, printed: Printed
) -> None:
    Writing(account, clock, worker, "a private", None)

    with pytest.raises(openai.APIError):
        list(alice.responses.create(model="general", input="a private question", stream=True))

    for private in ("a private", alice.api_key):
        assert private not in printed.everything
