"""The system that Turnqueue replaces, written for the comparison: FastAPI and Celery, with Redis as the broker and as
the store of results.

Same request, same answer, same model. It has what such systems have and nothing of what Turnqueue adds: no token is
verified, a conversation has no history, an answer does not grow, and there are no deadlines, cancellations or metrics.
What a careful owner would tune is tuned, with the reason where it is set. `api`, `tasks` and `results` run in
.tools/bench; `system` starts them from .tools/dev.
"""
