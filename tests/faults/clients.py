"""A client of the API in a story: it retries messages that were not accepted, polls, cancels and reads."""

from collections.abc import Sequence
from typing import Any

from tests.faults.model import Answers
from tests.faults.world import Exchange, World

TRIES = 4
MOST_WATCHED = 150.0
"""Seconds for which a client watches an answer: longer than a lease and another attempt."""


class Client:
    """Every method sends one request and waits for its answer; only an actor can."""

    def __init__(self, world: World, owner: str) -> None:
        self._world = world
        self.owner = owner

    def say(
        self,
        marker: str,
        session: str | None = "s",
        *,
        tools: bool = False,
        results_of: Sequence[str] = (),
        answers: Sequence[Answers] = (),
        **options: Any,
    ) -> Exchange:
        """Post a message. `answers`: how the model behaves when it is asked to answer it. `tools`: whether the model
        may ask for a function. `results_of`: the ids of calls whose results are posted in place of a message. `options`
        as in `post`."""
        arguments = post(marker, session, **options)
        body = arguments["body"]
        if tools:
            body["tools"] = [{"type": "function", "name": "add"}]
        if results_of:  # the last result stands for the message
            said = [""] * (len(results_of) - 1) + [body.pop("message")]
            pairs = zip(results_of, said, strict=True)
            body["tool_outputs"] = [{"call_id": call_id, "output": text} for call_id, text in pairs]
        if answers:
            self._world.model.planned[marker] = list(answers)
        return self._world.ask(self.owner, "POST /chat", **arguments)

    def upload(self, content: bytes = b"GIF89a") -> dict[str, str] | None:
        """Upload an image, unless the service fails. Returns it as a message names it."""
        request = {"type": "image", "content_type": "image/gif"}
        exchange = self._world.ask(self.owner, "POST /chat/media", body=request)
        if exchange.status >= 500:
            return None
        assert exchange.status == 201, exchange.document
        offered = exchange.document
        self._world.objects[offered["fields"]["key"]] = ("image/gif", content)
        return {"type": "image", "upload_id": offered["upload_id"]}

    def insist(self, marker: str, session: str | None = "s", **options: Any) -> Exchange:
        """Post a message, and again while the service fails. A client may: nothing was accepted."""
        exchange = self.say(marker, session, **options)
        for _ in range(TRIES - 1):
            # An answer that tells how its task has failed is no failure of the service, unless it says that there is no task.
            failed = "task_id" in exchange.document and exchange.document.get("code") != "enqueue_failed"
            if exchange.status < 500 or failed:
                break
            self.rest(float(exchange.headers.get("Retry-After", 1)))
            exchange = self.say(marker, session, **options)
        return exchange

    def create(self, marker: str, key: str, answers: Sequence[Answers] = ()) -> Exchange:
        """Create a response of the OpenAI API in the background, and again while the service fails."""
        if answers:
            self._world.model.planned[marker] = list(answers)
        body = {"model": "general", "input": f"planted-prompt-{marker}", "background": True}
        for _ in range(TRIES):
            path, headers = {"proxy": "responses"}, {"idempotency-key": key}
            exchange = self._world.ask(self.owner, "POST /v1/{proxy+}", body=body, headers=headers, path=path)
            if exchange.status < 500:
                break
            self.rest(1)
        return exchange

    def retrieve(self, created: Exchange) -> Exchange | None:
        if "id" not in created.document:
            return None
        path = {"proxy": f"responses/{created.document['id']}"}
        return self._world.ask(self.owner, "GET /v1/{proxy+}", path=path)

    def read_stream(self, created: Exchange) -> None:
        """Read the stream of a response until it ends well, and then as one who was cut at each event."""
        if "id" not in created.document:
            return
        path, seen = {"proxy": f"responses/{created.document['id']}"}, -1

        def read(after: int) -> list[dict[str, Any]]:
            query = {"stream": "true"} | ({} if after < 0 else {"starting_after": str(after)})
            told = self._world.ask(self.owner, "GET /v1/{proxy+}", path=path, query=query)
            return told.document.get("stream") or [{"type": "error"}]

        for _ in range(TRIES):
            events = read(seen)
            seen = events[-1].get("sequence_number", seen)
            if events[-1]["type"] != "error":
                break
            self.rest(20)
        for after in range(-1, seen):
            read(after)

    def look(self, posted: Exchange, wait: int | None = None) -> Exchange | None:
        """Read the task of an answer, if it names one."""
        task_id = posted.document.get("task_id")
        if not task_id:
            return None
        query = {"wait": str(wait)} if wait else {}
        return self._world.ask(self.owner, "GET /chat/task/{task_id}", path={"task_id": task_id}, query=query)

    def calls(self, posted: Exchange) -> list[str]:
        """The ids of the functions that the answer asks for. Waits for the answer, as long as it can take after a fault.
        Empty if there is no such answer."""
        for _ in range(8):
            read = self.look(posted, wait=20)
            if read is None:
                return []
            if read.document.get("status") in ("SUCCESS", "FAILURE"):
                return [call["call_id"] for call in (read.document["result"] or {}).get("tool_calls", ())]
            self.rest(1)
        return []

    def read_on(self, posted: Exchange, after: int | None) -> Exchange | None:
        """Ask once what is new of the answer, if there is a task."""
        task_id = posted.document.get("task_id")
        if not task_id:
            return None
        query = {} if after is None else {"after": str(after)}
        return self._world.ask(self.owner, "GET /chat/task/{task_id}/events", path={"task_id": task_id}, query=query)

    def watch(self, posted: Exchange, pause: float, *, again: bool = False) -> None:
        """Read the answer as it grows, to its end. `again`: whenever it has grown also as one who comes back at each
        row."""
        after, seconds = None, 0.0
        while seconds < MOST_WATCHED:
            told = self.read_on(posted, after)
            if told is None or told.status == 204:
                return
            if told.status == 200 and told.document["events"]:
                after = told.document["next"]
                if told.document["done"]:
                    assert self.read_on(posted, after)
                    return
                for row in range(after if again else 0):
                    self.read_on(posted, row)
            self.rest(pause)
            seconds += pause

    def cancel(self, posted: Exchange) -> Exchange | None:
        task_id = posted.document.get("task_id")
        if not task_id:
            return None
        return self._world.ask(self.owner, "POST /chat/task/{task_id}/cancel", path={"task_id": task_id})

    def retry(self, posted: Exchange) -> Exchange | None:
        """Send a failed task's message again, and once more while the service fails."""
        task_id = posted.document.get("task_id")
        if not task_id:
            return None
        for _ in range(TRIES):
            again = self._world.ask(self.owner, "POST /chat/task/{task_id}/retry", path={"task_id": task_id})
            if again.status < 500:
                break
            self.rest(float(again.headers.get("Retry-After", 1)))
        return again

    def page(self, session: str) -> Exchange:
        return self._world.ask(self.owner, "GET /chat/session/{session_id}", path={"session_id": session})

    def rest(self, seconds: float) -> None:
        self._world.scheduler.wait(seconds)


def post(
    marker: str,
    session: str | None,
    *,
    sync: bool = False,
    key: str | None = None,
    role: str | None = None,
    wait: int | None = None,
    metadata: dict[str, str] | None = None,
    media: Sequence[dict[str, str]] | None = None,
    stream: bool | None = None,
) -> dict[str, Any]:
    """A post of a message, as arguments of World.send."""
    body: dict[str, Any] = {"message": f"planted-prompt-{marker}", "session_id": session, "role": role}
    body |= {"metadata": metadata, "media": list(media) if media else None, "stream": stream}
    headers = ({"idempotency-key": key} if key else {}) | ({"prefer": f"wait={wait}"} if wait is not None else {})
    return {
        "body": {name: value for name, value in body.items() if value is not None},
        "headers": headers,
        "query": {} if sync else {"async_mode": "true"},
    }
