"""Each route refuses bad tokens, and no owner reaches another owner's data."""

import base64
import hashlib
import hmac
import json
import socket
import time
import uuid
from collections.abc import Callable

import httpx
import pytest

from development import cfn
from local.issuer import Issuer
from local.stack import AUDIENCE, LocalStack
from tests.e2e.conftest import Api, Deployment

UNKNOWN_TASK = "nothing.01KANEC0X00000000000000000"
ROUTES = [
    ("POST /chat", "/chat"),
    ("$default", "/chat/"),
    ("POST /chat/media", "/chat/media"),
    ("GET /chat/task/{task_id}", f"/chat/task/{UNKNOWN_TASK}"),
    ("GET /chat/task/{task_id}/events", f"/chat/task/{UNKNOWN_TASK}/events"),
    ("POST /chat/task/{task_id}/cancel", f"/chat/task/{UNKNOWN_TASK}/cancel"),
    ("POST /chat/task/{task_id}/retry", f"/chat/task/{UNKNOWN_TASK}/retry"),
    ("GET /chat/session/{session_id}", "/chat/session/nothing"),
    ("GET /chat/usage", "/chat/usage"),
    ("POST /v1/{proxy+}", "/v1/responses"),
    ("GET /v1/{proxy+}", "/v1/models"),
    ("DELETE /v1/{proxy+}", f"/v1/responses/resp_{UNKNOWN_TASK}"),
]


def test_no_route_is_left_out_here() -> None:
    routes = {route["RouteKey"] for route in cfn.resources("AWS::ApiGatewayV2::Route").values()}
    assert routes == {key for key, _ in ROUTES} | {"GET /health", "HEAD /health", "OPTIONS /{proxy+}"}


def call(http: httpx.Client, key: str, path: str, token: str | None) -> int:
    method = "POST" if key == "$default" else key.split()[0]
    headers = {"Authorization": f"Bearer {token}"} if token else {"Authorization": ""}
    media = {"type": "image", "content_type": "image/png"}
    body = (media if path == "/chat/media" else {"message": "let me in"}) if method == "POST" else None
    return http.request(method, path, json=body, headers=headers).status_code


@pytest.mark.parametrize("path", [*(path for _, path in ROUTES), "/health"])
def test_a_browser_may_ask_before_a_request_without_a_token(deployment: Deployment, path: str) -> None:
    """API Gateway answers it, or hands it to the function; either is a success with the headers of CORS."""
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    answer = httpx.options(f"{deployment.url}{path}", headers=asked, trust_env=False)

    assert answer.status_code in (200, 204)
    assert answer.headers["access-control-allow-origin"] in ("*", "https://app.example")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/chat/"), ("POST", "/chat/media/"), ("DELETE", "/chat"), ("GET", "/")]
)
def test_a_path_that_is_not_there_is_a_404_for_an_owner(
    deployment: Deployment, alice: Api, method: str, path: str
) -> None:
    answer = alice.http.request(method, path)

    assert (answer.status_code, answer.json()["code"]) == (404, "no_such_route")
    assert answer.headers["content-type"] == "application/problem+json"
    assert httpx.request(method, f"{deployment.url}{path}", trust_env=False).status_code == 401


def encoded(document: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def unsigned(token: str) -> str:
    return f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{token.split('.')[1]}."


def signed_with_the_public_key(stack: LocalStack, token: str) -> str:
    """What a verifier takes that believes the token's own word on its algorithm."""
    [key] = httpx.get(f"{stack.issuer.url}/jwks.json", trust_env=False).json()["keys"]
    said = f"{encoded({'alg': 'HS256', 'typ': 'JWT', 'kid': key['kid']})}.{token.split('.')[1]}"
    signature = hmac.digest(json.dumps(key).encode(), said.encode(), hashlib.sha256)
    return f"{said}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def of_another_issuer(stack: LocalStack, token: str) -> str:
    """Of one that says that it is ours."""
    other = Issuer()
    forged = other.signed({"iss": stack.issuer.url, "sub": "alice", "aud": AUDIENCE, "exp": int(time.time()) + 3600})
    other.close()
    return forged


BAD_TOKENS: dict[str, Callable[[LocalStack, str], str | None]] = {
    "none": lambda stack, token: None,
    "nonsense": lambda stack, token: "nonsense",
    "expired": lambda stack, token: stack.token("alice", ttl=-60),
    "for another audience": lambda stack, token: stack.issuer.token("alice", "another"),
    "for nobody": lambda stack, token: stack.issuer.signed({"sub": "alice", "exp": int(time.time()) + 3600}),
    "of another issuer": of_another_issuer,
    "changed": lambda stack, token: ".".join([token.split(".")[0], encoded({"sub": "bob"}), token.split(".")[2]]),
    "unsigned": lambda stack, token: unsigned(token),
    "signed with the public key": signed_with_the_public_key,
    "without sub": lambda stack, token: stack.issuer.signed({"aud": AUDIENCE, "exp": int(time.time()) + 3600}),
    "with an empty sub": lambda stack, token: stack.issuer.token("", AUDIENCE),
    "with a sub of 256 characters": lambda stack, token: stack.issuer.token("a" * 256, AUDIENCE),
}


@pytest.mark.parametrize("why", BAD_TOKENS)
def test_a_bad_token_opens_no_route(deployment: Deployment, nobody: Api, stack: LocalStack, why: str) -> None:
    token = BAD_TOKENS[why](stack, deployment.tokens["alice"])

    answers = {key: call(nobody.http, key, path, token) for key, path in ROUTES}

    # A Lambda authorizer is not asked without a token, and says only yes or no: a no is a 403.
    by_us = 403 if token else 401
    assert answers == {key: by_us if " /v1/" in key else 401 for key, _ in ROUTES}


def test_a_good_token_opens_every_route(deployment: Deployment, nobody: Api) -> None:
    answers = [call(nobody.http, key, path, deployment.tokens["alice"]) for key, path in ROUTES]
    assert answers == [200, 200, 201, 404, 404, 404, 404, 404, 200, 400, 200, 404]


def test_another_owner_reaches_a_thing_by_no_route(alice: Api, bob: Api) -> None:
    """Everything that names a task, a session or a key of alice's, called by bob."""
    session, key = f"s-{uuid.uuid4().hex}", {"Idempotency-Key": str(uuid.uuid4())}
    request = {"session_id": session, "message": "alice's own words"}
    task_id = alice.chat(headers=key, **request).json()["task_id"]
    before = alice.http.get(f"/chat/session/{session}").json()
    turn = task_id.partition(".")[2]

    for path in (f"/chat/task/{task_id}", f"/chat/task/{task_id}?wait=1"):
        assert bob.http.get(path).status_code == 404
    for action in ("cancel", "retry"):
        assert bob.http.post(f"/chat/task/{task_id}/{action}").status_code == 404
    for query in ("", "?limit=1", f"?cursor={turn[:-1]}0"):
        page = bob.http.get(f"/chat/session/{session}{query}")
        assert "alice" not in page.text
        assert page.status_code == (200 if "cursor" in query else 404)  # a page behind a cursor may be empty

    joined = bob.chat(headers=key, **request)
    assert joined.status_code == 200
    assert "Idempotency-Replayed" not in joined.headers
    assert joined.json()["task_id"] != task_id
    asked = bob.chat("what was said before?", session_id=session).json()
    assert asked["message"].count("alice's own words") <= 1, "more than bob has said himself"
    assert alice.http.get(f"/chat/session/{session}").json() == before
    mine = {turn["task_id"] for turn in bob.http.get(f"/chat/session/{session}").json()["turns"]}
    assert mine == {joined.json()["task_id"], asked["task_id"]}
    for theirs in mine:
        assert alice.http.get(f"/chat/task/{theirs}").status_code == 404


def test_nobody_here_fetches_what_a_client_names(alice: Api, stack: LocalStack) -> None:
    """An address of our network in a message's media would be fetched with our rights. The model gets it as it is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        url = f"https://127.0.0.1:{port}/latest/meta-data"

        body = alice.chat("what is this?", media=[{"type": "image", "url": url}]).json()

        assert "1 image" in body["message"]
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
