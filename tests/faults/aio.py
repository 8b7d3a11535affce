"""An asyncio event loop on virtual time. It never blocks the thread: when it has to wait, it lets another actor run.

A call that the product gives to a thread (`asyncio.to_thread`) becomes an actor of the same process. As with a real thread,
the call runs beside the loop, continues when its task is cancelled, and may end long after that.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from tests.faults.scheduler import Group, Killed, Scheduler, here


class VirtualLoop(asyncio.BaseEventLoop):
    def __init__(self) -> None:
        super().__init__()
        found = here()
        assert found and found[1].group, "an event loop belongs to a process"
        self._scheduler: Scheduler = found[0]
        self._process: Group = found[1].group
        self._process.loops.append(self)
        self._selector = self  # what the base class asks for events
        self._woken = False
        self._is_ghost = False
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._scheduler.now

    def select(self, timeout: float | None) -> list[Any]:
        """The place where a loop waits for something to happen."""
        if self._is_ghost:
            return []
        if self._process.dead:
            raise Killed
        if timeout is None or timeout > 0:
            self._scheduler.wait(math.inf if timeout is None else timeout, lambda: self._woken)
        self._woken = False
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        self._woken = True

    def run_in_executor[*Ts, T](
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        if self._is_ghost or self._process.dead:
            future.cancel()
            return future

        def settle(method: Callable[[Any], None], outcome: Any) -> None:
            if not future.cancelled() and not self.is_closed():
                method(outcome)

        def job() -> None:
            try:
                result = func(*args)
            except Exception as error:
                self.call_soon_threadsafe(settle, future.set_exception, error)
            else:
                self.call_soon_threadsafe(settle, future.set_result, result)

        self._scheduler.spawn(f"{self._process.name} thread", job, self._process)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        pass

    def bury(self) -> None:
        """Cancel what is left of a dead process, without any effect, so that nothing of it outlives the run."""
        self._is_ghost = True
        self.set_exception_handler(lambda loop, context: None)
        for _ in range(5):  # a task may await something more in its `finally`
            tasks = [task for task in asyncio.all_tasks(self) if not task.done()]
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            with contextlib.suppress(BaseException):
                self.run_until_complete(asyncio.wait(tasks, timeout=0))
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        with contextlib.suppress(BaseException):
            self.run_until_complete(self.shutdown_asyncgens())
        self.close()
