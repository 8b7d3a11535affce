"""The personas: the content of a file, its check before the build, its version, and adding one."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from development.cfn import ROOT
from tests.unit.conftest import Account, Parts, Scripted
from turnqueue import personas

CHECK = ROOT / "bundle" / "personas.py"
FOLDER = ROOT / "layers/shared/turnqueue/personas"

type Write = Callable[..., Path]


@pytest.fixture(scope="module")
def rules() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rules", CHECK)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a persona beside a good `general.toml`. Returns their folder."""
    (tmp_path / "general.toml").write_text('instructions = "Be brief."')

    def write(text: str | bytes, name: str = "tutor.toml") -> Path:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return write


# ---- What a file may hold

GOOD = 'instructions = "Teach."\n'

ACCEPTED = {
    "the least": GOOD,
    "the longest instructions": f'instructions = "{"x" * 16_000}"',
    "a model": f'{GOOD}model = "{"m" * 150}"',
    "the lowest temperature": f"{GOOD}temperature = 0",
    "the highest temperature": f"{GOOD}temperature = 2.0",
    "forms": f'{GOOD}[draft]\na1_b = {{ type = "integer", description = "d" }}\n'
    f'[data]\nb = {{ type = "strings", description = "{"d" * 500}" }}',
    "options": f"{GOOD}[options]\nreasoning_effort = 'low'\nmax_completion_tokens = 500\n"
    "topK = 5\nchat_template_kwargs = { enable_thinking = false }",
    "the largest options": f"{GOOD}[options]\nuser = '{'u' * 3_988}'",
    "many fields": f"{GOOD}[data]\n" + "\n".join(f'f{n} = {{ type = "number", description = "d" }}' for n in range(50)),
}

NO_TEXT = "must be a text of 1 to"
FIELD = '{ type = "string", description = "d" }'

# text: what is said of it
REFUSED: dict[str, tuple[str | bytes, str]] = {
    "no TOML": (f"{GOOD}[draft\n", r"must be TOML\. .*line 2, column \d+"),
    "a key twice": (GOOD * 2, r"must be TOML\. .*line 2"),
    "no UTF-8": (b'instructions = "\xff"', "must be UTF-8; byte 16 is not"),
    "no instructions": ("", f"instructions: {NO_TEXT} 16000 characters"),
    "blank instructions": ('instructions = " "', f"instructions: {NO_TEXT} 16000 characters"),
    "long instructions": (f'instructions = "{"x" * 16_001}"', f"instructions: {NO_TEXT} 16000 characters, not 16001"),
    "an unknown key": (
        f'{GOOD}colour = "red"',
        "colour: is not a known key; the known keys are: instructions, model, ",
    ),
    "a long model": (f'{GOOD}model = "{"m" * 151}"', f"model: {NO_TEXT} 150 characters, not 151"),
    "a model that is no text": (f"{GOOD}model = 4", f"model: {NO_TEXT} 150 characters"),
    "a low temperature": (f"{GOOD}temperature = -0.1", "temperature: must be a number from 0 to 2"),
    "a high temperature": (f"{GOOD}temperature = 2.1", "temperature: must be a number from 0 to 2"),
    "no temperature at all": (f"{GOOD}temperature = nan", "temperature: must be a number from 0 to 2"),
    "a temperature that is true": (f"{GOOD}temperature = true", "temperature: must be a number from 0 to 2"),
    **{
        f"the option {name}": (
            f"{GOOD}[options]\n{name} = 1",
            rf"options\.{name}: must not be here, because the worker (sets it|does not read such answers)",
        )
        for name in (
            *("model", "messages", "stream", "stream_options", "response_format", "temperature"),
            *("n", "audio", "modalities", "tools", "tool_choice", "functions", "function_call"),
        )
    },
    "options that are no table": (f"{GOOD}options = 1", "options: must be a table"),
    "an option's odd name": (
        f"{GOOD}[options]\n'top-k' = 1",
        r"options\.top-k: an option's name has 1 to 64 characters",
    ),
    "an option that is a date": (f"{GOOD}[options]\nuser = 2026-11-30", r"options\.user: must be a value of JSON"),
    "an option that is not a number": (f"{GOOD}[options]\ntop_p = nan", r"options\.top_p: must be a value of JSON"),
    "large options": (
        f"{GOOD}[options]\nuser = '{'u' * 3_989}'",
        "options: must be at most 4000 bytes as JSON, not 4001",
    ),
    "an empty form": (f"{GOOD}[draft]", "draft: must be a table of 1 to 50 fields"),
    "a form that is no table": (f"{GOOD}data = 1", "data: must be a table of 1 to 50 fields"),
    "a large form": (
        f"{GOOD}[data]\n" + "\n".join(f"f{n} = {FIELD}" for n in range(51)),
        "data: must be a table of 1 to",
    ),
    "a field's odd name": (f"{GOOD}[data]\nA = {FIELD}", r"data\.A: a field's name has 1 to 64 characters out of a-z"),
    "a field's long name": (f"{GOOD}[data]\n{'a' * 65} = {FIELD}", r"data\.a+: a field's name has 1 to 64 characters"),
    "a field's taken name": (f"{GOOD}[data]\njson = {FIELD}", r"data\.json: this name is reserved"),
    "a field that is a text": (f'{GOOD}[draft]\na = "string"', r"draft\.a: must be \{ type = "),
    "a type that is none": (
        f'{GOOD}[draft]\na = {{ type = "date", description = "d" }}',
        r"draft\.a\.type: must be one of: string, integer, number, boolean, strings",
    ),
    "no description": (
        f'{GOOD}[draft]\na = {{ type = "string" }}',
        rf"draft\.a\.description: {NO_TEXT} 500 characters",
    ),
    "a long description": (
        f'{GOOD}[draft]\na = {{ type = "string", description = "{"d" * 501}" }}',
        rf"draft\.a\.description: {NO_TEXT} 500 characters, not 501",
    ),
    "a field's key that is none": (
        f'{GOOD}[draft]\na = {{ type = "string", description = "d", enum = ["x"] }}',
        r"draft\.a\.enum: is not a known key; the known keys are: type, description",
    ),
}


def test_the_personas_of_this_repository_are_good(rules: ModuleType) -> None:
    assert list(rules.problems(FOLDER)) == []


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_is_accepted_makes_a_persona(
    rules: ModuleType, write: Write, case: str, worker: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(ACCEPTED[case])
    assert list(rules.problems(folder)) == []

    made = build(folder, monkeypatch)
    definition = tomllib.loads(ACCEPTED[case])
    assert made.instructions == definition["instructions"]
    assert (made.model, made.temperature) == (definition.get("model"), definition.get("temperature"))
    assert made.options == definition.get("options", {})
    for form in ("draft", "data"):
        assert set(definition.get(form, {})) == fields(made.output, form)


def build(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the worker makes of `tutor.toml` in a folder."""
    uncached = importlib.import_module("persona").persona.__wrapped__
    monkeypatch.setitem(uncached.__globals__, "FOLDER", folder)
    monkeypatch.setitem(uncached.__globals__, "version", lambda role: "v")
    return uncached("tutor")


def fields(output: type[BaseModel] | None, form: str) -> set[str]:
    """The fields of a form that the answer must have."""
    found = output.model_fields.get(form) if output else None
    return set(found.annotation.model_fields) if found else set()  # type: ignore[union-attr]


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named_with_its_file_and_limit(rules: ModuleType, write: Write, case: str) -> None:
    text, said = REFUSED[case]

    (problem,) = rules.problems(write(text))

    assert re.match(rf"tutor\.toml: {said}", problem), problem


@pytest.mark.parametrize(
    "name", ["Tutor.toml", "1tutor.toml", "tutor.txt", f"{'t' * 33}.toml", "my tutor.toml", ".toml"]
)
def test_a_file_is_named_after_its_role(rules: ModuleType, write: Write, name: str) -> None:
    (problem,) = rules.problems(write(GOOD, name))

    assert problem.startswith(f"{name}: a persona is a file ROLE.toml, and the role has 1 to 32 characters")


def test_the_role_of_those_who_name_none_must_be_there(rules: ModuleType, write: Write) -> None:
    folder = write(GOOD)
    (folder / "general.toml").unlink()

    assert list(rules.problems(folder)) == ["general.toml: must exist, because messages without a role use it"]
    assert f"{personas.DEFAULT_ROLE}.toml" == rules.DEFAULT


def test_the_names_that_are_taken_are_pydantics(rules: ModuleType) -> None:
    taken = {name for name in dir(BaseModel) if rules.FIELD.fullmatch(name)}

    assert {name for name in taken if name not in rules.TAKEN and not name.startswith(rules.TAKEN_PREFIXES)} == set()


# ---- When it is checked


def test_the_build_fails_and_says_why(write: Write, tmp_path: Path) -> None:
    """As SAM runs it for the layer, but for its wheels, which come after."""
    content = tmp_path / "content"
    shutil.copytree(write(f"{GOOD}temperature = 3"), content / "turnqueue" / "personas")
    command = [sys.executable, "-I", str(ROOT / "bundle/bundle.py"), "arm64", "SharedLayer"]

    built = subprocess.run(
        command, cwd=content, env={"ARTIFACTS_DIR": str(tmp_path / "made")}, capture_output=True, text=True
    )

    assert built.returncode == 1
    assert "personas/tutor.toml: temperature: must be a number from 0 to 2" in built.stderr
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(("text", "code"), [(GOOD, 0), ("", 1)])
def test_the_check_runs_without_a_build(write: Write, text: str, code: int) -> None:
    run = subprocess.run([sys.executable, "-I", CHECK, write(text)], capture_output=True, text=True)

    assert (run.returncode, "tutor.toml" in run.stderr) == (code, code == 1)


# ---- What a persona does


@pytest.mark.parametrize("role", sorted(personas.ROLES))
def test_every_role_answers(account: Account, role: str) -> None:
    task_id = account.queued("hello", role=role)
    account.work()

    task = account.task(task_id)
    assert task["status"] == "SUCCESS"
    assert task["usage"]["persona"] == role
    assert task["usage"]["persona_version"] == personas.version(role)


def test_its_model_temperature_and_options_are_asked_for(
    account: Account, scripted: Scripted, worker: Parts, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = "[options]\nreasoning_effort = 'low'\nmax_completion_tokens = 500"
    own = build(write(f'{GOOD}model = "gpt-own"\ntemperature = 0.5\n{options}'), monkeypatch)
    monkeypatch.setattr("attempt.persona", lambda role: own)
    scripted.says("hi")
    task_id = account.queued("hello")
    account.work()

    (asked,) = scripted.asked
    wanted = {"model": "gpt-own", "temperature": 0.5, "reasoning_effort": "low", "max_completion_tokens": 500}
    assert wanted.items() <= asked.items()
    assert account.task(task_id)["usage"]["model"] == "gpt-own"


def test_no_option_replaces_a_field_that_the_worker_sets(
    account: Account, scripted: Scripted, rules: ModuleType
) -> None:
    scripted.says("{}")
    account.queued("hello", role="booking")
    account.work()

    (asked,) = scripted.asked
    assert set(asked) <= set(rules.SET_BY_US)


def test_a_version_changes_with_the_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    version = personas.version.__wrapped__
    monkeypatch.setattr(personas, "FOLDER", write(GOOD))
    first = version("tutor")
    write(GOOD + "\n")

    assert re.fullmatch("[0-9a-f]{12}", first)
    assert version("tutor") != first
    assert version("general") not in (first, version("tutor"))
    with pytest.raises(FileNotFoundError):
        version("pirate")


# ---- How one is added


def test_a_persona_is_added_by_a_file_alone_as_the_page_says(tmp_path: Path) -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    section = page.partition("## Adding a persona\n")[2].partition("\n## ")[0]
    example = "".join(line[4:] for line in section.splitlines(keepends=True) if line.startswith("    "))
    copy = tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    (copy / "layers/shared/turnqueue/personas/tutor.toml").write_text(example)

    def run(*arguments: str) -> str:
        done = subprocess.run([sys.executable, *arguments], cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("bundle/personas.py")
    run("-m", "development.openapi")
    assert re.search(r"enum:\s+- booking\s+- general\s+- tutor\n", (copy / "docs/openapi.yaml").read_text())
    chats = "tests/unit/test_personas.py::test_every_role_answers[tutor]"
    assert "1 passed" in run("-m", "pytest", "-q", "-p", "no:cacheprovider", chats)
