"""The examples of the documents: programs, and commands for a token."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

from local.deploy import STACK_NAME
from local.tools import ROOT


def blocks(page: str) -> list[str]:
    """The indented blocks of a page."""
    found = re.findall(r"(?:^(?: {4}.*)?\n)+", (ROOT / page).read_text(), re.MULTILINE)
    return [textwrap.dedent(block) for block in found if block.strip()]


def recipes() -> dict[str, str]:
    """The Python programs by their names."""
    sync, stream, concurrent = blocks("docs/python.md")
    first_import, _, function = stream.lstrip().partition("\n")
    shared = sync[: sync.index("def chat(")].replace("from typing", f"{first_import}\nfrom typing")
    return {"sync": sync, "async": concurrent, "stream": f"{shared}{function.lstrip()}"}


def commands(number: int) -> str:
    return blocks("docs/tokens.md")[number].replace("turnqueue-dev", STACK_NAME)


def token_of(script: str, folder: Path, environment: dict[str, str]) -> str:
    aws = folder / "aws"
    aws.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).parent}/aws_cli.py" "$@"\n')
    aws.chmod(0o755)
    environment = {**os.environ, **environment, "NO_PROXY": "127.0.0.1", "PATH": f"{folder}:{os.environ['PATH']}"}
    bash = ["bash", "-euo", "pipefail", "-c", f'{script}\nprintf %s "$TOKEN" >&2']
    ran = subprocess.run(bash, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stderr
