"""Cached replies: an identical first message is answered at once, and a different message is not."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from request import ChatRequest
from tests.unit.conftest import Account, Clock, Printed, Response, StandIn, Wire, refusing, unreachable
from tests.unit.test_limits import SetLimits, set_limits, usage
from turnqueue.replies import reply_key

__all__ = ["set_limits"]

type SetCache = Callable[..., None]

IMAGE = {"type": "image", "url": "https://example.com/cat.png"}
FIRST = {"message": "What is a good name for a cat?"}


@pytest.fixture
def set_cache(submit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> SetCache:
    def set_cache(seconds: int = 600, *, shared: bool = False) -> None:
        monkeypatch.setattr(submit, "cache", {"seconds": seconds, "shared": shared})

    return set_cache


@pytest.fixture(autouse=True)
def on(set_cache: SetCache) -> None:
    set_cache()


def send(account: Account, request: dict[str, Any] = FIRST, control: str = "", **options: Any) -> Response:
    headers = {"Prefer": "respond-async"} | ({"Cache-Control": control} if control else {}) | options.pop("headers", {})
    response = account.post(request, headers=headers, **options)
    assert response["statusCode"] == 202, response
    return response


def answered(account: Account, request: dict[str, Any] = FIRST, control: str = "", owner: str = "alice") -> Any:
    """The task of a message that the model has answered."""
    task_id = send(account, request, control, owner=owner)["json"]["task_id"]
    account.work()
    task = account.task(task_id, owner=owner)
    assert (task["status"], task["usage"]["cached"]) == ("SUCCESS", False)
    return task


def is_hit(account: Account, response: Response, owner: str = "alice") -> bool:
    task = account.task(response["json"]["task_id"], owner=owner)
    is_told: bool = response["headers"].get("Cache-Status") == "turnqueue; hit"
    assert is_told == (task["status"] == "SUCCESS" and task["usage"]["cached"])
    return is_told


def kept(account: Account) -> list[dict[str, Any]]:
    """The replies that are kept, as guards."""
    return [item for item in account.items("GuardsTable") if item["guard"]["S"].startswith("reply#")]


# ---- A hit


def test_an_equal_message_is_answered_at_once(account: Account, model: StandIn, clock: Clock) -> None:
    first = answered(account)

    again = send(account)

    assert again["json"]["status"] == "SUCCESS"
    assert again["headers"]["Location"] == f"/chat/task/{again['json']['task_id']}"
    assert again["headers"]["Cache-Status"] == "turnqueue; hit"
    task = account.task(again["json"]["task_id"])
    assert (task["status"], task["attempt"], task["progress"]) == ("SUCCESS", 0, 1.0)
    assert task["result"]["message"] == first["result"]["message"]
    free = ("prompt_tokens", "completion_tokens", "cached_tokens", "attempts", "queue_ms", "total_ms", "cost_usd")
    assert task["usage"] == first["usage"] | dict.fromkeys(free, 0) | {"first_token_ms": None, "cached": True}

    sync = account.post(FIRST)

    assert (sync["statusCode"], sync["headers"]["Cache-Status"]) == (200, "turnqueue; hit")
    assert sync["json"]["message"] == first["result"]["message"]
    assert sync["json"]["task_id"] != first["task_id"]
    assert sync["json"]["session_id"] != first["session_id"]
    assert clock.slept == []
    assert account.waiting() == (0, 0)
    assert len(model.messages()) == 1


def test_a_structured_reply_is_given_again_whole(account: Account) -> None:
    request = {"message": "I need a haircut", "role": "booking", "media": [IMAGE], "metadata": {"from": "phone"}}
    first = answered(account, request)

    task = account.task(send(account, request | {"metadata": {"from": "desk"}})["json"]["task_id"])

    assert task["usage"]["cached"]
    for part in ("message", "draft", "data"):
        assert task["result"][part] == first["result"][part]


def test_a_hit_costs_two_reads_and_one_write(account: Account, wire: Wire) -> None:
    answered(account)
    wire.clear()

    send(account)

    assert [(call.operation, call.params["TableName"]) for call in wire.calls] == [
        ("GetItem", "GuardsTable"),
        ("GetItem", "TurnsTable"),
        ("PutItem", "TurnsTable"),
    ]
    assert not any(call.params.get("ConsistentRead") for call in wire.calls)


# ---- What is no hit


@pytest.mark.parametrize(
    "other",
    [
        {"message": "What is a good name for a dog?"},
        {**FIRST, "role": "booking"},
        {**FIRST, "media": [IMAGE]},
        {**FIRST, "session_id": "s-1"},
    ],
    ids=["message", "role", "media", "session"],
)
def test_what_differs_is_asked_of_the_model(account: Account, other: dict[str, Any]) -> None:
    answered(account)

    assert not is_hit(account, send(account, other))
    assert account.waiting() == (1, 0)


def test_a_message_with_a_session_is_not_kept(account: Account) -> None:
    answered(account, {**FIRST, "session_id": "s-1"})

    assert kept(account) == []
    assert not is_hit(account, send(account))


def test_another_owner_has_other_replies(account: Account) -> None:
    answered(account)

    assert not is_hit(account, send(account, owner="bob"), "bob")


def test_another_owner_has_the_same_replies_if_they_are_shared(account: Account, set_cache: SetCache) -> None:
    set_cache(shared=True)
    first = answered(account)

    response = send(account, owner="bob")

    assert is_hit(account, response, "bob")
    assert account.task(response["json"]["task_id"], owner="bob")["result"]["message"] == first["result"]["message"]
    assert account.get(first["task_id"], owner="bob")["statusCode"] == 404
    assert first["task_id"] not in str(account.task(response["json"]["task_id"], owner="bob"))


def test_of_an_upload_only_its_owner_has_the_kept_reply(account: Account, set_cache: SetCache) -> None:
    """Though replies are shared: who knows the id of another's image must not learn what is on it."""
    set_cache(shared=True)
    look = {"message": "What is this?", "media": [account.upload(b"\x89PNG\r\n\x1a\n and so on")]}
    answered(account, look)

    assert is_hit(account, send(account, look))
    response = send(account, look, owner="bob")
    assert not is_hit(account, response, "bob")
    account.work()
    assert account.task(response["json"]["task_id"], owner="bob")["error_code"] == "media_missing"


def test_another_model_server_or_persona_answers_anew(
    account: Account, submit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered(account)

    url, name = submit.model
    for place, value in (
        ("submit.model", (url, "another")),
        ("submit.model", ("http://another/v1", name)),  # another server may give the name to another model
        ("turnqueue.replies.version", lambda role: "another"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, value)
            assert not is_hit(account, send(account))
    assert is_hit(account, send(account))


def test_the_version_of_a_persona_is_that_of_its_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from turnqueue import personas

    monkeypatch.setattr(personas, "FOLDER", tmp_path)
    found = set()
    for text in ("one", "two", "one"):
        (tmp_path / "x.toml").write_text(text)
        found.add(personas.version.__wrapped__("x"))

    assert len(found) == 2


def test_a_shorter_time_holds_for_what_was_kept_before(account: Account, set_cache: SetCache, clock: Clock) -> None:
    set_cache(600)
    answered(account)
    set_cache(60)
    clock.forward(100)

    assert not is_hit(account, send(account))


def test_a_failure_is_not_kept(account: Account) -> None:
    task_id = send(account, {"message": "[[refuse]]"})["json"]["task_id"]
    account.work()
    assert account.outcome(task_id)[0] == "FAILURE"

    assert not is_hit(account, send(account, {"message": "[[refuse]]"}))
    assert kept(account) == []


def test_a_reply_whose_turn_is_deleted_is_gone(account: Account) -> None:
    account.remove(account.item(answered(account)["task_id"]))

    assert not is_hit(account, send(account))


def test_without_the_parameter_nothing_is_kept_looked_for_or_counted(
    account: Account, set_cache: SetCache, wire: Wire, printed: Printed
) -> None:
    set_cache(0)
    answered(account)
    wire.clear()

    assert not is_hit(account, send(account))
    assert [call.operation for call in wire.calls][:2] == ["PutItem", "SendMessage"]
    assert kept(account) == []
    assert "CacheHit" not in printed.metrics()


# ---- Cache-Control of the request


@pytest.mark.parametrize("control", ["no-cache", "max-age=0", "No-Cache, x=1", 'max-age="0"', "no-store"])
def test_who_wants_no_kept_reply_gets_none(account: Account, control: str) -> None:
    answered(account)

    assert not is_hit(account, send(account, control=control))


def test_no_cache_keeps_the_new_reply(account: Account) -> None:
    answered(account, control="no-cache")

    assert is_hit(account, send(account))


@pytest.mark.parametrize("control", ["no-store", "no-cache, no-store", "max-age=5,NO-STORE"])
def test_no_store_keeps_nothing(account: Account, control: str) -> None:
    answered(account, control=control)

    assert not is_hit(account, send(account))


@pytest.mark.parametrize(
    "control", ["max-age", "max-age=-1", "max-age=soon", "", ",,", "only-if-cached", "max-age=9999999999"]
)
def test_what_means_nothing_here_is_ignored(account: Account, control: str) -> None:
    answered(account)

    assert is_hit(account, send(account, control=control))


# ---- When something fails


@pytest.mark.parametrize("trouble", [refusing(), unreachable])
@pytest.mark.parametrize("skip", [0, 1])
def test_a_cache_that_cannot_be_read_is_a_miss(account: Account, wire: Wire, trouble: Any, skip: int) -> None:
    answered(account)
    if skip:
        wire.before("GetItem", lambda _: None)
    wire.before("GetItem", trouble)

    response = send(account)

    assert not is_hit(account, response)
    assert account.waiting() == (1, 0)
    assert is_hit(account, send(account))


def test_an_answer_does_not_depend_on_its_being_kept(account: Account, wire: Wire) -> None:
    task_id = send(account)["json"]["task_id"]

    def fail_the_write_of_the_reply(params: dict[str, Any]) -> None:
        if "reply#" in str(params):
            refusing()(params)

    wire.before("UpdateItem", fail_the_write_of_the_reply, times=4)
    account.work()

    assert account.outcome(task_id) == ("SUCCESS", None)
    assert account.waiting() == (0, 0)
    assert kept(account) == []


def test_a_hit_whose_record_met_itself_is_queued_and_harmless(account: Account, wire: Wire) -> None:
    """botocore repeats the put whose answer was lost, and cannot tell whose item it meets."""
    answered(account)
    wire.lose_answer("PutItem")

    assert account.outcome(send(account)["json"]["task_id"]) == ("SUCCESS", None)
    account.work()
    assert account.waiting() == (0, 0)


# ---- With an Idempotency-Key


def test_a_key_makes_one_task_of_a_hit_too(account: Account) -> None:
    answered(account)
    key = {"Idempotency-Key": "k-1"}

    first, second = (send(account, headers=key) for _ in range(2))

    assert first["json"]["task_id"] == second["json"]["task_id"]
    assert "Idempotency-Replayed" not in first["headers"]
    assert second["headers"]["Idempotency-Replayed"] == "true"
    assert is_hit(account, first)
    assert account.waiting() == (0, 0)


# ---- What it says and counts


def test_hits_and_misses_are_counted_and_a_hit_is_no_task_of_the_worker(account: Account, printed: Printed) -> None:
    answered(account)
    send(account)
    send(account, control="no-cache")

    metrics = printed.metrics()
    assert sorted(metrics["CacheHit"]) == [0, 1]
    assert (metrics["TaskSubmitted"], metrics["TaskFailed"], len(metrics["AnswerTime"])) == ([1, 1], [0], 1)
    assert len(printed.logged("task answered at once")) == 1


def test_a_hit_is_no_answer_of_the_day_but_counts_against_the_rate(account: Account, set_limits: SetLimits) -> None:
    set_limits("default:1/2")
    answered(account)
    send(account)

    assert account.post(FIRST)["statusCode"] == 429
    assert usage(account)["json"]["answers"] == 1


def test_no_answer_and_no_message_is_in_the_guards_table(account: Account) -> None:
    task = answered(account)

    [reply] = kept(account)

    assert set(reply) == {"guard", "task_id", "owner", "expires_at"}
    assert FIRST["message"] not in str(reply)
    assert task["result"]["message"] not in str(reply)
    assert "alice" not in reply["guard"]["S"]


# ---- The key


REQUEST = {"message": "hello", "role": "general", "metadata": {"from": "a test"}}


def _key(**changed: Any) -> str:
    return reply_key("alice", REQUEST | changed, ("https://model.example/v1", "a-model"), shared=False)


@pytest.mark.parametrize("changed", [{"metadata": {"from": "another"}}, {"stream": True}, {"media": []}])
def test_what_the_model_never_sees_makes_no_other_key(changed: dict[str, Any]) -> None:
    assert _key(**changed) == _key()


def test_a_field_that_nobody_has_thought_of_makes_another_key() -> None:
    """So a new field of a request cannot be answered with what was kept without it."""
    assert _key(a_new_field="x") not in (_key(), _key(a_new_field="y"))


def test_every_field_of_a_request_is_in_the_key_or_known_to_be_unseen() -> None:
    """The session is in no stored request, and a message in a session is never answered from the cache."""
    tools = {"tools": [{"type": "function", "name": "add"}], "tool_choice": "auto", "parallel_tool_calls": False}
    given = {"message": "hello", "session_id": "s", "stream": True, "deadline_seconds": 60, **tools}
    stored = ChatRequest.model_validate(given).stored()
    assert set(ChatRequest.model_fields) - set(stored) == {
        "session_id",
        "deadline_seconds",
        "media",
        "metadata",
        "parallel_tool_calls",
        "tool_outputs",
    }
    assert stored["options"] == {"parallel_tool_calls": False}
