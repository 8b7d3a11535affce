"""The worker: a turn's answer, its history, and the growing answer."""

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from persona import persona
from reply import Reply
from tests.raw_server import Scripted
from tests.unit.conftest import Account, Clock, Parts, Printed, StandIn, Wire, unreachable
from turnqueue.personas import ROLES, version
from turnqueue.queue import decode
from turnqueue.turn import Key


def until(holds: Callable[[], bool]) -> None:
    """Each look is a request to the stand-in, so this waits without a pause of its own."""
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline, "it never came true"


@pytest.fixture
def watchful(worker: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker looks 25 times as often at what it shows, so that a test need not last for seconds."""
    worker.be_watchful(0.04)


def shown(wire: Wire) -> list[str]:
    """The text so far after each row that was written to an event log."""
    rows = [write["Item"] for write in wire.made("PutItem") if write["TableName"] == "EventsTable"]
    return list(itertools.accumulate(row["t"]["S"] for row in rows if "t" in row))


# ---- An answer


def test_an_answer_is_recorded_with_its_usage(account: Account) -> None:
    task_id = account.queued("hello")

    assert account.work() == []

    task = account.task(task_id)
    assert task["status"] == "SUCCESS"
    assert task["result"]["message"] == '[stand-in model] You said "hello".'
    assert task["attempt"] == 1
    queue_ms, first_token_ms, total_ms = (task["usage"].pop(f"{name}_ms") for name in ("queue", "first_token", "total"))
    assert queue_ms >= 0 and first_token_ms >= 0 and queue_ms + first_token_ms <= total_ms < 60_000
    prompt_tokens = task["usage"]["prompt_tokens"]
    assert task["usage"] == {
        "model": "gpt-stand-in",
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 9,
        "cached_tokens": 0,
        "estimated": False,
        "finish_reason": "stop",
        "cached": False,
        "attempts": 1,
        "cost_usd": round(0.4 * prompt_tokens + 1.6 * 9) / 1_000_000,
        "persona": "general",
        "persona_version": version("general"),
    }
    assert prompt_tokens > 2


def test_the_times_are_those_since_the_message_was_queued(account: Account, clock: Clock) -> None:
    task_id = account.queued("[[cut=2 times=1]] hello, twice")
    clock.forward(3)
    account.work()
    clock.forward(4)
    account.work()

    usage = account.task(task_id)["usage"]
    assert usage["attempts"] == 2
    assert 3000 <= usage["queue_ms"] < 7000 <= usage["total_ms"] < 60_000  # the real time of the test is added


def test_a_finished_item_keeps_nothing_of_the_work(account: Account) -> None:
    task_id = account.queued("hello")
    account.work()

    of_the_work = {"lease_until", "cancel_requested", "progress", "partial", "error", "error_code"}
    assert not of_the_work & set(account.item(task_id))


def test_the_model_is_asked_by_streaming_and_for_its_usage(account: Account, scripted: Scripted) -> None:
    scripted.says("hi")
    account.queued("hello")
    account.work()

    (asked,) = scripted.asked
    system, user = asked.pop("messages")
    assert (system["role"], user) == ("system", {"role": "user", "content": "hello"})
    assert asked == {"model": "gpt-stand-in", "stream": True, "stream_options": {"include_usage": True}}


def test_a_persona_with_a_form_asks_for_it_strictly(account: Account, scripted: Scripted) -> None:
    scripted.says("{}")
    account.queued("I need a haircut", role="booking")
    account.work()

    form = scripted.asked[0]["response_format"]["json_schema"]
    assert form["strict"] is True
    assert form["schema"]["required"] == ["message", "draft", "data"]
    assert "bookings" in scripted.asked[0]["messages"][0]["content"]


def test_tokens_that_the_server_does_not_count_are_estimated_from_bytes(account: Account, scripted: Scripted) -> None:
    scripted.says("hi, you there")
    task_id = account.queued("hello")
    account.work()

    task = account.task(task_id)
    told = sum(len(message["content"]) for message in scripted.asked[0]["messages"])
    usage = task["usage"]
    assert usage["prompt_tokens"] == pytest.approx(told / 4, abs=2)
    assert (usage["completion_tokens"], usage["cached_tokens"], usage["estimated"]) == (4, 0, True)
    assert usage["cost_usd"] == round(0.4 * usage["prompt_tokens"] + 1.6 * 4) / 1_000_000


# ---- The conversation


def test_the_conversation_is_told_in_order_and_with_the_answers(account: Account, scripted: Scripted) -> None:
    for number in range(3):
        scripted.says(f"answer {number}")
        account.queued(f"question {number}", session_id="s-1")
        account.work()

    told = [(message["role"], message["content"]) for message in scripted.asked[-1]["messages"][1:]]
    assert told == [
        ("user", "question 0"),
        ("assistant", "answer 0"),
        ("user", "question 1"),
        ("assistant", "answer 1"),
        ("user", "question 2"),
    ]


def test_history_is_one_consistent_query_by_its_key(account: Account, wire: Wire) -> None:
    account.queued(session_id="s-1")
    account.work()

    (query,) = wire.made("Query")
    assert query["ConsistentRead"] is True
    assert "FilterExpression" not in query and "IndexName" not in query


def test_a_draft_is_told_with_the_answer_so_that_it_can_grow(account: Account, scripted: Scripted) -> None:
    draft = {"service": "haircut", "date": None, "time": None, "name": None}
    data = {"complete": False, "missing": ["date"]}
    answer = json.dumps({"message": "When?", "draft": draft, "data": data})
    for text in ("a haircut", "tomorrow"):
        scripted.says(json.dumps(answer)[1:-1])
        account.queued(text, session_id="s-1", role="booking")
        account.work()

    told = scripted.asked[-1]["messages"][2]
    assert told["role"] == "assistant"
    assert json.loads(told["content"]) == {"message": "When?", "draft": draft, "data": data}


def test_only_successful_turns_are_history(account: Account, model: StandIn) -> None:
    for message in ("one", "[[refuse]] two", "three"):
        account.queued(message, session_id="s-1")
        account.work()
    cancelled = account.queued("four", session_id="s-1")
    account.cancel(cancelled)
    task_id = account.queued("five", session_id="s-1")
    account.work()
    account.work()

    answer = account.task(task_id)["result"]["message"]
    assert answer.endswith('you said: "one", "three" (2 messages).')


@pytest.mark.parametrize("other", [{"session_id": "s-2"}, {"session_id": "s-1", "owner": "bob"}])
def test_another_session_or_owner_is_not_history(account: Account, model: StandIn, other: dict[str, str]) -> None:
    account.queued("a secret", session_id="s-1")
    account.work()
    account.queued("hello", **other)
    account.work()

    assert [call["history"] for call in model.calls()["last"]] == [0, 0]


def answered(account: Account, worker: Parts, count: int, message: str = "question", **more: Any) -> None:
    """Turns of session s-1 that were answered."""
    for _ in range(count):
        session_id, _, turn = account.queued(message, session_id="s-1", **more).rpartition(".")
        claimed = worker.store.claim(Key(f"alice#{session_id}", turn), time.time(), time.time() + 100)
        worker.store.succeed(claimed, {"message": "answer", "data": None, "draft": None}, {}, time.time())
    account.work()


@pytest.mark.parametrize(("message", "images", "fit"), [("語" * 6_000, 0, 3), ("what is this?", 8, 1), ("?", 0, 5)])
def test_what_fits_is_told_in_tokens(
    account: Account, worker: Parts, scripted: Scripted, message: str, images: int, fit: int
) -> None:
    """Of 16,000: three bytes a letter here and four a token, and 1,000 tokens an image."""
    media = [{"type": "image", "url": f"https://example.com/{number}.png"} for number in range(images)]
    answered(account, worker, 5, message, media=media)
    scripted.says("hi")
    account.queued("and?", session_id="s-1")
    account.work()

    assert len(scripted.asked[-1]["messages"]) == 1 + 2 * fit + 1


# ---- While it grows


def test_a_growing_answer_is_shown(account: Account, wire: Wire, watchful: None) -> None:
    task_id = account.queued("[[drip=0.02 words=20]]")
    seen: list[dict[str, Any]] = []
    wire.after("PutItem", lambda _: seen.append(account.task(task_id)), times=100)

    account.work()

    running = [task for task in seen if task["status"] == "STARTED"]
    final = account.task(task_id)
    partials = [*(task["partial"] for task in running), final["result"]["message"]]
    assert len(partials) >= 3
    for sooner, later in itertools.pairwise(partials):
        assert sooner and later.startswith(sooner)
    progress = [task["progress"] for task in running]
    assert progress == sorted(progress) and 0 < progress[0] < progress[-1] < 1
    assert (final["partial"], final["progress"]) == (None, 1.0)


def test_a_silent_model_costs_no_progress_write(account: Account, wire: Wire, watchful: None) -> None:
    account.queued("[[hang=0.3]]")
    account.work()

    assert len(shown(wire)) <= 1  # the answer itself, if this machine takes its time between two chunks


def test_of_a_structured_answer_the_message_is_shown_and_whole_while_the_rest_is_coming(
    account: Account, wire: Wire, watchful: None
) -> None:
    task_id = account.queued("[[drip=0.05]] I need a haircut", role="booking")
    account.work()

    message = account.task(task_id)["result"]["message"]
    partials = shown(wire)
    assert len(partials) >= 2
    assert all(message.startswith(partial) for partial in partials)
    assert partials[-1] == message


@pytest.mark.parametrize("role", sorted(ROLES))
def test_what_a_model_is_to_write_first_is_what_the_user_reads(worker: Parts, role: str) -> None:
    """A model that is held to a schema writes in its order."""
    output = persona(role).output

    if isinstance(output, type):
        assert next(iter(output.model_json_schema()["properties"])) == "message"


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_structured_answer_is_readable_wherever_it_is_cut(worker: Parts, cut: int) -> None:
    message = 'b\ud83d\ude00 \u00e9\n "q" \\ {"message": 1}'.encode("utf-16", "surrogatepass").decode("utf-16")
    document = json.dumps({"message": message, "draft": {"name": None}})
    reply = Reply()
    reply.structured = True
    shown = ""

    for start in range(0, len(document), cut):
        reply.add(document[start : start + cut])
        assert message.startswith(reply.readable())
        assert reply.readable().startswith(shown)
        shown = reply.readable()

    assert shown == message


def test_an_answer_is_not_given_up_for_its_progress(account: Account, wire: Wire, watchful: None) -> None:
    task_id = account.queued("[[drip=0.02 words=15]]")

    wire.before("PutItem", unreachable)
    account.work()

    assert account.outcome(task_id) == ("SUCCESS", None)
    assert len(account.rows(task_id)) >= 1  # the next had its text too


# ---- Cancelled at work


def test_a_cancelled_task_leaves_the_model_at_once_and_keeps_its_partial_text(
    account: Account, wire: Wire, model: StandIn, watchful: None
) -> None:
    task_id = account.queued("[[drip=0.02 words=500]]")
    statuses: list[int] = []
    wire.after("PutItem", lambda _: statuses.append(account.cancel(task_id)["statusCode"]))  # at its first text

    assert account.work() == []

    assert statuses == [202]
    task = account.task(task_id)
    assert (task["status"], task["error_code"], task["retryable"]) == ("FAILURE", "cancelled", False)
    assert task["partial"].startswith("[stand-in")  # as much as had come
    assert (task["result"], task["progress"]) == (None, None)
    assert account.waiting() == (0, 0)
    until(lambda: model.calls()["disconnected"] == 1)
    assert len(model.messages()) == 1


def test_a_silent_model_is_left_too(account: Account, wire: Wire, model: StandIn, watchful: None) -> None:
    task_id = account.queued("[[hang=30]]")
    wire.after("UpdateItem", lambda _: account.cancel(task_id))  # right after the claim

    began = time.monotonic()
    account.work()

    assert account.outcome(task_id) == ("FAILURE", "cancelled")
    assert time.monotonic() - began < 10
    until(lambda: model.calls()["disconnected"] == 1)


def test_a_task_cancelled_between_attempts_does_not_run_again(account: Account, clock: Clock, model: StandIn) -> None:
    task_id = account.queued("[[status=500]]")
    account.work()
    assert account.outcome(task_id) == ("PENDING", None)

    response = account.cancel(task_id)

    assert (response["statusCode"], response["json"]["error_code"]) == (200, "cancelled")
    clock.forward(10)
    assert account.work() == []
    assert len(model.messages()) == 1


@pytest.mark.parametrize("end", ["cancelled", "worker_lost", "deadline_exceeded"])
def test_what_was_shown_of_an_answer_stays_whoever_ends_its_task(
    account: Account, worker: Parts, clock: Clock, end: str
) -> None:
    task_id = account.queued()
    (record,) = account.receive()
    claimed = worker.store.claim(decode(record["body"]), time.time(), time.time() + 60)
    worker.show(claimed, "so far")
    worker.store.release(claimed)
    assert account.task(task_id)["partial"] == "so far"

    if end == "cancelled":
        account.cancel(task_id)
    elif end == "worker_lost":
        account.dead_letter(record["body"])
        account.bury()
    else:
        clock.forward(901)

    task = account.task(task_id)
    assert (task["status"], task["error_code"], task["partial"]) == ("FAILURE", end, "so far")
    assert account.session(task["session_id"])["json"]["turns"][0]["partial"] == "so far"


def test_a_cancellation_that_the_dead_worker_did_not_see_ends_the_next_attempt(
    account: Account, worker: Parts, clock: Clock, model: StandIn
) -> None:
    task_id = account.queued()
    (record,) = account.receive()
    worker.store.claim(decode(record["body"]), time.time(), time.time() + 50)
    assert account.cancel(task_id)["statusCode"] == 202

    clock.forward(430)
    account.work()

    assert account.outcome(task_id) == ("FAILURE", "cancelled")
    assert model.messages() == []
    assert account.waiting() == (0, 0)


def test_an_attempt_that_fails_before_it_sees_its_cancellation_is_the_last(
    account: Account, wire: Wire, model: StandIn
) -> None:
    """Who was told that its worker has yet to notice does not wait for the back-off, of up to 450 s."""
    task_id = account.queued("[[status=500]]")
    statuses: list[int] = []

    def claimed(params: dict[str, Any]) -> None:
        wire.before("UpdateItem", lambda _: statuses.append(account.cancel(task_id)["statusCode"]))

    wire.after("UpdateItem", claimed)
    account.work()

    assert statuses == [202]
    assert account.outcome(task_id) == ("FAILURE", "cancelled")
    assert len(model.messages()) == 1
    assert account.waiting() == (0, 0)


# ---- Too much


def test_an_answer_is_measured_in_bytes_as_the_table_measures(account: Account, scripted: Scripted) -> None:
    scripted.says(*["語" * 1000] * 60)  # 60,000 characters, 180,000 bytes
    task_id = account.queued("字" * 15_000)

    assert account.work() == []

    assert account.outcome(task_id) == ("FAILURE", "result_too_large")


@pytest.mark.parametrize("role", ["general", "booking"])
def test_an_answer_that_comes_as_one_great_piece_is_a_failure_at_once(
    account: Account, scripted: Scripted, role: str
) -> None:
    scripted.says(json.dumps(json.dumps({"message": "x" * 500_000}))[1:-1])
    task_id = account.queued("hello", role=role)

    assert account.work() == []

    task = account.task(task_id)
    assert (task["error_code"], task["attempt"], task["partial"]) == ("result_too_large", 1, None)


def test_a_structured_answer_is_measured_as_it_is_kept(account: Account, scripted: Scripted) -> None:
    """100,000 bytes in the stream; a control character takes six in JSON, and so in the table."""
    document: dict[str, Any] = {"message": "\x7f\x00" * 12_000 + "x" * 80_000, "draft": None, "data": {}}
    draft = {"service": None, "date": None, "time": None, "name": None}
    document |= {"draft": draft, "data": {"complete": False, "missing": ["\x01" * 10_000]}}
    text = json.dumps(json.dumps(document, ensure_ascii=False))[1:-1]
    scripted.says(text)
    task_id = account.queued("hello", role="booking")

    assert account.work() == []

    assert account.outcome(task_id) == ("FAILURE", "result_too_large")


def test_what_a_server_says_of_itself_is_kept_in_measure(account: Account, scripted: Scripted) -> None:
    scripted.says("hi", finish_reason="y" * 400_000)
    usage = {"prompt_tokens": "z" * 200_000, "completion_tokens": [1] * 10_000, "total_tokens": 2}
    scripted.events.insert(0, json.dumps({"model": "m" * 200_000, "choices": [], "usage": usage}))
    task_id = account.queued("hello")

    assert account.work() == []

    task = account.task(task_id)
    assert (task["status"], task["attempt"]) == ("SUCCESS", 1)
    assert (task["usage"]["completion_tokens"], task["usage"]["estimated"]) == (1, True)
    assert len(json.dumps(task["usage"])) < 1000


def test_the_largest_request_and_the_largest_answer_fit_into_an_item(account: Account, scripted: Scripted) -> None:
    scripted.says(*["x" * 1000] * 130)
    media = [{"type": "image", "url": "data:image/png;base64," + "A" * 4000}] * 8
    metadata = {str(number): "\0" * 512 for number in range(16)}
    task_id = account.queued("\0" * 29_600, media=media, metadata=metadata)  # 260,000 bytes as JSON

    assert account.work() == []

    assert account.outcome(task_id) == ("SUCCESS", None)


# ---- One process, many invocations


def test_a_warm_worker_answers_again_with_the_same_key(account: Account, wire: Wire) -> None:
    """A client made on one event loop and used on another fails on every second call."""
    for _ in range(3):
        task_id = account.queued()
        account.work()
        assert account.outcome(task_id) == ("SUCCESS", None)

    assert len(wire.made("GetSecretValue")) == 1


# ---- What is counted


def test_what_a_chat_is_measured_by(account: Account, printed: Printed) -> None:
    task_id = account.queued()
    account.work()

    metrics = printed.metrics()
    usage = account.task(task_id)["usage"]
    (latency,), (waited,), (answered,), (first_token,) = (
        metrics.pop(name) for name in ("ModelLatency", "QueueTime", "AnswerTime", "TimeToFirstToken")
    )
    assert metrics == {
        "TaskSubmitted": [1],
        "TaskFailed": [0],
        "PromptTokens": [usage["prompt_tokens"]],
        "CompletionTokens": [9],
        "MicroDollars": [round(usage["cost_usd"] * 1_000_000)],
    }
    assert 0 <= waited <= answered and latency <= answered
    assert 0 <= first_token <= round(latency + 0.5)  # as the first token's milliseconds are
    (line,) = printed.logged("task finished")
    assert (line["task_id"], line["status"], line["attempt"]) == (task_id, "SUCCESS", 1)
    assert line["completion_tokens"] == 9


def test_the_share_of_failures_is_the_average_of_the_failed(account: Account, printed: Printed) -> None:
    """A cancelled task counts neither as a success nor as a failure."""
    for message in ("hello", "[[refuse]]", "hello", "hello"):
        account.queued(message)
    account.cancel(account.queued())
    account.work()

    metrics = printed.metrics()
    assert sorted(metrics["TaskFailed"]) == [0, 0, 0, 1]
    assert (len(metrics["AnswerTime"]), metrics["TaskCancelled"]) == (3, [1])


def test_the_line_of_each_turn_of_a_batch_carries_metrics(account: Account, printed: Printed) -> None:
    for _ in range(10):
        account.queued()
    account.work()

    lines = printed.logged("task finished")
    assert [line["service"] for line in lines] == ["turnqueue"] * 10
    assert lines[0]["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["service"]]
    measured = {"QueueTime", "ModelLatency", "TimeToFirstToken", "PromptTokens", "AnswerTime"}
    metrics = printed.metrics()
    assert {name: len(metrics[name]) for name in measured} == dict.fromkeys(measured, 10)


OF_TOKENS = {"PromptTokens", "CompletionTokens", "MicroDollars"}


@pytest.mark.parametrize(
    ("message", "measured"),
    [
        ("[[broken_json]]", {"ModelLatency", "TimeToFirstToken", *OF_TOKENS}),  # of no use, and paid for
        ("[[cut=2]]", {"TimeToFirstToken", *OF_TOKENS}),
        ("[[status=503]]", {"ModelRateLimited"}),
    ],
)
def test_a_call_that_goes_back_has_used_the_tokens_that_came(
    account: Account, printed: Printed, message: str, measured: set[str]
) -> None:
    account.queued(message, role="booking")
    account.work()

    metrics = printed.metrics()
    assert set(metrics) == {"TaskSubmitted", "QueueTime", "TaskRetried", *measured}
    assert metrics["TaskRetried"] == [1]
    assert all(metrics[name][0] > 0 for name in OF_TOKENS & measured)


@pytest.mark.parametrize(
    "usage",
    [
        "null",
        '{"prompt_tokens": null, "completion_tokens": null}',
        '{"prompt_tokens": true, "completion_tokens": -999999999}',
        '{"prompt_tokens": 1000000000, "completion_tokens": 1.5, "prompt_tokens_details": {"cached_tokens": -1}}',
    ],
)
def test_counts_that_are_none_are_estimated_before_they_are_priced(
    account: Account, scripted: Scripted, printed: Printed, usage: str
) -> None:
    scripted.says("hi")
    scripted.events.insert(-1, f'{{"choices": [], "usage": {usage}}}')
    task_id = account.queued()
    account.work()

    used = account.task(task_id)["usage"]
    assert used["estimated"] is True
    assert 0 < used["prompt_tokens"] < 1000
    assert (used["completion_tokens"], used["cached_tokens"]) == (1, 0)
    assert 0 < used["cost_usd"] < 0.001
    assert printed.metrics()["PromptTokens"] == [used["prompt_tokens"]]


def test_no_more_tokens_were_cached_than_asked(account: Account, scripted: Scripted) -> None:
    scripted.says("hi")
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 70}}
    scripted.events.insert(-1, json.dumps({"choices": [], "usage": usage}))
    task_id = account.queued()
    account.work()

    used = account.task(task_id)["usage"]
    assert (used["prompt_tokens"], used["cached_tokens"], used["estimated"]) == (5, 5, False)


@pytest.mark.parametrize(("status", "counted"), [(429, [1]), (500, [0])])
def test_a_refused_call_is_counted_and_whether_it_was_a_429(
    account: Account, printed: Printed, status: int, counted: list[float]
) -> None:
    account.queued(f"[[status={status} times=1]]")
    account.work()

    assert printed.metrics()["ModelRateLimited"] == counted


def test_an_outcome_is_counted_once_though_told_twice(account: Account, printed: Printed) -> None:
    task_id = account.queued()
    records = account.receive()
    account.work(records)
    account.work(records)

    assert account.outcome(task_id) == ("SUCCESS", None)
    assert len(printed.metrics()["AnswerTime"]) == 1
