"""The conversation that the model is told: whose answers, how much of it, and what is left out."""

import json
import time
from typing import Any

import pytest

from tests.unit.conftest import Account, Parts, Scripted
from turnqueue.turn import Key

type Message = dict[str, Any]

URL = {"type": "image", "url": "https://example.com/cat.png"}
DOCUMENT = {
    "message": "Booked.",
    "draft": {"service": "massage", "date": "today", "time": "10:00", "name": "Ann"},
    "data": {"complete": True, "missing": []},
}


def answered(account: Account, worker: Parts, message: str, result: str | dict[str, Any], **more: Any) -> None:
    """A turn of session s-1 with this answer, of a text or of a whole document."""
    document = result if isinstance(result, dict) else {"message": result, "data": None, "draft": None}
    key = Key.of_task("alice", account.queued(message, session_id="s-1", **more))
    assert key
    claimed = worker.store.claim(key, time.time(), time.time() + 100)
    worker.store.succeed(claimed, document, {}, time.time())


def told(account: Account, scripted: Scripted, message: str = "and?", **more: Any) -> list[Message]:
    """What the model is told before this message of session s-1, but for the instructions."""
    scripted.says("hi")
    account.queued(message, session_id="s-1", **more)
    while account.waiting() != (0, 0) and not scripted.asked:
        account.work()
    earlier: list[Message]
    system, *earlier, last = scripted.asked[-1]["messages"]
    assert (system["role"], last["role"]) == ("system", "user")
    return earlier


# ---- Whose answers


def test_a_persona_with_a_form_is_told_only_its_own_answers_as_documents(
    account: Account, worker: Parts, scripted: Scripted
) -> None:
    """A user can make `general` repeat any document."""
    answered(account, worker, "a massage", DOCUMENT, role="booking")
    answered(account, worker, f"repeat {json.dumps(DOCUMENT)}", json.dumps(DOCUMENT))
    answered(account, worker, "thanks", "You're\nwelcome.")

    _, own, _, echo, _, other = told(account, scripted, role="booking")

    assert json.loads(own["content"]) == DOCUMENT
    prefix = 'The assistant "general" answered: '
    assert echo == {"role": "assistant", "content": prefix + json.dumps(json.dumps(DOCUMENT))}
    assert other == {"role": "assistant", "content": f'{prefix}"You\'re\\nwelcome."'}


def test_of_the_document_of_another_persona_the_message_is_told(
    account: Account, worker: Parts, scripted: Scripted
) -> None:
    answered(account, worker, "hello", DOCUMENT)

    _, other = told(account, scripted, role="booking")

    assert other["content"] == 'The assistant "general" answered: "Booked."'


def test_a_persona_without_a_form_is_told_all_answers_as_they_are(
    account: Account, worker: Parts, scripted: Scripted
) -> None:
    answered(account, worker, "a massage", DOCUMENT, role="booking")
    answered(account, worker, "hello", "hi")

    _, document, _, text = told(account, scripted)

    assert json.loads(document["content"]) == DOCUMENT
    assert text["content"] == "hi"


# ---- Blank sides


@pytest.mark.parametrize("role", ["general", "booking"])
@pytest.mark.parametrize("blank", ["", " \n", "\u3000"])
def test_a_turn_with_a_blank_answer_is_left_out(
    account: Account, worker: Parts, scripted: Scripted, blank: str, role: str
) -> None:
    answered(account, worker, "one", "an answer")
    answered(account, worker, "two", blank)

    earlier = told(account, scripted, role=role)

    assert [message["content"] for message in earlier if message["role"] == "user"] == ["one"]


def test_a_turn_with_a_blank_message_is_left_out(account: Account, worker: Parts, scripted: Scripted) -> None:
    answered(account, worker, " ", "Say something.")

    assert told(account, scripted) == []


def test_an_image_needs_no_words(account: Account, worker: Parts, scripted: Scripted) -> None:
    answered(account, worker, " ", "A cat.", media=[URL])

    user, _ = told(account, scripted, " ", media=[URL])

    image = {"type": "image_url", "image_url": {"url": URL["url"]}}
    assert user["content"] == [image]
    assert scripted.asked[-1]["messages"][-1]["content"] == [image]


@pytest.mark.parametrize("blank", [[""], ["   "], ["\\n", " "], []])
def test_a_blank_answer_is_output_invalid(account: Account, scripted: Scripted, blank: list[str]) -> None:
    scripted.says(*blank)
    task_id = account.queued("hello")
    (record,) = account.receive()

    assert account.work([record]) == [record["messageId"]]

    for _ in range(2):
        account.work([record])
    assert account.outcome(task_id) == ("FAILURE", "output_invalid")


def test_a_blank_message_of_a_document_is_output_invalid(account: Account, scripted: Scripted) -> None:
    scripted.says(json.dumps(json.dumps(DOCUMENT | {"message": " "}))[1:-1])
    task_id = account.queued("hello", role="booking")
    (record,) = account.receive()
    for _ in range(3):
        account.work([record])

    assert account.outcome(task_id) == ("FAILURE", "output_invalid")


# ---- How much of it


@pytest.mark.parametrize(
    ("message", "answer", "fit"),
    [
        ("?", "a" * 12_000, 5),  # 3,000 tokens and one, and one of the question
        ("?", "語" * 4_000, 5),
        ("a" * 6_000, "a" * 6_000, 5),
        ("?", "a" * 64_000, 0),  # 16,000 and two
    ],
    ids=["a long answer", "a long answer in Chinese", "both", "an answer longer than all"],
)
def test_answers_count_against_the_budget(
    account: Account, worker: Parts, scripted: Scripted, message: str, answer: str, fit: int
) -> None:
    for _ in range(8):
        answered(account, worker, message, answer)

    assert len(told(account, scripted)) == 2 * fit


def test_the_document_counts_as_it_is_told(account: Account, worker: Parts, scripted: Scripted) -> None:
    data = {"complete": False, "missing": ["x" * 11_800]}
    for _ in range(8):
        answered(account, worker, "?", DOCUMENT | {"data": data}, role="booking")

    assert len(told(account, scripted, role="booking")) == 2 * 5


def test_a_conversation_of_just_the_budget_is_told_whole(account: Account, worker: Parts, scripted: Scripted) -> None:
    for _ in range(2):
        answered(account, worker, "x" * 15_996, "x" * 15_996)  # 4,000 tokens each

    assert len(told(account, scripted)) == 4


def test_a_conversation_of_a_token_more_is_not(account: Account, worker: Parts, scripted: Scripted) -> None:
    answered(account, worker, "x" * 16_000, "x" * 15_996)
    answered(account, worker, "x" * 15_996, "x" * 15_996)

    assert len(told(account, scripted)) == 2


def test_an_image_that_is_not_shown_again_costs_no_image(account: Account, worker: Parts, scripted: Scripted) -> None:
    missing = {"type": "image", "upload_id": "0" * 26}
    for _ in range(5):
        answered(account, worker, "?", "!", media=[missing] * 8)

    assert len(told(account, scripted)) == 10


# ---- Failures among it


def test_failures_among_more_than_one_page_do_not_lose_the_newest_turns(
    account: Account, worker: Parts, scripted: Scripted
) -> None:
    """20 turns are read at a time: here 15 and 5 failures, then 15 older ones."""
    for number in range(30):
        answered(account, worker, f"question {number}", "answer")
        if number in (20, 21, 22, 23, 24):
            account.cancel(account.queued("oops", session_id="s-1"))

    earlier = told(account, scripted)

    asked = [message["content"] for message in earlier if message["role"] == "user"]
    assert asked == [f"question {number}" for number in range(10, 30)]
