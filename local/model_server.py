"""A stand-in for an OpenAI-compatible model server, to run and test Turnqueue without a model.

An answer depends only on the conversation. It says that it comes from a stand-in, and quotes the user's messages, which
shows that the model got the whole conversation.

Commands in the last user message change the answer (`Fault` has all of them):

- [[status=429 retry_after=3 times=2]] refuses the first two calls that end with this user message.
- [[drip=0.5 tokens=40]] [[cut=5 times=1]] are two commands, each with a separate `times`.
- [[latency=2 echo=any text]] answers with the text of `echo`, which ends at the brackets.

The paths below /stand-in control the server:

- POST /stand-in/faults {"status": 503, "retry_after": 2, "for_seconds": 60} applies commands to every call. {} ends
  them.
- GET /stand-in/calls lists the calls with their images. DELETE forgets them.
- POST /stand-in/key {"only": "sk-2"} makes the server refuse every other API key. {} accepts any key again.
- POST /stand-in/step {"message": "…"} sends the next 5 words of the answer to this message, if the message has
  [[step=5]]. After the last words, one more step ends the answer.
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import queue
import re
import secrets
import socket
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import batched
from typing import Any, Self, TypedDict, cast

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from local import odd_replies
from local.guard import Guard, Guarded

type JsonObject = dict[str, Any]

SIGNATURE = "[stand-in model]"
REFUSED_KEY = "bad-key"
CALLS_KEPT = 1000
QUOTE_LENGTH = 80
WORDS_PER_CHUNK = 8  # the words in a chunk of a fast stream
# chunks a second in a slow stream: they show progress, and cost little with hundreds of streams at a time
CHUNKS_PER_SECOND = 20
DEEPEST_OBJECT = 8  # at this depth, a recursive schema gets null instead of a further object

# fmt: off
KNOWN_FIELDS = frozenset({
    "model", "messages", "stream", "stream_options", "response_format", "max_tokens", "max_completion_tokens",
    "temperature", "top_p", "n", "stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias",
    "logprobs", "top_logprobs", "reasoning_effort", "verbosity", "modalities", "service_tier", "store",
    "metadata", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "tools", "tool_choice", "parallel_tool_calls",
})
# fmt: on
ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
DEFAULT_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
# The error texts for some of OpenAI's error codes.
MESSAGES = {
    "context_length_exceeded": "This model's maximum context length is 8192 tokens. Please reduce your messages.",
    "insufficient_quota": "You exceeded your current quota, please check your plan and billing details.",
}


@dataclass(eq=False)
class ApiError(Exception):
    """A refused request, in OpenAI's error form."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None

    def response(self) -> Response:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "insufficient_quota" if self.code == "insufficient_quota" else "requests"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        headers = {} if self.retry_after is None else {"retry-after": f"{self.retry_after:g}"}
        return JSONResponse({"error": error}, self.status, headers)


# ---- Faults on request


class Fault(TypedDict, total=False):
    """The commands, as a message contains them or POST /stand-in/faults sets them. A value is parsed as the type of its
    annotation."""

    times: int  # the number of calls to which the commands apply; later calls succeed
    latency: float  # the seconds that the whole answer takes
    hang: float  # seconds of silence before the server does anything else
    status: int  # the status of an HTTP error that the server sends instead of an answer
    code: str  # the error's code, such as context_length_exceeded or insufficient_quota
    window: int  # the maximum tokens of a prompt; a longer prompt is refused
    blind: bool  # refuse a prompt with an image, even if the image is in an earlier message
    retry_after: float
    per_minute: int  # calls a minute that the server allows, at an even pace; it refuses all other calls with 429
    drip: float  # seconds between one word and the next
    step: int  # a streamed answer comes in chunks of this many words; each chunk, and the end, waits for /stand-in/step
    words: int  # the length of the answer in words
    tokens: int  # another name of `words`
    echo: str  # the text of the answer
    cut: int  # the server drops the connection after this number of chunks with content
    broken_json: bool  # the structured answer is not valid JSON
    wrong_shape: bool  # the structured answer does not match the schema
    refuse: bool
    content_filter: bool
    calls: int  # the number of function calls, if the request has tools
    length: bool  # the answer ends in the middle with finish_reason "length"
    odd: str  # the name of a reply in odd_replies.py, which replaces the answer


DIRECTIVE = re.compile(r"\[\[(.*?)\]\](?!\])", re.DOTALL)


def checked_fault(asked: JsonObject) -> Fault:
    fault: JsonObject = {}
    for name, value in asked.items():
        kind = Fault.__annotations__.get(name)
        if kind is None:
            known = ", ".join(Fault.__annotations__)
            raise ApiError(400, f"Unknown directive '{name}'. Known: {known}.", code="unknown_directive")
        try:
            fault[name] = kind(value)
            if name == "odd" and value not in odd_replies.ODD:
                raise ValueError("unknown")
            lowest, highest = (400, 599) if name == "status" else (0, 1e6)
            # flags and values are parsed strictly, because bool("no") is true and float(True) is 1.0
            if (kind is bool) != (value is True) or not (kind is str or lowest <= fault[name] <= highest):
                raise ValueError("out of range")
        except (TypeError, ValueError) as error:
            wanted = "no value" if kind is bool else f"a value of type {kind.__name__}"
            message = f"Directive '{name}' takes {wanted}, not {value!r}."
            raise ApiError(400, message, code="bad_directive") from error
    return cast(Fault, fault)


def directives(message: str) -> list[Fault]:
    found = []
    for inside in DIRECTIVE.findall(message):
        settings, has_echo, echo = f" {inside}".partition(" echo=")
        pairs = [setting.partition("=") for setting in settings.split()]
        asked: JsonObject = {name: value if equals else True for name, equals, value in pairs}
        found.append(checked_fault(asked | ({"echo": echo} if has_echo else {})))
    return found


# ---- Reading a request


@dataclass(frozen=True)
class Ask:
    """The parts of a chat completion request that decide the answer."""

    model: str
    stream: bool
    include_usage: bool
    token_limit: int | None
    schema: JsonObject | None  # the schema of the answer; None if the request asks for plain text
    # the functions that the model may call, that of `tool_choice` first; empty if the request brings results
    tools: list[JsonObject]
    tool_said: list[str]  # the function results at the end of the conversation
    message: str  # the last user message unchanged, with its commands
    said: list[str]  # all user messages without their commands, oldest first
    images: list[list[str]]  # the images of each user message, as `image_of` describes them
    history: int  # the number of user and assistant messages before the last user message
    prompt_tokens: int
    cached_tokens: int

    @classmethod
    def from_body(cls, body: JsonObject) -> Self:
        for field in body.keys() - KNOWN_FIELDS:
            raise ApiError(400, f"Unknown parameter: '{field}'.", code="unknown_parameter", param=field)
        model, messages = body.get("model"), body.get("messages")
        if not isinstance(model, str) or not model:
            raise ApiError(400, "You must provide a model parameter.", param="model")
        if not isinstance(messages, list) or not messages:
            raise ApiError(400, "'messages' must be an array that is not empty.", param="messages")
        texts = [text_of(message, position) for position, message in enumerate(messages)]
        users = [position for position, message in enumerate(messages) if message["role"] == "user"]
        if not users:
            raise ApiError(400, "'messages' holds no message of a user.", param="messages")
        newest = users[-1]
        check_results(messages)
        tool_said: list[str] = []
        for message, text in zip(reversed(messages), reversed(texts), strict=True):
            if message["role"] != "tool":
                break
            tool_said.insert(0, text)
        earlier_tokens = sum(map(tokens_in, texts[:newest]))
        return cls(
            model=model,
            stream=bool(body.get("stream")),
            include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
            token_limit=body.get("max_completion_tokens") or body.get("max_tokens"),
            schema=schema_of(body.get("response_format") or {"type": "text"}),
            tools=[] if tool_said else tools_of(body),
            tool_said=tool_said,
            message=texts[newest],
            said=[DIRECTIVE.sub("", texts[position]) for position in users],
            images=[images_of(messages[position]) for position in users],
            history=sum(message["role"] in ("user", "assistant") for message in messages[:newest]),
            prompt_tokens=sum(map(tokens_in, texts)),
            # As OpenAI does, cache a prefix of at least 1,024 tokens, in steps of 128 tokens.
            cached_tokens=earlier_tokens // 128 * 128 if earlier_tokens >= 1024 else 0,
        )


def parts_of(message: JsonObject) -> list[JsonObject]:
    content = message.get("content") or []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def images_of(message: JsonObject) -> list[str]:
    return [image_of(part["image_url"]["url"]) for part in parts_of(message) if part["type"] == "image_url"]


def image_of(url: str) -> str:
    """A description of an image: an https URL unchanged, or for a data URL its type, number of bytes and SHA-256."""
    head, _, data = url.partition(";base64,")
    if not head.startswith("data:"):
        return url
    try:
        content = base64.b64decode(data, validate=True)
    except ValueError as error:
        raise ApiError(400, "Invalid base64 in an image_url.", code="invalid_base64") from error
    return f"{head.removeprefix('data:')} {len(content)} {hashlib.sha256(content).hexdigest()}"


def text_of(message: Any, position: int) -> str:
    """The text of one message. Raises ApiError for a message that OpenAI would refuse."""
    where = f"messages[{position}]"
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise ApiError(400, f"Invalid value: '{where}.role'.", code="invalid_value", param=where)
    if message["role"] == "user" and not isinstance(message.get("content"), str | list):
        raise ApiError(400, f"Invalid type for '{where}.content'.", code="invalid_type", param=where)
    texts = []
    for part in parts_of(message):
        match part:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "image_url", "image_url": {"url": str()}}:
                pass
            case _:
                raise ApiError(400, f"Invalid part in '{where}.content'.", code="invalid_value", param=where)
    return "\n".join(texts)


def check_results(messages: list[JsonObject]) -> None:
    """Raise ApiError for a function call without its result, or a result without its call, as OpenAI does."""
    open_calls: set[str] = set()
    for position, message in enumerate(messages):
        if message["role"] == "tool":
            if message.get("tool_call_id") not in open_calls:
                where = f"messages[{position}]"
                raise ApiError(400, "A message with role 'tool' must be a response to a 'tool_calls'.", param=where)
            open_calls.remove(message["tool_call_id"])
        elif open_calls:
            raise ApiError(400, f"No tool message responds to these ids: {sorted(open_calls)}.", param="messages")
        open_calls |= {call["id"] for call in message.get("tool_calls") or ()}


def tools_of(body: JsonObject) -> list[JsonObject]:
    """The functions of a request, with the function of `tool_choice` first. Empty if `tool_choice` is "none"."""
    tools, choice = body.get("tools") or [], body.get("tool_choice", "auto")
    for position, tool in enumerate(tools):
        match tool:
            case {"type": "function", "function": {"name": str()}}:
                continue
        raise ApiError(400, f"Invalid tool: 'tools[{position}]'.", param=f"tools[{position}]")
    functions = [tool["function"] for tool in tools]
    if choice == "none":
        return []
    if isinstance(choice, dict):
        functions.sort(key=lambda function: function["name"] != choice["function"]["name"])
    return functions


def tokens_in(text: str) -> int:
    return -(-len(text) // 4)


def schema_of(response_format: Any) -> JsonObject | None:
    match response_format:
        case {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {"type": "object", "properties": {"message": {"type": "string"}}}
        case {"type": "json_schema", "json_schema": {"name": str(), "schema": {"type": "object"}} as asked}:
            if asked.get("strict"):
                check_strict(asked["schema"], "#")
            return cast(JsonObject, asked["schema"])
    message = "Invalid 'response_format': it needs a name and a schema of type object."
    raise ApiError(400, message, param="response_format")


def check_strict(node: Any, where: str) -> None:
    """Raise ApiError if an object of a strict schema allows further properties, or has optional properties, as OpenAI
    does."""
    if isinstance(node, dict):
        if node.get("type") == "object":
            closed = node.get("additionalProperties") is False
            if not closed or set(node.get("required", ())) != set(node.get("properties", ())):
                message = f"Invalid schema: {where} needs additionalProperties: false and all in required."
                raise ApiError(400, message, param="response_format")
        for key, child in node.items():
            check_strict(child, f"{where}/{key}")
    elif isinstance(node, list):
        for child in node:
            check_strict(child, where)


# ---- Structured answers


def clock(said: str) -> str | None:
    hour, minute, half = cast(re.Match[str], re.match(r"(\d+):?(\d*)\s*(\w*)", said)).groups()
    hours = int(hour) % 12 + (12 if half.lower() == "pm" else 0) if half else int(hour)
    return f"{hours:02}:{int(minute or 0):02}" if hours < 24 and int(minute or 0) < 60 else None


DAYS = "monday|tuesday|wednesday|thursday|friday|saturday|sunday|today|tomorrow"
SERVICES = "haircut|beard trim|shave|massage|manicure|pedicure|facial|colou?ring|colou?r"
# How to read the value of a property in the user's text: a regular expression, and a function that formats the match.
READ_SERVICE = (rf"(?i)\b({SERVICES})\b", str.lower)
READ_DATE = (rf"(?i)\b({DAYS}|\d{{4}}-\d\d-\d\d)\b", str.lower)
NAME = rf"(?!(?i:{DAYS})\b)([^\W\d][\w'-]+(?: [A-ZÀ-Þ][\w'-]+)?)"
# After "my name is", any word is a name. After "I'm" and "for", only a capitalised word is a name.
READ_NAME = (rf"\b(?:(?i:my name is) |(?i:i'm|i am|for) (?=[A-ZÀ-Þ])){NAME}", str)
READ_PEOPLE = (r"(?i)\b(\d+)(?= (?:people|persons|guests)\b)|\b(?:party of|table for) (\d+)\b", str)
READERS: dict[str, tuple[str, Callable[[str], str | None]]] = {
    "service": READ_SERVICE,
    "date": READ_DATE,
    "day": READ_DATE,
    "time": (r"(?i)\b(\d{1,2}:\d\d(?: ?[ap]m)?|\d{1,2} ?[ap]m)\b", clock),
    "name": READ_NAME,
    "phone": (r"(?<![\d-])(?!\d{4}-\d\d-\d\d)(\+?\d[\d ().-]{5,}\d)", str),
    "email": (r"([\w.+-]+@[\w-]+(?:\.[\w-]+)+)", str),
    "party_size": READ_PEOPLE,
    "people": READ_PEOPLE,
}

READ_AS: dict[str, Callable[[str], Any]] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": lambda said: {"yes": True, "true": True, "no": False, "false": False}[said.lower()],
}


class Form:
    """Fills in a JSON schema with values from the user's messages. A newer message overrides an older one."""

    def __init__(self, schema: JsonObject, said: list[str], *, guess: bool = False) -> None:
        """With `guess`, a field that no message mentions gets a value too: a number gets the last number in the
        messages, and a string the newest message."""
        self.schema = schema
        self.said = said
        self.guess = guess

    def fill(self, name: str, schema: JsonObject, depth: int = 0) -> tuple[Any, bool]:
        """A value for the property `name`, and whether the user said it."""
        options = self.options(schema)
        nullable = any(option.get("type") == "null" or None in option.get("enum", ()) for option in options)
        options = [option for option in options if option.get("type") != "null"]
        if nullable and (depth > DEEPEST_OBJECT or not options):
            return None, False
        values = [self.fill_option(name, option, depth) for option in options]
        for value, is_said in values:
            if is_said:
                return value, True
        return (None, False) if nullable else values[0]

    def fill_option(self, name: str, schema: JsonObject, depth: int) -> tuple[Any, bool]:
        kind = schema.get("type")
        if kind == "object":
            properties = schema.get("properties", {}).items()
            filled = {key: self.fill(key, child, depth + 1) for key, child in properties}
            any_said = any(is_said for _, is_said in filled.values())
            return {key: value for key, (value, _) in filled.items()}, any_said
        if kind == "array":
            items = [self.fill("", schema["items"], depth + 1)[0] for _ in range(schema.get("minItems", 0))]
            return items, False
        if "const" in schema:
            return schema["const"], False
        for text in reversed(self.said):
            for value in read_values(name, schema, text, guess=self.guess):
                if fits(value, schema):
                    return value, True
        return smallest(schema), False

    def options(self, schema: JsonObject) -> list[JsonObject]:
        """The alternatives that a schema allows, with $ref resolved."""
        if "$ref" in schema:
            target: Any = self.schema
            for step in schema["$ref"].split("/")[1:]:
                target = target.get(step, {})
            return self.options(target)
        if alternatives := schema.get("anyOf") or schema.get("oneOf"):
            return [option for alternative in alternatives for option in self.options(alternative)]
        if isinstance(schema.get("type"), list):
            return [{**schema, "type": kind} for kind in schema["type"]]
        return [schema]

    def unsaid(self, name: str, filled: Any) -> list[str]:
        """The fields of the object `name` that are still empty."""
        options = self.options(self.schema["properties"][name])
        fields: JsonObject = next((option["properties"] for option in options if "properties" in option), {})
        return [field for field in fields if not isinstance(filled, dict) or filled.get(field) is None]


def read_values(name: str, schema: JsonObject, text: str, *, guess: bool = False) -> Iterator[Any]:
    """The values in `text` for the property with this name, the likeliest value first."""
    choices = {spoken(str(choice)): choice for choice in schema.get("enum", ()) if choice not in (None, "")}
    if choices:
        longest_first = sorted(map(re.escape, choices), key=len, reverse=True)
        yield from (choices[said] for said in last_match(rf"\b({'|'.join(longest_first)})\b", spoken(text)))
        return
    words = re.escape(name).replace("_", "[ _-]")
    explicit = rf"(?im)\b{words} *[:=] *(\S.*?)(?=[,;]|[.!?](?:\s|$)|$)" if name else "(?!)"
    likely = {"integer": r"(-?\d+)", "number": r"(-?\d+)", "string": r"(?s)(.+)"} if guess else {}
    anything = likely.get(schema.get("type", "string"), "(?!)")
    for pattern, write in (READERS.get(name.lower(), ("(?!)", str)), (explicit, str), (anything, str)):
        for said in last_match(pattern, text):
            with contextlib.suppress(KeyError, ValueError):  # skip a value of the wrong type
                yield READ_AS[schema.get("type", "string")](write(said) or "")


def spoken(value: str) -> str:
    return value.replace("_", " ").lower()


def last_match(pattern: str, text: str) -> list[str]:
    return [next(filter(None, match.groups()), "") for match in re.finditer(pattern, text)][-1:]


def fits(value: Any, schema: JsonObject) -> bool:
    if isinstance(value, str):
        in_length = max(1, schema.get("minLength", 0)) <= len(value) <= schema.get("maxLength", len(value))
        return in_length and bool(re.search(schema.get("pattern", ""), value))
    return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))


def smallest(schema: JsonObject) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "string":
            return "x" * schema.get("minLength", 0)
        case "integer" | "number":
            return schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        case "boolean":
            return False
    return None


# ---- Making an answer


@dataclass(frozen=True)
class Answer:
    text: str
    finish_reason: str = "stop"
    field: str = "content"  # the name of the message's member with the text: "content" or "refusal"
    calls: tuple[JsonObject, ...] = ()  # the function calls, in the form of a message


def make_answer(ask: Ask, fault: Fault) -> Answer:
    if "refuse" in fault:
        return Answer(f"{SIGNATURE} I can't help with that.", field="refusal")
    if ask.tools and "echo" not in fault and "words" not in fault and "tokens" not in fault:
        return Answer("", "tool_calls", calls=tuple(calls(ask, fault.get("calls", 1))))
    text = plain_text(ask, fault) if ask.schema is None else structured_text(ask, ask.schema, fault)
    if "content_filter" in fault:
        return Answer(text[: len(text) // 2], "content_filter")
    limit = len(text) // 2 if "length" in fault else 4 * (ask.token_limit or len(text))
    return Answer(text[:limit], "length" if limit < len(text) else "stop")


def calls(ask: Ask, number: int) -> Iterator[JsonObject]:
    """Yield `number` function calls, which use the request's functions in turn. As with OpenAI, each call has a new id,
    even if the same request was sent before."""
    for index in range(number):
        function = ask.tools[index % len(ask.tools)]
        schema = function.get("parameters") or {"type": "object"}
        arguments = Form(schema, ask.said, guess=True).fill("", schema)[0]
        called = {"name": function["name"], "arguments": json.dumps(arguments, ensure_ascii=False)}
        yield {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": called}


def plain_text(ask: Ask, fault: Fault) -> str:
    for name in ("broken_json", "wrong_shape"):
        if name in fault:
            raise ApiError(400, f"Directive '{name}' needs a response_format of JSON.", code="bad_directive")
    ordered = ordered_text(fault)
    return memory(ask) if ordered is None else ordered


def ordered_text(fault: Fault) -> str | None:
    """The text that the commands ask for, or None if they do not ask for a text."""
    if "echo" in fault:
        return fault["echo"]
    length = fault.get("words", fault.get("tokens"))
    numbered = [*SIGNATURE.split(), *(f"word{number}" for number in range(3, (length or 0) + 1))]
    return None if length is None else " ".join(numbered[:length])


def memory(ask: Ask) -> str:
    *earlier, last = (f'"{clipped(message)}"' for message in ask.said)
    sentences = [f"{SIGNATURE} You said {last}."]
    if ask.tool_said:
        sentences.append(f"The tools said: {', '.join(clipped(text) for text in ask.tool_said)}.")
    if images := len(ask.images[-1]):
        sentences.append(f"With it came {images} image{'s' * (images > 1)}.")
    if earlier:
        count = f" ({len(earlier)} messages)" if len(earlier) > 1 else ""
        sentences.append(f"Before that, in this conversation, you said: {', '.join(earlier)}{count}.")
    return " ".join(sentences)


def clipped(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= QUOTE_LENGTH else text[: QUOTE_LENGTH - 1] + "…"


def structured_text(ask: Ask, schema: JsonObject, fault: Fault) -> str:
    ordered = ordered_text(fault)
    if ordered and ordered.startswith("{"):
        return ordered  # an `echo` that begins with a brace is sent unchanged, even if it is not valid JSON
    form = Form(schema, ask.said)
    document: JsonObject = form.fill("", schema)[0]
    if isinstance(document.get("message", 0), str | None):
        document["message"] = f"{memory(ask)}{offer(form, document)}" if ordered is None else ordered
    if "draft" in document and isinstance(data := document.get("data"), dict):
        missing = form.unsaid("draft", document["draft"])
        data |= {name: told for name, told in (("complete", not missing), ("missing", missing)) if name in data}
    if "wrong_shape" in fault:
        document = {name: {"wrong": "shape"} for name in document}
    # Without spaces, because the stream splits the document at spaces.
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return text[:-2] if "broken_json" in fault else text


def offer(form: Form, document: JsonObject) -> str:
    if "draft" not in document:
        return ""
    draft = document["draft"] or {}
    missing = form.unsaid("draft", draft)
    service = f" {draft['service']}" if draft.get("service") else ""
    wanted = f"I still need: {', '.join(missing)}." if missing else "I have all that I need."
    return f" I can help you with that{service}. {wanted}"


# ---- The server


class StandIn:
    """The server's state: the calls so far, and the commands for every call."""

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self.outage: Fault = {}
        self.outage_ends = 0.0
        self.next_grant = 0.0
        self.refused = 0
        self.only_key: str | None = None
        self.steps: defaultdict[str, asyncio.Semaphore] = defaultdict(partial(asyncio.Semaphore, 0))
        self.forget()

    def forget(self) -> None:
        self.by_message: Counter[str] = Counter()
        self.last: deque[JsonObject] = deque(maxlen=CALLS_KEPT)
        self.disconnected = self.unauthorized = self.refused = 0

    def record(self, ask: Ask) -> JsonObject:
        self.by_message[ask.message] += 1
        call = {"message": ask.message, "model": ask.model, "stream": ask.stream, "history": ask.history}
        call |= {"at": time.time(), "ended_at": None, "images": ask.images}
        self.last.append(call)
        return call

    def fault_of(self, ask: Ask) -> Fault:
        """The commands for this call. Commands in the message override commands for the whole server."""
        if time.monotonic() > self.outage_ends or self.outage.get("times", 1) < 1:
            self.outage = {}
        fault = self.outage.copy()
        if "times" in self.outage:
            self.outage["times"] -= 1
        if (rate := self.outage.get("per_minute")) and not self.granted(rate):
            fault |= Fault(status=429)
        for directive in directives(ask.message):
            if self.by_message[ask.message] <= directive.get("times", float("inf")):
                fault |= directive
        return fault

    def granted(self, per_minute: int) -> bool:
        """Whether the rate limit allows a call now. Unused calls of the last two seconds may come in a burst."""
        now, interval = time.monotonic(), 60 / per_minute
        due = max(self.next_grant, now - 2)
        if due > now:
            return False
        self.next_grant = due + interval
        return True

    def check_key(self, request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        refused = key.strip() in ("", REFUSED_KEY) or (self.only_key or key) != key
        if scheme.lower() != "bearer" or refused:
            self.unauthorized += 1
            raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")

    async def set_faults(self, request: Request) -> Response:
        asked = await json_body(request)
        seconds = asked.pop("for_seconds", 1e6)
        if not isinstance(seconds, int | float):
            raise ApiError(400, "'for_seconds' must be a number.", code="bad_directive")
        self.outage = checked_fault(asked)
        self.outage_ends = time.monotonic() + seconds
        return JSONResponse(self.outage)

    async def set_key(self, request: Request) -> Response:
        self.only_key = (await json_body(request)).get("only")
        return Response(status_code=204)

    async def step(self, request: Request) -> Response:
        self.steps[(await json_body(request)).get("message", "")].release()
        return Response(status_code=204)

    async def get_calls(self, request: Request) -> Response:
        counts = {"disconnected": self.disconnected, "unauthorized": self.unauthorized, "refused": self.refused}
        total = {"total": self.by_message.total()}
        return JSONResponse(total | counts | {"by_message": self.by_message, "last": list(self.last)})

    async def delete_calls(self, request: Request) -> Response:
        self.forget()
        return Response(status_code=204)

    async def get_models(self, request: Request) -> Response:
        self.check_key(request)
        model = {"id": "stand-in", "object": "model", "created": 0, "owned_by": "turnqueue"}
        return JSONResponse({"object": "list", "data": [model]})

    async def get_health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})


async def json_body(request: Request) -> JsonObject:
    try:
        body = await request.json()
    except ValueError as error:
        raise ApiError(400, "The body is not JSON.") from error
    if not isinstance(body, dict):
        raise ApiError(400, "The body must be a JSON object.")
    return body


class ChatCompletions:
    """Answers POST /v1/chat/completions. It is plain ASGI, so that it notices when the client leaves, and can stop in
    the middle of the body."""

    def __init__(self, stand_in: StandIn) -> None:
        self.stand_in = stand_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.stand_in.check_key(request)
        body = await json_body(request)
        ask = Ask.from_body(body)
        call = self.stand_in.record(ask)
        fault = self.stand_in.fault_of(ask)
        answering = asyncio.create_task(self.answer(ask, body, fault, scope, receive, send))
        leaving = asyncio.create_task(disconnect(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
            else:
                self.stand_in.disconnected += 1
        finally:
            call["ended_at"] = time.time()
            answering.cancel()
            leaving.cancel()

    async def answer(
        self, ask: Ask, body: JsonObject, fault: Fault, scope: Scope, receive: Receive, send: Send
    ) -> None:
        await asyncio.sleep(fault.get("hang", 0))
        if status := fault.get("status"):
            self.stand_in.refused += 1
            await asyncio.sleep(fault.get("latency", 0))
            code = fault.get("code", DEFAULT_CODES.get(status))
            message = MESSAGES.get(code or "", f"{SIGNATURE} {status}, as it was told to answer.")
            raise ApiError(status, message, code=code, retry_after=fault.get("retry_after"))
        if ask.prompt_tokens > fault.get("window", ask.prompt_tokens):
            code = "context_length_exceeded"
            raise ApiError(400, MESSAGES[code], code=code, param="messages")
        if "blind" in fault and any(ask.images):
            raise ApiError(400, "Invalid content type. image_url is only supported by certain models.")
        answer = make_answer(ask, fault)
        if odd := fault.get("odd"):
            await send_odd(odd_replies.ODD[odd](answer.text, body), send)
            return
        latency = fault.get("latency", self.stand_in.latency)
        if ask.stream:
            steps = self.stand_in.steps[ask.message] if "step" in fault else None
            await stream(ask, answer, fault, latency, send, steps)
        else:
            await asyncio.sleep(fault["drip"] * len(answer.text.split()) if "drip" in fault else latency)
            reply = JSONResponse(completion(ask, answer))
            if "cut" in fault:
                # keep the Content-Length of the whole body, so that the client sees the body end early
                reply.body = reply.body[: len(reply.body) // 2]
            await reply(scope, receive, send)


async def disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def header(kind: str) -> JsonObject:
    now = time.time_ns()
    created = {"id": f"chatcmpl-stand-in-{now}", "object": kind, "created": now // 10**9}
    return created | {"system_fingerprint": "stand-in"}


def usage(ask: Ask, answer: Answer) -> JsonObject:
    completion_tokens = tokens_in(answer.text + json.dumps(answer.calls) * bool(answer.calls))
    return {
        "prompt_tokens": ask.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": ask.prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": ask.cached_tokens},
    }


def completion(ask: Ask, answer: Answer) -> JsonObject:
    said: JsonObject = {"tool_calls": answer.calls} if answer.calls else {answer.field: answer.text}
    message = {"role": "assistant", "content": None, "refusal": None} | said
    choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason, "logprobs": None}
    return header("chat.completion") | {"model": ask.model, "choices": [choice], "usage": usage(ask, answer)}


async def stream(
    ask: Ask, answer: Answer, fault: Fault, latency: float, send: Send, steps: asyncio.Semaphore | None
) -> None:
    # split after commas too, because a JSON document has no white space between its members
    words = re.findall(r"^\s+|[^\s,]*,\s*|[^\s,]+\s*", answer.text)
    words_per_chunk = WORDS_PER_CHUNK
    if "step" in fault:
        words_per_chunk = fault["step"]
    elif "drip" in fault or "cut" in fault:
        words_per_chunk = 1
    elif latency:
        words_per_chunk = -(-len(words) // max(1, int(latency * CHUNKS_PER_SECOND)))
    batches = batched(words, max(1, words_per_chunk), strict=False)
    pieces = ["".join(batch) for batch in batches][: fault.get("cut")]
    pause = fault.get("drip", latency * 3 / 4 / max(1, len(pieces)))
    chunk_header = header("chat.completion.chunk") | {"model": ask.model}
    if ask.include_usage:
        chunk_header["usage"] = None

    def chunk(delta: JsonObject, finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return event(chunk_header | {"choices": [choice]})

    async def write(events: str, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": events.encode(), "more_body": more})

    if "drip" not in fault:
        await asyncio.sleep(latency / 4)
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await write(chunk({"role": "assistant", answer.field: ""}))
    events = [chunk({answer.field: piece}) for piece in pieces]
    for index, call in enumerate(answer.calls):
        function = call["function"]
        begun = call | {"index": index, "function": function | {"arguments": ""}}
        events.append(chunk({"tool_calls": [begun]}))
        for piece in batched(function["arguments"], 7, strict=False):
            events.append(chunk({"tool_calls": [{"index": index, "function": {"arguments": "".join(piece)}}]}))
    events = events[: fault.get("cut")]
    for some in events if pause or steps else ["".join(events)]:
        await asyncio.sleep(pause)
        if steps:
            await steps.acquire()
        await write(some)
    if "cut" in fault:
        return  # leave the body without its end, so the server drops the connection
    if steps:
        await steps.acquire()
    ending = chunk({}, answer.finish_reason)
    if ask.include_usage:
        ending += event(chunk_header | {"choices": [], "usage": usage(ask, answer)})
    await write(f"{ending}data: [DONE]\n\n", more=False)


async def send_odd(reply: odd_replies.OddReply, send: Send) -> None:
    headers = [(name.encode(), value.encode()) for name, value in reply.headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    for piece in reply.pieces:
        if piece is None:
            await asyncio.Future()  # wait forever, until the client leaves
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    if not reply.broken:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def event(data: JsonObject) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


def make_app(latency: float = 0.0) -> ASGIApp:
    stand_in = StandIn(latency)
    routes = [
        Route("/v1/chat/completions", ChatCompletions(stand_in), methods=["POST"]),
        Route("/v1/models", stand_in.get_models),
        Route("/stand-in/faults", stand_in.set_faults, methods=["POST"]),
        Route("/stand-in/key", stand_in.set_key, methods=["POST"]),
        Route("/stand-in/step", stand_in.step, methods=["POST"]),
        Route("/stand-in/calls", stand_in.get_calls),
        Route("/stand-in/calls", stand_in.delete_calls, methods=["DELETE"]),
        Route("/health", stand_in.get_health),
    ]
    return Starlette(routes=routes, exception_handlers={ApiError: refused})


class Server(uvicorn.Server):
    """The server, on loopback only. It calls `on_ready` with its base URL when it accepts requests."""

    def __init__(self, latency: float, port: int, on_ready: Callable[[str], None]) -> None:
        quiet: Any = {"log_config": None, "log_level": "error", "access_log": False}
        app: Any = Guarded(cast(Any, make_app(latency)), Guard())
        super().__init__(uvicorn.Config(app, "127.0.0.1", port, lifespan="off", **quiet))
        self.on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        self.on_ready(f"http://127.0.0.1:{port}/v1")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in self.server_state.connections:
            cast(Any, connection).transport.abort()  # an open request must not delay the server's end
        await super().shutdown(sockets)


@contextlib.contextmanager
def serve(latency: float = 0.0) -> Iterator[str]:
    """Run the server in a thread, on a free port. Yields the base URL for an OpenAI client."""
    ready: queue.SimpleQueue[str] = queue.SimpleQueue()
    server = Server(latency, 0, ready.put)
    thread = threading.Thread(target=server.run, name="stand-in model")
    thread.start()
    try:
        yield ready.get(timeout=10)
    finally:
        server.should_exit = True
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description="A stand-in for an OpenAI-compatible model server.")
    parser.add_argument("--port", type=int, default=0, help="0 chooses a free port")
    parser.add_argument("--latency", type=float, default=0, help="how many seconds an answer takes")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        Server(arguments.latency, arguments.port, lambda url: print(url, flush=True)).run()


if __name__ == "__main__":
    main()
