"""Checks that every response must pass, whatever the request."""

import json
import os
from typing import Any

from hypothesis import HealthCheck, settings

from tests.hostile.gateway import Answer

MARK = "planted: sk-7Hq4 <b>"
"""A secret that the tests plant wherever a client can write. No log line may hold it, and no refusal."""

EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "60"))
"""How many examples a property is tried with. They are the same in every run."""

MOST_SECONDS = 3.0
"""Longer than any request may take that waits for nothing, on the slowest machine."""

MOST_BYTES = 6 * 1024 * 1024
"""What Lambda lets a function answer."""


def examples(share: float = 1.0) -> settings:
    """The settings of a property that is tried with this share of EXAMPLES."""
    return settings(
        max_examples=max(1, round(EXAMPLES * share)),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )


def harmless(answer: Answer) -> None:
    """The request did no harm: it was answered or refused in good order, and at once."""
    assert answer.seconds < MOST_SECONDS, answer.seconds
    orderly(answer)


def orderly(answer: Answer) -> None:
    """It was answered or refused in good order, however long that took."""
    assert answer.status < 500, (answer.status, answer.body, answer.log)
    proper(answer)


def proper(answer: Answer) -> None:
    """The answer is well formed, and neither it nor the log tells what they must not."""
    assert len(answer.body) < MOST_BYTES
    document = strict_json(answer.body) if answer.body or answer.status != 200 else None  # None: a HEAD's
    for name, value in answer.headers.items():
        assert value.isascii() and value.isprintable(), name
    assert answer.headers["cache-control"] == "no-store"
    if answer.status < 400:
        assert answer.headers["content-type"] == "application/json"
    else:
        is_problem(answer, document)
        assert "7Hq4" not in answer.body.decode()
    assert "Traceback" not in answer.body.decode()
    discreet(answer.log)


def is_problem(answer: Answer, document: Any) -> None:
    assert answer.headers["content-type"] == "application/problem+json"
    assert document["status"] == answer.status
    assert document["type"] == f"urn:turnqueue:problem:{document['code']}"
    assert document["title"] and document["detail"]
    assert document["error"].keys() == {"message", "type", "code", "param"}
    assert document["error"]["message"] == document["detail"]
    assert document["error"]["code"] == document["code"]


def discreet(log: str) -> None:
    """Every line of a log is one JSON object, and none holds what was planted or a stack trace."""
    for line in log.splitlines():
        assert isinstance(strict_json(line.encode()), dict)
    assert "7Hq4" not in log
    assert "Traceback" not in log


def strict_json(text: bytes) -> Any:
    """As RFC 8259 has it: UTF-8, no name twice, no NaN."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs), "a name comes twice"
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text.decode(), object_pairs_hook=once, parse_constant=refuse)
