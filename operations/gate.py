"""The gates of a stack's models: `python -m operations gate show|open|close`.

An open gate forbids calls, so turns are returned to the queue and wait there. A worker notices a change with its next
redelivered turn, or at the latest with its next refused call.
"""

import os
import time
from collections.abc import Callable, Mapping

from operations.stack import Stack
from turnqueue.gate import Gate, GateStore, Phase, gate_names


def gates(stack: Stack, parameters: Mapping[str, str]) -> dict[str, str]:
    """The titles of the stack's gates, by the gates' names. `parameters`: the parameters of the stack."""
    base_url = parameters["ModelBaseUrl"]
    models = [(base_url, parameters["ModelName"])]
    if fallback := parameters.get("FallbackModelName"):
        models.append((parameters.get("FallbackBaseUrl") or base_url, fallback))
    found: dict[str, str] = {}
    for url, model in models:
        server, rate = gate_names(url, model)
        found |= {server: f"server {url}", rate: f"model {model} at {url}"}
    return found


def store_of(stack: Stack) -> GateStore:
    # GateStore makes its client from the environment variables, as in a function.
    os.environ["AWS_DEFAULT_REGION"] = stack.region
    return GateStore(stack.outputs["GuardsTableName"])


def show(stack: Stack, say: Callable[[str], object]) -> None:
    """Print the state of each gate."""
    store, now = store_of(stack), time.time()
    for name, title in gates(stack, stack.parameters).items():
        say(f"{title}: {described(store.read(name, consistent=True), now)}")


def move(stack: Stack, seconds: float | None, say: Callable[[str], object]) -> None:
    """Open the gates of all servers for `seconds`. With None, close every gate."""
    store, now = store_of(stack), time.time()
    for name, title in gates(stack, stack.parameters).items():
        if seconds is None:
            store.change(name, lambda gate: gate.shut(now) if gate.open_until else gate)
        elif title.startswith("server "):
            opened = Gate().opened_by_hand(now, seconds)
            store.change(name, lambda gate, opened=opened: opened)  # type: ignore[misc]
        say(f"{title}: {described(store.read(name, consistent=True), now)}")


def described(gate: Gate, now: float) -> str:
    match gate.phase(now):
        case Phase.CLOSED:
            counted = f", {gate.refusals} refusals counted" if now < gate.counted_until else ""
            pace = f", at most {60 / interval:.0f} calls a minute" if (interval := gate.pace(now)) else ""
            return f"closed{counted}{pace}"
        case Phase.OPEN:
            lasted = f", in trouble for {now - gate.since:.0f} s" if gate.since else ""
            return f"open for {gate.open_until - now:.0f} s more{lasted}"
        case Phase.HALF_OPEN:
            return "half-open: the next turn probes"
