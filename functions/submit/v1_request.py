"""Translates the bodies of POST /v1/responses and POST /v1/chat/completions into the request that a turn stores. An
unsupported parameter that would change the answer causes an error that names the parameter. Other unsupported
parameters are ignored.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from request import (
    FUNCTION_NAME,
    MAX_CALL_ID_CHARACTERS,
    MAX_MEDIA,
    MAX_METADATA,
    MAX_TOOLS,
    Media,
    Tool,
    require_storable,
)
from turnqueue.http import Problem
from turnqueue.personas import DEFAULT_ROLE, ROLES

type Entry = dict[str, Any]
type Refer = Callable[[str, str], Entry]
"""Finds the context entry of an item. The arguments are the item's id and the name of the parameter that has this id.
If there is no such item, raises a 404 Problem that names the parameter."""

MAX_INSTRUCTIONS = 32_000  # the maximum number of characters in all instructions together

_Ignored = Annotated[Any, "taken and without effect"]


class _Lenient(BaseModel):
    """An item or a part of an item. Unknown members are ignored, because clients send items back as they received
    them."""

    model_config = ConfigDict(extra="ignore", strict=True)


class _Known(BaseModel):
    """Unknown members are errors, because ignoring them would change the answer."""

    model_config = ConfigDict(extra="forbid", strict=True)


class _Tool(Tool):
    model_config = ConfigDict(extra="ignore")


class _JsonSchema(_Lenient):
    name: str = Field(pattern=FUNCTION_NAME)
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


type _Metadata = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=MAX_METADATA),
]


class _Common(_Known):
    model: str | None = None
    stream: bool | None = None
    metadata: _Metadata | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    store: _Ignored = None  # ignored: every turn is stored, whatever the client sends here, and the response says so
    user: _Ignored = None
    safety_identifier: _Ignored = None
    prompt_cache_key: _Ignored = None
    prompt_cache_retention: _Ignored = None
    service_tier: _Ignored = None
    stream_options: dict[str, Any] | None = None


class _Conversation(_Lenient):
    id: str


class _Reasoning(_Lenient):
    effort: str | None = Field(None, max_length=20)


class _Text(_Lenient):
    format: dict[str, Any] | None = None
    verbosity: str | None = Field(None, max_length=20)


class ResponsesBody(_Common):
    """The body of POST /v1/responses."""

    input: str | list[dict[str, Any]]
    instructions: Annotated[str, Field(max_length=MAX_INSTRUCTIONS)] | None = None
    previous_response_id: str | None = None
    conversation: str | _Conversation | None = None
    background: bool | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    reasoning: _Reasoning | None = None
    text: _Text | None = None
    top_logprobs: Literal[0] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: _Ignored = None
    max_tool_calls: _Ignored = None  # limits OpenAI's hosted tools, which this API does not offer

    @property
    def conversation_id(self) -> str | None:
        return self.conversation.id if isinstance(self.conversation, _Conversation) else self.conversation

    def options(self) -> dict[str, Any]:
        return {
            "max_completion_tokens": self.max_output_tokens,
            "reasoning_effort": self.reasoning and self.reasoning.effort,
            "verbosity": self.text and self.text.verbosity,
        }


class CompletionsBody(_Common):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    reasoning_effort: str | None = Field(None, max_length=20)
    verbosity: str | None = Field(None, max_length=20)
    response_format: dict[str, Any] | None = None

    def options(self) -> dict[str, Any]:
        names = ("stop", "seed", "presence_penalty", "frequency_penalty", "reasoning_effort", "verbosity")
        limit = self.max_completion_tokens or self.max_tokens
        return {"max_completion_tokens": limit, **{name: getattr(self, name) for name in names}}


class ConversationBody(_Known):
    """The body of POST /v1/conversations."""

    metadata: _Metadata | None = None
    # only an empty list is allowed, because a conversation gets its items from responses
    items: Annotated[list[dict[str, Any]], Field(max_length=0)] | None = None


class Parsed(NamedTuple):
    """A parsed request. `body`: the client's body. `request`: the part that the turn stores. `fingerprint`: a hash that
    is the same for equal bodies."""

    body: Any
    request: dict[str, Any]
    fingerprint: str


def parse_responses(content: bytes, *, instructions: bool, refer: Refer) -> Parsed:
    """Read the body of POST /v1/responses. `instructions`: whether clients may send instructions. Raises Problem."""
    body = _parse(ResponsesBody, content)
    if body.previous_response_id and body.conversation:
        raise _unsupported("previous_response_id", "cannot be combined with conversation")
    if isinstance(body.input, str):
        entries: list[Entry] = [{"role": "user", "text": body.input}]
    else:
        entries = [entry for number, item in enumerate(body.input) for entry in _item(item, f"input.{number}", refer)]
    request = _request(body, entries, "input", instructions)
    if body.instructions:
        if not instructions:
            raise _no_instructions("instructions")
        request["instructions"] = body.instructions
    if form := _form(body.text.format if body.text else None, "text.format"):
        request["format"] = form
    request["v1"] = {"background": bool(body.background), **({"conversation": True} if body.conversation else {})}
    return _parsed("responses", body, request)


def parse_completions(content: bytes, *, instructions: bool) -> Parsed:
    """Read the body of POST /v1/chat/completions. Raises Problem."""
    body = _parse(CompletionsBody, content)
    entries = [entry for number, each in enumerate(body.messages) for entry in _message(each, f"messages.{number}")]
    request = _request(body, entries, "messages", instructions)
    if form := _form(_flat(body.response_format, "json_schema"), "response_format"):
        request["format"] = form
    request["v1"] = {}
    return _parsed("chat/completions", body, request)


def parse_conversation(content: bytes) -> ConversationBody:
    """The body of POST /v1/conversations, which may be empty. Raises Problem."""
    return _parse(ConversationBody, content or b"{}")


def _parse[Body: BaseModel](kind: type[Body], content: bytes) -> Body:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise _problem(error) from None


def _parsed(name: str, body: BaseModel, request: dict[str, Any]) -> Parsed:
    told, form = ("input", "text") if isinstance(body, ResponsesBody) else ("messages", "response_format")
    require_storable(request, {"message": told, "context": told, "media": told, "format": form}, status=400)
    said = json.dumps(body.model_dump(exclude_none=True), sort_keys=True)
    return Parsed(body, request, hashlib.sha256(f"{name}\n{said}".encode("utf-8", "surrogatepass")).hexdigest())


def _request(body: Any, entries: list[Entry], param: str, instructions: bool) -> dict[str, Any]:
    """Build the request of a turn; both APIs share this part. The user's last message is the turn's message. Everything
    before it is the turn's context."""
    if not any(entry.get("role") == "user" or "output" in entry for entry in entries):
        raise Problem(
            "invalid_request",
            f"{param}: needs a message with the role user, or the result of a function call.",
            status=400,
            param=param,
        )
    if not instructions and any(entry.get("role") == "system" for entry in entries):
        raise _no_instructions(param)
    if sum(len(entry.get("media") or ()) for entry in entries) > MAX_MEDIA:
        raise Problem(
            "invalid_request", f"{param}: a request may have at most {MAX_MEDIA} images.", status=400, param=param
        )
    model = body.model or DEFAULT_ROLE
    if model not in ROLES:
        names = ", ".join(sorted(ROLES))
        headers = {"x-should-retry": "false"}
        text = f"There is no such model. The models are: {names}."
        raise Problem("model_not_found", text, param="model", headers=headers)
    last = entries[-1] if entries[-1].get("role") == "user" else None
    context = entries[:-1] if last else entries
    options = {"temperature": body.temperature, "top_p": body.top_p, **body.options()}
    tools = _tools(body.tools or [])
    if tools:
        options["parallel_tool_calls"] = body.parallel_tool_calls
    kept: dict[str, Any] = {
        "message": last["text"] if last else "",
        "role": model,
        "media": last and last.get("media"),
        "metadata": body.metadata,
        "context": context,
        "options": {name: value for name, value in options.items() if value is not None},
        "tools": tools,
        "tool_choice": _tool_choice(body.tool_choice, tools),
    }
    return {name: value for name, value in kept.items() if value or name == "message"}


# ---- Input


class _Part(_Lenient):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | dict[str, Any] | None = None


class _Said(_Lenient):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[_Part] | None = None


class _Call(_Lenient):
    call_id: str = Field(min_length=1, max_length=MAX_CALL_ID_CHARACTERS)
    name: str = Field(pattern=FUNCTION_NAME)
    arguments: str


class _Output(_Lenient):
    call_id: str = Field(min_length=1, max_length=MAX_CALL_ID_CHARACTERS)
    output: str | list[_Part]


class _Reference(_Lenient):
    id: str


def _item(item: Mapping[str, Any], param: str, refer: Refer) -> Iterable[Entry]:
    """The context entries for an item of the Responses API."""
    kind = item.get("type") or ("message" if "role" in item else "item_reference" if "id" in item else None)
    match kind:
        case "message":
            yield _said(_checked(_Said, item, param), param)
        case "function_call":
            yield _checked(_Call, item, param).model_dump()
        case "function_call_output":
            output = _checked(_Output, item, param)
            yield {"call_id": output.call_id, "output": _text(output.output, f"{param}.output")}
        case "item_reference":
            yield refer(_checked(_Reference, item, param).id, f"{param}.id")
        case "reasoning":
            return  # the model does not get its earlier reasoning again
        case _:
            raise _unsupported(f"{param}.type", "is not supported by this service")


def _message(message: Mapping[str, Any], param: str) -> Iterable[Entry]:
    """The context entries for a message of Chat Completions."""
    if message.get("role") == "tool":
        renamed = {"call_id": message.get("tool_call_id"), "output": message.get("content")}
        output = _checked(_Output, renamed, param)
        yield {"call_id": output.call_id, "output": _text(output.output, f"{param}.content")}
        return
    said = _said(_checked(_Said, message, param), param)
    calls = message.get("tool_calls") or []
    if said["text"] or said.get("media") or not calls:
        yield said
    for number, call in enumerate(calls if isinstance(calls, list) else []):
        where = f"{param}.tool_calls.{number}"
        if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
            raise _unsupported(where, "must be a function call")
        yield _checked(_Call, {"call_id": call.get("id"), **call["function"]}, where).model_dump()


def _said(said: _Said, param: str) -> Entry:
    role = "system" if said.role == "developer" else said.role
    content = said.content or ""
    entry: Entry = {"role": role, "text": _text(content, f"{param}.content")}
    if isinstance(content, list) and (media := _media(content, f"{param}.content")):
        entry["media"] = media
    return entry


def _text(content: str | list[_Part], param: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for number, part in enumerate(content):
        if part.type in ("input_text", "output_text", "text", "summary_text"):
            texts.append(part.text or "")
        elif part.type == "refusal":
            texts.append(part.refusal or "")
        elif part.type not in ("input_image", "image_url"):
            raise _unsupported(f"{param}.{number}.type", "is not supported by this service")
    return "\n".join(texts)


def _media(content: list[_Part], param: str) -> list[dict[str, Any]]:
    media = []
    for number, part in enumerate(content):
        if part.type in ("input_image", "image_url"):
            url = part.image_url.get("url") if isinstance(part.image_url, dict) else part.image_url
            where = f"{param}.{number}.image_url"
            image = _checked(Media, {"type": "image", "url": url}, where)
            media.append(image.model_dump(exclude_none=True))
    return media


# ---- Tools and formats of the answer


def _tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Convert the functions, which both APIs describe differently, to the form that the turn stores."""
    found = []
    for number, tool in enumerate(tools):
        param = f"tools.{number}"
        flat = _flat(tool, "function")
        if flat is None or flat.get("type") != "function":
            raise _unsupported(f"{param}.type", "must be function, because this service supports no other tools")
        found.append(_checked(_Tool, flat, param).stored())
    return found


def _tool_choice(choice: str | dict[str, Any] | None, tools: list[dict[str, Any]]) -> Any:
    """The tool choice as auto, none, required, or {type: function, name}."""
    if choice is None or not tools:
        return None
    flat = _flat(choice, "function") if isinstance(choice, dict) else choice
    if flat in ("auto", "none", "required"):
        return flat
    if isinstance(flat, dict) and flat.get("type") == "function" and flat.get("name") in {t["name"] for t in tools}:
        return {"type": "function", "name": flat["name"]}
    raise _unsupported("tool_choice", "must be auto, none, required, or one of the functions in tools")


def _form(form: dict[str, Any] | None, param: str) -> dict[str, Any] | None:
    """The requested format of the answer, in the form of the Responses API. None for plain text."""
    kind = (form or {}).get("type", "text")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": kind}
    if kind != "json_schema":
        raise _unsupported(f"{param}.type", "must be text, json_object or json_schema")
    schema = _checked(_JsonSchema, form or {}, param)
    given = {"description": schema.description, "strict": schema.strict}
    return {"type": kind, "name": schema.name, "schema": schema.schema_, **given}


def _flat(nested: dict[str, Any] | None, member: str) -> dict[str, Any] | None:
    """Convert {type, function: {…}} of Chat Completions to {type, …} of Responses."""
    if nested is None or not isinstance(nested.get(member), dict):
        return nested
    return {"type": nested.get("type"), **nested[member]}


# ---- Refusals


def _checked[Kind: BaseModel](kind: type[Kind], value: Any, param: str) -> Kind:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _problem(error, param) from None


def _unsupported(param: str, why: str) -> Problem:
    return Problem("unsupported_parameter", f"{param} {why}.", param=param)


def _no_instructions(param: str) -> Problem:
    text = f"{param}: this service accepts no instructions from clients. The operator can set AllowInstructions."
    return Problem("unsupported_parameter", text, param=param)


def _problem(error: ValidationError, prefix: str = "") -> Problem:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return Problem("invalid_json")
    # Leave out `str`, which pydantic adds to the path for a member of a union.
    names = [name for name in (prefix, *map(str, first["loc"])) if name and name != "str"]
    # The client chooses the name of an unknown field, so "?" replaces a name that is not 1 to 64 letters, digits, dots
    # or underscores. The path ends at `metadata`, because its keys are the client's text.
    known = names[:1] if names[:1] == ["metadata"] else names
    param = ".".join(name if re.fullmatch(r"[\w.]{1,64}", name, re.ASCII) else "?" for name in known)
    if first["type"] == "extra_forbidden":
        return _unsupported(param, "is not supported by this service")
    detail = f"{param}: {first['msg']}" if param else first["msg"]
    return Problem("invalid_request", detail, status=400, param=param or None)
