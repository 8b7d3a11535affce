"""Starts child processes that end when this process ends, even if this process is killed. Each child leads a process
group, so that the child's children end too. Ctrl-C in a terminal reaches only this process, which then ends the
children in order."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Self

from local import watchdog


class Process:
    """A running child, and the group it leads."""

    def __init__(self, popen: subprocess.Popen[bytes], forget: Callable[[int], None]) -> None:
        self._popen = popen
        self._forget = forget
        self.pid = popen.pid

    @property
    def alive(self) -> bool:
        try:  # Popen.poll can return None for an ended process, if another thread is waiting for it.
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False

    @property
    def output(self) -> IO[bytes]:
        """The standard output of a process that was started with `log=None` or `announces`. `wait` closes it."""
        assert self._popen.stdout is not None, "its output goes to a log"
        return self._popen.stdout

    def first_line(self) -> str:
        """The line by which the process says that it is ready. Raises OSError if the process ends without this line."""
        if line := self.output.readline().decode().strip():
            return line
        raise OSError(f"{self._popen.args!r} ended with exit code {self.wait()} before it was ready")

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the process to end. Returns the exit code: -9 if signal 9 ended it. Raises
        subprocess.TimeoutExpired."""
        code = self._popen.wait(timeout)
        if self._popen.stdout is not None:
            self._popen.stdout.close()
        self.signal(signal.SIGKILL)  # The process has ended, but its children can still run. Kill them.
        self._forget(self.pid)
        return code

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def kill(self) -> int:
        self.signal(signal.SIGKILL)
        return self.wait()

    def stop(self, grace: float = 3.0) -> int:
        """Ask the process to end, and kill it after `grace` seconds. Returns its exit code."""
        if self.alive:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.wait(grace)
        return self.kill()


class Processes:
    """A context manager that starts processes. Its end kills the processes that still run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, Process] = {}
        self._watchdog = subprocess.Popen(
            [sys.executable, watchdog.__file__], stdin=subprocess.PIPE, start_new_session=True
        )

    def start(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        log: Path | None,
        announces: bool = False,
    ) -> Process:
        """Run `command` with exactly the environment `env`. Its output is appended to the file `log`. If `log` is None,
        read the output from `output`. With `announces`, the process prints a line when it is ready (`first_line`), and
        only its standard error goes to the log. Raises OSError if the process cannot be started."""
        with contextlib.ExitStack() as files:
            file = None if log is None else files.enter_context(log.open("ab"))
            popen = subprocess.Popen(
                [str(part) for part in command],
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if announces or file is None else file,
                stderr=file if announces and file else subprocess.STDOUT,
                start_new_session=True,
            )
        process = Process(popen, self._forget)
        with self._lock:
            self._running[popen.pid] = process
            self._tell_watchdog(f"+{popen.pid}\n")
        return process

    def _forget(self, pid: int) -> None:
        with self._lock:
            if self._running.pop(pid, None):
                self._tell_watchdog(f"-{pid}\n")

    def _tell_watchdog(self, line: str) -> None:
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.write(line.encode())
        self._watchdog.stdin.flush()

    def close(self) -> None:
        for process in list(self._running.values()):
            process.kill()
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.close()
        self._watchdog.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file exclusively. Raises BlockingIOError if another process holds it and `wait` is false."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
