"""The circuit breakers of a stack's models: `python -m operations breaker show|open|close`.

An open breaker blocks calls, so turns wait in the queue. A worker reads the breakers only after the model's server
refuses a call, or when SQS delivers a message again. Until then, the worker does not notice a change.
"""

import os
import time
from collections.abc import Callable, Mapping

from operations.stack import Stack
from turnqueue.circuit_breaker import Breaker, BreakerStore, State, breaker_names


def breakers(parameters: Mapping[str, str]) -> dict[str, str]:
    """Descriptions of a stack's breakers for the operator, by the breakers' names. `parameters`: the parameters of the
    stack."""
    base_url = parameters["ModelBaseUrl"]
    models = [(base_url, parameters["ModelName"])]
    if fallback := parameters.get("FallbackModelName"):
        models.append((parameters.get("FallbackBaseUrl") or base_url, fallback))
    found: dict[str, str] = {}
    for url, model in models:
        server, rate = breaker_names(url, model)
        found |= {server: f"server {url}", rate: f"model {model} at {url}"}
    return found


def store_of(stack: Stack) -> BreakerStore:
    # BreakerStore makes its client from the environment variables, as in a function.
    os.environ["AWS_DEFAULT_REGION"] = stack.region
    return BreakerStore(stack.outputs["GuardsTableName"])


def show(stack: Stack, say: Callable[[str], object]) -> None:
    """Print the state of each breaker."""
    store, now = store_of(stack), time.time()
    for name, title in breakers(stack.parameters).items():
        say(f"{title}: {described(store.read(name, consistent=True), now)}")


def move(stack: Stack, seconds: float | None, say: Callable[[str], object]) -> None:
    """Block the calls to all models' servers for `seconds`. With None, allow all calls: close every breaker."""
    store, now = store_of(stack), time.time()
    for name, title in breakers(stack.parameters).items():
        if seconds is None:
            store.change(name, lambda breaker: breaker.closed(now) if breaker.open_until else breaker)
        elif title.startswith("server "):
            opened = Breaker().opened_by_hand(now, seconds)
            store.change(name, lambda breaker, opened=opened: opened)  # type: ignore[misc]
        say(f"{title}: {described(store.read(name, consistent=True), now)}")


def described(breaker: Breaker, now: float) -> str:
    match breaker.state(now):
        case State.CLOSED:
            counted = f", {breaker.refusals} refusals counted" if now < breaker.counted_until else ""
            pace = f", at most {60 / interval:.0f} calls a minute" if (interval := breaker.pace(now)) else ""
            return f"closed{counted}{pace}"
        case State.OPEN:
            lasted = f", failing for {now - breaker.since:.0f} s" if breaker.since else ""
            return f"open for {breaker.open_until - now:.0f} s more{lasted}"
        case State.HALF_OPEN:
            return "half-open: the next call tests the model"
