"""The stand-in model (local/model_server.py) from the side of a test: what it was asked, and what it does next."""

import json
import urllib.request
from typing import Any


class StandIn:
    """`url`: as its clients have it, ending in /v1."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._control = url.removesuffix("/v1") + "/stand-in"

    def messages(self) -> list[str]:
        """The message of each call so far, in order."""
        return [call["message"] for call in self.calls()["last"]]

    def calls(self) -> dict[str, Any]:
        """The server's counts: total, unauthorized, disconnected, by_message, and the last calls."""
        calls: dict[str, Any] = self._ask("calls")
        return calls

    def asked(self, message: str) -> int:
        """How often it was asked this very message."""
        count: int = self.calls()["by_message"].get(message, 0)
        return count

    def forget(self) -> None:
        """Forget the calls so far: `times` counts anew."""
        self._ask("calls", method="DELETE")

    def step(self, message: str) -> None:
        """Let the answer to this message with `[[step=N]]` go on by N words, or after the last word to its end."""
        self._ask("step", method="POST", body={"message": message})

    def faults(self, **fault: Any) -> None:
        """Set the fault of every call from now on. Without an argument, no call has a fault."""
        self._ask("faults", method="POST", body=fault)

    def only_key(self, key: str | None) -> None:
        """Accept this API key only, or every key again."""
        self._ask("key", method="POST", body={"only": key} if key else {})

    def _ask(self, path: str, method: str = "GET", body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._control}/{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or "null")
