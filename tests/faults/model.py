"""The model for the worker's OpenAI SDK: a transport that answers Chat Completions in this process. The test plans the
answers for each message. An answer names its message and quotes nothing else. An error quotes prompt and key, as
providers' errors may, so that a log with its text is detected.
"""

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2

from tests.faults.faults import MODEL_VARIANTS, Fault, Variant, fault_of
from tests.faults.scheduler import Group, here

if TYPE_CHECKING:
    from tests.faults.world import World

KEY = "planted-key-of-the-model"
FALLBACK_HOST = "fallback.invalid"
"""Where a second model is, which always answers, if a story has one."""
PLANTED = re.compile(r"planted-(?:prompt|answer|key|idem)-[\w-]+")
PROMPT = re.compile(r"planted-prompt-(\w+)")
ANSWER = re.compile(r"planted-answer-(\w+)")


@dataclass(frozen=True)
class Answers:
    """How the model behaves in one call. Without arguments: an answer within half a second."""

    seconds: float = 0.4  # how long the answer takes
    chunks: int = 3
    silence: float = 0.1  # before the first sign of it
    ends_at: float | None = None  # in the simulation's time, instead of `seconds`
    status: int = 200
    code: str | None = None
    retry_after: int | None = None
    cut: bool = False  # the connection breaks in the middle
    unreachable: bool = False
    finish_reason: str = "stop"
    refusal: bool = False
    garbled: bool = False  # a structured answer that is none
    calls: int = 0  # how many functions it asks for, in place of a text


@dataclass(frozen=True)
class ModelCall:
    """What the model was asked, by whom, when."""

    at: float
    process: Group
    marker: str
    """Names the message that is to be answered."""
    told: tuple[str, ...]
    """The markers of the messages before it, in order."""
    answers: tuple[str, ...]
    """The markers of the answers before it, in order."""


@dataclass
class StandIn:
    """The provider's side, the same for all processes."""

    world: "World"
    key: str = KEY
    accepted_keys: set[str] = field(default_factory=lambda: {KEY})
    planned: dict[str, list[Answers]] = field(default_factory=lambda: defaultdict(list))
    outage: Answers | None = None
    calls: list[ModelCall] = field(default_factory=list)
    call_ids: dict[str, list[list[str]]] = field(default_factory=lambda: defaultdict(list))
    """The ids of the functions that it has asked for, by the marker of the message: a list for each answer."""

    def next(self, marker: str) -> Answers:
        if self.outage:
            return self.outage
        planned = self.planned.get(marker)
        return planned.pop(0) if planned else Answers()


class Transport(httpx2.AsyncBaseTransport):
    """Takes the place of httpx2's own transport in a simulated process."""

    world: "World | None" = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        found = here()
        assert found and found[1].group
        self._process = found[1].group

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        world, process = Transport.world, self._process
        assert world
        if process.dead:
            await asyncio.Future()
        body = json.loads(await request.aread())
        call = world.plan.begin(process.name, "model", MODEL_VARIANTS, world.now)
        call.tries = 1
        fault = fault_of(call)
        if fault is Fault.DIES_BEFORE:
            world.die(process, "before it calls the model")
            await asyncio.Future()
        if not are_paired(body["messages"]):
            return _error(request, 400, "A call and its result must follow one another.", None)
        said = [_text(message) for message in body["messages"]]
        marker = PROMPT.findall(said[-1])[0]
        asked = ModelCall(
            world.now,
            process,
            marker,
            tuple(PROMPT.findall(" ".join(said[1:-1]))),
            tuple(ANSWER.findall(" ".join(said[1:-1]))),
        )
        if fault is Fault.REFUSED:
            world.tell(process.name, f"cannot reach the model for {marker}")
            world.watch.model_refused(asked)
            raise httpx2.ConnectError(f"refused: {said[-1]}", request=request)
        if request.headers["authorization"].removeprefix("Bearer ") not in world.model.accepted_keys:
            world.tell(process.name, "calls the model with a wrong key")
            return _error(request, 401, f"Incorrect API key provided: {world.model.key}", "invalid_api_key")
        answers = Answers() if request.url.host == FALLBACK_HOST else world.model.next(marker)
        world.model.calls.append(asked)
        world.tell(process.name, f"calls the model for {marker}, after {' '.join(asked.told) or 'nothing'}")
        world.on_model_call(asked)
        if answers.unreachable:
            world.watch.model_refused(asked)
            raise httpx2.ConnectError(f"refused: {said[-1]}", request=request)
        await asyncio.sleep(answers.silence)
        if answers.status != 200:
            world.watch.model_refused(asked)
            if answers.code == "context_length_exceeded":
                world.watch.too_long.add(process.name)
            text = f"{answers.status} for {said[-1]} with {world.model.key}"
            retry_after = {} if answers.retry_after is None else {"retry-after": str(answers.retry_after)}
            return _error(request, answers.status, text, answers.code, retry_after)
        structured = body.get("response_format", {}).get("type") == "json_schema"
        pieces = [{"refusal" if answers.refusal else "content": text} for text in _pieces(marker, structured, answers)]
        if answers.calls:
            pieces = _calls(marker, answers, world.model.call_ids[marker])
        stream = _Stream(answers, pieces, process, call.variant)
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, stream=stream, request=request)


def said(request: dict[str, Any]) -> str:
    """The message of a request or of a turn, or the last result of a function that it brings in place of a message."""
    results = request.get("tool_outputs") or request.get("context") or [{}]
    return str(request.get("message") or request.get("input") or results[-1].get("output", ""))


def are_paired(messages: list[dict[str, Any]]) -> bool:
    """Whether each call of a function is followed by its result, and each result comes after its call."""
    waiting: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            if message["tool_call_id"] not in waiting:
                return False
            waiting.remove(message["tool_call_id"])
        elif waiting:
            return False
        waiting |= {call["id"] for call in message.get("tool_calls", ())}
    return not waiting


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    if content is None:
        content = " ".join(call["function"]["arguments"] for call in message["tool_calls"])
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _error(
    request: httpx2.Request, status: int, text: str, code: str | None, headers: dict[str, str] | None = None
) -> httpx2.Response:
    error = {"message": text, "type": "error", "param": None, "code": code}
    body = _Body(json.dumps({"error": error}).encode())
    return httpx2.Response(status, headers=headers or {}, stream=body, request=request)


def answer_to(marker: str) -> str:
    """What a user is to read."""
    return f"planted-answer-{marker} in a few words"


def _pieces(marker: str, structured: bool, answers: Answers) -> list[str]:
    text = answer_to(marker)
    if structured:
        draft = {"service": "haircut", "date": None, "time": None, "name": None}
        document = {"message": text, "draft": draft, "data": {"complete": False, "missing": ["date"]}}
        text = json.dumps(document)[: 20 if answers.garbled else None]
    size = -(-len(text) // answers.chunks)
    return [text[start : start + size] for start in range(0, len(text), size)]


def _calls(marker: str, answers: Answers, call_ids: list[list[str]]) -> list[dict[str, Any]]:
    """The pieces of an answer that asks for functions. As with OpenAI, each answer has new ids."""
    ids = [f"call-{marker}-{len(call_ids)}-{number}" for number in range(answers.calls)]
    call_ids.append(ids)
    pieces: list[dict[str, Any]] = []
    for number, call_id in enumerate(ids):
        begun = {"index": number, "id": call_id, "type": "function", "function": {"name": "add", "arguments": ""}}
        about = json.dumps({"about": answer_to(marker) if number == 0 else ""})
        pieces += [{"tool_calls": [begun]}, {"tool_calls": [{"index": number, "function": {"arguments": about}}]}]
    return pieces


class _Body(httpx2.AsyncByteStream):
    """A body that is there at once, and is not read before somebody reads it."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content


class _Stream(httpx2.AsyncByteStream):
    """Server-sent events, at their own pace."""

    def __init__(self, answers: Answers, pieces: list[dict[str, Any]], process: Group, variant: Variant | None) -> None:
        self._answers = answers
        self._pieces = pieces
        self._process = process
        self._variant = variant

    async def __aiter__(self) -> AsyncIterator[bytes]:
        answers, world = self._answers, Transport.world
        assert world
        left = answers.seconds - answers.silence if answers.ends_at is None else answers.ends_at - world.now
        pause = max(left, 0.0) / len(self._pieces)
        for index, piece in enumerate(self._pieces):
            await asyncio.sleep(pause)
            await self._alive()
            if index and answers.cut:
                raise httpx2.ReadError("the connection was cut")
            yield _event(piece)
        if self._variant is Variant.UNANSWERED:
            raise httpx2.ReadTimeout("no end of the answer")
        yield _event({}, "tool_calls" if answers.calls else answers.finish_reason)
        usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
        yield _line({"choices": [], "usage": usage})
        if self._variant is Variant.DIES_AFTER:
            world.die(self._process, "when the model has answered")
            await asyncio.Future()
        yield b"data: [DONE]\n\n"

    async def _alive(self) -> None:
        if self._process.dead:
            await asyncio.Future()

    async def aclose(self) -> None:
        pass


def _event(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    return _line({"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], "usage": None})


def _line(members: dict[str, Any]) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": "stand-in"}
    return f"data: {json.dumps(head | members)}\n\n".encode()
