"""The Celery application and its one task: a message, answered by the model."""

import os
from functools import cache
from typing import Any

import openai
from celery import Celery

_INSTRUCTIONS = "You are a helpful assistant. Answer clearly and briefly, in the language the user writes in."

app = Celery(
    "chat",
    broker=os.environ["REDIS_URL"],
    backend=f"benchmarks.celery_baseline.results:Results+{os.environ['REDIS_URL']}",
)
app.conf.update(
    task_default_queue=os.environ["TASK_QUEUE"],
    task_track_started=True,  # the API tells STARTED
    result_expires=7 * 24 * 3600,  # as long as Turnqueue keeps a turn
    worker_prefetch_multiplier=1,  # else a worker holds back tasks for which another has a free place
)


@cache
def _client() -> openai.OpenAI:
    """One for each process, made after the fork, with a connection for each of up to a hundred tasks at a time."""
    return openai.OpenAI(base_url=os.environ["MODEL_BASE_URL"], api_key="none", max_retries=0, timeout=60)


@app.task
def answer(message: str, session_id: str, role: str) -> dict[str, Any]:
    completion = _client().chat.completions.create(
        model=os.environ["MODEL_NAME"],
        messages=[{"role": "system", "content": _INSTRUCTIONS}, {"role": "user", "content": message}],
    )
    return {"session_id": session_id, "message": completion.choices[0].message.content, "data": None, "draft": None}
