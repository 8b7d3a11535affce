"""The Python programs of README.md, as they stand there, against the deployed stack."""

import os
import re
import subprocess
import sys
import textwrap

import pytest

from local.tools import ROOT
from tests.e2e.conftest import Deployment


def programs() -> list[str]:
    """The indented blocks of the section."""
    section = (ROOT / "README.md").read_text().partition("## From Python\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", section, re.MULTILINE)
    return [textwrap.dedent(block) for block in blocks if block.strip()]


@pytest.mark.parametrize("number", [0, 1], ids=["sync", "async"])
def test_a_python_caller(number: int, deployment: Deployment) -> None:
    environment = {**os.environ, "API": deployment.url, "TOKEN": deployment.tokens["alice"], "NO_PROXY": "127.0.0.1"}
    program = [sys.executable, "-W", "error", "-c", programs()[number]]
    ran = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert ran.returncode == 0, ran.stderr
    for text in [["I need a haircut"], ["Hello", "Tell me about queues"]][number]:
        assert deployment.stack is None or text in ran.stdout
