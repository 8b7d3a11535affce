"""Replaces clocks, random numbers, the network and the standard output during a simulation. Only actors see the
replacements: in every other thread they behave like the originals.
"""

import asyncio
import random
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import httpx2._client

from tests.faults.aio import VirtualLoop
from tests.faults.model import Transport
from tests.faults.scheduler import here, pass_time, virtual_time


class Output:
    """Standard output: what an actor writes is kept for the checks, the rest goes where it went."""

    def __init__(self, keep: Callable[[str], None]) -> None:
        self._keep = keep
        self._original = sys.stdout

    def write(self, text: str) -> int:
        if here() is None:
            return self._original.write(text)
        self._keep(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def flush(self) -> None:
        if here() is None:
            self._original.flush()


@contextmanager
def applied(chance: random.Random, output: Output) -> Iterator[None]:
    """`chance`: what the processes draw from; `output`: where they write to."""
    state = random.getstate()
    random.seed(chance.random())  # botocore keeps a reference to random.random, so it cannot be replaced
    real_time, real_monotonic, real_sleep = time.time, time.monotonic, time.sleep
    real_bits, real_bytes = secrets.randbits, secrets.token_bytes
    real_loop = asyncio.events.new_event_loop

    def virtual(real: Callable[[], float]) -> Callable[[], float]:
        def read() -> float:
            seconds = virtual_time()
            return real() if seconds is None else seconds

        return read

    def sleep(seconds: float) -> None:
        if not pass_time(seconds):
            real_sleep(seconds)

    def simulated() -> bool:
        return here() is not None

    with (
        mock.patch.object(time, "time", virtual(real_time)),
        mock.patch.object(time, "monotonic", virtual(real_monotonic)),
        mock.patch.object(time, "sleep", sleep),
        mock.patch.object(
            secrets, "randbits", lambda bits: chance.getrandbits(bits) if simulated() else real_bits(bits)
        ),
        mock.patch.object(
            secrets,
            "token_bytes",
            lambda size=32: chance.randbytes(size or 32) if simulated() else real_bytes(size),
        ),
        mock.patch.object(asyncio.events, "new_event_loop", lambda: VirtualLoop() if simulated() else real_loop()),
        mock.patch.object(httpx2._client, "AsyncHTTPTransport", Transport),
        mock.patch.object(sys, "stdout", output),
    ):
        try:
            yield
        finally:
            random.setstate(state)
