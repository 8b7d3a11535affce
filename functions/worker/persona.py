"""What the model is told for a role, and the form its answer must have."""

import tomllib
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from turnqueue.personas import FOLDER, version

_TYPES: dict[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool, "strings": list[str]}


@dataclass(frozen=True)
class Persona:
    """`version`: changes with the file. `model`, `temperature`: None where the file has none; then those of the stack
    and of the model count. `options`: further fields of the request to the model. `output`: the form of a structured
    answer {message, draft?, data?}; None for plain text."""

    role: str
    version: str
    instructions: str
    model: str | None
    temperature: float | None
    options: dict[str, Any]
    output: type[BaseModel] | None


@cache
def persona(role: str) -> Persona:
    """The persona of a role. Raises FileNotFoundError for a role that is none (submit accepts only roles)."""
    definition = tomllib.loads((FOLDER / f"{role}.toml").read_text("utf-8"))
    return Persona(
        role=role,
        version=version(role),
        instructions=definition["instructions"].strip(),
        model=definition.get("model"),
        temperature=definition.get("temperature"),
        options=definition.get("options", {}),
        output=_output(role, definition),
    )


def _output(role: str, definition: dict[str, Any]) -> type[BaseModel] | None:
    parts: dict[str, Any] = {}
    if "draft" in definition:
        parts["draft"] = _object("Draft", definition["draft"], nullable=True)
    if "data" in definition:
        parts["data"] = _object("Data", definition["data"], nullable=False)
    if not parts:
        return None
    members = {"message": (str, Field(description="what the user reads"))}
    return _model(role.capitalize(), members | {name: (part, ...) for name, part in parts.items()})


def _object(name: str, fields: dict[str, dict[str, str]], *, nullable: bool) -> type[BaseModel]:
    def member(field: dict[str, str]) -> tuple[Any, Any]:
        kind = _TYPES[field["type"]]
        return (kind | None if nullable else kind, Field(description=field["description"]))

    return _model(name, {field: member(definition) for field, definition in fields.items()})


def _model(name: str, members: dict[str, Any]) -> type[BaseModel]:
    # Providers hold an answer to a schema only if every member is required and no other allowed ("strict").
    model: type[BaseModel] = create_model(name, __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **members)
    return model
