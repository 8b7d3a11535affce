"""Prompts and answers are only in the turns table and the event log; keys are in neither."""

import ast
import json
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from tests.payloads import Context
from tests.unit import template_rules
from tests.unit.conftest import MODEL_KEY, Account, Clock, Parts, Printed, Response, Scripted, Wire, refusing
from turnqueue.queue import decode

PROMPT, ANSWER, PRIVATE = "Xyzzy-prompt", "Plugh-answer", "Frotz-private"
SECRETS = (PROMPT, ANSWER, PRIVATE, MODEL_KEY)
IMAGE = {"type": "image", "url": f"https://example.com/{PRIVATE}.png"}


@pytest.fixture
def clean(account: Account, printed: Printed, wire: Wire) -> Callable[..., None]:
    """Looks for the secrets in all that was written, and in refusals given to it."""

    def check(*refusals: Response) -> None:
        assert printed.documents, "nothing was written, so nothing is proved"
        places = {
            "the log, or the metrics": printed.everything,
            "the queue": json.dumps(wire.made("SendMessage", "ChangeMessageVisibilityBatch", "DeleteMessageBatch")),
            "the guards": json.dumps(account.items("GuardsTable")),
            "an error": json.dumps(refusals),
        }
        for place, text in places.items():
            for secret in SECRETS:
                assert secret not in text, f"{secret} is in {place}"
        assert all(refusal["statusCode"] >= 400 for refusal in refusals)

    return check


def request(message: str, **more: Any) -> dict[str, Any]:
    return {"message": f"{message} {PROMPT}", "media": [IMAGE], "metadata": {"k": PRIVATE}, **more}


def test_of_an_answered_chat(account: Account, clock: Clock, clean: Callable[..., None]) -> None:
    clock.meanwhile = account.work
    response = account.post(request(f"[[echo={ANSWER}]]"), headers={"Idempotency-Key": PRIVATE})
    assert response["json"]["message"] == ANSWER

    account.get(response["json"]["task_id"])
    account.session(response["json"]["session_id"])
    account.cancel(response["json"]["task_id"])

    clean()


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (f"[[{PRIVATE}=1]]", 502),  # Refused by the stand-in with a text that quotes the message, as OpenAI's do.
        ("[[status=400]]", 502),
        ("[[status=401]]", 502),
        ("[[refuse]]", 422),
        ("[[content_filter]]", 422),
        ("[[cut=3]]", 503),
        (f"[[echo={{{ANSWER}]]", 502),
        (f'[[echo={{"message": "{ANSWER}", "draft": "{ANSWER}"}}]]', 502),
        ("[[tokens=20000]]", 502),
        ("[[status=429]]", 202),  # it waits for its model
        ("[[status=500]]", 202),
    ],
)
def test_of_a_chat_that_fails_or_waits_for_its_model(
    account: Account, clock: Clock, clean: Callable[..., None], message: str, status: int
) -> None:
    clock.meanwhile = account.work

    response = account.post(request(message, role="booking"))

    assert response["statusCode"] == status
    clean(*([] if status == 202 else [response]))


def test_of_a_refused_request(account: Account, submit: ModuleType, clean: Callable[..., None]) -> None:
    account.post(request("first"), query={"async_mode": "true"}, headers={"Idempotency-Key": PRIVATE})
    refusals = [
        account.post(request("other"), headers={"Idempotency-Key": PRIVATE}),
        account.post(request("x", role=PRIVATE)),
        account.post(request("x", session_id=f"{PRIVATE}!")),
        account.post({"message": [PROMPT]}),
        account.post(f'{{"message": "{PROMPT}'),
        account.post(request("x"), headers={"Prefer": f"wait={PRIVATE}"}),
        account.post(request("x"), headers={"Idempotency-Key": f"{PRIVATE} x"}),
        account.post(request("x"), headers={"Content-Type": PRIVATE}),
        account.post(request("x"), query={"async_mode": PRIVATE}),
        account.get(PRIVATE),
        account.cancel(f"{PRIVATE}.01KANEC0X00000000000000000"),
        account.session(f"{PRIVATE}!"),
        account.session(PRIVATE, query={"cursor": PRIVATE}),
    ]

    clean(*refusals)


def test_when_aws_fails(account: Account, wire: Wire, clean: Callable[..., None]) -> None:
    wire.before("SendMessage", refusing())
    wire.before("UpdateItem", refusing())
    first = account.post(request("x"))
    wire.before("PutItem", refusing())
    second = account.post(request("x"))
    account.post(request("x"), query={"async_mode": "true"})
    wire.before("UpdateItem", refusing())
    account.work()

    clean(first, second)


def test_when_we_fail(account: Account, wire: Wire, clean: Callable[..., None]) -> None:
    def bug(params: dict[str, Any]) -> None:
        raise ValueError(PROMPT, ANSWER, PRIVATE, params)

    wire.before("PutItem", bug)
    response = account.post(request("x"))
    account.post(request("x", session_id="s-1"), query={"async_mode": "true"})
    wire.before("Query", bug)
    account.work()
    account.post(request("y"), query={"async_mode": "true"})
    wire.before("UpdateItem", bug)
    account.work()

    assert response["statusCode"] == 500
    clean(response)


def test_of_a_chat_that_is_cancelled_at_work(
    account: Account, wire: Wire, worker: Parts, monkeypatch: pytest.MonkeyPatch, clean: Callable[..., None]
) -> None:
    worker.be_watchful(0.03)
    words = " ".join([ANSWER] * 200)
    body = account.post(request(f"[[drip=0.02]] [[echo={words}]]"), query={"async_mode": "true"})["json"]

    wire.after("PutItem", lambda _: account.cancel(body["task_id"]))
    account.work()

    assert ANSWER in account.task(body["task_id"])["partial"]
    clean()


def test_of_an_error_in_the_middle_of_an_answer(
    account: Account, scripted: Scripted, clean: Callable[..., None]
) -> None:
    scripted.says(ANSWER)
    scripted.events[1] = json.dumps({"error": {"message": f"{PROMPT} {MODEL_KEY}", "code": PRIVATE}})
    account.post(request("x"), query={"async_mode": "true"})
    account.work()
    scripted.events[1] = f"{{{PRIVATE}"
    account.post(request("y"), query={"async_mode": "true"})
    account.work()

    clean()


def test_of_a_message_that_is_malformed(account: Account, clean: Callable[..., None]) -> None:
    body = json.dumps({"session": PRIVATE, "prompt": PROMPT})
    account.send(body)
    account.work()
    account.dead_letter(body)
    account.bury()

    clean()


def test_of_a_chat_that_is_lost(account: Account, worker: Parts, clock: Clock, clean: Callable[..., None]) -> None:
    account.post(request("x", session_id="s-1"), query={"async_mode": "true"})
    (record,) = account.receive()
    worker.store.claim(decode(record["body"]), time.time(), time.time() + 100)
    account.work([record])
    clock.forward(101)
    account.functions["deadletter"].handler({"Records": [record]}, Context())

    clean()


def test_a_token_is_read_by_api_gateway_and_goes_no_further(account: Account, clean: Callable[..., None]) -> None:
    headers = {"Authorization": f"Bearer {PRIVATE}", "Cookie": PRIVATE, "X-Api-Key": PRIVATE}
    response = account.post({"message": "hello"}, query={"async_mode": "true"}, headers=headers)

    assert PRIVATE not in json.dumps(account.item(response["json"]["task_id"]))
    clean()


def test_a_log_line_has_the_fields_of_the_list_and_no_others(account: Account, printed: Printed) -> None:
    from turnqueue.telemetry import FIELDS, logger

    try:
        raise ValueError(PROMPT)
    except ValueError:
        logger.exception("it failed", extra={"task_id": "s-1.x", "prompt": PROMPT, "error": ValueError(PROMPT)})

    (line,) = printed.logged("it failed")
    assert (line["task_id"], line["error"]) == ("s-1.x", "ValueError")
    assert set(line) <= set(FIELDS)
    assert PROMPT not in printed.text


def logging_calls() -> list[ast.Call]:
    functions = ("submit", "status", "worker", "deadletter")
    modules = [*template_rules.layer(), *(tree for name in functions for tree in template_rules.trees(name))]
    return [
        node
        for node in template_rules.nodes(modules)
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("logger.")
    ]


def keys_of(value: ast.expr) -> set[str]:
    """The keys of a dictionary as it is written, or of two of them joined."""
    if isinstance(value, ast.BinOp):
        return keys_of(value.left) | keys_of(value.right)
    if isinstance(value, ast.Name):  # `details`, in attempt.py
        return {"task_id", "attempt", "code", "provider_request_id"}
    assert isinstance(value, ast.Dict)
    return {ast.literal_eval(key) for key in value.keys if key}


def test_the_list_is_what_the_code_logs_and_each_message_is_a_constant() -> None:
    from turnqueue.telemetry import FIELDS

    added = set()
    for call in logging_calls():
        if ast.unparse(call.func) == "logger.append_keys":
            added |= {keyword.arg for keyword in call.keywords}
            continue
        (message,), (extra,) = call.args, call.keywords
        choices = [message.body, message.orelse] if isinstance(message, ast.IfExp) else [message]
        assert all(isinstance(choice, ast.Constant) for choice in choices), ast.unparse(call)
        added |= keys_of(extra.value)

    of_powertools = {"level", "location", "message", "timestamp", "service", "xray_trace_id"}
    assert added | of_powertools == set(FIELDS)
