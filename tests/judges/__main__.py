"""`make judges` runs clients and tests of other projects against the OpenAI API of a local stack: at the URL of the API
and at the URL of the streams. Exits with 1 if a test outside EXPECTED fails, or if nothing ran.
"""

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

from local.deploy import STACK_NAME
from local.stack import LocalStack
from local.tools import ROOT
from operations import keys
from operations.stack import Stack

HERE = Path(__file__).parent
PYTHON = ROOT / ".tools/judges/bin/python"
NODE = ROOT / ".tools/judges-node/node_modules"

EXPECTED = {
    f"Test{api}::test_json_mode": "wants a model that reads in the prompt which members its JSON should have"
    for api in ("Responses", "Completions")
}
"""The tests that fail with the stand-in model, and the reasons."""


class Outcome(NamedTuple):
    judge: str
    passed: int
    failed: list[str]
    skipped: int


def main() -> int:
    outcomes = []
    with LocalStack(parameters={"AllowInstructions": "true", "StreamFunction": "true"}) as stack:
        os.environ |= stack.emulator.account.variables()
        key = keys.create(Stack(STACK_NAME), "judge").key
        for place, url in (("ApiUrl", stack.api_url), ("StreamUrl", stack.stream_url)):
            os.environ |= {"JUDGED_URL": f"{url}/v1", "JUDGED_KEY": key, "NO_PROXY": "127.0.0.1"}
            outcomes += [
                pytest(f"{place}: openai-python, newest", sys.executable, "openai_suite.py"),
                pytest(f"{place}: openai-python, older major", PYTHON, "openai_suite.py"),
                pytest(f"{place}: langchain-tests", PYTHON, "langchain_suite.py"),
                node(f"{place}: openai-node, Vercel AI SDK", "clients.test.mjs"),
            ]
    for outcome in outcomes:
        print(f"| {outcome.judge} | {outcome.passed} passed, {len(outcome.failed)} failed, {outcome.skipped} skipped |")
        for name in outcome.failed:
            print(f"    failed: {name} ({EXPECTED.get(name, 'UNEXPECTED')})")
    bad = any(set(outcome.failed) - set(EXPECTED) or not outcome.passed for outcome in outcomes)
    return int(bad)


def pytest(judge: str, python: str | Path, suite: str) -> Outcome:
    """Without this repository's settings and fixtures, because a judge's environment lacks their packages."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        asyncio = ("asyncio_mode=auto", *(f"asyncio_default_{what}_loop_scope=session" for what in ("fixture", "test")))
        options = [word for option in asyncio for word in ("-o", option)] if "langchain" in suite else []
        command = [python, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "-c", os.devnull]
        subprocess.run([*command, f"--rootdir={folder}", *options, f"--junitxml={report}", HERE / suite], check=False)
        cases = ElementTree.parse(report).findall(".//testcase")
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    names = [f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}" for case in failed]
    return Outcome(judge, len(cases) - len(failed) - len(skipped), names, len(skipped))


def node(judge: str, suite: str) -> Outcome:
    """With the Node of npm's registry, because the one on PATH may be too old for openai-node."""
    binary = next(NODE.glob("node-linux-*/bin/node"), Path("node"))
    variables = os.environ | {"JUDGES_MODULES": str(NODE)}
    command: list[str | Path] = [binary, "--test", "--test-reporter=tap", HERE / suite]
    said = subprocess.run(command, env=variables, capture_output=True, text=True, check=False).stdout
    failed = re.findall(r"^\s*not ok \d+ - (.+)$", said, re.MULTILINE)
    if failed:
        print(said)
    counts = {name: int(number) for name, number in re.findall(r"^# (pass|skipped) (\d+)$", said, re.MULTILINE)}
    return Outcome(judge, counts.get("pass", 0), failed, counts.get("skipped", 0))


if __name__ == "__main__":
    sys.exit(main())
