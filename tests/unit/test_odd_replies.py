"""Each odd reply has the result that docs/model-servers.md names."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from copy import replace
from typing import Any

import pytest

from development.cfn import ROOT
from local.odd_replies import ODD
from model import Model
from modelerror import ModelError
from persona import persona
from reply import Reply
from turnqueue import telemetry
from turnqueue.turn import Key, Turn

ROW = re.compile(r"\| `(\w+)` \| [^|]+ \| [^|]+ \| ([^|]+) \|")
SECTION = (ROOT / "docs/model-servers.md").read_text().partition("## What a server may do")[2].partition("\n## ")[0]
TOLD = dict(ROW.findall(SECTION))

TEXT = "All is well."
DOCUMENT = json.dumps(
    {
        "message": TEXT,
        "draft": {"service": None, "date": None, "time": None, "name": None},
        "data": {"complete": False, "missing": ["date"]},
    }
)
# The subject of a reply: a document, a temperature, a limit of tokens.
_DOCUMENTS = ("fence", "no_json_schema")
_WITH: dict[str, dict[str, Any]] = {
    "no_temperature": {"temperature": 0.2},
    "no_max_tokens": {"options": {"max_tokens": 100}},
}


async def outcome(url: str, name: str) -> str:
    """How an attempt ends: "answered", or the code of its failure, and what is noteworthy besides."""

    async def key(fresh: bool = False) -> str:
        return "sk-test"

    role = "booking" if name in _DOCUMENTS else "general"
    asked = replace(persona(role), **_WITH.get(name, {}))
    model = Model(url, "odd", key, {}, 16_000)
    said = DOCUMENT if name in _DOCUMENTS else TEXT
    request = {"message": f"[[odd={name}]] [[echo={said}]]", "role": role}
    turn = Turn.submitted(Key("alice#s-1", "01ARZ3NDEKTSV4RRFFQ69G5FAV"), request, time.time())
    reply = Reply()
    reply.structured = asked.output is not None
    try:
        async with asyncio.timeout(15):
            answer = await model.answer(asked, [], turn, {}, reply)
    except ModelError as error:
        return f"{error.code}{', no attempt' if error.refused else ''}"
    except TimeoutError:
        return "no end within 15 s"
    finally:
        await model._client.close()
    return _summary(answer.result["message"], answer.usage)


def _summary(message: str, usage: dict[str, Any]) -> str:
    try:
        json.dumps([message, usage], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "an answer that cannot be stored"
    if message != TEXT:
        return "a wrong answer" if message.strip() else "a blank answer"
    counts = [usage.get(f"{name}_tokens") for name in ("prompt", "completion", "cached")]
    if any(count is not None and (type(count) is not int or count < 0) for count in counts):
        return "answered, with wrong counts"
    return "answered"


@pytest.fixture(autouse=True)
def no_metrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("modelstream._USAGE_SECONDS", 0.5)  # a reply may be silent after its end
    yield
    telemetry._metrics.clear_metrics()


def test_the_document_has_every_odd_reply() -> None:
    assert list(TOLD) == list(ODD)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_reply_becomes_what_the_document_says(name: str, model_url: str) -> None:
    assert asyncio.run(outcome(model_url, name)) == TOLD[name]
