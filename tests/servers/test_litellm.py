"""The LiteLLM proxy, in front of the stand-in model."""

from collections.abc import Callable

import pytest

from tests.servers.conftest import Tap, asked
from tests.unit.conftest import Account, Clock, StandIn, Wire
from tests.unit.test_conversation import limits
from tests.unit.test_worker import until, watchful

__all__ = ["limits", "watchful"]

IMAGE = {"type": "image", "url": "data:image/png;base64,AAAA"}


def test_an_answer(account: Account, proxy: Tap, model: StandIn) -> None:
    """An answer, with its tokens as the server counts them."""
    task = asked(account)

    assert task["result"]["message"] == '[stand-in model] You said "hello".'
    assert task["usage"]["completion_tokens"] == 9
    assert (proxy.asked, model.calls()["total"]) == (1, 1)


def test_a_document(account: Account, proxy: Tap) -> None:
    """A JSON document with the fields that the persona defines."""
    task = asked(account, "a massage tomorrow", role="booking")

    assert task["status"] == "SUCCESS"
    assert task["result"]["draft"]["service"] == "massage"


def test_a_conversation(account: Account, proxy: Tap, model: StandIn) -> None:
    """The model gets the earlier turns."""
    asked(account, "one", session_id="s")
    asked(account, "two", session_id="s")

    assert [call["history"] for call in model.calls()["last"]] == [0, 2]


def test_an_image(account: Account, proxy: Tap) -> None:
    """An image reaches the model."""
    assert "With it came 1 image." in asked(account, "look", media=[IMAGE])["result"]["message"]


def test_a_slow_answer(account: Account, proxy: Tap) -> None:
    """A slow answer."""
    task = asked(account, "[[drip=0.1 words=20]]")

    assert task["status"] == "SUCCESS"
    assert task["result"]["message"].endswith("word20")


def test_a_cancelled_answer(account: Account, proxy: Tap, model: StandIn, wire: Wire, watchful: None) -> None:
    """A cancelled answer closes the connection to the model."""
    task_id = account.queued("[[drip=0.05 words=500]]")
    wire.after("PutItem", lambda _: account.cancel(task_id))  # at its first text
    account.work()

    assert account.outcome(task_id) == ("FAILURE", "cancelled")
    until(lambda: model.calls()["disconnected"] == 1)


def test_a_conversation_longer_than_the_window(
    account: Account, proxy: Tap, model: StandIn, limits: Callable[..., None]
) -> None:
    """Of a conversation longer than the window behind the proxy, the model gets the newest part."""
    limits(window=1000)
    for number in range(8):
        assert asked(account, f"[[words=100]] {number} " + "x" * 400, session_id="s")["status"] == "SUCCESS"

    assert model.calls()["total"] == proxy.asked > 8


@pytest.mark.parametrize("trouble", ["status=503", "status=500", "status=429 retry_after=1", "cut=3"])
def test_a_temporary_error(account: Account, proxy: Tap, model: StandIn, clock: Clock, trouble: str) -> None:
    """An outage, a rate limit or a cut answer is waited out."""
    task = asked(account, f"[[{trouble} times=1]] hello")
    assert task["status"] != "FAILURE"
    clock.forward(60)
    account.work()

    task = account.task(task["task_id"])
    assert task["status"] == "SUCCESS"
    assert model.calls()["total"] == 2


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        ("status=401", "model_auth"),
        ("status=403", "model_auth"),
        ("status=404", "model_rejected"),
        ("status=422", "model_rejected"),
        ("status=429 code=insufficient_quota", "model_quota"),
        ("content_filter", "prompt_refused"),
    ],
)
def test_a_permanent_error(account: Account, proxy: Tap, model: StandIn, trouble: str, code: str) -> None:
    """A permanent refusal is reported at once."""
    task = asked(account, f"[[{trouble}]] hello")

    assert (task["status"], task["error_code"]) == ("FAILURE", code)


def test_a_wrong_key(account: Account, proxy: Tap, connect: Callable[[str], None]) -> None:
    """A wrong key of the proxy is model_auth."""
    account.secrets.put_secret_value(SecretId="model-key", SecretString="sk-wrong")
    connect(proxy.url)

    task = asked(account)

    assert (task["status"], task["error_code"]) == ("FAILURE", "model_auth")
