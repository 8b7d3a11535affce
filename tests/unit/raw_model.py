"""A worker's `Model` that asks a raw server, and what such a server may send."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from model import Answer, Model
from persona import Persona, persona
from prices import parse_prices
from reply import Reply
from tests.raw_server import RawModel, Script, serving
from turnqueue.turn import Key, Turn


class Asking:
    """A worker's model, connected with a raw one. `reply` is that of the last call."""

    def __init__(self, raw: RawModel) -> None:
        self.raw = raw
        self.reply = Reply()
        self.keys = ["sk-test"]
        self.model = Model(raw.url, "gpt-stand-in", self._key, parse_prices("gpt-stand-in:0.4/1.6"), 16_000)

    async def _key(self, fresh: bool = False) -> str:
        if fresh and len(self.keys) > 1:
            self.keys.pop(0)
        return self.keys[0]

    async def ask(
        self, message: str = "hello", *, told: Persona | str = "general", history: Sequence[Turn] = ()
    ) -> Answer:
        told = persona(told) if isinstance(told, str) else told
        self.reply = Reply()
        self.reply.structured = told.output is not None
        key = Key("alice#s-1", "01ARZ3NDEKTSV4RRFFQ69G5FAV")
        turn = Turn.submitted(key, {"message": message, "role": told.role}, 1_800_000_000)
        async with asyncio.timeout(20):
            return await self.model.answer(told, history, turn, {}, self.reply)


def with_model[T](script: Script, use: Callable[[Asking], Coroutine[Any, Any, T]]) -> T:
    """Run `use` with a model that is answered by `script`, or always by the same response."""

    async def run() -> T:
        async with serving(script if callable(script) else lambda asked: script) as raw:
            asking = Asking(raw)
            try:
                return await use(asking)
            finally:
                await asking.model._client.close()

    return asyncio.run(run())


def content(text: str, **more: Any) -> str:
    """An event with a piece of the answer."""
    return event(delta(content=text) | more)


def delta(**members: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": members, "finish_reason": None}]}


def completion(text: str, reason: str | None = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": reason}]}


def finish(reason: str | None = "stop", **more: Any) -> str:
    return event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], **more})


def event(data: Any) -> str:
    return f"data: {json.dumps(data)}\n\n"


USAGE = event(
    {
        "choices": [],
        "usage": {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3}},
    }
)
DONE = "data: [DONE]\n\n"
WHOLE = (content("All is "), content("well."), finish(), USAGE, DONE)
