"""The worker: answers the queue's turns with the model. This file builds the worker from the environment and gives it
each batch. invocation.py handles messages, and intake.py receives more messages. attempt.py handles a turn.
decisions.py maps every outcome to one decision."""

import asyncio
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from admission import Admission
from attempt import Server, Services
from cancellations import Cancellations
from intake import READ_SECONDS
from invocation import Worker
from leases import Leases
from model import Model
from modelkeys import ModelKeys
from pace import Pace
from prices import parse_prices
from room import Room
from turnqueue.circuit_breaker import BreakerStore, model_name
from turnqueue.events import EventLog
from turnqueue.media import MediaUrls, Uploads
from turnqueue.queue import TurnQueue
from turnqueue.rate_limits import RateLimiter
from turnqueue.replies import KeptReplies
from turnqueue.store import TurnStore
from turnqueue.telemetry import observed
from turnqueue.usage import UsageStore


async def build(environment: Mapping[str, str]) -> Worker:
    """Build the worker from these environment variables. Async, because the connections of a client belong to the event
    loop that made them."""
    turns, guards, queue = environment["TURNS_TABLE"], environment["GUARDS_TABLE"], environment["QUEUE_URL"]
    keys, breakers = ModelKeys(attempts=4), BreakerStore(guards)
    prices, history_tokens = parse_prices(environment["MODEL_PRICES"]), int(environment["HISTORY_TOKENS"])
    usage = UsageStore(guards, attempts=1)
    # Each call is tried once, because the next row also contains the text of a lost row.
    log = EventLog(environment["EVENTS_TABLE"], attempts=1)
    per_minute = int(environment["MODEL_REQUESTS_PER_MINUTE"])
    polled = TurnQueue(queue, attempts=1, read_timeout=READ_SECONDS)

    def server(base_url: str, name: str, secret: str, per_minute: int) -> Server:
        limiter = RateLimiter(guards, attempts=1, read_timeout=1) if per_minute else None
        return Server(
            Model(base_url, name, partial(keys.get, secret), prices, history_tokens),
            Admission(breakers, base_url, name),
            Pace(limiter, model_name(base_url, name), per_minute) if limiter else None,
        )

    first = server(
        environment["MODEL_BASE_URL"], environment["MODEL_NAME"], environment["MODEL_KEY_SECRET_ARN"], per_minute
    )
    fallback = None
    # if the URL or the key of the fallback is empty, that of the first model applies
    if name := environment["FALLBACK_MODEL_NAME"]:
        base_url = environment["FALLBACK_BASE_URL"] or environment["MODEL_BASE_URL"]
        secret = environment["FALLBACK_KEY_SECRET_ARN"] or environment["MODEL_KEY_SECRET_ARN"]
        fallback = server(base_url, name, secret, 0)
    return Worker(
        Services(
            # Each call is tried up to four times: if an answer is not recorded, the next attempt must pay for another
            # answer.
            store=TurnStore(turns, attempts=4, usage=usage),
            usage=usage,
            replies=KeptReplies(guards, attempts=1),
            uploads=Uploads(environment["MEDIA_BUCKET"], attempts=4),
            media_urls=MediaUrls(environment["MEDIA_URLS"]),
            log=log,
            cancellations=Cancellations(log),
            leases=Leases(TurnStore(turns, attempts=1), polled),
            room=Room(),
            first=first,
            fallback=fallback,
            model_name=(environment["MODEL_BASE_URL"], environment["MODEL_NAME"]),
            longest_answer=60.0 * int(environment["LONGEST_ANSWER_MINUTES"]),
            first_token_seconds=float(environment["FIRST_TOKEN_SECONDS"]),
        ),
        TurnQueue(queue, attempts=4),
        polled,
        keys,
        int(environment["TURNS_PER_WORKER"]),
    )


# One loop for the life of the process, because a client's connections belong to the loop that made them.
runner = asyncio.Runner()
# boto blocks, so it runs in threads. 20 threads are enough for 40 turns, because a call takes about 10 ms, and a turn
# makes one call a second.
runner.get_loop().set_default_executor(ThreadPoolExecutor(20))
worker = runner.run(build(os.environ))


@observed
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    ends_at = time.time() + context.get_remaining_time_in_millis() / 1000
    unfinished = runner.run(worker.work(event["Records"], ends_at))
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in unfinished]}
