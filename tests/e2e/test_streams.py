"""Streams as one long response, by the URL of the deployed function."""

import time
from collections.abc import Iterator

import httpx
import httpx2
import openai
import pytest

from local.stack import LocalStack
from tests.e2e.conftest import Api, Deployment

pytestmark = pytest.mark.timeout(240)  # the start of the stack, if this file runs first

SLOW = "[[drip=0.2 tokens=15]] hello"
"""An answer of 3 s."""


@pytest.fixture
def client(deployment: Deployment, stack: LocalStack) -> Iterator[openai.OpenAI]:
    with httpx2.Client(trust_env=False, timeout=60) as http:
        url, token = f"{stack.stream_url}/v1", deployment.tokens["alice"]
        yield openai.OpenAI(
            base_url=url, api_key=token, http_client=http, max_retries=0, _strict_response_validation=True
        )


def test_a_response_comes_while_the_model_writes(client: openai.OpenAI) -> None:
    came: list[float] = []
    with client.responses.stream(model="general", input=SLOW) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                came.append(time.monotonic())
        final = stream.get_final_response()

    assert len(came) > 2
    assert came[-1] - came[0] > 1  # the text of 3 s grows, however slow this machine is
    assert client.responses.retrieve(final.id).output_text == final.output_text


def test_a_chat_completion_comes_while_the_model_writes(client: openai.OpenAI) -> None:
    said: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": SLOW}]

    chunks = list(client.chat.completions.create(model="general", messages=said, stream=True))

    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert len(texts) > 2 and "".join(texts).startswith("[stand-in model]")
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_stream_that_is_cut_goes_on_where_it_was(client: openai.OpenAI) -> None:
    seen = []
    with client.responses.create(model="general", input=SLOW, background=True, stream=True) as stream:
        for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
    response_id = seen[0].response.id  # type: ignore[union-attr]

    with client.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number) as rest:
        seen += rest

    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    with client.responses.retrieve(response_id, stream=True) as again:
        assert list(again) == seen


def test_the_events_of_a_task_come_in_one_response(stack: LocalStack, alice: Api) -> None:
    task_id = alice.submit(SLOW, stream=True)

    answer = alice.http.get(f"{stack.stream_url}/chat/task/{task_id}/events", headers={"Accept": "text/event-stream"})

    kinds = [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]
    assert (kinds[0], kinds[-1]) == ("snapshot", "done") and kinds.count("delta") > 2
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_a_page_may_call_it_as_it_may_the_api(stack: LocalStack) -> None:
    asked = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }

    allowed = httpx.options(f"{stack.stream_url}/v1/responses", headers=asked, trust_env=False).headers

    assert allowed["access-control-allow-origin"] == "*"
    assert "POST" in allowed["access-control-allow-methods"]
    assert set(asked["Access-Control-Request-Headers"].split(",")) <= set(
        allowed["access-control-allow-headers"].split(",")
    )
    refused = httpx.get(f"{stack.stream_url}/v1/models", headers={"Origin": asked["Origin"]}, trust_env=False)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")
