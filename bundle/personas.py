"""Checks personas: `python bundle/personas.py` checks the personas of this repository, `python bundle/personas.py
FOLDER` the personas in a folder.

An error names the file, the key or the line, and the allowed values. The exit code is 1 if anything is wrong. `sam
build` also runs this file, so it needs only Python.
"""

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "layers/shared/turnqueue/personas"
DEFAULT = "general.toml"

ROLE = re.compile(r"[a-z][a-z0-9_-]{0,31}")
FIELD = re.compile(r"[a-z][a-z0-9_]{0,63}")
OPTION = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
TYPES = ("string", "integer", "number", "boolean", "strings")

MAX_INSTRUCTIONS = 16_000  # characters: about 4,000 tokens, which every message of the role costs
MAX_MODEL = 150  # characters, as for ModelName in template.yaml
HIGHEST_TEMPERATURE = 2  # the highest temperature that Chat Completions allows
MAX_FIELDS = 50
MAX_DESCRIPTION = 500
MAX_OPTIONS = 4_000  # bytes of JSON, which every request of the role sends

# The `options` of a persona may not have these fields. SET_BY_US: the worker sets them. NOT_READ: they change the
# answer in a way that the worker does not understand.
SET_BY_US = ("model", "messages", "stream", "stream_options", "response_format", "temperature")
NOT_READ = ("n", "best_of", "audio", "modalities", "tools", "tool_choice", "functions", "function_call")

# Names that a field of `data` or `draft` may not have, because pydantic's classes use them. This file must run without
# pydantic, so it cannot ask pydantic.
TAKEN = frozenset({"construct", "copy", "dict", "from_orm", "json", "schema", "schema_json", "validate"})
TAKEN_PREFIXES = ("model_", "parse_", "update_forward_refs")


def problems(folder: Path) -> Iterator[str]:
    """The errors in a folder of personas, one line each."""
    files = sorted(path for path in folder.iterdir() if path.name not in ("__init__.py", "__pycache__"))
    if DEFAULT not in {path.name for path in files}:
        yield f"{DEFAULT}: must exist, because messages without a role use it"
    for path in files:
        if path.suffix != ".toml" or not ROLE.fullmatch(path.stem):
            yield (
                f"{path.name}: a persona is a file ROLE.toml, and the role has 1 to 32 characters "
                "out of a-z, 0-9, _ and -, the first one a letter"
            )
            continue
        try:
            definition = tomllib.loads(path.read_text("utf-8"))
        except UnicodeDecodeError as error:
            yield f"{path.name}: must be UTF-8; byte {error.start} is not"
        except tomllib.TOMLDecodeError as error:  # the text of the error has the line and the column
            yield f"{path.name}: must be TOML. {error}"
        else:
            yield from (f"{path.name}: {problem}" for problem in _problems(definition))


def _problems(definition: dict[str, Any]) -> Iterator[str]:
    yield from _unknown("", definition, ("instructions", "model", "temperature", "options", "draft", "data"))
    yield from _text("instructions", definition.get("instructions"), MAX_INSTRUCTIONS)
    if "model" in definition:
        yield from _text("model", definition["model"], MAX_MODEL)
    temperature = definition.get("temperature", 0)
    if type(temperature) not in (int, float) or not 0 <= temperature <= HIGHEST_TEMPERATURE:
        yield f"temperature: must be a number from 0 to {HIGHEST_TEMPERATURE}"
    yield from _options(definition.get("options", {}))
    for form in ("draft", "data"):
        if form in definition:
            yield from _form(form, definition[form])


def _options(options: Any) -> Iterator[str]:
    if not isinstance(options, dict):
        yield "options: must be a table of fields for the request to the model"
        return
    for name, value in options.items():
        key = f"options.{name}"
        if name in SET_BY_US:
            other = f"; {name} is a key of the persona itself" if name in ("model", "temperature") else ""
            yield f"{key}: must not be here, because the worker sets it{other}"
        elif name in NOT_READ:
            yield f"{key}: must not be here, because the worker does not read such answers"
        elif not OPTION.fullmatch(name):
            yield f"{key}: an option's name has 1 to 64 characters out of a-z, A-Z, 0-9 and _, the first one a letter"
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            yield f"{key}: must be a value of JSON, so no date, no time, no nan and no inf"
    if (size := len(json.dumps(options, default=str).encode())) > MAX_OPTIONS:
        yield f"options: must be at most {MAX_OPTIONS} bytes as JSON, not {size}"


def _form(form: str, fields: Any) -> Iterator[str]:
    if not isinstance(fields, dict) or not 1 <= len(fields) <= MAX_FIELDS:
        yield f"{form}: must be a table of 1 to {MAX_FIELDS} fields"
        return
    for name, field in fields.items():
        key = f"{form}.{name}"
        if not FIELD.fullmatch(name):
            yield f"{key}: a field's name has 1 to 64 characters out of a-z, 0-9 and _, the first one a letter"
        elif name in TAKEN or name.startswith(TAKEN_PREFIXES):
            yield f"{key}: this name is reserved; choose another"
        if not isinstance(field, dict):
            yield f'{key}: must be {{ type = "…", description = "…" }}'
            continue
        yield from _unknown(f"{key}.", field, ("type", "description"))
        if field.get("type") not in TYPES:
            yield f"{key}.type: must be one of: {', '.join(TYPES)}"
        yield from _text(f"{key}.description", field.get("description"), MAX_DESCRIPTION)


def _text(key: str, value: Any, longest: int) -> Iterator[str]:
    if not isinstance(value, str) or not value.strip() or len(value) > longest:
        now = f", not {len(value)}" if isinstance(value, str) and value.strip() else ""
        yield f"{key}: must be a text of 1 to {longest} characters{now}"


def _unknown(prefix: str, table: dict[str, Any], known: tuple[str, ...]) -> Iterator[str]:
    for name in table:
        if name not in known:
            yield f"{prefix}{name}: is not a known key; the known keys are: {', '.join(known)}"


def main(folder: Path) -> None:
    if found := list(problems(folder)):
        sys.exit("\n".join(f"{folder.name}/{problem}" for problem in found))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
