"""template.yaml keeps each of its rules, and each rule finds a template that breaks it."""

import copy
from functools import cache
from typing import Any

import pytest

from development import cfn
from tests.unit import template_rules as rules
from tests.unit.template_rules import ANY, RULES, SETTINGS, Rule, Template


def changed(path: str, value: Any) -> Template:
    """A copy of the template, in which what the path names has this value; None removes it."""
    template = copy.deepcopy(real())
    node: Any = template if path.startswith("/") else template["Resources"]
    *parents, last = path.removeprefix("/").split("/")
    for name in parents:
        node = node[int(name)] if isinstance(node, list) else node[name]
    key: Any = int(last) if isinstance(node, list) else last
    if value is None:
        del node[key]
    else:
        node[key] = copy.deepcopy(value)
    return template


@cache
def real() -> Template:
    return cfn.template()


@pytest.mark.parametrize("check", RULES, ids=lambda check: check.__name__)
def test_the_template_keeps_the_rule(check: Rule) -> None:
    assert list(check(real())) == []


@pytest.mark.parametrize(
    ("check", "path", "value"),
    [
        pytest.param(check, *breach, id=f"{check.__name__}-{breach[0]}-{number}")
        for check, breaches in RULES.items()
        for number, breach in enumerate(breaches)
    ],
)
def test_a_breach_is_seen(check: Rule, path: str, value: Any) -> None:
    assert list(check(changed(path, value))) != []


def test_every_rule_was_seen_to_be_broken() -> None:
    assert [check.__name__ for check, breaches in RULES.items() if not breaches] == []


@pytest.mark.parametrize(("kind", "path"), [(kind, path) for kind, settings in SETTINGS.items() for path in settings])
def test_another_setting_is_seen(kind: str, path: str) -> None:
    name = next(name for name, resource in real()["Resources"].items() if resource["Type"] == kind)
    template = changed(f"{name}/Properties/{path}", None if SETTINGS[kind][path] is ANY else "another")

    assert list(rules.every_resource_has_its_settings(template)) == [f"{name}: {path}"]


def test_what_is_read_from_the_code_is_what_is_there() -> None:
    """The rules above are worth nothing if they find nothing in the code."""
    assert {"location", "retry-after", "preference-applied", "idempotency-replayed"} <= rules.headers_sent()
    assert rules.headers_read() == {
        *("content-type", "prefer", "idempotency-key", "cache-control", "accept", "last-event-id")
    }
    retry, openai = "POST /chat/task/{task_id}/retry", "POST /v1/{proxy+}"
    assert rules.routes_in_code("submit") == {"POST /chat", "POST /chat/", "POST /chat/media", retry, openai}
    assert "OPTIONS /{proxy+}" in rules.routes_in_code("status")
    assert rules.routes_in_code("worker") == set()
    assert rules.environment_in_code("deadletter") == {"TURNS_TABLE", "GUARDS_TABLE"}
    assert {"MODEL_BASE_URL", "QUEUE_URL"} <= rules.environment_in_code("worker")


def test_the_documentation_says_what_each_parameter_means_and_what_its_change_does() -> None:
    """tests/build/test_transform.py computes the rows."""
    meanings, effects = (cfn.ROOT / "docs/configuration.md").read_text().split("\n## What a change does\n")
    assert [name for name in real()["Parameters"] if f"| `{name}` | " not in effects] == []
    assert [name for name in real()["Parameters"] if f"`{name}`" not in meanings] == []
