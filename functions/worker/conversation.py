"""Builds the messages of a request to the model: the instructions, the earlier turns, and the user's message.

Sizes are estimates in tokens. Only the server can count its model's tokens, and it reports them after the answer.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

from persona import Persona
from turnqueue.turn import Turn
from turnqueue.usage import BYTES_OF_A_TOKEN, TOKENS_OF_AN_IMAGE

type Message = dict[str, Any]

_NOT_SHOWN = {"type": "text", "text": "[An image was attached here. It is not shown again.]"}

_NO_RESULT = "[The user went on without a result of this function.]"
_RESULT = "[Result of a function that was called earlier] "

# A history that is too long is halved this number of times, and then left out. So a turn needs up to five calls: with
# all of the history, 1/2, 1/4, 1/8 and none.
_HALVINGS = 3

# Seconds that a learned limit is used. Longer conversations are then tried again, because the server may have a larger
# window now, or because the estimated tokens of another conversation may be too high.
_REMEMBERED_SECONDS = 3600.0


class Exchange(NamedTuple):
    """An earlier turn: the user's message and the model's answer.

    Servers refuse a function call without its result, and a result without its call. So a turn that calls functions,
    and the next turn with the results, become one exchange. If the next turn does not have exactly these results, each
    call gets a note as its result. The next turn's results then become text of the user."""

    messages: tuple[Message, ...]
    tokens: int

    @classmethod
    def of(cls, messages: Iterable[Message]) -> Self:
        kept = tuple(messages)
        return cls(kept, tokens_of(kept))


class Conversation(NamedTuple):
    """The messages for one call to the model. `earlier`: the earlier exchanges, oldest first. `asked`: the turn's
    messages, the user's message last. `shortened`: how often `shorter` was called."""

    instructions: Message
    earlier: tuple[Exchange, ...]
    asked: tuple[Message, ...]
    shortened: int = 0

    @classmethod
    def of(
        cls, persona: Persona, history: Sequence[Turn], turn: Turn, images: Mapping[str, str], history_tokens: int
    ) -> Self:
        """Build the conversation: the newest turns of `history` that fit into `history_tokens`, then the turn's
        message. `history`: oldest first. `images`: the data URLs of uploads, by their ids."""
        exchanges: list[Exchange] = []
        for past in history:
            _append(exchanges, _exchange(persona, past, images))
        asked = tuple(_asked(turn, images))
        if _brings_results(exchanges, asked):
            asked = exchanges.pop().messages + asked
        else:
            _close(exchanges)
            asked = _without_calls(asked)
        return cls({"role": "system", "content": persona.instructions}, _newest(exchanges, history_tokens), asked)

    def messages(self) -> list[Message]:
        """All messages. Only the first is a system message, because many servers refuse a second one."""
        first = self.instructions
        rest = [message for exchange in self.earlier for message in exchange.messages] + list(self.asked)
        while rest and rest[0]["role"] == "system":
            first = first | {"content": f"{first['content']}\n\n{rest.pop(0)['content']}"}
        return [first, *rest]

    @property
    def tokens(self) -> int:
        return _tokens(self.instructions) + tokens_of(self.asked) + _sum(self.earlier)

    def within(self, tokens: int) -> Self:
        """This conversation without the oldest earlier turns, so that all of it fits into `tokens`."""
        left = tokens - _tokens(self.instructions) - tokens_of(self.asked)
        return self._replace(earlier=_newest(self.earlier, left))

    def shorter(self) -> Self | None:
        """This conversation with fewer earlier turns. The first _HALVINGS calls halve the tokens for these turns, and
        the next call leaves out all of them. None if there are no earlier turns."""
        if not self.earlier:
            return None
        left = _sum(self.earlier) // 2 if self.shortened < _HALVINGS else 0
        return self._replace(earlier=_newest(self.earlier, left), shortened=self.shortened + 1)

    def without_images(self) -> Self | None:
        """This conversation with a note in place of each earlier image. None if there is no earlier image."""
        earlier = tuple(Exchange.of(map(_noted, each.messages)) for each in self.earlier)
        return None if earlier == self.earlier else self._replace(earlier=earlier)


class Window:
    """The longest conversation that a model accepts, learned from its answers and refusals."""

    def __init__(self) -> None:
        self._tokens = 0
        self._known_until = 0.0

    def fitted(self, conversation: Conversation, now: float) -> Conversation:
        return conversation.within(self._tokens) if now < self._known_until else conversation

    def answered(self, conversation: Conversation, now: float) -> None:
        """Learn from the answer to `conversation`. If `conversation` was shortened, its size becomes the limit, because
        the server has refused a longer conversation."""
        if conversation.shortened:
            self._tokens, self._known_until = conversation.tokens, now + _REMEMBERED_SECONDS


def tokens_of(messages: Iterable[Message]) -> int:
    return sum(map(_tokens, messages))


def _newest(exchanges: Sequence[Exchange], tokens: int) -> tuple[Exchange, ...]:
    """The newest exchanges that fit into `tokens`, oldest first."""
    first = len(exchanges)
    while first and (tokens := tokens - exchanges[first - 1].tokens) >= 0:
        first -= 1
    return tuple(exchanges[first:])


def _sum(exchanges: Iterable[Exchange]) -> int:
    return sum(exchange.tokens for exchange in exchanges)


def _tokens(message: Message) -> int:
    content = message["content"] or ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    parts = parts + [{"type": "text", "text": json.dumps(call)} for call in message.get("tool_calls", ())]
    return sum(
        len(part["text"].encode()) // BYTES_OF_A_TOKEN + 1 if part["type"] == "text" else TOKENS_OF_AN_IMAGE
        for part in parts
    )


def _append(exchanges: list[Exchange], exchange: Exchange | None) -> None:
    if exchange is None:
        return
    if _brings_results(exchanges, exchange.messages):
        exchange = Exchange.of(exchanges.pop().messages + exchange.messages)
    else:
        _close(exchanges)
        exchange = Exchange.of(_without_calls(exchange.messages))
    exchanges.append(exchange)


def _brings_results(exchanges: Sequence[Exchange], messages: Sequence[Message]) -> bool:
    """Whether `messages` begin with exactly the results of the last exchange's calls."""
    calls = exchanges[-1].messages[-1].get("tool_calls", ()) if exchanges else ()
    results = itertools.takewhile(_is_result, messages)
    return bool(calls) and {call["id"] for call in calls} == {result["tool_call_id"] for result in results}


def _without_calls(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Convert the function results at the beginning of `messages` to text of the user."""
    results = [_RESULT + message["content"] for message in itertools.takewhile(_is_result, messages)]
    if not results:
        return messages
    rest, text = messages[len(results) :], "\n\n".join(results)
    if not rest or rest[0]["role"] != "user":
        return ({"role": "user", "content": text}, *rest)
    # join both texts in one message, because some servers refuse two messages of the user in a row
    said = rest[0]["content"]
    content = f"{text}\n\n{said}" if isinstance(said, str) else [{"type": "text", "text": text}, *said]
    return (rest[0] | {"content": content}, *rest[1:])


def _is_result(message: Message) -> bool:
    return bool(message["role"] == "tool")


def _close(exchanges: list[Exchange]) -> None:
    """If the last exchange ends with function calls, add a note in place of each result, because no results follow."""
    if exchanges and (calls := exchanges[-1].messages[-1].get("tool_calls")):
        notes = [{"role": "tool", "tool_call_id": call["id"], "content": _NO_RESULT} for call in calls]
        exchanges[-1] = Exchange.of([*exchanges[-1].messages, *notes])


def _exchange(persona: Persona, past: Turn, images: Mapping[str, str]) -> Exchange | None:
    """The exchange of an earlier turn. None if its message or answer is blank, because many servers refuse blank
    messages."""
    calls = (past.result or {}).get("tool_calls") or []
    said, spoken = past.request, _spoken(persona, past)
    asked = said["message"].strip() or said.get("media") or said.get("context")
    if not asked or not (spoken.strip() or calls):
        return None
    return Exchange.of([*_asked(past, images), _assistant(spoken, calls)])


def _assistant(spoken: str, calls: Sequence[Mapping[str, str]]) -> Message:
    """An answer as a message to the model, with the answer's function calls."""
    if not calls:
        return {"role": "assistant", "content": spoken}
    named = [
        {
            "id": call["call_id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": call["arguments"]},
        }
        for call in calls
    ]
    return {"role": "assistant", "content": spoken or None, "tool_calls": named}


def _asked(turn: Turn, images: Mapping[str, str]) -> Iterator[Message]:
    """The messages of a turn for the model: first the context that the client sent, then the turn's message. Leaves out
    blank messages."""
    spoken, calls = "", list[Mapping[str, str]]()
    for entry in [*(turn.request.get("context") or ()), None]:
        if entry and "name" in entry:
            calls.append(entry)
            continue
        if spoken.strip() or calls:  # Chat Completions needs an answer and its function calls in one message.
            yield _assistant(spoken, calls)
            spoken, calls = "", []
        if entry is None:
            break
        if "output" in entry:
            yield {"role": "tool", "tool_call_id": entry["call_id"], "content": entry["output"]}
        elif entry["role"] == "assistant":
            spoken = entry["text"]
        elif entry["text"].strip() or entry.get("media"):
            yield _user(entry["text"], entry.get("media"), images) | {"role": entry["role"]}
    text, media = turn.request["message"], turn.request.get("media")
    if text.strip() or media or not turn.request.get("context"):
        yield _user(text, media, images)


def _user(text: str, media: Sequence[Mapping[str, Any]] | None, images: Mapping[str, str]) -> Message:
    if not media:
        return {"role": "user", "content": text}
    urls = [item.get("url") or images.get(item.get("upload_id", "")) for item in media]
    said = [{"type": "text", "text": text}] if text.strip() else []
    shown = [{"type": "image_url", "image_url": {"url": url}} if url else _NOT_SHOWN for url in urls]
    return {"role": "user", "content": [*said, *shown]}


def _noted(message: Message) -> Message:
    if not isinstance(message["content"], list):
        return message
    return message | {"content": [_NOT_SHOWN if part["type"] == "image_url" else part for part in message["content"]]}


def _spoken(persona: Persona, past: Turn) -> str:
    """The text of an earlier answer for the model. The model gets a structured answer as the whole document, so that
    the model can extend the draft.

    A persona with structured answers trusts the documents in its earlier answers. But a user can make any other persona
    repeat a document. So `persona` gets the answers of other personas as quotations."""
    result, role = past.result or {}, past.request["role"]
    if persona.output and role != persona.role:
        said = str(result.get("message", ""))
        return f'The assistant "{role}" answered: {json.dumps(said, ensure_ascii=False)}' if said.strip() else ""
    members = {name: result[name] for name in ("message", "draft", "data") if result.get(name) is not None}
    return json.dumps(members, ensure_ascii=False) if len(members) > 1 else str(members.get("message", ""))
