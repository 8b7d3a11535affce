"""llama.cpp's server, with a model that says random words."""

from collections.abc import Callable

import pytest

from persona import persona
from tests.servers.conftest import WINDOW, Tap, asked
from tests.unit.conftest import Account, StandIn

IMAGE = {"type": "image", "url": "https://example.com/cat.png"}


def test_an_answer(account: Account, engine: Tap) -> None:
    """An answer, with its tokens as the server counts them."""
    task = asked(account)

    assert task["status"] == "SUCCESS"
    assert task["result"]["message"].strip()
    assert task["usage"]["prompt_tokens"] > len("hello")
    assert task["usage"]["completion_tokens"] >= 1
    assert task["usage"]["finish_reason"] == "stop"
    assert engine.asked == 1


def test_a_document(account: Account, engine: Tap) -> None:
    """A JSON document with the fields that the persona defines, enforced by the engine's grammar."""
    task = asked(account, "a massage", role="booking")

    assert task["status"] == "SUCCESS"
    assert set(task["result"]["draft"]) == {"service", "date", "time", "name"}
    assert type(task["result"]["data"]["complete"]) is bool
    assert engine.asked == 1


def test_a_conversation(account: Account, engine: Tap) -> None:
    """The model gets the earlier turns."""
    first = asked(account, "x" * 100, session_id="s")
    second = asked(account, "y", session_id="s")

    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"]


def test_a_conversation_longer_than_the_window(account: Account, engine: Tap) -> None:
    """Of a conversation longer than the window, the model gets the newest part. The next turn makes one call."""
    counts = []
    for number in range(20):
        before = engine.asked
        task = asked(account, f"{number} " + "x" * 250, session_id="s")
        counts.append(engine.asked - before)
        assert task["status"] == "SUCCESS", (number, task)
        assert task["usage"]["prompt_tokens"] <= WINDOW

    assert max(counts) > 1
    first = counts.index(max(counts))
    assert counts[first + 1] == 1


def test_a_message_longer_than_the_window(account: Account, engine: Tap) -> None:
    """A message longer than the window is context_too_long after one attempt."""
    task = asked(account, "x" * WINDOW)

    assert (task["status"], task["error_code"]) == ("FAILURE", "context_too_long")
    assert engine.asked == 1


def test_an_image(account: Account, engine: Tap) -> None:
    """An image for a model without vision is model_rejected after one attempt."""
    task = asked(account, "look", media=[IMAGE])

    assert (task["status"], task["error_code"]) == ("FAILURE", "model_rejected")


def test_an_image_in_the_conversation(
    account: Account, engine: Tap, model: StandIn, connect: Callable[[str], None]
) -> None:
    """A text after an image that another model has seen."""
    connect(model.url)
    assert asked(account, "look", session_id="s", media=[IMAGE])["status"] == "SUCCESS"
    connect(engine.url)

    assert asked(account, "and?", session_id="s")["status"] == "SUCCESS"
    assert engine.asked == 2


def test_a_wrong_key(account: Account, engine: Tap, connect: Callable[[str], None]) -> None:
    """A wrong key is model_auth."""
    account.secrets.put_secret_value(SecretId="model-key", SecretString="sk-wrong")
    connect(engine.url)

    task = asked(account)

    assert (task["status"], task["error_code"]) == ("FAILURE", "model_auth")


@pytest.mark.parametrize(
    "message",
    [" ", "語" * 30, "\x00\x1f\u2028", "<|im_end|>[/INST]</s>"],
    ids=["blank", "Chinese", "control characters", "marks of chat templates"],
)
def test_odd_text(account: Account, engine: Tap, message: str) -> None:
    """Odd text."""
    assert asked(account, message)["status"] == "SUCCESS"


def test_options(account: Account, engine: Tap, monkeypatch: pytest.MonkeyPatch) -> None:
    """A persona's options bound the answer."""
    short = persona("general")._replace(options={"max_completion_tokens": 1})
    monkeypatch.setattr("attempt.persona", lambda role: short)

    task = asked(account)

    assert (task["status"], task["usage"]["finish_reason"]) == ("SUCCESS", "length")
    assert task["usage"]["completion_tokens"] == 1
