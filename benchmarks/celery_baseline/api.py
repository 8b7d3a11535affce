"""POST /chat/ starts a task, GET /chat/task/{task_id} tells what has become of it. There is no synchronous mode."""

import secrets
from typing import Annotated, Any, Literal

from fastapi import FastAPI, status
from pydantic import BaseModel, Field

from benchmarks.celery_baseline import tasks

app = FastAPI()


class ChatRequest(BaseModel):
    message: Annotated[str, Field(min_length=1, max_length=32_000)]
    session_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    role: Literal["general", "booking"] = "general"


class Accepted(BaseModel):
    session_id: str
    message: Literal["Processing..."] = "Processing..."
    data: None = None
    draft: None = None
    task_id: str
    status: Literal["PENDING"] = "PENDING"


class TaskStatus(BaseModel):
    task_id: str
    status: Literal["PENDING", "STARTED", "SUCCESS", "FAILURE"]
    result: dict[str, Any] | None = None
    error: str | None = None
    progress: float | None = None


# Both call Redis in the event loop. By FastAPI's threads, with `def`, a request took 30% to 60% more CPU, and longer.
@app.post("/chat/", status_code=status.HTTP_202_ACCEPTED)
async def submit(request: ChatRequest) -> Accepted:
    session_id = request.session_id or secrets.token_urlsafe(16)
    task = tasks.answer.delay(request.message, session_id, request.role)
    return Accepted(session_id=session_id, task_id=task.id)


@app.get("/chat/task/{task_id}")
async def task(task_id: str) -> TaskStatus:
    meta = tasks.app.backend.get_task_meta(task_id)
    result = meta["result"]
    return TaskStatus(
        task_id=task_id,
        status=meta["status"],
        result=result if meta["status"] == "SUCCESS" else None,
        error=str(result) if meta["status"] == "FAILURE" else None,
    )
