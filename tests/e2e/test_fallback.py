"""Two models on the local stack: the first goes down, the second answers, the first comes back."""

import time
import uuid
from collections.abc import Iterator

import pytest

from local.stack import LocalStack
from tests.e2e.conftest import Api
from tests.e2e.logs import emitted, log_lines
from tests.stand_in import StandIn

pytestmark = pytest.mark.timeout(240)  # a stack of its own, and an outage of half a minute


@pytest.fixture
def api(second_stack: LocalStack, pool_token: str) -> Iterator[Api]:
    api = Api(second_stack.api_url, pool_token)
    with api.http:
        yield api


def answered_by(api: Api, message: str) -> str:
    """The model that has answered a message of a new conversation."""
    task = api.finished(api.submit(message, session_id=uuid.uuid4().hex))
    assert task["status"] == "SUCCESS", task
    assert task["usage"]["cost_usd"] > 0
    model: str = task["usage"]["model"]
    return model


def test_an_outage_of_the_first_model_is_answered_by_the_second_until_the_first_is_back(
    second_stack: LocalStack, api: Api
) -> None:
    assert answered_by(api, "while all is well") == "gpt-4.1-mini"

    first = StandIn(second_stack.model_url)
    first.faults(status=503)
    tasks = [api.submit(f"in the outage {n}", session_id=f"outage-{n}") for n in range(6)]
    for task in map(api.finished, tasks):
        assert (task["status"], task["usage"]["model"]) == ("SUCCESS", "second"), task
    started = time.monotonic()
    task = api.finished(api.submit("when the breaker is open", session_id="open"))
    assert (task["attempt"], task["usage"]["model"]) == (1, "second")
    assert time.monotonic() - started < 10

    first.faults()
    end = time.monotonic() + 90
    while answered_by(api, "is it back?") != "gpt-4.1-mini":
        assert time.monotonic() < end, "the first model is not asked any more"
    assert answered_by(api, "and stays") == "gpt-4.1-mini"
    assert api.http.get("/chat/usage").json()["cost_usd"] > 0
    names = {metric.name for metric in emitted(log_lines(second_stack.logs))}
    assert {"FallbackUsed", "BreakerOpened"} <= names
