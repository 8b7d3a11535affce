"""Limits by a claim of the token, and the usage of an owner, on the deployed stack."""

from tests.e2e.conftest import Api


def test_a_group_with_little_is_told_when_there_is_more(scarce: Api) -> None:
    answers = [scarce.chat("hello", query="?async_mode=true") for _ in range(6)]

    accepted = [answer for answer in answers if answer.status_code == 202]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(accepted) + len(refused) == 6
    assert len(accepted) >= 2
    assert refused
    assert refused[0].headers["RateLimit-Policy"] == '"messages";q=2;w=2'
    assert refused[0].headers["Retry-After"] == "1"
    assert refused[0].json()["code"] == "rate_limited"
    for answer in accepted:
        assert scarce.finished(answer.json()["task_id"])["status"] == "SUCCESS"
    scarce.until_used(len(accepted))
