"""The conversation that the model gets: which answers, how much of it, and which parts are left out."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.raw_server import Scripted
from tests.unit.conftest import Account, Clock, Parts, StandIn, Wire
from turnqueue.turn import Key, Status, Turn, new_ulid

type Message = dict[str, Any]
type Answered = Callable[..., None]
type Told = Callable[..., list[Message]]
type Limits = Callable[..., None]
type Histories = Callable[..., tuple[str, list[int]]]

URL = {"type": "image", "url": "https://example.com/cat.png"}
DOCUMENT = {
    "message": "Booked.",
    "draft": {"service": "massage", "date": "today", "time": "10:00", "name": "Ann"},
    "data": {"complete": True, "missing": []},
}


@pytest.fixture(autouse=True)
def fresh(connect: Callable[[str], None], model: StandIn) -> None:
    """The worker has learned nothing of the model yet."""
    connect(model.url)


@pytest.fixture
def answered(account: Account, worker: Parts) -> Answered:
    """Makes a turn of session s-1 with this answer, a text or a whole document. It is never queued."""

    def answered(message: str, result: str | dict[str, Any], session_id: str = "s-1", **more: Any) -> None:
        document = result if isinstance(result, dict) else {"message": result, "data": None, "draft": None}
        now = time.time()
        key = Key(f"alice#{session_id}", new_ulid(now))
        turn = Turn.submitted(key, {"message": message, "role": "general", **more}, now)
        worker.store.create(turn._replace(status=Status.SUCCESS, result=document, usage={}, finished_at=now))

    return answered


@pytest.fixture
def told(account: Account, scripted: Scripted) -> Told:
    """What the model is told before this message of session s-1, but for the instructions."""

    def told(message: str = "and?", **more: Any) -> list[Message]:
        scripted.says("hi")
        account.queued(message, session_id="s-1", **more)
        account.work()
        messages: list[Message] = scripted.asked[-1]["messages"]
        assert (messages[0]["role"], messages[-1]["role"]) == ("system", "user")
        return messages[1:-1]

    return told


def test_the_first_of_a_session_reads_no_history(account: Account, wire: Wire) -> None:
    session = account.submit("begin")["session_id"]
    account.work()
    assert wire.made("Query") == []

    account.queued("go on", session_id=session)
    account.work()
    assert len(wire.made("Query")) == 1


def test_any_other_may_have_one(account: Account, wire: Wire) -> None:
    """A session that the client names, and a retry of the first of a session: others may have come meanwhile."""
    account.queued("begin", session_id="s-1")
    account.work()
    assert len(wire.made("Query")) == 1

    failed = account.queued("[[refuse]] begin")
    account.work()
    account.retry(failed)
    account.work()
    assert len(wire.made("Query")) == 2


# ---- Whose answers


def test_a_persona_with_a_form_is_told_only_its_own_answers_as_documents(answered: Answered, told: Told) -> None:
    """A user can make `general` repeat any document."""
    answered("a massage", DOCUMENT, role="booking")
    answered(f"repeat {json.dumps(DOCUMENT)}", json.dumps(DOCUMENT))
    answered("thanks", "You're\nwelcome.")

    _, own, _, echo, _, other = told(role="booking")

    assert json.loads(own["content"]) == DOCUMENT
    prefix = 'The assistant "general" answered: '
    assert echo == {"role": "assistant", "content": prefix + json.dumps(json.dumps(DOCUMENT))}
    assert other == {"role": "assistant", "content": f'{prefix}"You\'re\\nwelcome."'}


def test_of_the_document_of_another_persona_the_message_is_told(answered: Answered, told: Told) -> None:
    answered("hello", DOCUMENT)

    _, other = told(role="booking")

    assert other["content"] == 'The assistant "general" answered: "Booked."'


def test_a_persona_without_a_form_is_told_all_answers_as_they_are(answered: Answered, told: Told) -> None:
    answered("a massage", DOCUMENT, role="booking")
    answered("hello", "hi")

    _, document, _, text = told()

    assert json.loads(document["content"]) == DOCUMENT
    assert text["content"] == "hi"


# ---- Blank sides


@pytest.mark.parametrize("role", ["general", "booking"])
@pytest.mark.parametrize("blank", ["", " \n", "\u3000"])
def test_a_turn_with_a_blank_answer_is_left_out(blank: str, role: str, answered: Answered, told: Told) -> None:
    answered("one", "an answer")
    answered("two", blank)

    earlier = told(role=role)

    assert [message["content"] for message in earlier if message["role"] == "user"] == ["one"]


def test_a_turn_with_a_blank_message_is_left_out(answered: Answered, told: Told) -> None:
    answered(" ", "Say something.")

    assert told() == []


def test_an_image_needs_no_words(scripted: Scripted, answered: Answered, told: Told) -> None:
    answered(" ", "A cat.", media=[URL])

    user, _ = told(" ", media=[URL])

    image = {"type": "image_url", "image_url": {"url": URL["url"]}}
    assert user["content"] == [image]
    assert scripted.asked[-1]["messages"][-1]["content"] == [image]


@pytest.mark.parametrize(
    ("role", "blank"),
    [
        ("general", ["\\n", " "]),
        ("general", []),
        ("booking", [json.dumps(json.dumps(DOCUMENT | {"message": " "}))[1:-1]]),
    ],
)
def test_a_blank_answer_is_output_invalid(account: Account, scripted: Scripted, role: str, blank: list[str]) -> None:
    scripted.says(*blank)
    task_id = account.queued("hello", role=role)
    (record,) = account.receive()

    for failed in ([record["messageId"]], [record["messageId"]], []):
        assert account.work([record]) == failed

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
def test_answers_count_against_the_budget(message: str, answer: str, fit: int, answered: Answered, told: Told) -> None:
    for _ in range(8):
        answered(message, answer)

    assert len(told()) == 2 * fit


def test_the_document_counts_as_it_is_told(answered: Answered, told: Told) -> None:
    data = {"complete": False, "missing": ["x" * 11_800]}
    for _ in range(8):
        answered("?", DOCUMENT | {"data": data}, role="booking")

    assert len(told(role="booking")) == 2 * 5


def test_an_image_that_is_not_shown_again_costs_no_image(answered: Answered, told: Told) -> None:
    missing = {"type": "image", "upload_id": "0" * 26}
    for _ in range(5):
        answered("?", "!", media=[missing] * 8)

    assert len(told()) == 10


# ---- More of it than the model takes


@pytest.fixture
def limits(model: StandIn) -> Iterator[Limits]:
    """Sets what the stand-in refuses: prompts above a `window` of tokens, or images if it is `blind`."""
    yield model.faults
    model.faults()


@pytest.fixture
def histories(account: Account, model: StandIn) -> Histories:
    """The task of a message, and how many messages of the history each call for it had."""

    def histories(message: str = "and?", **more: Any) -> tuple[str, list[int]]:
        model.forget()
        task_id = account.queued(message, **{"session_id": "s-1", **more})
        account.work()
        return task_id, [call["history"] for call in model.calls()["last"]]

    return histories


def test_a_conversation_that_is_too_long_is_told_in_part_and_the_next_turn_makes_one_call(
    account: Account, limits: Limits, answered: Answered, histories: Histories
) -> None:
    for number in range(16):
        answered(f"{number:02} " + "x" * 1_597, "x" * 1_600)  # 800 tokens, and two
    limits(window=3_000)

    first, calls = histories()
    assert account.outcome(first) == ("SUCCESS", None)
    assert calls == [32, 16, 8, 4]
    newest = [said for said in account.task(first)["result"]["message"].split('"') if said.startswith("15 ")]
    assert newest

    second, calls = histories()
    assert account.outcome(second) == ("SUCCESS", None)
    assert calls == [4]


@pytest.mark.parametrize(("turns", "calls"), [(0, [0]), (1, [2, 0]), (2, [4, 2, 0]), (20, [40, 20, 10, 4, 0])])
def test_a_message_that_is_too_long_by_itself_costs_at_most_5_calls(
    account: Account, answered: Answered, histories: Histories, limits: Limits, turns: int, calls: list[int]
) -> None:
    for _ in range(turns):
        answered("question", "answer")
    limits(window=1)

    task_id, made = histories()

    assert account.outcome(task_id) == ("FAILURE", "context_too_long")
    assert made == calls


def test_what_is_learned_holds_for_the_whole_prompt(limits: Limits, answered: Answered, histories: Histories) -> None:
    """A long message leaves room for little history, and a short one after it for more."""
    for session_id in ("s-1", "s-2"):
        for _ in range(16):
            answered("x" * 800, "x" * 800, session_id=session_id)  # 400 tokens, and two
    limits(window=4_000)

    assert histories("x" * 12_000)[1] == [32, 16, 8, 4]
    # It had 3,000 tokens, and the history 800. A message of 1,000 leaves room for six turns.
    assert histories("x" * 4_000, session_id="s-2")[1] == [2 * 6]


def test_what_is_learned_lasts_an_hour(limits: Limits, clock: Clock, answered: Answered, histories: Histories) -> None:
    for _ in range(16):
        answered("x" * 1_600, "x" * 1_600)
    limits(window=3_000)
    _, calls = histories()
    assert len(calls) > 1
    limits()

    _, calls = histories()
    assert calls[0] < 16
    clock.forward(3_601)
    _, calls = histories()
    assert calls[0] > 30


@pytest.mark.parametrize("text", ["and?", "and " * 2_000])
def test_an_earlier_image_that_is_refused_fails_no_text(
    account: Account, model: StandIn, limits: Limits, text: str, answered: Answered, histories: Histories
) -> None:
    """After a change to a model without vision, or when a URL has expired."""
    answered("look", "A cat.", media=[URL])
    limits(blind=True)

    task_id, calls = histories(text)

    assert account.outcome(task_id) == ("SUCCESS", None)
    assert calls == [2, 2]
    assert [call["images"] for call in model.calls()["last"]] == [[[URL["url"]], []], [[], []]]


def test_an_image_of_the_message_that_is_refused_fails_it(
    account: Account, limits: Limits, answered: Answered, histories: Histories
) -> None:
    answered("look", "A cat.", media=[URL])
    limits(blind=True)

    task_id, calls = histories("and this?", media=[URL])

    assert account.outcome(task_id) == ("FAILURE", "model_rejected")
    assert calls == [2]


def test_the_note_in_the_place_of_an_image(account: Account, scripted: Scripted, answered: Answered) -> None:
    answered("look", "A cat.", media=[URL])
    scripted.status, scripted.headers = 400, {"content-type": "application/json"}
    account.queued("and?", session_id="s-1")
    account.work()

    shown, noted = ([message["content"] for message in asked["messages"][1:]] for asked in scripted.asked)
    assert shown[0][1] == {"type": "image_url", "image_url": {"url": URL["url"]}}
    assert noted[0] == [shown[0][0], {"type": "text", "text": "[An image was attached here. It is not shown again.]"}]
    assert noted[1:] == shown[1:] == ["A cat.", "and?"]


@pytest.mark.parametrize(("tokens", "turns"), [("0", 0), ("802", 0), ("803", 1), ("1606", 2)])
def test_the_parameter_says_how_much_is_told(
    worker: Parts, tokens: str, turns: int, answered: Answered, histories: Histories
) -> None:
    for _ in range(3):
        answered("x" * 1_600, "x" * 1_604)
    worker.rebuild(HISTORY_TOKENS=tokens)

    assert histories()[1] == [2 * turns]


# ---- Failures among it


def test_a_page_of_failures_does_not_hide_the_turns_before_it(account: Account, answered: Answered, told: Told) -> None:
    """20 turns are read at a time: here 15 and 5 failures, then 15 older ones."""
    for number in range(30):
        answered(f"question {number}", "answer")
        if number in (20, 21, 22, 23, 24):
            account.cancel(account.queued("oops", session_id="s-1"))

    earlier = told()

    asked = [message["content"] for message in earlier if message["role"] == "user"]
    assert asked == [f"question {number}" for number in range(10, 30)]
