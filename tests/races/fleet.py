"""Runs many processes that begin their calls at the same moment. Each runs one call at a time, like a Lambda
environment.

`python -m tests.races.fleet ADDRESS SIZE` imports the functions once and becomes `SIZE` processes by forking, so that
fifty of them cost a second and not a minute.
"""

import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any, Self

from local.processes import Processes
from local.tools import ROOT
from tests.races import moves

_SECONDS_FOR_A_CALL = 45
_SECONDS_TO_START = 45
_FOLDERS = [f"functions/{name}" for name in ("submit", "status", "worker", "deadletter")] + ["layers/shared", "."]


type _Member = Connection[Any, Any]


@dataclass(frozen=True)
class Call:
    """A call of a function in `moves`, `after` this many seconds."""

    move: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    after: float = 0.0


def call(move: Callable[..., Any], *arguments: Any, after: float = 0.0) -> Call:
    return Call(move, arguments, after)


class Fleet:
    """`size` processes with exactly the variables `environment`. A context manager."""

    def __init__(self, processes: Processes, environment: Mapping[str, str], size: int, log: Path) -> None:
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address := f"{folder}/fleet")
            listener.listen(size)
            listener.settimeout(_SECONDS_TO_START)
            self._process = processes.start(
                [sys.executable, "-m", "tests.races.fleet", address, str(size)],
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "PYTHONPATH": os.pathsep.join(str(ROOT / folder) for folder in _FOLDERS),
                    **environment,
                },
                cwd=ROOT,
                log=log,
            )
            self._members = [Connection(listener.accept()[0].detach()) for _ in range(size)]

    def race(self, calls: Sequence[Call]) -> list[Any]:
        """Let all calls begin at once. Returns what they returned, in their order. Raises RuntimeError if one raised.

        The n-th call is always made by the same process.
        """
        members = self._members[: len(calls)]
        assert len(members) == len(calls), "more calls than processes"
        for member, one in zip(members, calls, strict=True):
            member.send(one)
        for member in members:  # all processes are ready
            _receive(member)
        for member in members:
            member.send("go")
        answers = [_receive(member) for member in members]
        for returned, result in answers:
            if not returned:
                raise RuntimeError(result)
        return [result for _, result in answers]

    def do(self, move: Callable[..., Any], *arguments: Any) -> Any:
        """Make one call alone."""
        return self.race([call(move, *arguments)])[0]

    def close(self) -> None:
        for member in self._members:
            member.close()
        self._process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _receive(member: _Member) -> Any:
    if not member.poll(_SECONDS_FOR_A_CALL):
        raise TimeoutError("a process of the fleet does not answer")
    return member.recv()


def main() -> None:
    address, size = sys.argv[1], int(sys.argv[2])
    moves.prepare()
    for _ in range(size):
        if os.fork() == 0:
            _serve(address)
    signal.pause()  # the parent ends the process group


def _serve(address: str) -> None:
    with contextlib.suppress(EOFError, OSError), Client(address, "AF_UNIX") as connection:
        while True:
            order: Call = connection.recv()
            connection.send("ready")
            connection.recv()
            time.sleep(order.after)
            try:
                answer = (True, order.move(*order.arguments))
            except Exception:
                answer = (False, traceback.format_exc())
            connection.send(answer)
    os._exit(0)


if __name__ == "__main__":
    main()
