"""The tests of the replaced system, with names after their promises, and the example of its clients."""

from typing import Any

from tests.unit.conftest import Account, Clock, StandIn

HAIRCUT = {"message": "I need a haircut", "session_id": "session_123", "role": "booking"}
ANSWER = {"session_id": "session_123", "message": '[stand-in model] You said "Hello".', "data": None, "draft": None}


def poll(account: Account, task_id: str) -> dict[str, Any]:
    """What the replaced system's client does: ask until the task is final. The worker runs between two questions."""
    for _ in range(10):
        response = account.get(task_id)
        assert response["statusCode"] == 200
        task: dict[str, Any] = response["json"]
        if task["status"] in ("SUCCESS", "FAILURE"):
            return task
        account.work()
    raise AssertionError(f"{task_id} never became final")


def test_async_mode_returns_task_id(account: Account, model: StandIn) -> None:
    response = account.post({"message": "Hello"}, query={"async_mode": "true"})

    assert response["statusCode"] == 202
    assert response["json"]["task_id"]
    assert response["json"]["message"] == "Processing..."
    assert model.messages() == []


def test_synchronous_mode_still_works(account: Account, clock: Clock) -> None:
    clock.meanwhile = account.work  # a worker takes what is queued whenever submit waits

    response = account.post({"message": "Hello", "session_id": "session_123"})

    assert response["statusCode"] == 200
    answer = response["json"]
    assert answer.pop("task_id").startswith("session_123.")
    assert answer == ANSWER


def test_task_status_polling(account: Account) -> None:
    task_id = account.queued("Hello", session_id="session_123")

    before = account.task(task_id)
    assert (before["task_id"], before["status"]) == (task_id, "PENDING")
    assert (before["result"], before["error"], before["progress"]) == (None, None, None)

    after = poll(account, task_id)
    assert (after["task_id"], after["status"], after["progress"]) == (task_id, "SUCCESS", 1.0)
    assert after["error"] is None
    assert after["result"] == ANSWER | {"task_id": task_id}


def test_task_failure_carries_the_error(account: Account) -> None:
    task_id = account.queued("[[refuse]] Hello")

    task = poll(account, task_id)

    assert (task["status"], task["result"]) == ("FAILURE", None)
    assert task["error"] == "The model declined to answer this message."


def test_the_haircut_of_the_usage_examples(account: Account) -> None:
    response = account.post(HAIRCUT, query={"async_mode": "true"})

    result = poll(account, response["json"]["task_id"])["result"]

    assert "I can help you with that haircut." in result["message"]
    assert result["draft"] == {"service": "haircut", "date": None, "time": None, "name": None}
    assert isinstance(result["data"]["complete"], bool) and isinstance(result["data"]["missing"], list)


def test_a_booking_draft_grows_over_the_turns_of_its_session(account: Account) -> None:
    def say(message: str) -> Any:
        return poll(account, account.queued(message, session_id="session_123", role="booking"))["result"]

    drafts = [say(text)["draft"] for text in ("I need a haircut", "On Friday at 3 pm", "For Ann")]
    known = [{name for name, value in draft.items() if value} for draft in drafts]

    assert known == [{"service"}, {"service", "date", "time"}, {"service", "date", "time", "name"}]
    assert drafts[2] == {"service": "haircut", "date": "friday", "time": "15:00", "name": "Ann"}
