"""The worker's model against servers that behave in every way, on a real socket."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from modelerror import ModelError
from tests.unit.raw_model import (
    HANG,
    RESET,
    WHOLE,
    Asking,
    Response,
    content,
    with_model,
)
from turnqueue import telemetry


@pytest.fixture(autouse=True)
def no_metrics() -> Iterator[None]:
    yield
    telemetry._metrics.clear_metrics()


def failure(asking: Asking) -> "asyncio.Future[ModelError]":
    """The error that a call ends with."""

    async def ask() -> ModelError:
        with pytest.raises(ModelError) as raised:
            await asking.ask()
        return raised.value

    return asyncio.ensure_future(ask())


# ---- What a watcher sees of a call


def test_a_reply_tells_when_the_server_accepted_the_call_and_under_which_name() -> None:
    async def use(asking: Asking) -> None:
        began = time.time()
        asking_now = asyncio.ensure_future(asking.ask())
        accepted = asyncio.Event()
        await asyncio.sleep(0)
        asking.reply.on_headers = accepted.set
        await asyncio.wait_for(accepted.wait(), 5)
        assert asking.reply.headers_at and asking.reply.headers_at >= began
        assert (asking.reply.first_token_ms, asking_now.done()) == (None, False)
        assert asking.reply.request_id == "req-1 x"
        answer = await asking_now
        assert answer.result["message"] == "All is well."
        assert asking.reply.first_token_ms is not None and asking.reply.first_token_ms >= 200

    headers = {"content-type": "text/event-stream", "x-request-id": "req-1\t x"}
    with_model(Response([b": hello\n\n", 0.25, *WHOLE], headers=headers), use)


def test_what_a_call_has_used_is_told_at_any_time() -> None:
    async def use(asking: Asking) -> None:
        asking_now = asyncio.ensure_future(asking.ask("x" * 4000))
        while not asking.reply.begun:
            await asyncio.sleep(0.01)
        used = asking.reply.usage("asked")
        assert used["estimated"] is True
        assert 1000 < used["prompt_tokens"] < 1300
        assert (used["model"], used["completion_tokens"], used["cached_tokens"]) == ("asked", 100, 0)
        asking_now.cancel()
        await asyncio.gather(asking_now, return_exceptions=True)
        assert asking.reply.usage("asked") == used
        assert telemetry._metrics.metric_set["CompletionTokens"]["Value"] == [100.0]

    with_model(Response([content("y" * 400), HANG]), use)


def test_what_the_server_counted_counts() -> None:
    async def use(asking: Asking) -> None:
        await asking.ask()
        assert asking.reply.usage("asked") == {
            "model": "told",
            "prompt_tokens": 9,
            "completion_tokens": 5,
            "cached_tokens": 3,
            "estimated": False,
        }

    with_model(Response([content("All is well.", model="told"), *WHOLE[2:]]), use)


def test_a_call_that_was_turned_away_has_used_nothing() -> None:
    async def use(asking: Asking) -> None:
        error = await failure(asking)
        assert (error.code, error.refused, error.retry_after) == ("model_rate_limited", True, 1.5)
        assert error.request_id == "req-2"
        used = asking.reply.usage("asked")
        assert (used["prompt_tokens"], used["completion_tokens"], used["estimated"]) == (0, 0, False)

    with_model(Response(status=429, headers={"retry-after-ms": "1500", "request-id": "req-2"}), use)


# ---- Turned away before any token, or cut


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 529])
def test_a_refused_call_is_no_attempt(status: int) -> None:
    async def use(asking: Asking) -> None:
        error = await failure(asking)
        assert (error.refused, error.retryable) == (True, True)

    with_model(Response(status=status), use)


def test_a_connection_that_is_refused_is_no_attempt() -> None:
    async def use(asking: Asking) -> None:
        asking.model._client.base_url = "http://127.0.0.1:9/v1"  # discard: nothing listens there
        error = await failure(asking)
        assert (error.code, error.refused) == ("model_unavailable", True)

    with_model(Response(), use)


@pytest.mark.parametrize("ending", [None, Response([RESET]), Response([b": hello\n\n", RESET]), Response([])])
def test_a_connection_that_breaks_before_any_token_is_no_attempt(ending: Response | None) -> None:
    async def use(asking: Asking) -> None:
        error = await failure(asking)
        assert (error.code, error.refused) == ("model_unavailable", True)

    with_model(lambda asked: ending, use)


def test_a_connection_that_breaks_after_text_is_an_attempt() -> None:
    async def use(asking: Asking) -> None:
        error = await failure(asking)
        assert (error.code, error.refused) == ("model_unavailable", False)
        assert asking.reply.text == "All is "

    with_model(Response([WHOLE[0], 0.1, RESET]), use)
