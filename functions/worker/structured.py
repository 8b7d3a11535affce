"""Answers in the form of a persona: how a model is asked for them, and how they are read."""

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from modelerror import ModelError
from turnqueue.turn import MAX_RESULT_BYTES

_FENCE = re.compile(r"```[ \t]*\w*[ \t]*\r?\n(.*)```", re.DOTALL)
_OPENING_FENCE = re.compile(r"\s*```[ \t]*\w*[ \t]*\r?\n")
_END_OF_THOUGHTS = "</think>"


def response_format(output: type[BaseModel]) -> dict[str, Any]:
    """The form, strictly: the provider holds the model to the schema."""
    schema = {"name": output.__name__, "schema": output.model_json_schema(), "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def instructions(output: type[BaseModel]) -> str:
    """The form in words, because the server cannot hold the model to a schema."""
    schema = json.dumps(output.model_json_schema(), ensure_ascii=False)
    return f"Answer with one JSON object and nothing else. It must match this JSON schema: {schema}"


def result(output: type[BaseModel] | None, text: str) -> dict[str, Any]:
    """The answer as {message, data, draft}. It is checked here again, because providers differ in how well they hold a
    model to a schema. Raises ModelError: output_invalid or result_too_large."""
    found: dict[str, Any] = {"message": text, "data": None, "draft": None}
    if output:
        found |= _validated(output, text)
    if not found["message"].strip():
        raise ModelError("output_invalid")
    if len(json.dumps(found, ensure_ascii=False).encode()) > MAX_RESULT_BYTES:
        raise ModelError("result_too_large")
    return found


def readable(text: str) -> str:
    """The `message` of a document that is still being written, as far as it has come."""
    if opening := _OPENING_FENCE.match(text):
        text = text[opening.end() :]
    try:
        document = from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return ""
    message = document.get("message") if isinstance(document, dict) else None
    return message if isinstance(message, str) else ""


def _validated(output: type[BaseModel], text: str) -> dict[str, Any]:
    for document in _documents(text):
        try:
            return output.model_validate_json(document).model_dump(mode="json")
        except ValidationError:
            continue
    raise ModelError("output_invalid")


def _documents(text: str) -> Iterator[str]:
    """Where the document may be: it is the text, or stands in it after thoughts or inside a Markdown fence."""
    yield text
    if _END_OF_THOUGHTS in text:
        text = text.rpartition(_END_OF_THOUGHTS)[2]
        yield text
    if fenced := _FENCE.search(text):
        yield fenced[1]
