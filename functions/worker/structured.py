"""Asks a model for structured answers (JSON documents), and reads them."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from modelerror import ModelError
from turnqueue.turn import MAX_RESULT_BYTES

_FENCE = re.compile(r"```[ \t]*\w*[ \t]*\r?\n(.*)```", re.DOTALL)
_OPENING_FENCE = re.compile(r"\s*```[ \t]*\w*[ \t]*\r?\n")
_END_OF_THOUGHTS = "</think>"


class Document(NamedTuple):
    """A JSON document that a client's request asks for. Its text becomes the `message` of the answer. `schema`: the
    schema for the provider, {name, schema, strict?, description?}; None for any object. This module leaves the schema
    to the provider, and only checks that the text is a JSON object.
    """

    schema: dict[str, Any] | None

    @classmethod
    def of(cls, form: Mapping[str, Any]) -> Self:
        names = ("name", "schema", "strict", "description")
        schema = {name: form[name] for name in names if form.get(name) is not None}
        return cls(schema if form["type"] == "json_schema" else None)


type Output = type[BaseModel] | Document


def response_format(output: Output) -> dict[str, Any]:
    """The field `response_format` of a request: the schema that the provider must enforce."""
    if isinstance(output, Document):
        return {"type": "json_schema", "json_schema": output.schema} if output.schema else {"type": "json_object"}
    schema = {"name": output.__name__, "schema": output.model_json_schema(), "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def instructions(output: Output) -> str:
    """Asks for the JSON document in words, because not every server can enforce a schema."""
    if isinstance(output, Document):
        wanted = (output.schema or {}).get("schema", {"type": "object"})
    else:
        wanted = output.model_json_schema()
    schema = json.dumps(wanted, ensure_ascii=False)
    return f"Answer with one JSON object and nothing else. It must match this JSON schema: {schema}"


def result(output: Output | None, text: str, calls: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The answer as {message, data, draft, tool_calls?}. Checks a structured answer, because not every provider
    enforces a schema well. An answer that calls functions is not structured. Raises ModelError: output_invalid or
    result_too_large."""
    found: dict[str, Any] = {"message": text, "data": None, "draft": None}
    if calls:
        found["tool_calls"] = list(calls)
    elif isinstance(output, Document):
        found["message"] = _document(text)
    elif output:
        found |= _validated(output, text)
    if not calls and not found["message"].strip():
        raise ModelError("output_invalid")
    if len(json.dumps(found, ensure_ascii=False).encode()) > MAX_RESULT_BYTES:
        raise ModelError("result_too_large")
    return found


def readable(text: str) -> str:
    """The received part of `message` in an unfinished document."""
    if opening := _OPENING_FENCE.match(text):
        text = text[opening.end() :]
    try:
        document = from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return ""
    message = document.get("message") if isinstance(document, dict) else None
    return message if isinstance(message, str) else ""


def _document(text: str) -> str:
    for document in _documents(text):
        try:
            if isinstance(from_json(document), dict):
                return document
        except ValueError:
            continue
    raise ModelError("output_invalid")


def _validated(output: type[BaseModel], text: str) -> dict[str, Any]:
    for document in _documents(text):
        try:
            return output.model_validate_json(document).model_dump(mode="json")
        except ValidationError:
            continue
    raise ModelError("output_invalid")


def _documents(text: str) -> Iterator[str]:
    """The parts of the text that can be the document: the whole text, the part after </think>, and the inside of a
    Markdown fence."""
    yield text
    if _END_OF_THOUGHTS in text:
        text = text.rpartition(_END_OF_THOUGHTS)[2]
        yield text
    if fenced := _FENCE.search(text):
        yield fenced[1]
