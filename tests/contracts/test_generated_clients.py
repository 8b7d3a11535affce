"""Generators that do not know Turnqueue make clients from docs/openapi.yaml, and one of the clients chats."""

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml

from development.cfn import ROOT
from tests.hostile.checks import orderly
from tests.hostile.gateway import Gateway, token
from tests.unit.conftest import Account, Clock

DOCUMENT = ROOT / "docs" / "openapi.yaml"


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """What the command writes. Fails with all of it if the command does."""
    ran = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=50, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


# ---- Python


@pytest.fixture(scope="module")
def python_client(openapi_tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which openapi-python-client has put the package `turnqueue`."""
    folder = tmp_path_factory.mktemp("client")
    config = folder / "config.yml"
    config.write_text("post_hooks: []\n")
    # fmt: off
    run(openapi_tools / "openapi-python-client", "generate", "--path", DOCUMENT, "--meta", "none", "--config", config,
        "--output-path", folder / "turnqueue", "--fail-on-warning")
    # fmt: on
    return folder


@pytest.fixture
def url(account: Account, clock: Clock) -> Iterator[str]:
    """The functions behind API Gateway's HTTP, with a worker that takes what is queued whenever a request waits."""
    clock.meanwhile = account.work
    server = uvicorn.Server(uvicorn.Config(Gateway(account.functions, orderly), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    ready = threading.Event()
    startup = server.startup

    async def started(*arguments: Any, **named: Any) -> None:
        await startup(*arguments, **named)
        ready.set()

    server.startup = started  # type: ignore[method-assign]
    thread.start()
    assert ready.wait(10)
    (socket,) = server.servers[0].sockets
    yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    server.should_exit = True
    thread.join()


CHAT = """
import json, sys
from turnqueue import AuthenticatedClient, Client
from turnqueue.api.conversations import get_session
from turnqueue.api.health import health
from turnqueue.api.messages import chat
from turnqueue.api.tasks import get_task
from turnqueue.models import Accepted, ChatRequest, ChatRequestRole, ChatResponse, Media
from turnqueue.models import ProblemDocument, SessionPage, TaskStatus

url, token = sys.argv[1:]
roles = health.sync(client=Client(url)).roles
with AuthenticatedClient(url, token, raise_on_unexpected_status=True) as client:
    answer = chat.sync(client=client, body=ChatRequest("I need a haircut", role=ChatRequestRole.BOOKING))
    assert isinstance(answer, ChatResponse), answer
    accepted = chat.sync(client=client, body=ChatRequest("Hello", session_id="s"), async_mode=True, idempotency_key="k")
    assert isinstance(accepted, Accepted), accepted
    task = get_task.sync(accepted.task_id, client=client, wait=20)
    assert isinstance(task, TaskStatus) and isinstance(task.result, ChatResponse), task
    page = get_session.sync("s", client=client)
    assert isinstance(page, SessionPage), page
    image = Media("image", url="https://example.com/a.png", upload_id="01M81JBBEJSNKKCARCWATXHY0A")
    refused = [
        chat.sync(client=client, body=ChatRequest("")),
        chat.sync(client=client, body=ChatRequest("Look", media=[image])),
        get_task.sync("nothing.01M81JBBEJSNKKCARCWATXHY0A", client=client),
    ]
    assert all(isinstance(problem, ProblemDocument) for problem in refused), refused
print(json.dumps({
    "roles": roles, "answer": answer.message, "draft": answer.draft.to_dict(), "task": task.result.message,
    "messages": [turn.message for turn in page.turns], "refused": [problem.code for problem in refused],
}))
"""


@pytest.mark.usefixtures("model")
def test_the_client_of_openapi_python_client_chats(openapi_tools: Path, python_client: Path, url: str) -> None:
    bearer = token({"sub": "alice"}).removeprefix("Bearer ")
    said = json.loads(run(openapi_tools / "python", "-W", "error", "-c", CHAT, url, bearer, cwd=python_client))
    assert said["roles"] == ["booking", "general"]
    assert 'You said "I need a haircut"' in said["answer"]
    assert said["draft"]["service"] == "haircut"
    assert 'You said "Hello"' in said["task"]
    assert said["messages"] == ["Hello"]
    assert said["refused"] == ["invalid_request", "invalid_request", "task_not_found"]


def test_the_client_of_openapi_python_client_has_every_response(python_client: Path) -> None:
    """One that it does not understand it leaves out."""
    for methods in yaml.load(DOCUMENT.read_text(), Loader=yaml.CSafeLoader)["paths"].values():
        for operation in methods.values():
            name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in operation["operationId"])
            module = python_client / "turnqueue" / "api" / operation["tags"][0].lower() / f"{name}.py"
            text = module.read_text()
            for status in operation["responses"]:
                assert f"response.status_code == {status}" in text, f"{name} {status}"


PARSE = """
import sys, yaml
import models

document = yaml.safe_load(open(sys.argv[1]))
count = 0
for kind in ("requestBodies", "responses"):
    for described in document["components"][kind].values():
        for media_type, content in described.get("content", {}).items():
            if media_type == "text/event-stream":
                continue  # not a document
            model = getattr(models, content["schema"]["$ref"].rpartition("/")[2])
            shown = [each["value"] for each in content.get("examples", {}).values()] or [content["example"]]
            for example in shown:
                again = model.model_validate(example).model_dump(mode="json", exclude_unset=True)
                assert again.keys() == example.keys(), model
                count += 1
print(count)
"""


def test_the_models_of_datamodel_codegen_read_every_example(openapi_tools: Path, tmp_path: Path) -> None:
    # fmt: off
    run(openapi_tools / "datamodel-codegen", "--input", DOCUMENT, "--input-file-type", "openapi",
        "--output-model-type", "pydantic_v2.BaseModel", "--formatters", "builtin", "--output", tmp_path / "models.py")
    # fmt: on
    assert int(run(openapi_tools / "python", "-W", "error", "-c", PARSE, DOCUMENT, cwd=tmp_path)) > 20


# ---- TypeScript

USE = """
import type { components, paths } from "./turnqueue";

type Schemas = components["schemas"];
const least: Schemas["ChatRequest"] = { message: "Hello" };
const image: Schemas["Media"] = { type: "image", url: "https://example.com/a.png" };
const nulls: Schemas["ChatRequest"] = { message: "Hello", session_id: null, media: [image], metadata: null };
const results: Schemas["ChatRequest"] = { session_id: "s", tool_outputs: [{ call_id: "call_1", output: "4" }] };
// @ts-expect-error: a result names its call
const ofNoCall: Schemas["ChatRequest"] = { session_id: "s", tool_outputs: [{ output: "4" }] };
// @ts-expect-error: there is no such role
const oracle: Schemas["ChatRequest"] = { message: "Hello", role: "oracle" };
type Answers = paths["/chat"]["post"]["responses"];
const answer = (it: Answers[200]["content"]["application/json"]): string => it.message;
const problem = (it: Answers[422]["content"]["application/problem+json"]): string => it.detail;
// @ts-expect-error: one path for one thing
type Slash = paths["/chat/"];
export { answer, least, nulls, ofNoCall, oracle, problem, results, type Slash };
"""


def test_the_types_of_openapi_typescript_say_what_may_be_sent(node_tools: Path, tmp_path: Path) -> None:
    run(node_tools / "openapi-typescript", DOCUMENT, "--output", tmp_path / "turnqueue.d.ts")
    (tmp_path / "use.ts").write_text(USE)
    strict = ["--strict", "--exactOptionalPropertyTypes", "--skipLibCheck", "--noEmit", "--module", "nodenext"]
    run(node_tools / "tsc", *strict, "use.ts", cwd=tmp_path)


# ---- Lint


def test_redocly_finds_nothing(node_tools: Path) -> None:
    # Turned off: nothing refuses a request of /health, and the API has no licence.
    off = ["operation-4xx-response", "info-license"]
    skipped = [argument for rule in off for argument in ("--skip-rule", rule)]
    found = run(node_tools / "redocly", "lint", "--format", "json", *skipped, DOCUMENT)
    assert json.loads(found)["totals"] == {"errors": 0, "warnings": 0, "ignored": 0}, found
