"""The messages of a request to the model: the instructions, the turns before, and the user's message.

Sizes are estimates in tokens. Only the server knows the tokens of its model, and it tells them after the answer.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

from persona import Persona
from turnqueue.turn import Turn
from turnqueue.usage import BYTES_OF_A_TOKEN, TOKENS_OF_AN_IMAGE

type Message = dict[str, Any]

_NOT_SHOWN = {"type": "text", "text": "[An image was attached here. It is not shown again.]"}

# A first call and four that are shorter: a half, a quarter, an eighth of the history, and none of it.
_HALVINGS = 3

# A server may be started again with a larger window. A learned limit also holds for other users' conversations, whose
# text may have fewer tokens than the estimate says.
_REMEMBERED_SECONDS = 3600.0


class Exchange(NamedTuple):
    """An earlier turn: what the user said and what the model answered."""

    user: Message
    assistant: Message
    tokens: int

    @classmethod
    def of(cls, user: Message, assistant: Message) -> Self:
        return cls(user, assistant, _tokens(user) + _tokens(assistant))


@dataclass(frozen=True)
class Conversation:
    """The conversation for the model. `earlier`: oldest first. `shortened`: how often `shorter` was called for it."""

    instructions: Message
    earlier: tuple[Exchange, ...]
    message: Message
    shortened: int = 0

    @classmethod
    def of(
        cls, persona: Persona, history: Sequence[Turn], turn: Turn, images: Mapping[str, str], history_tokens: int
    ) -> Self:
        """The newest of the turns before `turn` that have `history_tokens` together, and its message.

        `history`: oldest first. `images`: the data URLs of uploads, by their ids.
        """
        told = (_exchange(persona, past, images) for past in history)
        earlier = _newest([exchange for exchange in told if exchange], history_tokens)
        return cls({"role": "system", "content": persona.instructions}, earlier, _user(turn, images))

    def messages(self) -> list[Message]:
        earlier = [message for exchange in self.earlier for message in (exchange.user, exchange.assistant)]
        return [self.instructions, *earlier, self.message]

    @property
    def tokens(self) -> int:
        return _tokens(self.instructions) + _tokens(self.message) + _sum(self.earlier)

    def within(self, tokens: int) -> Self:
        """This conversation with the newest of its earlier turns that fit into `tokens` beside the rest."""
        left = tokens - _tokens(self.instructions) - _tokens(self.message)
        return replace(self, earlier=_newest(self.earlier, left))

    def shorter(self) -> Self | None:
        """This conversation with the newer half of its earlier turns. None if it has none to leave out."""
        if not self.earlier:
            return None
        left = _sum(self.earlier) // 2 if self.shortened < _HALVINGS else 0
        return replace(self, earlier=_newest(self.earlier, left), shortened=self.shortened + 1)

    def without_images(self) -> Self | None:
        """This conversation with a note in the place of each earlier image. None if there is none."""
        earlier = tuple(Exchange.of(_noted(each.user), each.assistant) for each in self.earlier)
        return None if earlier == self.earlier else replace(self, earlier=earlier)


class Window:
    """How long a conversation one model of one server takes, as far as it has shown."""

    def __init__(self) -> None:
        self._tokens = 0
        self._known_until = 0.0

    def fitted(self, conversation: Conversation, now: float) -> Conversation:
        return conversation.within(self._tokens) if now < self._known_until else conversation

    def answered(self, conversation: Conversation, now: float) -> None:
        """Learn from an answer: a longer form of `conversation` was too long, if it was shortened."""
        if conversation.shortened:
            self._tokens, self._known_until = conversation.tokens, now + _REMEMBERED_SECONDS


def tokens_of(messages: Iterable[Message]) -> int:
    return sum(map(_tokens, messages))


def _newest(exchanges: Sequence[Exchange], tokens: int) -> tuple[Exchange, ...]:
    """The newest of the exchanges that have at most `tokens` together, oldest first."""
    first = len(exchanges)
    while first and (tokens := tokens - exchanges[first - 1].tokens) >= 0:
        first -= 1
    return tuple(exchanges[first:])


def _sum(exchanges: Iterable[Exchange]) -> int:
    return sum(exchange.tokens for exchange in exchanges)


def _tokens(message: Message) -> int:
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return sum(
        len(part["text"].encode()) // BYTES_OF_A_TOKEN + 1 if part["type"] == "text" else TOKENS_OF_AN_IMAGE
        for part in parts
    )


def _exchange(persona: Persona, past: Turn, images: Mapping[str, str]) -> Exchange | None:
    """None for a turn with a blank side: many servers refuse a request with a blank message."""
    asked, spoken = past.request["message"].strip() or past.request.get("media"), _spoken(persona, past)
    if not asked or not spoken.strip():
        return None
    return Exchange.of(_user(past, images), {"role": "assistant", "content": spoken})


def _user(turn: Turn, images: Mapping[str, str]) -> Message:
    text, media = turn.request["message"], turn.request.get("media")
    if not media:
        return {"role": "user", "content": text}
    urls = [item.get("url") or images.get(item.get("upload_id", "")) for item in media]
    said = [{"type": "text", "text": text}] if text.strip() else []
    shown = [{"type": "image_url", "image_url": {"url": url}} if url else _NOT_SHOWN for url in urls]
    return {"role": "user", "content": [*said, *shown]}


def _noted(user: Message) -> Message:
    if isinstance(user["content"], str):
        return user
    return user | {"content": [_NOT_SHOWN if part["type"] == "image_url" else part for part in user["content"]]}


def _spoken(persona: Persona, past: Turn) -> str:
    """The answer of an earlier turn: the text, or the whole document, so that a draft goes on growing.

    A persona with a form takes a document among its answers for a draft of its own making. So an answer of another
    persona, which a user may have made to repeat a document, is quoted.
    """
    result, role = past.result or {}, past.request["role"]
    if persona.output and role != persona.role:
        said = str(result.get("message", ""))
        return f'The assistant "{role}" answered: {json.dumps(said, ensure_ascii=False)}' if said.strip() else ""
    members = {name: result[name] for name in ("message", "draft", "data") if result.get(name) is not None}
    return json.dumps(members, ensure_ascii=False) if len(members) > 1 else str(members.get("message", ""))
