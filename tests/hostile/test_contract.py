"""Every route follows docs/openapi.yaml: it accepts valid requests, refuses invalid ones, and sends the described
responses."""

import copy
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import hypothesis
import jsonschema_rs
import openapi_spec_validator
import pytest
import schemathesis
import yaml
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from development import cfn
from tests.hostile.checks import EXAMPLES, examples, orderly, proper
from tests.hostile.gateway import Answer, Gateway, routes, token
from tests.unit.conftest import Account, Clock, StandIn, Wire, refusing
from turnqueue.errors import REFUSALS
from turnqueue.events import Growing
from turnqueue.turn import FAILURES, Key, Status

type Json = dict[str, Any]

DOCUMENT: Json = yaml.load((cfn.ROOT / "docs" / "openapi.yaml").read_text(), Loader=yaml.CSafeLoader)
ALICE = {"sub": "alice"}
TOKEN = {"Authorization": token(ALICE)}


def closed(document: Json) -> Json:
    """The document with no members allowed but those it names. A client must bear more; we must not send more."""
    document = copy.deepcopy(document)
    for schema in document["components"]["schemas"].values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    return document


CLOSED = closed(DOCUMENT)


# ---- The document


def test_the_document_is_up_to_date() -> None:
    command = [sys.executable, "-m", "development.openapi", "--check"]
    checked = subprocess.run(command, cwd=cfn.ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, f"run `python -m development.openapi`\n{checked.stdout}{checked.stderr}"


def test_the_document_is_openapi() -> None:
    openapi_spec_validator.validate(DOCUMENT)


def test_the_document_has_every_route_and_no_other() -> None:
    operations = {
        (f"{method.upper()} {path}", bool(operation["security"]))
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    }
    unlisted = {("$default", True), ("OPTIONS /{proxy+}", False)}
    # OpenAI describes its API itself.
    ours = {(route.key, route.authorization != "NONE") for route in routes() if " /v1/" not in route.key}
    assert operations == ours - unlisted


def schemas_within(schema: Any) -> Iterator[Json]:
    """The schema and all that it is made of."""
    if isinstance(schema, list):
        for each in schema:
            yield from schemas_within(each)
    if isinstance(schema, dict):
        yield schema
        for each in schema.values():
            yield from schemas_within(each)


SCHEMAS = list(schemas_within(DOCUMENT))


def test_every_pattern_is_valid_in_a_unicode_regular_expression() -> None:
    """Validators of JSON Schema set ECMAScript's flag `u`: only signs of the syntax may be escaped."""
    patterns = {schema["pattern"] for schema in SCHEMAS if isinstance(schema.get("pattern"), str)}
    assert len(patterns) > 5
    for pattern in patterns:
        escaped = set(re.findall(r"\\(.)", pattern))
        assert escaped <= set("^$\\.*+?()[]{}|/dDsSwW"), pattern


def test_no_member_has_a_default_or_is_always_null() -> None:
    """Generators take the first for a member that is always there, and crash on the second."""
    for schema in SCHEMAS:
        members = schema.get("properties", {})
        for name, member in members.items() if schema.get("type") == "object" else ():
            assert "default" not in member, name
            assert member.get("type") != "null", name


def test_every_problem_is_a_plain_reference() -> None:
    """With its codes beside it. A generator omits a response whose schema narrows a member of another."""
    problems = [each for each in DOCUMENT["components"]["responses"].values() if "x-codes" in each]
    assert len(problems) > 10
    for problem in problems:
        assert problem["x-codes"]
        schema = problem["content"]["application/problem+json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/ProblemDocument"}


def test_every_operation_has_a_tag_that_is_explained() -> None:
    tags = {tag["name"] for tag in DOCUMENT["tags"] if tag["description"]}
    used = [tag for methods in DOCUMENT["paths"].values() for each in methods.values() for tag in each["tags"]]
    assert set(used) == tags


def contents() -> Iterator[tuple[str, Json]]:
    """Where in the document a body is described, and its description."""
    for kind in ("requestBodies", "responses"):
        for name, described in DOCUMENT["components"][kind].items():
            for media_type, content in described.get("content", {}).items():
                yield f"{name} {media_type}", content


@pytest.mark.parametrize("content", [pytest.param(content, id=name) for name, content in contents()])
def test_the_examples_fit_their_schemas(content: Json) -> None:
    shown = [each["value"] for each in content.get("examples", {}).values()] or [content["example"]]
    for example in shown:
        check(content["schema"], example)


def check(schema: Json, document: Any) -> None:
    """Raises jsonschema_rs.ValidationError if the document does not fit a schema of the document."""
    jsonschema_rs.validate({**schema, "components": CLOSED["components"]}, document, validate_formats=True)


def test_the_code_raises_every_refusal_of_the_table_and_no_other() -> None:
    files = [*(cfn.ROOT / "functions").rglob("*.py"), *(cfn.ROOT / "layers").rglob("*.py")]
    raised = {code for file in files for code in re.findall(r'Problem\(\s*"(\w+)"', file.read_text())}

    assert raised - set(FAILURES) == set(REFUSALS) - set(FAILURES)


# ---- What it allows, and what it forbids

app = Gateway({}, orderly)
schema = schemathesis.openapi.from_dict(
    CLOSED,
    config=schemathesis.Config.from_dict(
        {
            "seed": 1,
            "headers": TOKEN,
            "generation": {"max-examples": EXAMPLES, "deterministic": True},
            # What has no route is answered by API Gateway, and not by us.
            "phases": {"coverage": {"unexpected-methods": []}},
        }
    ),
)
schema.app = app

BEYOND_A_SCHEMA = {
    "idempotency_key_reused",
    "request_too_large",
    "media_missing",
    "media_source",
    "deadline_too_long",
    "message_missing",
    "session_missing",
    "tool_missing",
    "tool_outputs_mismatch",
}
"""The codes of refusals of requests that fit the schema."""


@pytest.fixture(scope="module", autouse=True)
def account_behind_the_app(common_account: Account, common_clock: Clock) -> None:
    """With a worker that takes what is queued whenever a request waits."""
    app.functions = common_account.functions
    common_clock.meanwhile = common_account.work


@schema.parametrize()
def test_a_route_keeps_its_contract(case: schemathesis.Case[Any]) -> None:
    judge(case, case.call())


def test_a_client_that_follows_the_links_finds_what_they_promise() -> None:
    class Client(schema.as_state_machine()):  # type: ignore[misc]
        def validate_response(self, response: schemathesis.Response, case: schemathesis.Case[Any], **_: Any) -> None:
            judge(case, response)

    Client.run(settings=hypothesis.settings(examples(0.3), stateful_step_count=6))


def judge(case: schemathesis.Case[Any], response: schemathesis.Response) -> None:
    allowed = response.status_code in (400, 422) and codes(response.json()) <= BEYOND_A_SCHEMA
    excluded: list[schemathesis.CheckFunction] = [positive_data_acceptance] if allowed else []
    if response.status_code == 413:
        excluded.append(negative_data_rejection)  # a refusal, but not one of those that it knows
    operation = DOCUMENT["paths"][case.operation.path].get(case.method.lower(), {})
    if refused := operation.get("responses", {}).get(str(response.status_code)):
        check_code(described(refused), response.json() if response.status_code >= 400 else {})
    case.validate_response(response, excluded_checks=excluded, headers=TOKEN)


def codes(problem: Json) -> set[str]:
    """Why a request was refused: the problem's code, or those of its fields."""
    return {error["code"] for error in problem.get("errors", [])} or {problem["code"]}


def check_code(response: Json, document: Json) -> None:
    """Raises if a problem has another code than those of the response. API Gateway's own refusals have none."""
    assert "code" not in document or document["code"] in response["x-codes"]


def described(response: Json) -> Json:
    """A response of the document that an operation refers to."""
    found: Json = DOCUMENT["components"]["responses"][response["$ref"].rpartition("/")[2]]
    return found


# ---- What is answered in the life of a task


def check_answer(path: str, answer: Answer) -> None:
    """Raises if an answer of the operation at a path of the document is not as described there."""
    (operation,) = DOCUMENT["paths"][path].values()
    response = described(operation["responses"][str(answer.status)])
    check(response["content"][answer.headers["content-type"]]["schema"], answer.json)
    check_code(response, answer.json)
    for name, header in response.get("headers", {}).items():
        assert name.lower() in answer.headers or "required" not in header, name


def ask(account: Account, method: str, path: str, body: bytes = b"", **ids: str) -> Answer:
    headers = {"content-type": "application/json"}
    gateway = Gateway(account.functions, proper)
    answer = gateway.request(method, path.format(**ids), headers=headers, body=body, claims=ALICE)
    check_answer(path.partition("?")[0], answer)
    return answer


TASK, CANCEL, SESSION = "/chat/task/{task_id}", "/chat/task/{task_id}/cancel", "/chat/session/{session_id}"
RETRY = "/chat/task/{task_id}/retry"


@pytest.mark.parametrize("role", ["general", "booking"])
def test_every_state_of_a_task_is_told_as_described(account: Account, model: StandIn, role: str) -> None:
    body = json.dumps({"message": "I need a haircut", "role": role, "metadata": {"a": "b"}}).encode()
    ids = ask(account, "POST", "/chat?async_mode=true", body).json
    seen = [ask(account, "GET", TASK, **ids).json["status"]]
    key = Key(f"alice#{ids['session_id']}", ids["task_id"].rpartition(".")[2])
    store = account.functions["status"].store
    claimed = store.claim(key, time.time(), time.time() + 60)
    Growing(account.functions["status"].log, claimed).show("A hair", 0.5, time.time())
    seen.append(ask(account, "GET", TASK, **ids).json["status"])
    assert ask(account, "POST", CANCEL, **ids).status == 202
    store.fail_attempt(claimed, "cancelled", "A hair", time.time())
    seen.append(ask(account, "GET", TASK, **ids).json["error_code"])
    assert ask(account, "POST", CANCEL, **ids).status == 200

    again = ask(account, "POST", RETRY, **ids).json
    assert ask(account, "POST", RETRY, **again).status == 409
    account.work()
    seen.append(ask(account, "GET", TASK, **again).json["status"])
    assert seen == ["PENDING", "STARTED", "cancelled", "SUCCESS"]
    for each in (ids, again):
        assert ask(account, "GET", SESSION, **each).json["turns"]


def test_a_day_that_cannot_be_read_is_told_as_described(account: Account, wire: Wire) -> None:
    wire.before("GetItem", refusing())
    assert ask(account, "GET", "/chat/usage").status == 503


def test_a_waiting_request_is_answered_as_described(account: Account, clock: Clock) -> None:
    clock.meanwhile = account.work
    assert ask(account, "POST", "/chat", b'{"message": "I need a haircut", "role": "booking"}').status == 200


@pytest.mark.parametrize("code", FAILURES)
def test_a_waiting_request_is_told_of_a_failed_task_as_described(account: Account, clock: Clock, code: str) -> None:
    """Whatever the task failed with, and however it came to that."""

    def fail() -> None:
        (record,) = account.receive()
        key = {name: {"S": value} for name, value in json.loads(record["body"]).items()}
        values = {"status": Status.FAILURE, "error": FAILURES[code].text, "error_code": code}
        account.dynamodb.update_item(
            TableName="TurnsTable",
            Key=key,
            UpdateExpression="SET #status = :status, #error = :error, #error_code = :error_code",
            ExpressionAttributeNames={f"#{name}": name for name in values},
            ExpressionAttributeValues={f":{name}": {"S": str(value)} for name, value in values.items()},
        )

    clock.meanwhile = fail
    answer = ask(account, "POST", "/chat", b'{"message": "hello"}')
    assert (answer.status, answer.json["code"]) == (FAILURES[code].http_status, code)
