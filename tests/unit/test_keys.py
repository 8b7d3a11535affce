"""The authorizer of the OpenAI API accepts API keys and tokens of the stack's issuer, and nothing else."""

import importlib
import json
import sys
import time
from types import ModuleType
from typing import Any

import openai
import pytest

from development import cfn
from local.issuer import Issuer
from operations import __main__ as operations
from operations import keys
from operations.forget import forget
from operations.stack import Stack
from tests.payloads import Context
from tests.unit.conftest import Account, Clock, Printed, Wire, refusing
from tests.unit.openai_client import client
from tests.unit.test_limits import SetLimits, set_limits

__all__ = ["set_limits"]

AUDIENCE = "turnqueue-test"


@pytest.fixture
def authorizer(account: Account, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = importlib.import_module("authorizer")
    monkeypatch.setattr(module.callers, "_tokens", module.Tokens(issuer.url, AUDIENCE))
    return module


def asked(authorizer: ModuleType, authorization: str | None) -> Any:
    """What the authorizer answers to API Gateway."""
    headers = {} if authorization is None else {"authorization": authorization}
    event = {"version": "2.0", "type": "REQUEST", "headers": headers, "requestContext": {"http": {"method": "GET"}}}
    return json.loads(json.dumps(authorizer.handler(event, Context(10.0))))


def claims(authorizer: ModuleType, secret: str) -> Any:
    """The claims about the owner of a key or token. None if the authorizer refuses the key or token."""
    answer = asked(authorizer, f"Bearer {secret}")
    assert answer["isAuthorized"] is bool(answer["context"])
    return answer["context"] or None


# ---- Keys


def test_a_key_puts_its_owner_in_a_group(stack: Stack, authorizer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorizer.callers, "_group_claim", "plan")

    assert claims(authorizer, keys.create(stack, "alice", group="pro").key) == {"sub": "alice", "plan": "pro"}


def test_what_is_no_key_is_refused(stack: Stack, authorizer: ModuleType) -> None:
    key = keys.create(stack, "alice").key

    for wrong in (key[:-1], key + "x", "tq_", "tq_" + "A" * 43, key.upper(), "", "x", "a.b.c"):
        assert claims(authorizer, wrong) is None
    for header in (None, "", key, f"Basic {key}", f"Bearer {key},Bearer {key}", "Bearer"):
        assert asked(authorizer, header) == {"isAuthorized": False, "context": {}}


def test_a_revoked_key_and_an_expired_one_are_refused(stack: Stack, authorizer: ModuleType, clock: Clock) -> None:
    revoked, brief = keys.create(stack, "alice"), keys.create(stack, "alice", seconds=60)
    other = keys.create(stack, "bob")

    keys.revoke(stack, revoked.key_id)
    clock.forward(61)

    assert claims(authorizer, revoked.key) is claims(authorizer, brief.key) is None
    assert claims(authorizer, other.key) == {"sub": "bob"}
    assert [key.key_id for key in keys.listed(stack)] == [other.key_id]
    with pytest.raises(keys.NoSuchKey):
        keys.revoke(stack, revoked.key_id)


def test_the_table_holds_no_key(account: Account, stack: Stack) -> None:
    made = keys.create(stack, "alice", label="laptop")

    (item,) = account.items("GuardsTable")

    assert made.key.removeprefix("tq_") not in json.dumps(item)
    assert item["guard"]["S"].startswith(f"api-key#{made.key_id}")


def test_a_forgotten_owners_keys_go(account: Account, stack: Stack, authorizer: ModuleType) -> None:
    hers, his = keys.create(stack, "alice"), keys.create(stack, "bob")

    forget(stack, "alice")

    assert claims(authorizer, hers.key) is None
    assert claims(authorizer, his.key) == {"sub": "bob"}


def test_the_command_shows_a_key_once(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(operations, "Stack", lambda name, region: stack)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["operations", "keys", *arguments, "--stack", "turnqueue"])
        assert operations.main() == 0
        return capsys.readouterr().out

    created = run("create", "--owner", "alice", "--label", "laptop", "--for", "90d")
    key_id, key = (line.split()[1] for line in created.splitlines()[:2])
    listed = run("list")
    assert key_id in listed and "laptop" in listed and key not in listed
    assert "revoked" in run("revoke", key_id)
    assert run("list") == ""


# ---- Tokens


@pytest.mark.parametrize("audience", [{"aud": ["x", AUDIENCE]}, {"client_id": AUDIENCE}], ids=["id", "Cognito"])
def test_a_token_of_the_issuer_is_its_subjects(
    authorizer: ModuleType, issuer: Issuer, audience: dict[str, Any]
) -> None:
    token = issuer.signed({"sub": "alice", "exp": time.time() + 60, "cognito:groups": ["a", "b"], **audience})

    found = claims(authorizer, token)

    assert (found["sub"], found["cognito:groups"]) == ("alice", "[a b]")


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "another"},
        {"aud": []},
        {"iss": "https://another.example"},
        *({"exp": end} for end in (1, None)),
        {"nbf": 9_999_999_999},
        *({"sub": subject} for subject in (None, "", "a" * 256)),
    ],
)
def test_a_token_that_is_not_for_us_is_refused(authorizer: ModuleType, issuer: Issuer, change: dict[str, Any]) -> None:
    good = {"sub": "alice", "aud": AUDIENCE, "exp": int(time.time()) + 60}
    token = {name: value for name, value in (good | change).items() if value is not None}

    assert claims(authorizer, issuer.signed(good)) is not None
    assert claims(authorizer, issuer.signed(token)) is None


def test_a_forged_token_is_refused(authorizer: ModuleType, issuer: Issuer) -> None:
    jwt: Any = importlib.import_module("jwt")
    good = {"iss": issuer.url, "sub": "alice", "aud": AUDIENCE, "exp": int(time.time()) + 60}
    head, body, signature = issuer.signed(good).split(".")
    kid = {"kid": jwt.get_unverified_header(f"{head}.{body}.{signature}")["kid"]}
    other = Issuer()

    for forged in (
        f"{head}.{body}.{signature[:-4]}AAAA",
        f"{head}.{body}.",
        jwt.encode(good, None, algorithm="none", headers=kid),
        jwt.encode(good, "a secret that is long enough for it.", algorithm="HS256", headers=kid),
        other.signed(good),
    ):
        assert claims(authorizer, forged) is None
    other.close()


def test_an_issuer_that_is_down_is_no_refusal(account: Account, issuer: Issuer) -> None:
    """API Gateway answers 500 then, which clients try again, and caches nothing."""
    tokens = importlib.import_module("turnqueue.callers").Tokens("http://127.0.0.1:9", AUDIENCE)

    with pytest.raises(OSError):
        tokens.claims(issuer.token("alice", AUDIENCE))


# ---- With the API


def test_two_keys_are_two_owners(stack: Stack, account: Account, authorizer: ModuleType, clock: Clock) -> None:
    clock.meanwhile = account.work
    hers, his = (
        client(account, authorizer=authorizer, api_key=keys.create(stack, owner).key) for owner in ("alice", "bob")
    )
    answer = hers.responses.create(model="general", input="a secret")

    assert answer.output_text == '[stand-in model] You said "a secret".'
    with pytest.raises(openai.NotFoundError):
        his.responses.retrieve(answer.id)
    assert account.task(answer.id.removeprefix("resp_"))["status"] == "SUCCESS"  # with alice's token
    with pytest.raises(openai.PermissionDeniedError):
        client(account, authorizer=authorizer, api_key="tq_" + "A" * 43).responses.retrieve(answer.id)


def test_an_owner_has_the_same_limits_by_key_and_by_token(
    stack: Stack, account: Account, authorizer: ModuleType, set_limits: SetLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_limits("default:1/2,pro:1/3", "plan")
    monkeypatch.setattr(authorizer.callers, "_group_claim", "plan")
    account.post({"message": "x"}, query={"async_mode": "true"})
    by_key = client(account, authorizer=authorizer, api_key=keys.create(stack, "alice").key)
    by_key.responses.create(model="general", input="x", background=True)

    with pytest.raises(openai.RateLimitError) as refused:
        by_key.responses.create(model="general", input="x", background=True)

    assert int(refused.value.response.headers["retry-after-ms"]) >= 1000
    pro = client(account, authorizer=authorizer, api_key=keys.create(stack, "alice", group="pro").key)
    pro.responses.create(model="general", input="x", background=True)


def test_no_secret_and_no_owner_is_printed(
    stack: Stack, authorizer: ModuleType, issuer: Issuer, wire: Wire, printed: Printed
) -> None:
    key, token = keys.create(stack, "a-private-owner").key, issuer.token("a-private-owner", AUDIENCE)
    for secret in (key, token, "tq_wrong-secret"):
        claims(authorizer, secret)
    wire.before("GetItem", refusing(), times=2)
    with pytest.raises(Exception, match="InternalServerError"):
        claims(authorizer, key)

    for private in (key, token, "wrong-secret", "a-private-owner"):
        assert private not in printed.everything


def test_its_role_lets_it_read_one_table(stack: Stack, authorizer: ModuleType, wire: Wire) -> None:
    key = keys.create(stack, "alice").key
    wire.calls.clear()

    claims(authorizer, key)

    assert [(call.operation, call.params["TableName"]) for call in wire.calls] == [("GetItem", "GuardsTable")]
    allowed = cfn.permissions(cfn.role("AuthorizerFunction"))
    assert {each for each in allowed if not each[0].startswith("logs:")} == {("dynamodb:GetItem", "GuardsTable")}
