"""The imports of a cold start: each function imports only the modules that it needs, and imports have one direction."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

from development.cfn import ROOT
from tests.unit.conftest import ENVIRONMENT

API_FUNCTIONS = ("submit", "status")
FUNCTIONS = (*API_FUNCTIONS, "worker", "deadletter", "authorizer", "streams")

# What Lambda's runtime brings for botocore. (certifi it does not bring; botocore takes it where it is.)
RUNTIME = {"botocore", "certifi", "dateutil", "jmespath", "six", "urllib3"}

PROGRAM = """
import json, sys
function, *paths = sys.argv[1:]
sys.path[:0] = paths
before = set(sys.modules)
__import__(function)
print(json.dumps(sorted(set(sys.modules) - before)))
"""


@cache
def imported(function: str) -> frozenset[str]:
    """The modules that a fresh interpreter has after importing the function, from where Lambda has it."""
    paths = [str(ROOT / "functions" / function), str(ROOT / "layers" / "shared")]
    environment = {"PATH": os.environ["PATH"], **ENVIRONMENT, "MODEL_BASE_URL": "http://127.0.0.1:9/v1"}
    run = subprocess.run(
        [sys.executable, "-I", "-B", "-c", PROGRAM, function, *paths],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return frozenset(json.loads(run.stdout))


def third_party(function: str) -> set[str]:
    own = {path.stem for path in (ROOT / "functions" / function).glob("*.py")} | {"turnqueue"}
    top = {name.partition(".")[0] for name in imported(function)}
    return {name for name in top - sys.stdlib_module_names - own if not name.startswith("_")}


def shipped(function: str) -> set[str]:
    """The packages that are shipped with the function, by the names that they are imported by."""
    files = [ROOT / "layers/shared/requirements.txt", ROOT / "functions" / function / "requirements.txt"]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    names = {line.partition("==")[0].replace("-", "_") for line in lines if line and not line.startswith("#")}
    return names | ({"jwt"} if "pyjwt" in names else set())


# ---- In a fresh interpreter


POWERTOOLS = [
    f"aws_lambda_powertools.{module}" for module in ("event_handler", "utilities.parameters", "utilities.batch")
]
UNPAID: dict[str, tuple[Sequence[str], list[str]]] = {
    "what only the worker needs": (API_FUNCTIONS, ["openai", "boto3", "httpx2", "anyio", "asyncio"]),
    "more of Powertools than logs and metrics": (API_FUNCTIONS, POWERTOOLS),
    "the reading of requests": (("status", "deadletter"), ["pydantic", "pydantic_core", "tomllib"]),
    "what is not for production": (FUNCTIONS, ["aws_xray_sdk", "requests", "httpx", "moto", "local", "tests"]),
}


@pytest.mark.parametrize(("functions", "modules"), UNPAID.values(), ids=UNPAID)
def test_a_cold_start_does_not_pay_for(functions: Sequence[str], modules: list[str]) -> None:
    for function in functions:
        assert not imported(function) & set(modules), function


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_imported_is_shipped_or_in_the_runtime(function: str) -> None:
    runtime = RUNTIME | ({"boto3", "s3transfer"} if function == "worker" else set())

    assert third_party(function) - runtime <= shipped(function)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_two_modules_of_a_function_and_the_layer_collide_with_others(function: str) -> None:
    own = {path.stem for path in (ROOT / "functions" / function).glob("*.py")}
    others = {
        path.stem for other in FUNCTIONS if other != function for path in (ROOT / "functions" / other).glob("*.py")
    }

    assert not own & (others | sys.stdlib_module_names | {"turnqueue"})


# ---- In the source

LAYER = sorted((ROOT / "layers/shared/turnqueue").rglob("*.py"))
SOURCES = [*LAYER, *sorted((ROOT / "functions").rglob("*.py"))]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importing(package: str) -> set[str]:
    """The source files that import the package or a part of it."""
    return {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if any(name == package or name.startswith(f"{package}.") for name in imports(path))
    }


def test_only_one_module_knows_openai() -> None:
    assert importing("openai") == {"functions/worker/model.py"}


def test_nobody_uses_boto3_and_one_module_makes_clients() -> None:
    assert importing("boto3") == set()
    assert importing("botocore.session") == {"layers/shared/turnqueue/aws.py"}


def test_the_api_speaks_to_aws_through_the_layer_only() -> None:
    api = {str(path.relative_to(ROOT)) for name in API_FUNCTIONS for path in (ROOT / "functions" / name).glob("*.py")}

    assert not importing("turnqueue.aws") & api


def test_the_layer_imports_no_function() -> None:
    modules = {path.stem for path in (ROOT / "functions").rglob("*.py")}

    assert not {name.partition(".")[0] for path in LAYER for name in imports(path)} & modules


def test_the_rules_of_a_turn_are_plain_python() -> None:
    names = {name.partition(".")[0] for name in imports(ROOT / "layers/shared/turnqueue/turn.py")}

    assert names <= sys.stdlib_module_names


def test_a_module_of_the_layer_has_two_functions_as_users_or_calls_aws() -> None:
    users: dict[str, set[str]] = {}
    for function in FUNCTIONS:
        for name in imported(function):
            if name.startswith("turnqueue."):
                users.setdefault(name, set()).add(function)

    wrappers = importing("turnqueue.aws")
    rules = [path for path in LAYER if str(path.relative_to(ROOT)) not in wrappers]
    modules = {".".join(path.relative_to(ROOT / "layers/shared").with_suffix("").parts) for path in rules}
    modules = {name.removesuffix(".__init__") for name in modules} - {"turnqueue"}
    later = {name for name in modules if name.startswith("turnqueue.v1")}  # by the first request that needs it
    assert not {name for name in modules - later if len(users.get(name, set())) < 2}


def test_the_environment_is_read_by_handlers_only_and_never_with_a_default() -> None:
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in SOURCES}
    readers = {name: text for name, text in texts.items() if "environ" in text or "getenv" in text}

    # What Lambda tells a runtime client is no setting.
    assert "os.environ.get" not in readers.pop("functions/streams/runtime_client.py")
    assert set(readers) == {f"functions/{function}/{function}.py" for function in FUNCTIONS}
    for text in readers.values():
        # A function may pass its whole environment on. The receiver reads each variable without a default.
        text = re.sub(r"\b(build|Model\w+)\(([^()]+, )?os\.environ\)", "", text)
        assert len(re.findall(r"\benviron\b", text)) == text.count('os.environ["')
        assert "getenv" not in text
