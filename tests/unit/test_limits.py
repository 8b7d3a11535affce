"""Limits of an owner: messages a minute and tokens a day, exact for concurrent requests too; and the usage of a day."""

import re
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest

from development import cfn
from tests.payloads import api_event
from tests.unit.conftest import Account, Clock, Parts, Response, Wire, refusing
from turnqueue.limits import Limiter, parse_limits

type SetLimits = Callable[..., None]

WITH_KEY = {"Idempotency-Key": "k", "Prefer": "respond-async"}


@pytest.fixture
def set_limits(submit: ModuleType, status: ModuleType, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> SetLimits:
    """Gives submit and status the limits of a parameter. It is an hour after midnight: no day ends meanwhile."""

    def set_limits(text: str, group_claim: str = "") -> None:
        for function in (submit, status):
            monkeypatch.setattr(function, "limiter", Limiter.of(text, group_claim, "GuardsTable"))

    clock.forward(86_400 - time.time() % 86_400 + 3600)
    return set_limits


def send(account: Account, owner: str = "alice", message: str = "hello", **claims: str) -> Response:
    event = account.post_event({"message": message}, owner=owner, query={"async_mode": "true"})
    event["requestContext"]["authorizer"]["jwt"]["claims"] |= claims
    return account.answer("submit", event)


def usage(account: Account, owner: str = "alice", **query: str) -> Response:
    return account.answer("status", api_event("GET /chat/usage", owner=owner, query=query))


def used(account: Account) -> tuple[int, int]:
    """The tokens that alice has used today, and those that are reserved."""
    day = usage(account)["json"]
    return day["prompt_tokens"] + day["completion_tokens"], day["reserved_tokens"]


def today() -> str:
    return datetime.fromtimestamp(time.time(), UTC).date().isoformat()


# ---- Messages a minute


def test_after_the_burst_comes_a_429_that_says_when(account: Account, set_limits: SetLimits) -> None:
    set_limits("default:6/3")  # every 10 s, three at once
    accepted = [send(account) for _ in range(3)]

    refused = send(account)

    assert [response["statusCode"] for response in accepted] == [202] * 3
    assert [response["headers"]["RateLimit"] for response in accepted] == [
        '"messages";r=2;t=10',
        '"messages";r=1;t=20',
        '"messages";r=0;t=30',
    ]
    assert refused["statusCode"] == 429
    assert refused["headers"]["Content-Type"] == "application/problem+json"
    assert refused["headers"]["RateLimit-Policy"] == '"messages";q=3;w=30'
    assert refused["headers"]["RateLimit"] == '"messages";r=0;t=30'
    assert refused["headers"]["Retry-After"] == "10"
    assert refused["json"]["code"] == "rate_limited"
    assert "6 messages a minute, 3 of them at once" in refused["json"]["detail"]
    assert len(account.items()) == 3


def test_who_waits_as_told_is_let_in(account: Account, set_limits: SetLimits, clock: Clock) -> None:
    set_limits("default:6/3")
    for _ in range(3):
        send(account)
    for _ in range(5):
        refused = send(account)
        clock.forward(int(refused["headers"]["Retry-After"]))
        assert send(account)["statusCode"] == 202


def test_after_a_pause_there_is_one_burst_and_no_more(account: Account, set_limits: SetLimits, clock: Clock) -> None:
    set_limits("default:6/3")
    send(account)
    clock.forward(3600)

    assert [send(account)["statusCode"] for _ in range(5)] == [202, 202, 202, 429, 429]


def test_a_refused_message_costs_no_place(account: Account, set_limits: SetLimits, clock: Clock) -> None:
    set_limits("default:6/1")

    assert [send(account, message=text)["statusCode"] for text in ("", "x", "x", "x")] == [422, 202, 429, 429]
    clock.forward(10)
    assert send(account)["statusCode"] == 202


def test_owners_have_their_places_each(account: Account, set_limits: SetLimits) -> None:
    set_limits("default:6/1")

    assert [send(account, owner)["statusCode"] for owner in ("alice", "bob", "alice")] == [202, 202, 429]


def test_of_200_at_once_just_the_burst_is_let_in(account: Account, set_limits: SetLimits, submit: ModuleType) -> None:
    set_limits("default:1/20")
    event = account.post_event({"message": "hello"}, query={"async_mode": "true"})

    def request(_: int) -> int:
        try:
            # Not `handler`, whose metrics are those of a process that has one request at a time.
            return int(submit.chat(event, ends_at=time.time() + 29)["statusCode"])
        except submit.Problem as problem:
            return int(problem.status)

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(request, range(200)))

    assert Counter(answers) == {202: 20, 429: 180}
    assert len(account.items()) == 20


def test_an_allowed_message_costs_one_write(account: Account, set_limits: SetLimits, clock: Clock, wire: Wire) -> None:
    set_limits("default:6/3")
    for _ in range(4):
        send(account)
        clock.forward(10)

    assert len(wire.made("UpdateItem")) == 4


def test_a_limit_that_cannot_be_checked_lets_nobody_in(account: Account, set_limits: SetLimits, wire: Wire) -> None:
    set_limits("default:6/3")
    wire.before("UpdateItem", refusing())

    refused = send(account)

    assert (refused["statusCode"], refused["headers"]["Retry-After"]) == (503, "2")
    assert account.items() == []
    assert send(account)["statusCode"] == 202


def test_without_limits_nothing_is_counted_and_everybody_may_wait(account: Account, clock: Clock, wire: Wire) -> None:
    response = send(account)

    assert "RateLimit" not in response["headers"]
    assert all(wait(account, response["json"]["task_id"]) > 19 for _ in range(5))
    assert {call.operation for call in wire.calls} == {"PutItem", "SendMessage", "GetItem", "Query"}


# ---- Groups


@pytest.mark.parametrize(
    ("claims", "burst"),
    [
        ({}, 1),
        ({"plan": "pro"}, 3),
        ({"plan": "gold"}, 1),  # which has no limit of its own
        ({"plan": "[staff pro]"}, 3),  # API Gateway's way to write a list
        ({"plan": "pro "}, 3),  # blanks divide names
        ({"plan": "Pro"}, 1),
        ({"plan": ""}, 1),
        ({"Plan": "pro"}, 1),
        ({"role": "pro"}, 1),
    ],
)
def test_a_claim_names_the_group_and_all_others_are_held_to_the_default(
    account: Account, set_limits: SetLimits, claims: dict[str, str], burst: int
) -> None:
    set_limits("pro:1/3,default:1/1", group_claim="plan")

    accepted = [send(account, **claims)["statusCode"] for _ in range(4)]

    assert accepted == [202] * burst + [429] * (4 - burst)


PATTERN = cfn.template()["Parameters"]["OwnerLimits"]["AllowedPattern"]


@pytest.mark.parametrize(
    "text", ["", "default:20/5", "default:20/5/100000,pro:100/20", "a:1/1,default:1/1/1", "a:1/1,default:1/1,b:2/2"]
)
def test_limits_that_the_template_and_the_function_take(text: str) -> None:
    assert re.fullmatch(PATTERN, text)
    assert set(parse_limits(text)) == {part.partition(":")[0] for part in text.split(",") if part}


@pytest.mark.parametrize(
    "text",
    ["pro:100/20", "Default:1/1", "default2:1/1,pro:1/1", "a:1/1,b:1/1", "pro:1/1,xdefault:1/1", "default:1/1,", ","],
)
def test_limits_without_a_default_are_refused_when_deployed_and_by_the_function(text: str) -> None:
    """Else a token without the claim, or with another spelling of the group, would have no limit at all."""
    assert not re.fullmatch(PATTERN, text)
    if text != "default:1/1,":
        with pytest.raises(ValueError, match="default"):
            parse_limits(text)


@pytest.mark.parametrize("text", ["20/5", "pro:0/5", "pro:20/0", "pro:20", "pro:20/5/x", "a b:1/1"])
def test_what_is_no_limit_is_named(text: str) -> None:
    assert not re.fullmatch(PATTERN, f"default:100/20,{text}")
    with pytest.raises(ValueError, match=r"group:messages a minute/messages at once\[/tokens a day\]") as refused:
        parse_limits(f"default:100/20,{text}")

    assert str(refused.value).endswith(text)


def test_a_group_has_one_limit() -> None:
    with pytest.raises(ValueError, match="default twice"):
        parse_limits("default:1/1,default:9/9")


# ---- Tokens a day


def test_tokens_that_are_used_up_come_back_the_next_day(account: Account, set_limits: SetLimits, clock: Clock) -> None:
    set_limits("default:600/100/100")
    first = send(account, message="x " * 90)
    account.work()
    used = usage(account)["json"]
    assert used["prompt_tokens"] + used["completion_tokens"] >= 100

    refused = send(account)

    assert first["headers"]["RateLimit-Policy"] == '"tokens";q=100;qu="tokens";w=86400, "messages";q=100;w=10'
    assert first["headers"]["RateLimit"].startswith('"tokens";r=0;t=8')  # what is left beside its reservation
    assert refused["statusCode"] == 429
    assert refused["headers"]["RateLimit-Policy"] == first["headers"]["RateLimit-Policy"]
    assert "100 tokens a day" in refused["json"]["detail"]
    assert 22 * 3600 < int(refused["headers"]["Retry-After"]) <= 23 * 3600
    assert send(account, "bob")["statusCode"] == 202
    clock.forward(int(refused["headers"]["Retry-After"]))
    assert send(account)["statusCode"] == 202


def test_queued_messages_count_before_they_are_answered(account: Account, set_limits: SetLimits) -> None:
    """Else many could be queued while little is used, and all of them would run."""
    set_limits("default:600/100/5000")

    answers = [send(account, message="x" * 40) for _ in range(6)]

    assert [answer["statusCode"] for answer in answers] == [202] * 3 + [429] * 3  # 2,011 tokens each
    assert answers[0]["headers"]["RateLimit"].startswith('"tokens";r=2989;t=')
    assert answers[3]["headers"]["Retry-After"] == "30"  # the reserved ones come free soon
    assert "5000 tokens a day (UTC), and your unanswered messages" in answers[3]["json"]["detail"]
    assert used(account) == (0, 3 * 2011)
    account.work()
    tokens, reserved = used(account)
    assert (0 < tokens < 5000, reserved) == (True, 0)
    assert send(account)["statusCode"] == 202


def test_a_message_that_continues_a_session_reserves_its_history_too(account: Account, set_limits: SetLimits) -> None:
    set_limits("default:600/100/100000")
    account.submit("x" * 40, session_id="s-1")

    assert used(account) == (0, 18_011)


def test_a_repeat_of_an_idempotent_request_reserves_nothing(account: Account, set_limits: SetLimits) -> None:
    set_limits("default:600/100/100000")
    for message, status in (("x" * 40, 202), ("x" * 40, 202), ("y", 422)):
        assert account.post({"message": message}, headers=WITH_KEY)["statusCode"] == status

    assert used(account) == (0, 2011)


def test_a_request_whose_turn_is_recorded_gives_tokens_back(
    account: Account, set_limits: SetLimits, wire: Wire
) -> None:
    set_limits("default:600/100/100000")

    def another(params: dict[str, Any]) -> None:
        wire.before("PutItem", lambda _: account.post({"message": "x" * 40}, headers=WITH_KEY))

    wire.before("PutItem", another)  # after the key is bound, and before the turn is recorded
    assert account.post({"message": "x" * 40}, headers=WITH_KEY)["statusCode"] == 202

    assert len(account.items()) == 1
    assert used(account) == (0, 2011)


def test_a_request_that_meets_its_record_keeps_its_tokens(account: Account, set_limits: SetLimits, wire: Wire) -> None:
    set_limits("default:600/100/100000")
    wire.lose_answer("PutItem")

    assert send(account, message="x" * 40)["statusCode"] == 202

    assert used(account) == (0, 2011)


def test_a_message_that_is_not_queued_gives_its_tokens_back(
    account: Account, set_limits: SetLimits, wire: Wire
) -> None:
    set_limits("default:600/100/100000")
    wire.before("SendMessage", refusing())

    assert send(account)["statusCode"] == 503

    assert used(account) == (0, 0)


def test_a_retry_reserves_anew_and_the_failed_task_nothing(account: Account, set_limits: SetLimits) -> None:
    set_limits("default:600/100/100000")
    task_id = account.queued("x" * 40)
    account.cancel(task_id)
    assert used(account) == (0, 0)

    assert account.retry(task_id)["statusCode"] == 202

    assert used(account) == (0, 18_011)


def test_without_a_limit_of_tokens_nothing_is_reserved(account: Account, set_limits: SetLimits, wire: Wire) -> None:
    set_limits("default:600/100")
    send(account)

    assert used(account) == (0, 0)
    assert len(wire.made("UpdateItem")) == 1
    [item] = account.items()
    assert "reserved_tokens" not in item


# ---- Waits


def wait(account: Account, task_id: str) -> float:
    """Wait for a task that nobody answers. Returns the seconds that it took."""
    before = time.time()
    assert account.get(task_id, query={"wait": "20"})["statusCode"] == 200
    return time.time() - before


def test_an_owner_has_three_waits_for_each_message(
    account: Account, set_limits: SetLimits, clock: Clock, status: ModuleType
) -> None:
    set_limits("default:1/1")
    task_id = account.queued()
    allowed = [status.limiter.may_wait(api_event("GET /chat/task/{task_id}"), "alice") for _ in range(25)]

    assert allowed.count(True) == 3
    assert wait(account, task_id) < 10
    clock.forward(20)
    assert wait(account, task_id) > 19


def test_a_wait_costs_one_write_and_a_plain_poll_none(account: Account, set_limits: SetLimits, wire: Wire) -> None:
    """Nor does one that need not wait."""
    set_limits("default:6/1")
    task_id = account.queued()
    wire.calls.clear()

    account.task(task_id)
    assert wire.made("UpdateItem", "PutItem") == []
    wait(account, task_id)
    assert len(wire.made("UpdateItem")) == 1
    account.work()
    wire.calls.clear()
    assert account.get(task_id, query={"wait": "20"})["json"]["status"] == "SUCCESS"
    assert wire.made("UpdateItem") == []


def test_without_a_place_a_sync_submit_is_answered_as_an_async_one(
    account: Account, set_limits: SetLimits, submit: ModuleType
) -> None:
    set_limits("default:3/3")

    for prefer, applied in (("", None), ("wait=5", None), ("respond-async, wait=5", "respond-async")):
        while submit.limiter.may_wait(api_event("POST /chat"), "alice"):
            pass
        before = time.time()
        answer = account.post({"message": "x"}, headers={"Prefer": prefer})

        assert answer["statusCode"] == 202
        assert answer["headers"].get("Preference-Applied") == applied
        assert time.time() - before < 4  # a wait is at least 5


def test_waits_of_submit_and_status_share_their_places_and_owners_do_not(
    account: Account, set_limits: SetLimits, submit: ModuleType, status: ModuleType
) -> None:
    set_limits("default:6/1")
    account.post({"message": "x"}, headers={"Prefer": "wait=1"}, owner="bob")
    task_id = account.queued(owner="alice")
    event = api_event("GET /chat/task/{task_id}")

    assert [each.limiter.may_wait(event, "bob") for each in (submit, status, submit)] == [True, True, False]
    assert wait(account, task_id) > 19


def test_a_place_that_cannot_be_taken_is_no_place(account: Account, set_limits: SetLimits, wire: Wire) -> None:
    set_limits("default:6/1")
    task_id = account.queued()
    wire.before("UpdateItem", refusing())

    assert wait(account, task_id) < 10


# ---- Usage


def test_the_answers_of_a_day_are_added_up(account: Account, clock: Clock) -> None:
    tasks = [account.queued("[[tokens=40]]") for _ in range(3)]
    account.work()
    spent: list[dict[str, Any]] = [account.task(task_id)["usage"] for task_id in tasks]

    answer = usage(account)

    assert answer["statusCode"] == 200
    sums = {
        name: pytest.approx(sum(each[name] for each in spent), abs=1e-9)
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "cost_usd")
    }
    assert answer["json"] == {"day": today(), "answers": 3, "estimated_tokens": 0, "reserved_tokens": 0, **sums}
    assert answer["json"]["cost_usd"] > 0
    assert answer["json"]["completion_tokens"] > 0
    assert usage(account, day=today())["json"] == answer["json"]
    assert usage(account, "bob")["json"]["answers"] == 0
    clock.forward(86_400)
    assert usage(account)["json"]["answers"] == 0


def test_a_day_without_prices_has_no_cost(account: Account, worker: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usage(account)["json"]["cost_usd"] is None
    monkeypatch.setattr(worker.services.first.model, "_prices", {})
    task_id = account.queued()
    account.work()

    assert account.task(task_id)["usage"]["cost_usd"] is None
    answer = usage(account)["json"]
    assert (answer["answers"], answer["cost_usd"]) == (1, None)


def test_an_answer_does_not_depend_on_its_being_added(account: Account, wire: Wire) -> None:
    task_id = account.queued()
    wire.after("UpdateItem", lambda _: wire.after("UpdateItem", lambda _: wire.before("UpdateItem", refusing())))

    account.work()

    assert account.outcome(task_id) == ("SUCCESS", None)
    assert usage(account)["json"]["answers"] == 0
    assert account.waiting() == (0, 0)


@pytest.mark.parametrize(
    "day",
    ["today", "2026-1-1", "2026-01-01T00", "2025-02-29", "0000-01-01", "20260101", "2026-W01-1", "\uff12026-01-01"],
)
def test_a_day_that_is_none_is_refused(account: Account, day: str) -> None:
    answer = usage(account, day=day)

    assert (answer["statusCode"], answer["json"]["error"]["param"]) == (422, "day")
    assert usage(account, day="2024-02-29")["statusCode"] == 200
