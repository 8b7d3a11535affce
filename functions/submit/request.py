"""Parses the bodies of POST /chat and POST /chat/media. The error for a wrong body names the field and the limit."""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from turnqueue.attachments import moved
from turnqueue.http import Problem
from turnqueue.media import MAX_UPLOAD_BYTES, image_type
from turnqueue.personas import DEFAULT_ROLE, ROLES
from turnqueue.turn import MAX_REQUEST_BYTES, SESSION_ID, is_ulid

MAX_MESSAGE_CHARACTERS = 32_000
MAX_MEDIA = 8
MAX_DATA_URL_CHARACTERS = 200_000  # The limit for all data URLs of a message together. Clients upload larger images.
MAX_URL_CHARACTERS = 2048
MAX_METADATA = 16
MIN_DEADLINE_SECONDS = 10
MAX_TOOLS = 128
MAX_CALL_ID_CHARACTERS = 200

FUNCTION_NAME = "^[A-Za-z0-9_-]{1,64}$"  # the names of functions that OpenAI's API allows
_OF_TOOLS = ("tools", "tool_choice", "parallel_tool_calls", "tool_outputs")

# Compiled with the first message that has media, because most messages have no media.
_DATA_URL = r"data:image/(?:png|jpeg|gif|webp);base64,(.+)"
_HTTPS_URL = r'https://[!-"$-.0->@-~][!-~]*'  # An https URL with a host, in visible ASCII only (RFC 3986).


def _session_id(value: str) -> str:
    if not SESSION_ID.fullmatch(value):
        raise PydanticCustomError("session_id", "must be 1 to 64 characters out of A-Z, a-z, 0-9, _ and -")
    return value


def _role(value: str) -> str:
    if value not in ROLES:
        raise PydanticCustomError("role", "must be one of: {roles}", {"roles": ", ".join(sorted(ROLES))})
    return value


def _url(value: str) -> str:
    if value.startswith("data:"):
        if len(value) > MAX_DATA_URL_CHARACTERS:
            raise _media_too_large()
        match = re.fullmatch(_DATA_URL, value, re.DOTALL)
        if not match:
            raise PydanticCustomError(
                "media_type", "a data URL must be a base64 image/png, image/jpeg, image/gif or image/webp"
            )
        try:
            content = base64.b64decode(match[1], validate=True)
        except (binascii.Error, ValueError):
            raise PydanticCustomError("media_base64", "the data URL is not valid base64") from None
        # Declare the real type, because model servers refuse a JPEG that is declared as a PNG.
        if shown := image_type(content):
            return f"data:{shown};base64,{match[1]}"
    elif len(value) > MAX_URL_CHARACTERS or not re.fullmatch(_HTTPS_URL, value):
        raise PydanticCustomError(
            "media_url",
            "must be an https URL of at most {limit} visible ASCII characters or a data URL",
            {"limit": MAX_URL_CHARACTERS},
        )
    return value


def _upload_id(value: str) -> str:
    if not is_ulid(value):
        raise PydanticCustomError("upload_id", "must be an upload_id from POST /chat/media")
    return value


def _whole(value: Any) -> Any:
    """Convert a whole number to an integer. JSON has only one kind of number, so 264.0 is a whole number too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _media(value: "list[Media]") -> "list[Media]":
    data_urls = (item.url for item in value if item.url and item.url.startswith("data:"))
    if sum(map(len, data_urls)) > MAX_DATA_URL_CHARACTERS:
        raise _media_too_large()
    return value


def _media_too_large() -> PydanticCustomError:
    return PydanticCustomError(
        "media_too_large",
        "all data URLs of a message may have {limit} characters together",
        {"limit": MAX_DATA_URL_CHARACTERS},
    )


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Media(_Strict):
    """An attachment, given by `url` or `upload_id`. The model's provider fetches an https URL; Turnqueue never does."""

    type: Literal["image"]
    url: Annotated[str, AfterValidator(_url)] | None = None
    upload_id: Annotated[str, AfterValidator(_upload_id)] | None = None

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.url is None) == (self.upload_id is None):
            raise PydanticCustomError("media_source", "must have exactly one of url and upload_id")
        return self


class Tool(_Strict):
    """A function that the client can run when the model asks for it. `parameters`: a JSON Schema of its arguments."""

    type: Literal["function"]
    name: str = Field(pattern=FUNCTION_NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def stored(self) -> dict[str, Any]:
        """The tool in the form that the turn stores: the form of the Responses API."""
        return self.model_dump() | {"parameters": self.parameters or {}}


class ToolName(_Strict):
    """The function that the model must ask for."""

    type: Literal["function"]
    name: str = Field(pattern=FUNCTION_NAME)


class ToolOutput(_Strict):
    """The result of a function call. `call_id`: the id that the call has in `tool_calls`."""

    call_id: str = Field(min_length=1, max_length=MAX_CALL_ID_CHARACTERS)
    output: str


class ChatRequest(_Strict):
    """The body of POST /chat."""

    message: str = Field("", max_length=MAX_MESSAGE_CHARACTERS)
    session_id: Annotated[str, AfterValidator(_session_id)] | None = None
    role: Annotated[str, AfterValidator(_role)] = DEFAULT_ROLE
    media: Annotated[list[Media], Field(max_length=MAX_MEDIA), AfterValidator(_media)] | None = None
    metadata: (
        Annotated[
            dict[
                Annotated[str, Field(min_length=1, max_length=64)],
                Annotated[str, Field(max_length=512)],
            ],
            Field(max_length=MAX_METADATA),
        ]
        | None
    ) = None
    deadline_seconds: Annotated[int, Field(ge=MIN_DEADLINE_SECONDS), BeforeValidator(_whole)] | None = None
    stream: bool | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["auto", "none", "required"] | ToolName | None = None
    parallel_tool_calls: bool | None = None
    tool_outputs: Annotated[list[ToolOutput], Field(min_length=1, max_length=MAX_TOOLS)] | None = None

    def stored(self) -> dict[str, Any]:
        """The part of the body that the turn stores. It has no session, because the turn's key names the session. It
        has no deadline, because a retry does not inherit the deadline. The members for functions have the same form as
        in requests of the OpenAI API (turnqueue/turn.py)."""
        stored = self.model_dump(exclude_none=True, exclude={"session_id", "deadline_seconds", *_OF_TOOLS})
        if self.tools:
            stored["tools"] = [tool.stored() for tool in self.tools]
            if self.tool_choice:
                choice = self.tool_choice
                stored["tool_choice"] = choice if isinstance(choice, str) else choice.model_dump()
            if self.parallel_tool_calls is not None:
                stored["options"] = {"parallel_tool_calls": self.parallel_tool_calls}
        if self.tool_outputs:
            stored["context"] = [each.model_dump() for each in self.tool_outputs]
        return stored

    @property
    def tool_names(self) -> set[str]:
        return {tool.name for tool in self.tools or ()}

    def fingerprint(self) -> str:
        """A hash that is the same for two bodies with the same meaning. `stream` is left out, because it does not
        change the answer. An updated client may repeat a request with another `stream`."""
        canonical = json.dumps(self.model_dump(exclude_none=True, exclude={"stream"}), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


class UploadRequest(_Strict):
    """The body of POST /chat/media: an image that the client wants to upload."""

    type: Literal["image"]
    content_type: Literal["image/png", "image/jpeg", "image/gif", "image/webp"]
    size: Annotated[int, Field(ge=1, le=MAX_UPLOAD_BYTES), BeforeValidator(_whole)] | None = None


def parse[Request: BaseModel](kind: type[Request], content: bytes) -> Request:
    """Read a body. Raises a 400 Problem if the body is not JSON. Raises a 422 Problem that names each wrong field and
    its limit."""
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise _problem(error) from None


def parse_chat(content: bytes) -> ChatRequest:
    """Read the body of POST /chat, like `parse`. Also raises a Problem if two fields contradict each other, or if the
    request is larger than a turn can store."""
    request = parse(ChatRequest, content)
    if not request.message and not request.tool_outputs:
        raise invalid("message", "message_missing", "must have at least 1 character, unless there are tool_outputs")
    if request.tool_outputs and not request.session_id:
        raise invalid("tool_outputs", "session_missing", "needs the session_id of the function calls")
    if request.tool_choice == "required" and not request.tools:
        raise invalid("tool_choice", "tool_missing", "must be auto or none, because the request has no tools")
    if isinstance(request.tool_choice, ToolName) and request.tool_choice.name not in request.tool_names:
        raise invalid("tool_choice", "tool_missing", "must be auto, none, required, or one of the functions in tools")
    require_storable(request.stored(), {"context": "tool_outputs"})
    return request


def require_storable(
    stored: dict[str, Any], names: Mapping[str, str] = MappingProxyType({}), *, status: int | None = None
) -> None:
    """Raises a 413 Problem if the request, without its large data URLs, is larger than a turn can store. The problem
    names the largest field. Raises a Problem, with HTTP status `status`, if a field has a number that JSON cannot
    express. `names`: the client's names for fields that have another name in the turn."""
    request, _ = moved(stored, "")
    sizes = {}
    for name, value in request.items():
        try:
            sizes[name] = _bytes(value)
        except ValueError:  # The JSON parser reads a number such as 1e999 as infinity.
            raise invalid(
                names.get(name, name),
                "number_too_large",
                "has a number that is too large: the largest is about 1.8e308",
                status,
            ) from None
    if sum(sizes.values()) > MAX_REQUEST_BYTES:
        largest = max(sizes, key=lambda name: sizes[name])
        field = names.get(largest, largest)
        limit = f"{MAX_REQUEST_BYTES:,} bytes as JSON"
        detail = f"{field}: too large. The request may have at most {limit}, without its large data URLs."
        raise Problem("request_too_large", detail, param=field)


def invalid(field: str, code: str, detail: str, status: int | None = None) -> Problem:
    """The Problem for one field of the body, a 422 unless `status` is given."""
    error = {"field": field, "code": code, "detail": detail}
    return Problem("invalid_request", f"{field}: {detail}", status=status, param=field, errors=[error])


def _bytes(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass"))


def _problem(error: ValidationError) -> Problem:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return Problem("invalid_json")
    errors = [{"field": _field(entry["loc"]), "code": entry["type"], "detail": entry["msg"]} for entry in found[:10]]
    first = errors[0]
    detail = f"{first['field']}: {first['detail']}" if first["field"] else first["detail"]
    return Problem("invalid_request", detail, param=first["field"] or None, errors=errors)


def _field(location: tuple[int | str, ...]) -> str:
    """The path of a wrong field, for example "media.0.url". The client chooses the name of an unknown field, so "?"
    replaces a name that is not 1 to 64 letters, digits or underscores. The path ends at `metadata`, because its keys
    are the client's text, and at `tool_choice`, where pydantic adds the name of a type."""
    known = location[:1] if location[:1] in (("metadata",), ("tool_choice",)) else location
    return ".".join(name if re.fullmatch(r"\w{1,64}", name, re.ASCII) else "?" for name in map(str, known))
