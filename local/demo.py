"""Shows a chat in each mode on a running stack: each request, its answer and its time."""

import http.client
import json
import time
from typing import Any
from urllib.parse import urlsplit

from local.progress import Progress
from local.stack import LocalStack

_SECONDS_FOR_A_TASK = 60
_SHOWN_OF_AN_ANSWER = 600


class Unexpected(Exception):
    """The stack gave an unexpected answer."""


class Client:
    """A client that calls the API as `owner`, and prints the requests."""

    def __init__(self, stack: LocalStack, owner: str, progress: Progress) -> None:
        self._address = urlsplit(stack.api_url).netloc
        self._url = stack.api_url
        self._token = stack.token(owner)
        self._say = progress.say

    def call(
        self, method: str, target: str, body: dict[str, Any] | None = None, *, expect: int, show: bool = True
    ) -> dict[str, Any]:
        """Send a request, and return the decoded JSON of the answer. Raises Unexpected if its status is not
        `expect`."""
        sent = None if body is None else json.dumps(body, ensure_ascii=False)
        if show:
            data = "" if sent is None else f" -H 'Content-Type: application/json' -d '{sent}'"
            verb = "" if (method == "GET") == (sent is None) else f" -X {method}"
            self._say(f"  $ curl{verb} '{self._url}{target}' -H \"Authorization: Bearer $TOKEN\"{data}")
        started = time.monotonic()
        connection = http.client.HTTPConnection(self._address, timeout=60)
        try:
            headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
            connection.request(method, target, None if sent is None else sent.encode(), headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if show or response.status != expect:
            self._say(f"    {response.status} after {time.monotonic() - started:.2f} s  {_shortened(text)}")
        if response.status != expect:
            raise Unexpected(f"{method} {target} answered {response.status}, not {expect}")
        decoded: dict[str, Any] = json.loads(text)
        return decoded

    def finished(self, task_id: str) -> dict[str, Any]:
        """Poll the task as clients do, and print its states. Raises Unexpected if it does not end in SUCCESS."""
        target = f"/chat/task/{task_id}"
        self._say(f"  $ curl '{self._url}{target}' -H \"Authorization: Bearer $TOKEN\"   # until it is final")
        started = time.monotonic()
        status = ""
        while time.monotonic() < started + _SECONDS_FOR_A_TASK:
            task = self.call("GET", target, expect=200, show=False)
            if task["status"] != status:
                status = task["status"]
                self._say(f"    {status} after {time.monotonic() - started:.2f} s")
            if status == "SUCCESS":
                self._say(f"    {_shortened(json.dumps(task['result'], ensure_ascii=False))}")
                return task
            if status == "FAILURE":
                raise Unexpected(f"the task failed: {task['error_code']}: {task['error']}")
            time.sleep(0.1)
        raise Unexpected(f"the task is still {status}")


def show(stack: LocalStack, progress: Progress) -> None:
    """Show each mode once. Raises Unexpected if the stack gives an unexpected answer."""
    alice = Client(stack, "alice", progress)

    progress.say("\nDoes the service answer?")
    alice.call("GET", "/health", expect=200)

    progress.say("\nA synchronous chat: the request waits for the answer.")
    answer = alice.call("POST", "/chat", {"message": "Hello, who are you?"}, expect=200)
    _require(bool(answer["message"]), "the answer is empty")

    progress.say("\nAn asynchronous chat: accepted at once, answered in the background, polled to its end.")
    accepted = alice.call("POST", "/chat?async_mode=true", {"message": "Tell me about queues."}, expect=202)
    alice.finished(accepted["task_id"])

    progress.say("\nTwo turns of one session, sent at once.")
    session = f"demo-{int(time.time())}"
    turns = [{"message": text, "session_id": session} for text in ("My name is Ada.", "What is my name?")]
    tasks = [alice.call("POST", "/chat?async_mode=true", turn, expect=202)["task_id"] for turn in turns]
    first, second = [alice.finished(task_id) for task_id in tasks]
    _require(first["finished_at"] <= second["started_at"], "the second turn began before the first had ended")
    progress.say("    The second began after the first had ended.")
    if stack.model.stand_in:
        _require("Ada" in second["result"]["message"], "the second turn does not know the first")
        progress.say("    The second answer shows that the model got the first turn.")

    progress.say("\nThe conversation, in order.")
    conversation = alice.call("GET", f"/chat/session/{session}", expect=200)
    _require(
        [turn["task_id"] for turn in conversation["turns"]] == tasks,
        "the conversation does not list exactly the two turns, in order",
    )

    progress.say("\nAnother owner's task does not exist.")
    Client(stack, "bob", progress).call("GET", f"/chat/task/{tasks[0]}", expect=404)


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Unexpected(otherwise)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_OF_AN_ANSWER else f"{text[:_SHOWN_OF_AN_ANSWER]}..."
