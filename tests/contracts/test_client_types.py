"""clients/javascript/turnqueue.d.ts as TypeScript reads it at its strictest."""

import subprocess
from pathlib import Path

from tests.cfn import ROOT

FOLDER = ROOT / "clients" / "javascript"


def test_the_declarations_are_what_an_application_needs(node_tools: Path) -> None:
    """test/types.ts uses what it may; each use that must be an error is marked, and is an error if it is none."""
    strict = ["--strict", "--exactOptionalPropertyTypes", "--noUncheckedIndexedAccess", "--noEmit"]
    command = [str(node_tools / "tsc"), *strict, "--module", "nodenext", "--target", "es2022", "test/types.ts"]
    ran = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=50, check=False)
    assert ran.returncode == 0, ran.stdout
