"""The request fields that a model accepts. Servers differ, and refuse unknown fields."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from persona import Persona
from structured import instructions, response_format

_NEEDED = ("tools", "tool_choice")  # Never left out, because the model cannot do the task without these fields.

_TWINS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}

# The ways to ask a model for a JSON document, the strictest first: with a schema, as any JSON, or only in words.
_JSON_SCHEMA, _JSON_OBJECT, _WORDS = range(3)


class Dialect(NamedTuple):
    """The request fields that a model accepts. `without`: the fields that it refused. `form`: the strictest accepted
    way to ask for a JSON document."""

    without: frozenset[str] = frozenset()
    form: int = _JSON_SCHEMA

    def request(self, model: str, messages: Sequence[dict[str, Any]], persona: Persona) -> dict[str, Any]:
        """The body of a request for Chat Completions."""
        request: dict[str, Any] = {
            **persona.options,
            "model": model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if persona.temperature is not None:
            request["temperature"] = persona.temperature
        if persona.output:
            if self.form == _JSON_SCHEMA:
                request["response_format"] = response_format(persona.output)
            else:
                system, *others = messages
                text = f"{system['content']}\n\n{instructions(persona.output)}"
                request["messages"] = [system | {"content": text}, *others]
                if self.form == _JSON_OBJECT:
                    request["response_format"] = {"type": "json_object"}
        for field in self.without & request.keys():
            value, twin = request.pop(field), _TWINS.get(field)
            if twin and twin not in self.without:
                request[twin] = value
        return request

    def after(self, field: str | None, request: dict[str, Any]) -> Self | None:
        """The dialect for the next try, after the server refused `field` of `request`. None if no change can help."""
        if field not in request or field in _NEEDED:
            return None
        if field == "response_format":
            return self._replace(form=self.form + 1)
        return self._replace(without=self.without | {field})
