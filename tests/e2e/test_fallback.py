"""Two models on the local stack: the first goes down, the second answers, the first comes back."""

import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from local import model_server
from local.metrics import emitted, log_lines
from local.stack import LocalStack, Model
from tests.e2e.conftest import Api

pytestmark = pytest.mark.timeout(240)  # a stack of its own, and an outage of half a minute


@pytest.fixture(scope="module")
def second_model() -> Iterator[str]:
    with model_server.serve() as url:
        tell(url, "key", only="sk-second")
        yield url


@pytest.fixture(scope="module")
def with_fallback(second_model: str) -> Iterator[LocalStack]:
    parameters = {"ModelPrices": "gpt-4.1-mini:0.4/1.6,second:1/2"}
    fallback = Model(second_model, "sk-second", "second", stand_in=True)
    with LocalStack(parameters=parameters, fallback=fallback) as stack:
        yield stack


@pytest.fixture
def api(with_fallback: LocalStack) -> Iterator[Api]:
    api = Api(with_fallback.api_url, with_fallback.token("alice"))
    with api.http:
        yield api


def tell(model: str, what: str, **settings: Any) -> None:
    """Tell a stand-in which `key` it takes, or which `faults` it has; nothing: all is well again."""
    httpx.post(f"{model.removesuffix('/v1')}/stand-in/{what}", json=settings, trust_env=False).raise_for_status()


def answered_by(api: Api, message: str) -> str:
    """The model that has answered a message of a new conversation."""
    task = api.finished(api.submit(message, session_id=uuid.uuid4().hex))
    assert task["status"] == "SUCCESS", task
    assert task["usage"]["cost_usd"] > 0
    model: str = task["usage"]["model"]
    return model


def test_an_outage_of_the_first_model_is_answered_by_the_second_until_the_first_is_back(
    with_fallback: LocalStack, api: Api
) -> None:
    assert answered_by(api, "while all is well") == "gpt-4.1-mini"

    tell(with_fallback.model_url, "faults", status=503)
    tasks = [api.submit(f"in the outage {n}", session_id=f"outage-{n}") for n in range(6)]
    for task in map(api.finished, tasks):
        assert (task["status"], task["usage"]["model"]) == ("SUCCESS", "second"), task
    started = time.monotonic()
    task = api.finished(api.submit("when the breaker is open", session_id="open"))
    assert (task["attempt"], task["usage"]["model"]) == (1, "second")
    assert time.monotonic() - started < 10

    tell(with_fallback.model_url, "faults")
    end = time.monotonic() + 90
    while answered_by(api, "is it back?") != "gpt-4.1-mini":
        assert time.monotonic() < end, "the first model is not asked any more"
    assert answered_by(api, "and stays") == "gpt-4.1-mini"
    assert api.http.get("/chat/usage").json()["cost_usd"] > 0
    names = {metric.name for metric in emitted(log_lines(with_fallback.logs)).names()}
    assert {"FallbackUsed", "BreakerOpened"} <= names
