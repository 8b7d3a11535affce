"""The OpenAI API of the deployed stack, through OpenAI's own client with an API key."""

import time
from collections.abc import Iterator

import httpx2
import openai
import pytest

from local.deploy import STACK_NAME
from local.stack import LocalStack
from tests.e2e.conftest import Api
from tests.e2e.test_operations import operate


@pytest.fixture(scope="module")
def client(stack: LocalStack) -> Iterator[openai.OpenAI]:
    made = operate(stack, "keys", "create", "--owner", "alice", "--label", "e2e", "--stack", STACK_NAME)
    assert made.returncode == 0, made.stderr
    key = made.stdout.split()[3]
    with httpx2.Client(trust_env=False, timeout=40) as http:
        yield openai.OpenAI(
            base_url=f"{stack.api_url}/v1", api_key=key, http_client=http, _strict_response_validation=True
        )


def until_final(client: openai.OpenAI, response_id: str) -> openai.types.responses.Response:
    end = time.monotonic() + 30
    while (response := client.responses.retrieve(response_id)).status in ("queued", "in_progress"):
        assert time.monotonic() < end, "the response is not final"
        time.sleep(0.2)
    return response


def test_a_background_response_is_polled_to_its_end_and_in_the_console(client: openai.OpenAI, alice: Api) -> None:
    created = client.responses.create(model="general", input="hello", background=True)

    final = until_final(client, created.id)

    assert (final.status, final.output_text) == ("completed", '[stand-in model] You said "hello".')
    assert alice.task(created.id.removeprefix("resp_"))["result"]["message"] == final.output_text


def test_a_conversation_in_the_foreground(client: openai.OpenAI) -> None:
    first = client.responses.create(model="general", input="one")
    second = client.responses.create(model="general", input="two", previous_response_id=first.id)

    assert second.output_text.endswith('you said: "one".')
    items = client.responses.input_items.list(second.id)
    assert [item.type for item in items] == ["message"]


def test_a_deleted_response_is_gone(client: openai.OpenAI) -> None:
    created = client.responses.create(model="general", input="hello")

    client.responses.delete(created.id)

    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(created.id)


def test_models_and_a_chat_completion(client: openai.OpenAI) -> None:
    assert "general" in [model.id for model in client.models.list()]
    said = client.chat.completions.create(model="general", messages=[{"role": "user", "content": "hello"}])
    assert said.choices[0].message.content == '[stand-in model] You said "hello".'


def test_a_token_of_the_issuer_opens_it_too(client: openai.OpenAI, alice: Api) -> None:
    token = alice.http.headers["authorization"].removeprefix("Bearer ")

    assert client.with_options(api_key=token).models.retrieve("general").id == "general"


def test_a_revoked_key_is_refused_within_a_minute(client: openai.OpenAI, stack: LocalStack) -> None:
    made = operate(stack, "keys", "create", "--owner", "alice", "--stack", STACK_NAME).stdout.split()
    key_id, key = made[1], made[3]
    operate(stack, "keys", "revoke", key_id, "--stack", STACK_NAME)

    with pytest.raises(openai.PermissionDeniedError):
        client.with_options(api_key=key).models.list()
