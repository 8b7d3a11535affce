"""A stub of AWS and of a model with little CPU: fixed answers on loopback, in a separate process, so that a measured
process has only its own cost.

DynamoDB, SQS and Secrets Manager (AWS JSON 1.0 and 1.1) and OpenAI's Chat Completions share one address; the request
shows which is meant. The stub stores nothing: every write succeeds, and a read returns `Stub.item` with the requested
key.
"""

import asyncio
import hashlib
import http.client
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from local.loopback import HOST
from local.processes import Processes
from local.tools import ROOT

type Item = dict[str, Any]
"""In DynamoDB's JSON."""

_ASSIGNMENT = re.compile(r"#(\w+) = (?:if_not_exists\(#\w+, |#\w+ \+ )?(:\w+)")
_WORDS = ["word"] * 20
"""The model's answer. Each word is a chunk of a stream."""


class Stub:
    """The server, from construction until close, and its control. A context manager."""

    def __init__(self, processes: Processes) -> None:
        command: list[str | Path] = [sys.executable, "-m", "benchmarks.stub"]
        self._process = processes.start(command, env={"PYTHONPATH": str(ROOT)}, cwd=ROOT, log=None)
        self._address = f"{HOST}:{self._process.first_line()}"
        self.url = f"http://{self._address}"
        self.pid = self._process.pid

    def set(self, item: Item) -> None:
        """Let reads return this item from now on."""
        self._ask("POST", "/stub/item", item)

    def calls(self) -> Counter[str]:
        """The number of calls of each operation; the model's are "ChatCompletion"."""
        return Counter(self._ask("GET", "/stub/calls"))

    def clear(self) -> None:
        """Forget all calls."""
        self._ask("POST", "/stub/clear")

    def variables(self) -> dict[str, str]:
        """The environment variables that make a function's AWS SDK and model client use this stub."""
        return {**AWS_VARIABLES, "AWS_ENDPOINT_URL": self.url, "MODEL_BASE_URL": f"{self.url}/v1"}

    def close(self) -> None:
        self._process.kill()

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection(self._address, timeout=10)
        try:
            connection.request(method, path, json.dumps(body))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


AWS_VARIABLES: Mapping[str, str] = {
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_SESSION_TOKEN": "none",
}
"""The variables that Lambda gives every function, without those of a real account."""


# ---- The server


class _Services:
    def __init__(self) -> None:
        self._item: Item = {}
        self._operations: dict[str, Callable[[Item, bytes], Any]] = {
            "PutItem": lambda asked, body: {},
            "GetItem": self._get_item,
            "UpdateItem": self._update_item,
            "Query": lambda asked, body: {"Items": [], "Count": 0, "ScannedCount": 0},
            "SendMessage": self._send_message,
            "ChangeMessageVisibilityBatch": _all_entries,
            "DeleteMessageBatch": _all_entries,
            "GetSecretValue": lambda asked, body: {
                "ARN": asked["SecretId"],
                "Name": "key",
                "VersionId": "1" * 32,
                "SecretString": "sk-none",
            },
        }
        self.clear()

    def clear(self) -> dict[str, Any]:
        self.calls: Counter[str] = Counter()
        return {}

    def aws(self, operation: str, body: bytes) -> Any:
        """Raises KeyError for an operation that is not known."""
        self.calls[operation] += 1
        return self._operations[operation](json.loads(body), body)

    def control(self, path: str, body: bytes) -> Any:
        """Raises KeyError for a path that is not known."""
        match path:
            case "/stub/item":
                self._item = json.loads(body)
                return {}
            case "/stub/calls":
                return self.calls
            case "/stub/clear":
                return self.clear()
        raise KeyError(path)

    def _get_item(self, asked: Item, body: bytes) -> Any:
        return {"Item": self._item | asked["Key"]} if self._item else {}

    def _update_item(self, asked: Item, body: bytes) -> Any:
        if asked.get("ReturnValues") != "ALL_NEW":
            return {}
        names, values = asked["ExpressionAttributeNames"], asked["ExpressionAttributeValues"]
        assigned = _ASSIGNMENT.findall(asked["UpdateExpression"])
        changes = {names[f"#{name}"]: values[value] for name, value in assigned}
        return {"Attributes": self._item | asked["Key"] | changes}

    @staticmethod
    def _send_message(asked: Item, body: bytes) -> Any:
        digest = hashlib.md5(asked["MessageBody"].encode(), usedforsecurity=False).hexdigest()
        return {"MessageId": "00000000-0000-4000-8000-000000000000", "MD5OfMessageBody": digest, "SequenceNumber": "1"}


class _Connection(asyncio.Protocol):
    """One request at a time, as all clients here send them."""

    def __init__(self, services: _Services) -> None:
        self._services = services
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        request_line, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = end + 4 + int(headers.get("content-length", 0))
        if len(self._buffer) < size:
            return
        body, self._buffer = self._buffer[end + 4 : size], self._buffer[size:]
        try:
            self._answer(request_line.split(" ")[1], headers, body)
        except (KeyError, ValueError) as error:
            self._respond(400, {"__type": "NotInTheStub", "message": repr(error)})

    def _answer(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        if (target := headers.get("x-amz-target", "")).endswith(".ReceiveMessage"):  # the queue is empty
            asyncio.get_running_loop().call_later(json.loads(body)["WaitTimeSeconds"], self._respond, 200, {})
        elif target:
            self._respond(200, self._services.aws(target.rpartition(".")[2], body))
        elif path.endswith("/chat/completions"):
            self._complete(json.loads(body))
        else:
            self._respond(200, self._services.control(path, body))

    def _complete(self, asked: dict[str, Any]) -> None:
        self._services.calls["ChatCompletion"] += 1
        if asked.get("stream"):
            self._write(200, "text/event-stream", b"".join(_events(asked["model"], _WORDS)))
        else:
            self._respond(200, _completion(asked["model"], _WORDS))

    def _respond(self, status: int, body: Any) -> None:
        self._write(status, "application/json", json.dumps(body).encode())

    def _write(self, status: int, content_type: str, body: bytes) -> None:
        head = (f"HTTP/1.1 {status} X", f"Content-Type: {content_type}", f"Content-Length: {len(body)}")
        self._transport.write("\r\n".join((*head, f"x-amzn-RequestId: {'0' * 32}", "", "")).encode() + body)


def _usage(words: list[str]) -> dict[str, Any]:
    return {"prompt_tokens": 100, "completion_tokens": len(words), "total_tokens": 100 + len(words)}


def _completion(model: str, words: list[str]) -> dict[str, Any]:
    message = {"role": "assistant", "content": " ".join(words)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [choice],
        "usage": _usage(words),
    }


def _events(model: str, words: list[str]) -> list[bytes]:
    def chunk(**members: Any) -> bytes:
        document = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": model, **members}
        return b"data: " + json.dumps(document).encode() + b"\n\n"

    def delta(finish_reason: str | None, **members: Any) -> bytes:
        return chunk(choices=[{"index": 0, "delta": members, "finish_reason": finish_reason}])

    first, *rest = words
    pieces = [delta(None, role="assistant", content=first), *(delta(None, content=f" {word}") for word in rest)]
    return [*pieces, delta("stop"), chunk(choices=[], usage=_usage(words)) + b"data: [DONE]\n\n"]


def _all_entries(asked: Item, body: bytes) -> Item:
    return {"Successful": [{"Id": entry["Id"]} for entry in asked["Entries"]], "Failed": []}


async def _serve() -> None:
    services = _Services()
    loop = asyncio.get_running_loop()

    def connection() -> _Connection:
        return _Connection(services)

    server = await loop.create_server(connection, HOST, 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
