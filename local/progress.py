"""Prints a line for each step of the setup, with its seconds."""

import contextlib
import sys
import time
from collections.abc import Iterator

_WIDTH = 100


class Progress:
    """Prints to standard output. On a terminal, the line of a running step also shows its notes."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live = sys.stdout.isatty() and not quiet

    def say(self, line: str = "") -> None:
        if not self._quiet:
            print(line, flush=True)

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator["Step"]:
        started = time.monotonic()
        step = Step(what, live=self._live)
        try:
            yield step
        except BaseException:
            step.clear()
            self.say(f"  {what} ... failed after {time.monotonic() - started:.1f} s")
            raise
        step.clear()
        done = f"  {what}{f' ({step.note})' if step.note else ''}"
        self.say(f"{done:<76} {time.monotonic() - started:5.1f} s")


class Step:
    """A step that runs. When it ends, `note` is added to its line."""

    def __init__(self, what: str, *, live: bool) -> None:
        self.note = ""
        self._what = what
        self._live = live
        self.tell("")

    def tell(self, meanwhile: str) -> None:
        if self._live:
            line = f"  {self._what} ... {meanwhile}"[:_WIDTH]
            print(f"\r{line:<{_WIDTH}}", end="", flush=True)

    def clear(self) -> None:
        if self._live:
            print(f"\r{'':<{_WIDTH}}\r", end="", flush=True)
