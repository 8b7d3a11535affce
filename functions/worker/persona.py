"""Loads a role's persona: the instructions for the model, and the structure of the model's answers."""

import tomllib
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, create_model

from structured import Document
from turnqueue.personas import FOLDER, version

_TYPES: dict[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool, "strings": list[str]}


class Persona(NamedTuple):
    """A role's instructions and settings. `version`: changes with the persona's file. `model`: None for the stack's
    model. `temperature`: None for the model's default. `options`: more fields of the request to the model. `output`:
    None for plain text; a class with the members message, draft and data if the persona has structured answers; a
    Document if the client asks for JSON."""

    role: str
    version: str
    instructions: str
    model: str | None
    temperature: float | None
    options: dict[str, Any]
    output: type[BaseModel] | Document | None

    @property
    def is_structured(self) -> bool:
        """Whether the answer is a JSON document of which the user reads only the member `message`."""
        return isinstance(self.output, type)


@cache
def persona(role: str) -> Persona:
    """The persona of a role. Raises FileNotFoundError for an unknown role (`submit` accepts only known ones)."""
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


def asked_for(base: Persona, request: Mapping[str, Any]) -> Persona:
    """The persona with the settings of one request: {instructions?, options?, tools?, tool_choice?, format?}."""
    if not request.keys() & {"instructions", "options", "tools", "format"}:
        return base
    options = dict(request.get("options") or {})
    temperature = options.pop("temperature", base.temperature)
    if tools := request.get("tools"):
        options["tools"] = [_function(tool) for tool in tools]
        if choice := request.get("tool_choice"):
            options["tool_choice"] = choice if isinstance(choice, str) else _nested(choice, "name")
    more = request.get("instructions")
    return base._replace(
        instructions=f"{base.instructions}\n\n{more}" if more else base.instructions,
        temperature=temperature,
        options=base.options | options,
        output=Document.of(request["format"]) if "format" in request else base.output,
    )


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    return _nested(tool, "name", "description", "parameters", "strict")


def _nested(tool: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Convert a function to the form of Chat Completions, with these members."""
    return {"type": "function", "function": {name: tool[name] for name in names if tool.get(name) is not None}}


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
    # forbid other members: providers enforce a schema ("strict") only if it requires every member and allows no others
    model: type[BaseModel] = create_model(name, __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **members)
    return model
