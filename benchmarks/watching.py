"""Watches one answer on a local stack as a client does, and counts what that costs.

benchmarks/streaming.py imports this module. It also runs as a program in the checkout of an earlier commit, to measure
that commit: so it imports only names that the earlier commit has.
"""

import base64
import json
import sys
import time
from dataclasses import asdict, dataclass

import httpx

from benchmarks.meter import Meter
from local.stack import LocalStack, Model

OWNER = "alice"
TOKENS_A_SECOND = 20
TOKEN_CHARACTERS = 10
"""Of a token: when it left the model, in milliseconds of the clock, with a space. 200 a second, so 16 KB in 80 s."""

IMAGE = f"data:image/png;base64,{base64.b64encode(b'.' * 149_000).decode()}"
"""About the largest data URL of a message: 199,000 characters."""


@dataclass
class Watched:
    """`late`: seconds from the model to the client, by token. `requests`: the client's, but for the submit."""

    late: list[float]
    requests: float
    rows: float
    write_units: float
    """Of what shows the growing answer: the rows of the event log, or earlier the writes of the turn."""
    turn_units: float
    """Of all writes of the turn."""
    read_units: float
    """Of all reads."""
    status_cpu: float
    status_calls: float


class Lateness:
    """The tokens that a client has, and how late each was."""

    def __init__(self) -> None:
        self.late: list[float] = []

    def has(self, text: str) -> None:
        """The client has all of this text of the answer now."""
        now = time.time() * 1000
        for start in range(len(self.late) * TOKEN_CHARACTERS, len(text) - TOKEN_CHARACTERS + 1, TOKEN_CHARACTERS):
            left = int(text[start : start + TOKEN_CHARACTERS])
            self.late.append((now - left) % 10 ** (TOKEN_CHARACTERS - 1) / 1000)


def message(seconds: float) -> str:
    return f"[[tokens={round(seconds * TOKENS_A_SECOND)}]]"


def watched(stack: LocalStack, meter: Meter, seconds: float, *, stream: bool, image: bool = False) -> Watched:
    """An answer as a client has it: by its events if it `stream`s, else by asking for the task as often as told."""
    lateness, requests = Lateness(), 0
    headers = {"Authorization": f"Bearer {stack.token(OWNER)}"}
    with (
        httpx.Client(base_url=stack.api_url, headers=headers, timeout=60, trust_env=False) as http,
        meter.measured() as use,
    ):
        body = {"message": message(seconds)} | ({"stream": True} if stream else {})
        media = {"media": [{"type": "image", "url": IMAGE}]} if image else {}
        task = http.post("/chat", params={"async_mode": "true"}, json=body | media).raise_for_status().json()["task_id"]
        text, after, wait_ms = "", 0, 300
        while wait_ms is not None:
            time.sleep(wait_ms / 1000)
            requests += 1
            if stream:
                told = http.get(f"/chat/task/{task}/events", params={"after": after}).raise_for_status().json()
                after = told["next"]
                for event in told["events"]:
                    text = (
                        event["task"]["result"]["message"] if event["event"] == "done" else text + event.get("text", "")
                    )
                    lateness.has(text)
            else:
                told = http.get(f"/chat/task/{task}").raise_for_status().json()
                lateness.has((told["result"] or {}).get("message") or told["partial"] or "")
            wait_ms = told["poll_after_ms"]
        time.sleep(1)  # for the worker's last calls
    return Watched(
        lateness.late,
        requests,
        use["writes", "progress"],
        use["write units", "progress"],
        use["write units", "TurnsTable"],
        sum(use["read units", operation] for operation in ("GetItem", "Query", "BatchGetItem")),
        use["CPU seconds", "StatusFunction"],
        use["calls", "StatusFunction"],
    )


def main(url: str, *answers: str) -> None:
    """Print a line of JSON for each answer: "10" for 10 s, "10+image" if its message has IMAGE."""
    with LocalStack(record=True, model=Model(url, "sk-local", "m", stand_in=False)) as stack:
        meter = Meter(stack)
        watched(stack, meter, 0.2, stream=False)  # starts the functions
        for answer in answers:
            seconds, _, image = answer.partition("+")
            found = watched(stack, meter, float(seconds), stream=False, image=bool(image))
            print(json.dumps(asdict(found)), file=sys.stdout, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
