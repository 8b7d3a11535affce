"""Generates docs/openapi.yaml from the code. `python -m development.openapi` writes it, `--check` only prints the
differences. Routes and their security come from template.yaml, requests from the pydantic models, and responses from
the types of turnqueue/responses.py. The problems come from turnqueue/errors.py, and the examples from the code with a
sample turn. This file adds only texts."""

import argparse
import ast
import difflib
import inspect
import json
import os
import re
import sys
import textwrap
import types
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

sys.path.extend(
    f"{Path(__file__).parents[1]}/{folder}" for folder in ("functions/submit", "functions/status", "layers/shared")
)
from development import cfn
from local.stack import API_PORT

# The variables that the handlers need when they are imported.
os.environ.update(cfn.environment(), AWS_DEFAULT_REGION="us-east-1")

import preference
import request
import status
import submission
import submit
from turnqueue import __version__, attachments, events, http, media, responses, stream, turn, usage
from turnqueue.errors import MAX_BODY_BYTES, REFUSALS
from turnqueue.personas import DEFAULT_ROLE, ROLES

type Json = dict[str, Any]

TARGET = cfn.ROOT / "docs" / "openapi.yaml"

DESCRIPTION = f"""\
A client sends a message. If the answer comes soon enough, it is in the response. Otherwise the client polls the
*task* of the message. Every accepted task ends as SUCCESS or FAILURE, even after crashes. The messages of a
session are answered in the order of submission.

**Errors** are [problem documents](https://www.rfc-editor.org/rfc/rfc9457). Their `code` is for programs. Their member
`error` has the form that OpenAI's SDKs read. API Gateway answers requests that never reach the functions with
`{{"message": "…"}}`: 401 without a valid token, 404 without a route, 413 above 10 MB, 429 above the account's rate, 500
and 503 if a function cannot run.

**Limits**: a body has at most {MAX_BODY_BYTES // 1024} KiB. A message with all its parts has at most
{turn.MAX_REQUEST_BYTES // 1024} KiB as JSON, without its data URLs of more than {attachments.MAX_INLINE_CHARACTERS:,}
characters. No task is answered after its deadline. A task can be read for
{turn.RETENTION_SECONDS // 86400} days.

Members may be added to any response; clients ignore those that they do not know. No response may be cached.
"""


# ---- Schemas

# A data URL's payload, as base64.b64decode(…, validate=True) accepts it.
_BASE64 = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)"

# The validator's limit, without the first 9 characters: "https://" and one character of the host.
_HTTPS_URL = f"{request._HTTPS_URL.removesuffix('*')}{{0,{request.MAX_URL_CHARACTERS - 9}}}"

_DATA_URLS = f"All data URLs of a message may have {request.MAX_DATA_URL_CHARACTERS:,} characters together."


def _pattern(pattern: re.Pattern[str] | str) -> str:
    return f"^{pattern if isinstance(pattern, str) else pattern.pattern}$"


# The rules of the request's validators, because pydantic cannot export them. A validator without an entry raises
# KeyError.
LIMITS: dict[Any, Json] = {
    request._session_id: {"pattern": _pattern(turn.SESSION_ID)},
    request._role: {"enum": sorted(ROLES)},
    request._upload_id: {"pattern": _pattern(turn._ULID)},
    # The description states this rule, because code generators make useless classes from a oneOf.
    request.Media._either: {
        "description": "One attachment, by its `url` or by its `upload_id`: exactly one of the two. "
        "The model's provider may fetch an https URL; Turnqueue never does."
    },
    request._media: {"description": f"Images to go with the message. {_DATA_URLS}"},
    request._url: {
        "description": f"An https URL of at most {request.MAX_URL_CHARACTERS:,} characters, or a data URL.",
        "pattern": _pattern(f"(?:{_HTTPS_URL}|{request._DATA_URL.replace('(.+)', _BASE64)})"),
        "maxLength": request.MAX_DATA_URL_CHARACTERS,
    },
}

STATUS_WORDS = {
    turn.Status.PENDING: "The task waits for its first or next attempt.",
    turn.Status.STARTED: "A worker is answering the message.",
    turn.Status.SUCCESS: "The message is answered. Final.",
    turn.Status.FAILURE: "The message will not be answered. Final.",
}

REQUEST_WORDS = {
    "message": "The user's message. Only a request with `tool_outputs` may have an empty one, or none.",
    "session_id": "The conversation to continue, or the name of a new one. If absent, the service makes one.",
    "role": f"The role that answers: `{DEFAULT_ROLE}` if absent.",
    "metadata": "Stored and returned with the message. The service does not read it.",
    "stream": "Whether to show the growing answer up to four times a second, instead of once. "
    "Read it at `/chat/task/{task_id}/events`.",
    "tools": "Functions that the client can run. If the model asks for some, the task ends SUCCESS with `tool_calls`.",
    "tool_choice": "Whether the model must ask for a function: `auto` if absent, `none`, `required`, or the function "
    "that it must ask for. Without `tools` it has no effect.",
    "parallel_tool_calls": "Whether the model may ask for several functions at once. The default is the model's. "
    "Without `tools` it has no effect.",
    "tool_outputs": "The results of the functions that the model has asked for, each with its `call_id`: exactly one "
    "for each of the `tool_calls` of one task in the session, which `session_id` names. They are accepted once.",
    "deadline_seconds": "The seconds that the task may take. The maximum and the default are the deployment's "
    "`DeadlineMinutes`.",
}


UPLOAD_WORDS = {
    "content_type": "The type of the image. S3 accepts only this type, and the file must begin like one of this type.",
    "size": "Its size in bytes. The form is then valid only for a file of exactly this size.",
}


class Schema(GenerateJsonSchema):
    """Simplify a JSON Schema for readers: no generated titles, and `null` as one of the types."""

    def function_after_schema(self, schema: Any) -> JsonSchemaValue:
        return super().function_after_schema(schema) | LIMITS[schema["function"]["function"]]

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def none_schema(self, schema: Any) -> JsonSchemaValue:
        # openapi-generator crashes on a property that is only null.
        return {"type": ["object", "null"]}

    def nullable_schema(self, schema: Any) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        if isinstance(inner.get("type"), str) and not inner.keys() & {"enum", "const"}:
            return {**inner, "type": [inner["type"], "null"]}
        return super().nullable_schema(schema)


def schemas() -> Json:
    """components.schemas: the request and all types of turnqueue.responses."""
    documents = [value for value in vars(responses).values() if hasattr(value, "__total__")]
    requests: list[type[BaseModel]] = [request.ChatRequest, request.UploadRequest]
    adapters: list[Any] = [("", "validation", TypeAdapter(each)) for each in requests]
    adapters += [("", "serialization", TypeAdapter(document)) for document in documents]
    generated: Json = TypeAdapter.json_schemas(
        [(str(index), mode, adapter) for index, (_, mode, adapter) in enumerate(adapters)],
        ref_template="#/components/schemas/{model}",
        schema_generator=Schema,
    )[1]["$defs"]
    for schema in generated.values():
        schema.pop("title", None)
        for member in schema.get("properties", {}).values():
            # Remove the default, because code generators treat a member with a default as always present.
            member.pop("default", None)
    for document in documents:
        _describe(generated[document.__name__], _docstrings(document))
    for name, words in (("ChatRequest", REQUEST_WORDS), ("UploadRequest", UPLOAD_WORDS)):
        _describe(generated[name], words)
        if silent := [
            field
            for field, schema in generated[name]["properties"].items()
            if not schema.keys() & {"description", "const"}
        ]:
            raise LookupError(f"{name}: describe {', '.join(silent)} in REQUEST_WORDS or UPLOAD_WORDS")
    generated["Status"]["description"] = _list({each: STATUS_WORDS[each] for each in turn.Status})
    generated["Timestamp"] |= {"format": "date-time", "description": "UTC, to the millisecond."}
    generated["ErrorCode"] |= {
        "enum": list(turn.FAILURES),
        "description": "The reason why a task failed, with the HTTP status of a request that waited for the task.\n"
        f"\n{_list(_failure_words())}",
    }
    generated["ProblemDocument"]["properties"]["status"] |= {"minimum": 400, "maximum": 599}
    generated["TaskStatus"]["properties"]["progress"] |= {"minimum": 0, "maximum": 1}
    generated["SessionTurn"]["properties"]["progress"] |= {"minimum": 0, "maximum": 1}
    generated["GatewayMessage"] = {
        "type": "object",
        "description": "A refusal by API Gateway.",
        "properties": {"message": {"type": "string"}},
        "required": ["message"],
    }
    return {name: _ordered(schema) for name, schema in sorted(generated.items())}


def _ordered(schema: Any) -> Any:
    """The schema, with its keywords in a readable order."""
    if isinstance(schema, list):
        return [_ordered(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    first = ("title", "description", "$ref", "type", "enum", "const", "default", "properties", "required")
    known = [name for name in first if name in schema]
    return {
        name: {member: _ordered(each) for member, each in schema[name].items()}
        if name == "properties"
        else _ordered(schema[name])
        for name in [*known, *(name for name in schema if name not in known)]
    }


def _describe(schema: Json, words: dict[str, str]) -> None:
    for name, text in words.items():
        schema["properties"][name]["description"] = text


def _docstrings(document: type) -> dict[str, str]:
    """The docstrings of a TypedDict's members, including inherited members."""
    found: dict[str, str] = {}
    for base in types.get_original_bases(document):
        if hasattr(base, "__total__"):
            found |= _docstrings(base)
    (definition,) = ast.parse(inspect.getsource(document)).body
    assert isinstance(definition, ast.ClassDef)
    for member, following in zip(definition.body, definition.body[1:], strict=False):
        match member, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = text
    return found


def _failure_words() -> dict[str, str]:
    """The meaning of each error code, and the HTTP status of a request that waited for the failed task."""
    return {
        code: f"({failure.http_status}{', retryable' if failure.retryable else ''}) {failure.text}"
        for code, failure in turn.FAILURES.items()
    }


def _list(words: dict[str, str]) -> str:
    return "\n".join(f"- `{name}`: {text}" for name, text in words.items())


# ---- Problems


class Refusal(NamedTuple):
    """A problem document that a route can send. `of_task`: whether it reports a turn that failed while the request
    waited for it."""

    status: int
    code: str
    text: str
    of_task: bool = False


_CALLER = ("unauthenticated", "internal_error", "unavailable")
_BODY = ("invalid_body", "invalid_json", "body_too_large", "unsupported_media_type", "invalid_request")
_TURN = (
    "idempotency_key_reused",
    "invalid_idempotency_key",
    "invalid_parameter",
    "media_url_not_allowed",
    "rate_limited",
)
REFUSALS_OF: dict[str, tuple[str, ...]] = {
    "POST /chat": (
        *_CALLER,
        *_BODY,
        "request_too_large",
        "tool_outputs_mismatch",
        "already_continued",
        *_TURN,
    ),
    "POST /chat/media": (*_CALLER, *_BODY, "rate_limited"),
    "GET /chat/task/{task_id}": (*_CALLER, "task_not_found", "invalid_parameter"),
    "GET /chat/task/{task_id}/events": (*_CALLER, "task_not_found", "invalid_parameter"),
    "POST /chat/task/{task_id}/cancel": (*_CALLER, "task_not_found"),
    "POST /chat/task/{task_id}/retry": (*_CALLER, "task_not_found", "not_failed", "already_continued", *_TURN),
    "GET /chat/session/{session_id}": (*_CALLER, "session_not_found", "invalid_parameter"),
    "GET /chat/usage": (*_CALLER, "invalid_parameter"),
    "GET /health": (),
}
"""The refusals of each route, as keys of errors.REFUSALS."""
WAITING = ("POST /chat", "POST /chat/task/{task_id}/retry")
"""The routes that can wait for their task, and then answer with its failure."""


def refusals(route: str) -> list[Refusal]:
    """The problems of a route, sorted by status and code."""
    of_request = [Refusal(REFUSALS[code].status, code, REFUSALS[code].meaning) for code in REFUSALS_OF[route]]
    return sorted([*of_request, *(_of_task(code) for code in turn.FAILURES if route in WAITING)])


def _of_task(code: str) -> Refusal:
    failure = turn.FAILURES[code]
    return Refusal(failure.http_status, code, failure.text, of_task=True)


def problems(route: str) -> Json:
    by_status: dict[int, list[Refusal]] = {}
    for refusal in refusals(route):
        by_status.setdefault(refusal.status, []).append(refusal)
    return {str(number): _problem(number, found) for number, found in by_status.items()}


def _problem(number: int, found: list[Refusal]) -> Json:
    codes = [refusal.code for refusal in found]
    words = {refusal.code: refusal.text for refusal in found}
    headers = [header("Retry-After", required=True)] if number in (429, 503) else []
    if number == 429:
        headers += [header("RateLimit-Policy", required=True), header("RateLimit", required=True)]
    if any(refusal.of_task for refusal in found):
        headers += [header("Preference-Applied"), header("Idempotency-Replayed")]
    response: Json = {
        "description": _list(words) if len(words) > 1 else found[0].text,
        "x-codes": codes,
        **({"headers": dict(headers)} if headers else {}),
        "content": {
            "application/problem+json": {
                "schema": {"$ref": "#/components/schemas/ProblemDocument"},
                # Take the longest example, because it shows the most.
                "example": max((_problem_example(refusal) for refusal in found), key=lambda each: len(str(each))),
            }
        },
    }
    if number == 401:
        response["headers"] = dict([header("WWW-Authenticate")])
        response["content"]["application/json"] = {
            "schema": {"$ref": "#/components/schemas/GatewayMessage"},
            "example": {"message": "Unauthorized"},
        }
    return response


# ---- Examples

_SENT_AT = datetime(2026, 11, 22, 9, 0, tzinfo=UTC).timestamp()

QUEUED = turn.Turn.submitted(
    turn.Key("alice#session_123", turn.new_ulid(_SENT_AT)[:10] + "8QJ3ZK9V5X2M7R4T"),
    {"message": "I need a haircut", "role": "booking"},
    _SENT_AT,
)
UPLOAD_ID = turn.new_ulid(_SENT_AT)[:10] + "3N8F4D1S6W0B7H2C"
RUNNING = QUEUED._replace(
    status=turn.Status.STARTED,
    attempt=1,
    started_at=_SENT_AT + 0.21,
    lease_until=_SENT_AT + 183,
    progress=0.05,
    partial="A haircut, with pleasure.",
)
ANSWERED = QUEUED._replace(
    status=turn.Status.SUCCESS,
    attempt=1,
    started_at=_SENT_AT + 0.21,
    finished_at=_SENT_AT + 2.34,
    result={
        "message": "A haircut, with pleasure. On which day, at what time, and for whom?",
        "data": {"complete": False, "missing": ["date", "time", "name"]},
        "draft": {"service": "haircut", "date": None, "time": None, "name": None},
    },
    usage={
        "model": "gpt-4.1-mini",
        "prompt_tokens": 214,
        "completion_tokens": 61,
        "cached_tokens": 0,
        "finish_reason": "stop",
        "first_token_ms": 480,
        "attempts": 1,
        "queue_ms": 210,
        "total_ms": 2340,
        "cost_usd": 0.000183,
        "persona": "booking",
        "persona_version": "3f1c22ab904e",
    },
)


def failed(code: str) -> turn.Turn:
    failure = turn.FAILURES[code]
    return QUEUED._replace(
        status=turn.Status.FAILURE,
        attempt=1,
        started_at=_SENT_AT + 0.21,
        finished_at=_SENT_AT + 1.02,
        error=failure.text,
        error_code=code,
    )


ROWS = [events.Event(1, "d", 1, "A haircut,"), events.Event(2, "d", 1, " with pleasure.")]


def _events_example() -> Any:
    return json.loads(stream.response({}, stream.news(ROWS), 2, 300)["body"])


def _task_examples(*turns: turn.Turn) -> dict[str, Any]:
    return {str(each.status): responses.task_status(each, _SENT_AT + 1) for each in turns}


def _session_example() -> Any:
    return {
        "session_id": ANSWERED.key.session_id,
        "turns": [status._history_entry(ANSWERED, _SENT_AT)],
        "next_cursor": None,
    }


def _problem_example(refusal: Refusal) -> Any:
    if refusal.of_task:
        return _body_of(submit._failed(failed(refusal.code), {}))
    real: dict[str, Callable[[], Any]] = {
        "unauthenticated": lambda: http.owner({"requestContext": {}}),
        "unsupported_media_type": lambda: submission.require_json({"headers": {"content-type": "text/plain"}}),
        "invalid_idempotency_key": lambda: submission.idempotency_key({"headers": {"idempotency-key": ""}}),
        "invalid_parameter": lambda: http.integer("soon", "wait", default=0, low=0, high=status.MAX_WAIT_SECONDS),
        "invalid_request": lambda: request.parse_chat(b'{"message": null, "role": "oracle"}'),
    }
    try:
        real.get(refusal.code, lambda: None)()
    except http.Problem as problem:
        return _body_of(problem)
    return _body_of(http.Problem(refusal.code))


def _body_of(problem: http.Problem) -> Any:
    return json.loads(problem.response()["body"])


# ---- Headers and parameters

HEADERS: dict[str, Json] = {
    "Cache-Status": {
        "description": "The answer was served from the cache (RFC 9211).",
        "schema": {"type": "string", "enum": ["turnqueue; hit"]},
    },
    "Location": {
        "description": "The address of the task.",
        "schema": {"type": "string", "format": "uri-reference", "pattern": r"^/chat/task/[^/]+$"},
    },
    "Retry-After": {
        "description": "The seconds to wait before the next request.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "Preference-Applied": {
        "description": "The preferences of `Prefer` that were applied.",
        "schema": {"type": "string", "pattern": "^(respond-async|wait=[0-9]+|respond-async, wait=[0-9]+)$"},
    },
    "Idempotency-Replayed": {
        "description": "An earlier request with this Idempotency-Key made the task.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "RateLimit-Policy": {
        "description": "The caller's limits, if there are any: `q` messages at once, or `q` tokens, in `w` seconds "
        "(draft-ietf-httpapi-ratelimit-headers-10).",
        "schema": {"type": "string"},
        "example": '"tokens";q=100000;qu="tokens";w=86400, "messages";q=5;w=15',
    },
    "RateLimit": {
        "description": "The rest of the limits: `r` is left now, and the whole limit is available in `t` seconds.",
        "schema": {"type": "string"},
        "example": '"tokens";r=87412;t=31022, "messages";r=4;t=3',
    },
    "WWW-Authenticate": {
        "description": "The kind of token that the API needs. Set by API Gateway.",
        "schema": {"type": "string"},
    },
}

PARAMETERS: dict[str, Json] = {
    "async_mode": {
        "in": "query",
        "description": "`true`: answer 202 at once; `false`: wait for the answer, whatever the default of the service. "
        "Also understood: 1 and 0, yes and no, on and off, t and f, y and n, in any case.",
        "schema": {"type": "boolean"},
    },
    "Prefer": {
        "in": "header",
        "description": "`respond-async`: answer 202 at once. `wait=N`: wait up to N seconds for the answer, and "
        f"{preference.MAX_WAIT_SECONDS} at the most. Other preferences are ignored "
        "([RFC 7240](https://www.rfc-editor.org/rfc/rfc7240)).",
        "schema": {"type": "string"},
        "example": "wait=10",
    },
    "Cache-Control": {
        "in": "header",
        "description": "If the deployment caches replies, identical messages without `session_id` are answered from "
        "the cache. `no-cache`: the model answers. `max-age=N`: accept a cached reply of up to N seconds. "
        "`no-store`: the model answers, and its reply is not cached ([RFC "
        "9111](https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1)).",
        "schema": {"type": "string"},
        "example": "no-cache",
    },
    "Idempotency-Key": {
        "in": "header",
        "description": "The client's key for this message, quoted or not. It makes retries safe: for 24 hours the "
        "same key and body make one task.",
        "schema": {"type": "string", "pattern": r'^("[!-~]{1,255}"|[!#-~][!-~]{0,254})$'},
        "example": "4e0f4e0c-6f0e-4c43-9a5b-0d7f8f3f2a10",
    },
    "task_id": {
        "in": "path",
        "description": "The `task_id` of the response to the message.",
        "schema": {"type": "string", "pattern": _pattern(rf"{turn.SESSION_ID.pattern}\.{turn._ULID.pattern}")},
        "example": QUEUED.key.task_id,
    },
    "session_id": {
        "in": "path",
        "description": "The `session_id` of a response, or the name that the client chose.",
        "schema": {"type": "string", "pattern": _pattern(turn.SESSION_ID)},
        "example": QUEUED.key.session_id,
    },
    "wait": {
        "in": "query",
        "description": "The seconds to wait for a final status. A number above "
        f"{status.MAX_WAIT_SECONDS} counts as {status.MAX_WAIT_SECONDS}.",
        "schema": {"type": "integer", "minimum": 0, "default": 0},
    },
    "after": {
        "in": "query",
        "description": "The `id` of the last event that the client has read. It overrides `Last-Event-ID`. Without "
        "both, the client has read nothing.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "Last-Event-ID": {
        "in": "header",
        "description": "Like `after`. A browser's EventSource sends this header when it reconnects.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "limit": {
        "in": "query",
        "description": f"The messages on a page. A number above {status.MAX_PAGE} counts as {status.MAX_PAGE}.",
        "schema": {"type": "integer", "minimum": 1, "default": 50},
    },
    "day": {
        "in": "query",
        "description": f"YYYY-MM-DD, in UTC; today without it. {usage.RETENTION_DAYS} days are kept.",
        "schema": {"type": "string", "format": "date"},
    },
    "cursor": {
        "in": "query",
        "description": "The `next_cursor` of the previous page.",
        "schema": {"type": "string", "pattern": _pattern(turn._ULID)},
    },
}


def header(name: str, *, required: bool = False) -> tuple[str, Json]:
    if required:
        return name, {**HEADERS[name], "required": True}
    return name, {"$ref": f"#/components/headers/{name}"}


def _parameter(name: str) -> Json:
    required = {"required": True} if PARAMETERS[name]["in"] == "path" else {}
    return {"name": name, **required, **PARAMETERS[name]}


# ---- Operations


def _success(words: str, schema: str, examples: Any, *headers: tuple[str, Json]) -> Json:
    """A response that is not a problem. `examples`: one example, or a dict of examples by name."""
    named = isinstance(examples, dict) and all(name.isupper() for name in examples)
    shown: Json = (
        {"examples": {name: {"value": value} for name, value in examples.items()}} if named else {"example": examples}
    )
    return {
        "description": words,
        **({"headers": dict(headers)} if headers else {}),
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}, **shown}},
    }


def _events() -> Json:
    """The response with the new events, as JSON and as a stream of Server-Sent Events."""
    response = _success("The new events.", "TaskEvents", _events_example())
    text = stream.response({"headers": {"accept": "text/event-stream"}}, stream.news(ROWS), 2, 300)
    response["content"]["text/event-stream"] = {"schema": {"type": "string"}, "example": text["body"]}
    return response


def _answered_or_accepted(words: str, headers: list[tuple[str, Json]]) -> Json:
    """The responses to a message: 200 with the answer, or 202 if the message is queued. `words` describe the 202."""
    asked_for = [header("Location", required=True), header("Retry-After", required=True)]
    return {
        "200": _success("The answer.", "ChatResponse", responses.chat_response(ANSWERED), *headers),
        "202": _success(words, "Accepted", responses.accepted(QUEUED), *asked_for, *headers),
    }


_OF_A_SUBMIT = [
    header(name)
    for name in ("Preference-Applied", "Idempotency-Replayed", "Cache-Status", "RateLimit-Policy", "RateLimit")
]

TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city today.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}

OPERATIONS: dict[str, Json] = {
    "POST /chat": {
        "operationId": "chat",
        "tags": ["Messages"],
        "summary": "Send a message",
        "description": f"By default, the request waits for the answer for up to {preference.MAX_WAIT_SECONDS} "
        "seconds. After that it is answered 202, and the task continues. `async_mode` overrides `Prefer`, and "
        "`Prefer` overrides the default of the service.",
        "parameters": ["async_mode", "Prefer", "Cache-Control", "Idempotency-Key"],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/ChatRequest"},
                    "examples": {
                        "message": {"value": {"message": "What is a good name for a cat?"}},
                        "role": {
                            "value": {"message": "I need a haircut", "session_id": "session_123", "role": "booking"}
                        },
                        "image": {
                            "value": {
                                "message": "What is in this picture?",
                                "media": [{"type": "image", "url": "https://example.com/cat.jpg"}],
                            }
                        },
                        "upload": {
                            "value": {
                                "message": "What is in this picture?",
                                "media": [{"type": "image", "upload_id": UPLOAD_ID}],
                            }
                        },
                        "tools": {"value": {"message": "Do I need an umbrella in Oslo?", "tools": [TOOL]}},
                        "tool_outputs": {
                            "value": {
                                "session_id": "session_123",
                                "tool_outputs": [{"call_id": "call_3kRk9f", "output": '{"rain_mm": 4}'}],
                                "tools": [TOOL],
                            }
                        },
                    },
                }
            },
        },
        "responses": _answered_or_accepted(
            "Accepted: the message is recorded and queued. Ask for the task.", _OF_A_SUBMIT
        ),
    },
    "POST /chat/media": {
        "operationId": "offerUpload",
        "tags": ["Messages"],
        "summary": "Get a form to upload an image",
        "description": "Then post the image to the `url` of the answer, as `multipart/form-data`: first the "
        "`fields`, then the field `file`. S3 answers 204. If the image does not match the request, it answers 400 or "
        "403 in XML. After that, messages can name the image by its `upload_id`, for at least a week. The uploads of "
        f"a message may have {media.MAX_UPLOAD_BYTES // 1024**2} MiB together. Keep the answer secret, because "
        "anyone who has it can upload one image.",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/UploadRequest"},
                    "example": {"type": "image", "content_type": "image/png", "size": 48211},
                }
            },
        },
        "responses": {
            "201": _success(
                "The form.",
                "Upload",
                responses.upload(
                    media.Form(
                        UPLOAD_ID,
                        "https://media-bucket.s3.us-east-1.amazonaws.com/",
                        {
                            "Content-Type": "image/png",
                            "key": turn.upload_key("alice", UPLOAD_ID),
                            "x-amz-algorithm": "AWS4-HMAC-SHA256",
                            "x-amz-credential": "AKIAIOSFODNN7EXAMPLE/20261122/us-east-1/s3/aws4_request",
                            "x-amz-date": "20261122T090000Z",
                            "policy": "eyJleHBpcmF0aW9uIjog…",
                            "x-amz-signature": "4d2c…",
                        },
                        int(_SENT_AT) + media.UPLOAD_SECONDS,
                        48211,
                    )
                ),
                header("RateLimit-Policy"),
                header("RateLimit"),
            )
        },
    },
    "GET /chat/task/{task_id}": {
        "operationId": "getTask",
        "tags": ["Tasks"],
        "summary": "Ask for a task",
        "description": "200 while the task exists, whatever its status.",
        "parameters": ["task_id", "wait"],
        "responses": {
            "200": _success(
                "The task. `Retry-After` while it is not final.",
                "TaskStatus",
                _task_examples(QUEUED, RUNNING, ANSWERED, failed("model_timeout")),
                header("Retry-After"),
            ),
        },
    },
    "GET /chat/task/{task_id}/events": {
        "operationId": "getTaskEvents",
        "tags": ["Tasks"],
        "summary": "Watch an answer grow",
        "description": "The new events of the answer, at once: no request waits for events. The response has "
        "Server-Sent Events if the client accepts `text/event-stream`, otherwise JSON. Ask again after `retry` or "
        "`poll_after_ms`, with the last id, until `done` comes. An event is the same for every reader, and can be "
        "read again for a day. The text of all `delta` events may be incomplete; `done` has the whole answer.",
        "parameters": ["task_id", "after", "Last-Event-ID"],
        "responses": {
            "200": _events(),
            "204": {"description": "Nothing follows: the client has read `done`."},
        },
    },
    "POST /chat/task/{task_id}/cancel": {
        "operationId": "cancelTask",
        "tags": ["Tasks"],
        "summary": "Cancel a task",
        "description": "A waiting task is cancelled at once, and a running one when its worker sees the request. A "
        "final task does not change. Safe to repeat.",
        "parameters": ["task_id"],
        "responses": {
            "200": _success(
                "The task is final.",
                "TaskStatus",
                responses.task_status(failed("cancelled")._replace(attempt=0, started_at=None), _SENT_AT + 1),
            ),
            "202": _success(
                "The worker will see the request to cancel within two seconds.",
                "TaskStatus",
                responses.task_status(RUNNING, _SENT_AT + 1),
                header("Retry-After", required=True),
            ),
        },
    },
    "POST /chat/task/{task_id}/retry": {
        "operationId": "retryTask",
        "tags": ["Tasks"],
        "summary": "Send the message of a failed task again",
        "description": "Makes a new task at the end of the session. The old task does not change. The response is "
        "202, unless `async_mode` or `Prefer` says otherwise. A repetition within 24 hours returns the same new "
        "task, unless another `Idempotency-Key` asks for another retry.",
        "parameters": ["task_id", "async_mode", "Prefer", "Idempotency-Key"],
        "responses": _answered_or_accepted(
            "Accepted: the new task is recorded and queued.",
            [each for each in _OF_A_SUBMIT if each[0] != "Cache-Status"],
        ),
    },
    "GET /chat/session/{session_id}": {
        "operationId": "getSession",
        "tags": ["Conversations"],
        "summary": "Read a conversation",
        "description": "The messages of a session with their tasks, in the order of submission.",
        "parameters": ["session_id", "limit", "cursor"],
        "responses": {"200": _success("A page of the conversation.", "SessionPage", _session_example())},
    },
    "GET /chat/usage": {
        "operationId": "getUsage",
        "tags": ["Usage"],
        "summary": "Read the usage of a day",
        "description": "The tokens of a day, from every attempt at the caller's messages.",
        "parameters": ["day"],
        "responses": {
            "200": _success(
                "The day.",
                "UsageDay",
                {
                    "day": "2026-11-22",
                    "answers": 31,
                    "prompt_tokens": 12044,
                    "completion_tokens": 3120,
                    "cached_tokens": 0,
                    "estimated_tokens": 512,
                    "reserved_tokens": 0,
                    "cost_usd": 0.00981,
                },
            )
        },
    },
    "GET /health": {
        "operationId": "health",
        "tags": ["Health"],
        "summary": "Ask whether the service answers",
        "description": "Needs no token. `roles` lists the roles that a message may have.",
        "responses": {
            "200": _success(
                "The service answers.",
                "Health",
                {"status": "ok", "version": __version__, "roles": ["booking", "general"]},
            )
        },
    },
}
OPERATIONS["HEAD /health"] = {
    "operationId": "healthHead",
    "tags": ["Health"],
    "summary": "Ask whether the service answers, without the body",
    "description": "Like `GET /health`, but without a body. Needs no token.",
    "responses": {"200": {"description": "The service answers."}},
}

TAGS = {
    "Messages": "Send a message, and the images that go with it.",
    "Tasks": "The states and results of messages.",
    "Conversations": "The messages of a session with their answers.",
    "Usage": "Tokens and cost.",
    "Health": "Whether the service answers.",
}

BODIES = {"POST /chat": "Chat", "POST /chat/media": "Upload"}
"""The schema names of the operations' bodies."""

LINKS: dict[str, Json] = {
    "task": {"operationId": "getTask", "parameters": {"task_id": "$response.body#/task_id"}},
    "cancel": {"operationId": "cancelTask", "parameters": {"task_id": "$response.body#/task_id"}},
    "session": {"operationId": "getSession", "parameters": {"session_id": "$response.body#/session_id"}},
}


def paths() -> Json:
    """Every route of template.yaml with the operation that its function performs.

    Leaves out the preflights of browsers, and the OpenAI API, which OpenAI documents. The route $default accepts a
    slash after /chat. It is left out too, because tools refuse two paths for one operation.
    """
    described: Json = {}
    for route in cfn.resources("AWS::ApiGatewayV2::Route").values():
        key = route["RouteKey"]
        if key == "$default" or key.startswith("OPTIONS ") or " /v1/" in key:
            continue
        method, path = key.split(" ")
        operation = dict(OPERATIONS[key])
        if "parameters" in operation:
            operation["parameters"] = [{"$ref": f"#/components/parameters/{name}"} for name in operation["parameters"]]
        if "requestBody" in operation:
            operation["requestBody"] = {"$ref": f"#/components/requestBodies/{BODIES[key]}"}
        successes = {code: {**answer} for code, answer in operation["responses"].items()}
        if BODIES.get(key) == "Chat":
            for answer in successes.values():
                answer["links"] = {name: {"$ref": f"#/components/links/{name}"} for name in LINKS}
        # A response to HEAD has no body, so it has no problem document either.
        refused = {} if method == "HEAD" else dict(sorted(problems(key).items()))
        operation["responses"] = successes | refused
        operation["security"] = [{"token": []}] if route["AuthorizationType"] == "JWT" else []
        described.setdefault(path, {})[method.lower()] = operation
    return described


def document() -> Json:
    described = paths()
    responses: Json = {}  # a response that several operations share is described once
    for methods in described.values():
        for operation in methods.values():
            for code, answer in operation["responses"].items():
                name = _response_name(operation, code, answer)
                assert responses.setdefault(name, answer) == answer, name
                operation["responses"][code] = {"$ref": f"#/components/responses/{name}"}
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Turnqueue",
            "version": __version__,
            "summary": "Asynchronous chat: nothing that was accepted is lost, and each session keeps its order.",
            "description": "\n\n".join(textwrap.fill(paragraph, 110) for paragraph in DESCRIPTION.split("\n\n")),
        },
        "servers": [
            {
                "url": "https://{api}.execute-api.{region}.amazonaws.com",
                "description": "The stack's output `ApiUrl`.",
                "variables": {"api": {"default": "abc123"}, "region": {"default": "us-east-1"}},
            },
            {"url": f"http://127.0.0.1:{API_PORT}", "description": "The stack of `make run`."},
        ],
        "tags": [{"name": name, "description": words} for name, words in TAGS.items()],
        "paths": described,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A token of the stack's issuer. The token's `sub` owns the tasks and sessions. "
                    "For all other owners, they do not exist.",
                }
            },
            "parameters": {name: _parameter(name) for name in PARAMETERS},
            "requestBodies": {name: OPERATIONS[key]["requestBody"] for key, name in BODIES.items()},
            "responses": responses,
            "headers": {name: HEADERS[name] for name in sorted(_shared_headers(responses))},
            "links": LINKS,
            "schemas": schemas(),
        },
    }


def _shared_headers(responses: Json) -> set[str]:
    """The names of the headers that are described once, for all responses."""
    fields = (field for answer in responses.values() for field in answer.get("headers", {}).items())
    return {name for name, described in fields if "$ref" in described}


def _response_name(operation: Json, code: str, answer: Json) -> str:
    """The name of a response that several operations can share. A response with one code gets the code's name, such as
    InvalidJson. Another response gets the name of its operation and its status, such as ChatBadRequest."""
    codes = answer.get("x-codes", [])
    if len(codes) == 1:
        return codes[0].title().replace("_", "")  # type: ignore[no-any-return]
    name = operation["operationId"]
    return name[0].upper() + name[1:] + HTTPStatus(int(code)).phrase.title().replace(" ", "")  # type: ignore[no-any-return]


class Writer(yaml.SafeDumper):
    """Writes YAML for readers: no anchors, and block style for text of several lines."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(writer: Writer, text: str) -> yaml.ScalarNode:
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Writer.add_representer(str, _string)


def text() -> str:
    plain = json.loads(json.dumps(document()))  # turn members of enums into their values
    written = yaml.dump(plain, Dumper=Writer, sort_keys=False, allow_unicode=True, width=110)
    return f"# Generated from the code by development/openapi.py.\n{written}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if the file is out of date")
    new, name = text(), str(TARGET.relative_to(cfn.ROOT))
    if not parser.parse_args().check:
        TARGET.write_text(new)
        return 0
    old = TARGET.read_text() if TARGET.exists() else ""
    sys.stdout.writelines(
        difflib.unified_diff(old.splitlines(True), new.splitlines(True), name, f"{name} (from the code)")
    )
    return int(old != new)


if __name__ == "__main__":
    sys.exit(main())
