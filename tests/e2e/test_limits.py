"""Limits by a claim of the token, and the usage of an owner, on the deployed stack."""

import time
import uuid

import httpx

from local.stack import AUDIENCE, LocalStack
from tests.e2e.conftest import Api, Deployment


def test_a_group_with_little_is_told_when_there_is_more(deployment: Deployment, stack: LocalStack) -> None:
    owner = f"owner-{uuid.uuid4()}"
    claims = {"sub": owner, "aud": AUDIENCE, "exp": int(time.time()) + 600, "plan": "scarce"}
    api = Api(deployment.url, stack.issuer.signed(claims))  # a message a second, two at once
    with api.http:
        answers = [api.chat("hello", query="?async_mode=true") for _ in range(6)]

        accepted = [answer for answer in answers if answer.status_code == 202]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(accepted) + len(refused) == 6
        assert len(accepted) >= 2
        assert refused
        assert refused[0].headers["RateLimit-Policy"] == '"messages";q=2;w=2'
        assert refused[0].headers["Retry-After"] == "1"
        assert refused[0].json()["code"] == "rate_limited"
        for answer in accepted:
            assert api.finished(answer.json()["task_id"])["status"] == "SUCCESS"
        assert usage(api) == len(accepted)


def test_everybody_else_is_told_of_the_common_limit(alice: Api) -> None:
    answer = alice.chat("hello", query="?async_mode=true")

    assert answer.headers["RateLimit-Policy"].startswith('"tokens";q=1000000000;qu="tokens";w=86400, "messages";q=1000')
    assert "RateLimit" in answer.headers


def usage(api: Api) -> int:
    response: httpx.Response = api.http.get("/chat/usage")
    assert response.status_code == 200, response.text
    answers: int = response.json()["answers"]
    return answers
