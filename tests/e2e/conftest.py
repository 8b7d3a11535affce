"""The deployed stack for the tests: in the emulated account of this machine, or in a real one.

For a real one set API_URL, and API_TOKEN_ALICE and API_TOKEN_BOB to tokens of two owners.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from local import model_server
from local.stack import AUDIENCE, LocalStack, Model
from tests.e2e.pages import commands, token_of
from tests.stand_in import StandIn

PARAMETERS = {
    "OwnerLimits": "default:60000/1000/1000000000,scarce:60/2",
    "LimitGroupClaim": "plan",
    "ModelPrices": "gpt-4.1-mini:0.4/1.6",
    "CacheSeconds": "600",
}
"""The first limit is never reached; the second is that of a token whose claim `plan` is `scarce`."""

FINAL = ("SUCCESS", "FAILURE")


class Api:
    """The API as one owner calls it."""

    def __init__(self, url: str, token: str | None, refusals: list[str] | None = None) -> None:
        """What is refused, and how, is added to `refusals`."""

        def note(response: httpx.Response) -> None:
            if refusals is not None and response.is_error:
                refusals.append(f"{response.read().decode()} {response.headers}")

        # Each message is the model's to answer, but where a test says otherwise.
        headers = {"Cache-Control": "no-store"} | ({"Authorization": f"Bearer {token}"} if token else {})
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
        hooks = {"response": [note]}
        self.http = httpx.Client(
            base_url=url, headers=headers, timeout=40, limits=limits, trust_env=False, event_hooks=hooks
        )

    def chat(
        self, message: str, *, query: str = "", headers: dict[str, str] | None = None, **request: Any
    ) -> httpx.Response:
        return self.http.post(f"/chat/{query}", json={"message": message, **request}, headers=headers or {})

    def offer(self, content_type: str = "image/png") -> dict[str, Any]:
        """Ask for a form to upload an image by."""
        response = self.http.post("/chat/media", json={"type": "image", "content_type": content_type})
        assert response.status_code == 201, response.text
        offered: dict[str, Any] = response.json()
        return offered

    def upload(self, content: bytes, content_type: str = "image/png") -> dict[str, str]:
        """Upload an image. Returns it as a message names it."""
        offered = self.offer(content_type)
        response = post_form(offered, content)
        assert response.status_code == 204, response.text
        return {"type": "image", "upload_id": offered["upload_id"]}

    def submit(self, message: str, **request: Any) -> str:
        """Submit asynchronously. Returns the task id."""
        response = self.chat(message, query="?async_mode=true", **request)
        assert response.status_code == 202, response.text
        task_id: str = response.json()["task_id"]
        return task_id

    def task(self, task_id: str, wait: int = 0) -> dict[str, Any]:
        response = self.http.get(f"/chat/task/{task_id}", params={"wait": wait} if wait else {})
        assert response.status_code == 200, response.text
        task: dict[str, Any] = response.json()
        return task

    def until(self, task_id: str, wanted: Callable[[dict[str, Any]], bool], seconds: float = 60) -> dict[str, Any]:
        """Poll, at a client's pace, until the task is as wanted. Fails the test after `seconds`."""
        end = time.monotonic() + seconds
        while not wanted(task := self.task(task_id)):
            assert time.monotonic() < end, f"the task is still {task}"
            time.sleep(0.1)
        return task

    def watched(self, task_id: str) -> list[dict[str, Any]]:
        """The task as it was seen at each look, up to its end."""
        seen: list[dict[str, Any]] = []

        def note(task: dict[str, Any]) -> bool:
            seen.append(task)
            return task["status"] in FINAL

        self.until(task_id, note)
        return seen

    def until_used(self, answers: int, seconds: float = 30) -> None:
        """Wait until so many answers are counted today: each is a moment after its task is final."""
        end = time.monotonic() + seconds
        while (used := self.http.get("/chat/usage").json()["answers"]) != answers:
            assert time.monotonic() < end, f"{used} answers are counted, and not {answers}"
            time.sleep(0.1)

    def finished(self, task_id: str, seconds: float = 60) -> dict[str, Any]:
        return self.until(task_id, lambda task: task["status"] in FINAL, seconds)


def post_form(offered: dict[str, Any], content: bytes, **fields: str) -> httpx.Response:
    """Post a file by a form that the API offered, with other `fields` than those that were signed if so wanted."""
    return httpx.post(
        offered["url"], data=offered["fields"] | fields, files={"file": ("file", content)}, timeout=40, trust_env=False
    )


@dataclass
class Deployment:
    """`stack` is None for a real account, where there is no model to ask and no process to kill. `refusals` are the
    errors of the whole run, headers too."""

    url: str
    tokens: dict[str, str]
    stack: LocalStack | None
    refusals: list[str] = field(default_factory=list)

    @contextmanager
    def api(self, owner: str | None) -> Iterator[Api]:
        api = Api(self.url, self.tokens[owner] if owner else None, self.refusals)
        with api.http:
            yield api


@pytest.fixture(scope="session")
def deployment() -> Iterator[Deployment]:
    if url := os.environ.get("API_URL"):
        yield Deployment(url, {owner: os.environ[f"API_TOKEN_{owner.upper()}"] for owner in ("alice", "bob")}, None)
        return
    with LocalStack(record=True, watch=True, parameters=PARAMETERS) as stack:
        tokens = {owner: stack.token(owner) for owner in ("alice", "bob")}
        yield Deployment(stack.api_url, tokens, stack)


@pytest.fixture(scope="session")
def alice(deployment: Deployment) -> Iterator[Api]:
    with deployment.api("alice") as api:
        yield api


@pytest.fixture(scope="session")
def bob(deployment: Deployment) -> Iterator[Api]:
    with deployment.api("bob") as api:
        yield api


@pytest.fixture(scope="module")
def scarce(deployment: Deployment, stack: LocalStack) -> Iterator[Api]:
    """Somebody new, of the group that may send a message a second, two at once."""
    claims = {"sub": f"owner-{uuid.uuid4()}", "aud": AUDIENCE, "exp": int(time.time()) + 600, "plan": "scarce"}
    api = Api(deployment.url, stack.issuer.signed(claims), deployment.refusals)
    with api.http:
        yield api


@pytest.fixture(scope="session")
def nobody(deployment: Deployment) -> Iterator[Api]:
    with deployment.api(None) as api:
        yield api


@pytest.fixture(scope="session")
def stack(deployment: Deployment) -> LocalStack:
    """The emulated account, for tests that look behind the API."""
    if deployment.stack is None:
        pytest.skip("needs the emulated account: API_URL is set")
    return deployment.stack


@pytest.fixture(scope="session")
def second_stack() -> Iterator[LocalStack]:
    """A stack with all that the first lacks: a user pool in place of an issuer, a key of the deployer, and a fallback
    model that takes only its own key."""
    key = "arn:aws:kms:us-east-1:000000000000:key/11111111-2222-3333-4444-555555555555"
    parameters = PARAMETERS | {"JwtIssuer": "", "JwtAudience": "", "KmsKeyArn": key}
    parameters["ModelPrices"] += ",second:1/2"
    with model_server.serve() as url:
        StandIn(url).only_key("sk-second")
        fallback = Model(url, "sk-second", "second", stand_in=True)
        with LocalStack(watch=True, parameters=parameters, fallback=fallback) as stack:
            yield stack


@pytest.fixture(scope="session")
def pool_token(second_stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A token of the second stack's user pool, by the commands of docs/tokens.md."""
    return token_of(commands(0), tmp_path_factory.mktemp("aws"), second_stack.emulator.account.variables())


def until_idle(stack: LocalStack) -> None:
    """Wait until no worker runs. The next turn then goes to the worker that ended last."""
    end = time.monotonic() + 30
    while stack.host.running(stack.functions["WorkerFunction"].name):
        assert time.monotonic() < end, "the worker has not come to its end"
        time.sleep(0.05)


@contextmanager
def worker_stopped(stack: LocalStack) -> Iterator[None]:
    """The queue keeps its messages meanwhile."""
    source = stack.event_sources["WorkerFunction"]
    source.stop(drain=True)
    try:
        yield
    finally:
        source.start()
