"""Every command in the documents is run by a test, or RUN_BY says what it needs instead."""

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import NamedTuple

import pytest

from development.cfn import ROOT
from development.links import documents

AWS = "needs an AWS account"
NPM = "needs the npm registry"
MODEL = "needs a real model"
CI = "CI runs it"

RUN_BY = {
    r"make (setup|test)\b": CI,
    r"make (run|demo)\b": "tests/local/test_run.py",
    r"make invoke\b": "tests/local/test_run.py",
    r"[A-Z_=… ]+ make e2e\b": AWS,
    r"OPENAI_API_KEY=\S+ OPENAI_BASE_URL=\S+ MODEL=\S+ make demo\b": MODEL,
    r"\.tools/dev/bin/python -m pytest\b": CI,
    r"set -a; \. \.local/env; set \+a$": "tests/local/test_run.py",
    r'curl (-i )?"\$API': "tests/e2e/test_pages.py",
    r'curl "\$\{MODEL': "tests/e2e/test_pages.py",
    r"python -m operations (replay|forget|restore|breaker)\b": "tests/e2e/test_operations.py",
    r"python -m operations keys\b": "tests/e2e/test_openai.py",
    r"python -m operations verify\b": "tests/e2e/test_verify.py",
    r"python -m operations deploy\b": AWS,
    r"aws (cloudformation describe-stacks|cognito-idp)\b": "tests/e2e/test_pages.py",
    r"aws (?!cloudformation describe-stacks|cognito-idp)\w": AWS,
    r"logs \w+LogGroup \d+ ": AWS,
    r"sam (build|deploy)\b": AWS,
    r"npm install\b": NPM,
}
"""By the beginning of a command: the test that runs it, or the reason why none does. `make run` sends the chats of
`make demo` too."""

_PROGRAMS = r"(?:make|aws|curl|sam|npm|npx|node|git|gh|logs|set|python3?|\.tools/\S+) "
_COMMAND = re.compile(rf"^(?: {{4}}|\t) *(?:\$ )?((?:[A-Z_]+=\S+ )*{_PROGRAMS}.*)$", re.MULTILINE)


class Command(NamedTuple):
    page: str
    text: str


def commands() -> Iterator[Command]:
    """The lines of code blocks that begin with a program."""
    for page in documents():
        text = re.sub(
            r"^```\w*\n(.*?)^```", lambda fence: indent(fence[1], "    "), page.read_text(), flags=re.M | re.S
        )
        for match in _COMMAND.finditer(text):
            yield Command(page.relative_to(ROOT).as_posix(), match[1].strip())


COMMANDS = list(commands())


def test_the_documents_have_commands() -> None:
    assert len(COMMANDS) > 50
    assert {"README.md", "docs/api.md", "docs/operations.md"} <= {command.page for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}: {command.text[:40]}")
def test_a_command_is_run_by_one_test_or_says_what_it_needs(command: Command) -> None:
    assert len([beginning for beginning in RUN_BY if re.match(beginning, command.text)]) == 1


def test_no_entry_is_left_over_and_each_test_is_there() -> None:
    for beginning, test in RUN_BY.items():
        assert any(re.match(beginning, command.text) for command in COMMANDS), beginning
        assert test in (AWS, NPM, MODEL, CI) or (ROOT / test).exists(), test


@pytest.mark.parametrize("page", documents(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_shell_function_is_defined_on_the_page_that_calls_it(page: Path) -> None:
    text = page.read_text()
    defined = set(re.findall(r"^ {4}(\w+)\(\) \{", text, re.MULTILINE))
    called = set(re.findall(r"\$\((id|output|endpoint|token)\b|^ {4}(logs) ", text, re.MULTILINE))
    assert {name for pair in called for name in pair if name} <= defined
