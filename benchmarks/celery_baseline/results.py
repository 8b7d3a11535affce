"""Where results are kept, without a cost of the default that nobody here has a use for."""

from typing import Any

from celery.backends.redis import RedisBackend


class Results(RedisBackend):
    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Celery would let the process that starts a task subscribe to its result: 8% of the CPU of a submit, and a
        subscription that is never ended. Here clients poll, and nobody listens."""
