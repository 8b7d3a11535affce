"""What becomes of a reply that a server sends in its own way, beside what became of it at another commit.

`python -m benchmarks.odd_replies [--beside COMMIT]` prints the table of docs/model-servers.md. The stand-in model sends
each reply of local/odd_replies.py to one attempt of the worker: the answer is whole, another text, or a failure.
"""

import argparse
import asyncio
import inspect
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from copy import replace
from pathlib import Path
from typing import Any

from benchmarks.checkout import checkout
from benchmarks.streams import BEFORE, ROOT
from local import model_server
from local.odd_replies import ODD

TEXT = "All is well."
DOCUMENT = json.dumps(
    {
        "message": TEXT,
        "draft": {"service": None, "date": None, "time": None, "name": None},
        "data": {"complete": False, "missing": ["date"]},
    }
)
# What a reply is about: a document, a temperature, a limit of tokens.
_DOCUMENTS = ("fence", "no_json_schema")
_WITH: dict[str, dict[str, Any]] = {
    "no_temperature": {"temperature": 0.2},
    "no_max_tokens": {"options": {"max_tokens": 100}},
}


async def outcome(url: str, name: str) -> str:
    """How an attempt ends: "answered", or the code of its failure, and what is noteworthy besides.

    Runs in a process that has the functions of one side on its path.
    """
    import model as model_module
    from persona import persona
    from turnqueue.turn import Key, Turn

    async def key(fresh: bool = False) -> str:
        return "sk-test"

    role = "booking" if name in _DOCUMENTS else "general"
    told = persona(role)
    known = {field: value for field, value in _WITH.get(name, {}).items() if hasattr(told, field)}
    told = replace(told, **known)
    # An older Model takes fewer arguments.
    arguments: tuple[Any, ...] = (url, "odd", key, {}, 16_000)
    model = model_module.Model(*arguments[: len(inspect.signature(model_module.Model).parameters)])
    said = DOCUMENT if name in _DOCUMENTS else TEXT
    request = {"message": f"[[odd={name}]] [[echo={said}]]", "role": role}
    turn = Turn.submitted(Key("alice#s-1", "01ARZ3NDEKTSV4RRFFQ69G5FAV"), request, time.time())
    reply = model_module.Reply()
    reply.structured = told.output is not None
    try:
        async with asyncio.timeout(15):
            answer = await model.answer(told, [], turn, {}, reply)
    except model_module.ModelError as error:
        return f"{error.code}{', no attempt' if getattr(error, 'refused', False) else ''}"
    except TimeoutError:
        return "no end within 15 s"
    except Exception:
        return "internal_error"
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


def child(url: str, name: str) -> None:
    print(asyncio.run(outcome(url, name)))


def _outcome(root: Path, url: str, name: str) -> str:
    paths = [str(root / part) for part in ("functions/worker", "layers/shared")]
    code = (
        f"import sys; sys.path[:0] = {paths!r}; from benchmarks import odd_replies; "
        f"odd_replies.child({url!r}, {name!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beside", default=BEFORE, metavar="COMMIT")
    chosen = parser.parse_args(arguments)
    print("| `[[odd=…]]` | before | now |\n| --- | --- | --- |")
    with model_server.serve() as url, checkout(chosen.beside) as before:
        for name in ODD:
            print(f"| {name} | {_outcome(before, url, name)} | {_outcome(ROOT, url, name)} |", flush=True)


if __name__ == "__main__":
    main()
