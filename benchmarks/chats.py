"""Chats with a local stack, as a client has them, and the conversations that lie in its table before."""

import itertools
import json
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx

from benchmarks.meter import Meter
from local.stack import LocalStack

type Item = dict[str, dict[str, str]]

OWNER = "alice"
_MESSAGE_CHARACTERS = 100
_WORDS_OF_300_CHARACTERS = 43
"""Of the stand-in model, which counts them."""
_SECONDS = 120  # for anything that is waited for


class Chats:
    """Of one owner, each request counted by the meter."""

    def __init__(self, stack: LocalStack, meter: Meter) -> None:
        self.stack = stack
        self.meter = meter
        self._http = httpx.Client(
            base_url=stack.api_url,
            headers={"Authorization": f"Bearer {stack.token(OWNER)}"},
            limits=httpx.Limits(max_connections=100),
            timeout=60,
            trust_env=False,
        )
        self._dynamodb = stack.client("dynamodb")
        self._table = stack.outputs["TurnsTableName"]

    def submit(self, message: str, session: str | None = None, *, wait: bool = False) -> dict[str, Any]:
        """The body of the 202, or with `wait` of the 200 of sync mode."""
        body = {"message": message} | ({"session_id": session} if session else {})
        route = "sync" if wait else "submit"
        response = self._http.post("/chat", params={"async_mode": str(not wait).lower()}, json=body)
        return self._counted(route, response, 200 if wait else 202)

    def poll(self, task_id: str, wait: int = 0) -> dict[str, Any]:
        response = self._http.get(f"/chat/task/{task_id}", params={"wait": wait} if wait else {})
        return self._counted("wait" if wait else "poll", response, 200)

    def health(self) -> None:
        self._counted("health", self._http.get("/health"), 200)

    def _counted(self, route: str, response: httpx.Response, expected: int) -> dict[str, Any]:
        if response.status_code != expected:
            raise RuntimeError(f"{response.status_code} {response.text}")
        headers = sum(len(name) + len(value) + 4 for name, value in response.headers.raw)
        self.meter.add("requests", route)
        self.meter.add("bytes out", route, len(response.content) + headers)
        document: dict[str, Any] = response.json()
        return document

    @contextmanager
    def finished(self, turns: int) -> Iterator[None]:
        """Waits in the end until the worker is done with so many more turns. Raises TimeoutError."""
        done = self.meter.count("SQS requests", "DeleteMessage") + turns
        yield
        give_up_at = time.monotonic() + _SECONDS
        while (
            self.meter.count("SQS requests", "DeleteMessage") < done
            or self.stack.host.running(self.stack.functions["WorkerFunction"].name) > 0
        ):
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"{turns} turns were not finished within {_SECONDS} s")
            time.sleep(0.02)

    @contextmanager
    def held_back(self, batch_size: int = 10) -> Iterator[None]:
        """Nothing is taken from the queue before the end; from then on so many messages at a time."""
        source = self.stack.event_sources["WorkerFunction"]
        source.stop(drain=True)
        yield
        source.mapping = replace(source.mapping, batch_size=batch_size)
        source.start()

    def say(self, message: str, session: str | None = None) -> dict[str, Any]:
        """Submit, and return the task when it is final."""
        with self.finished(1):
            task_id = self.submit(message, session)["task_id"]
        return self.poll(task_id)

    # ---- What lies in the table

    def a_turn(self) -> Item:
        """The item of a turn that was answered just now, to make others of."""
        task = self.say(message_of())
        found = self._dynamodb.get_item(TableName=self._table, Key=_key(task["task_id"]), ConsistentRead=True)
        item: Item = found["Item"]
        return item

    def forget(self, task_id: str) -> None:
        """Delete a turn, so that its conversation is as it was before."""
        self._dynamodb.delete_item(TableName=self._table, Key=_key(task_id))

    def write(self, items: Iterable[Item], table: str | None = None) -> None:
        """Put the items into the table, that of the stack if none is named."""
        for some in itertools.batched(items, 25, strict=False):
            requests = [{"PutRequest": {"Item": item}} for item in some]
            while requests:
                answer = self._dynamodb.batch_write_item(RequestItems={table or self._table: requests})
                requests = answer.get("UnprocessedItems", {}).get(table or self._table, [])


def _key(task_id: str) -> Item:
    session, turn = task_id.split(".")
    return {"session": {"S": f"{OWNER}#{session}"}, "turn": {"S": turn}}


def message_of(seconds: float = 0, words: int = _WORDS_OF_300_CHARACTERS) -> str:
    """A message of 100 characters that has the stand-in take so long for an answer of so many words."""
    latency = f"latency={seconds:.2f} " if seconds else ""
    return f"[[{latency}words={words}]] {uuid.uuid4().hex} ".ljust(_MESSAGE_CHARACTERS, "q")


def in_large(turn: Item) -> Item:
    """The turn with a message of 2,000 characters and an answer of 16,000."""
    said = {"request": {"message": "q" * 2_000, "role": "general"}, "result": {"message": "a" * 16_000}}
    return turn | {name: {"S": json.dumps(value)} for name, value in said.items()}


def conversation(turn: Item, session: str, turns: int) -> Iterator[Item]:
    """So many copies of a turn, as what was said in a session before now."""
    began = turn["turn"]["S"][:10]  # of a ULID the time; the rest only has to be in order
    for number in range(turns):
        yield turn | {"session": {"S": f"{OWNER}#{session}"}, "turn": {"S": f"{began}{number:016}"}}
