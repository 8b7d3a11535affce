"""The queue's turns, answered by the model.

An invocation takes up to 10 messages. The sessions among them run side by side on one event loop, the turns of a
session in order. Each message is deleted as soon as its turn is final; what is not finished goes back to the queue.
"""

import asyncio
import math
import os
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

import images
from breaker import Breaker, Ticket
from model import Answer, Model, ModelError, Reply
from modelkeys import ModelKeys
from persona import Persona, persona
from prices import parse_prices
from turnqueue.http import error_name, where
from turnqueue.media import Uploads
from turnqueue.queue import Malformed, TurnQueue, decode
from turnqueue.replies import KeptReplies, reply_key
from turnqueue.store import Refused, TurnStore
from turnqueue.telemetry import count, logger, milliseconds, observed
from turnqueue.turn import Key, Turn
from turnqueue.usage import UsageStore

# Four tries of each call: an answer that cannot be recorded is an answer paid for twice.
usage = UsageStore(os.environ["GUARDS_TABLE"], attempts=1)
store = TurnStore(os.environ["TURNS_TABLE"], attempts=4, usage=usage)
queue = TurnQueue(os.environ["QUEUE_URL"], attempts=4)
replies = KeptReplies(os.environ["GUARDS_TABLE"], attempts=1)
uploads = Uploads(os.environ["MEDIA_BUCKET"], attempts=4)
keys = ModelKeys(attempts=4)
key_arn = os.environ["MODEL_KEY_SECRET_ARN"]
model_name = os.environ["MODEL_NAME"]
asked_model = (os.environ["MODEL_BASE_URL"], model_name)
prices = parse_prices(os.environ["MODEL_PRICES"])

# One loop for the life of the process: connections of a client are bound to the loop that they were made on.
runner = asyncio.Runner()
# boto blocks, so it runs in threads: for each of ten turns one call, and one of its watch.
runner.get_loop().set_default_executor(ThreadPoolExecutor(20))

HISTORY_TURNS = 20

# Before the function's own end: time to record and to hand back, with the retries of those calls.
_RESERVE_SECONDS = 10.0
# A turn is not begun with less than this for its model.
_LEAST_SECONDS = 60.0
# A lease outlives the function by this much, for clocks differ; a message comes back when the lease is over.
_LEASE_MARGIN_SECONDS = 3.0

_WATCH_SECONDS = 1.0
_LONGEST_BACKOFF_SECONDS = 300.0
# While AWS fails: the n-th delivery comes back after n x 5 s, at most 30. The 50 that the queue allows then outlast the
# deadline of a turn, so that it is not lost before its time is up.
_AWS_BACKOFF_SECONDS = 5.0
_LONGEST_AWS_BACKOFF_SECONDS = 30.0


class ComeBack(NamedTuple):
    """The message must be delivered again, in so many seconds; None: when its visibility runs out, as it is."""

    seconds: float | None


async def connect() -> Model:
    return Model(os.environ["MODEL_BASE_URL"], model_name, partial(keys.get, key_arn), prices)


async def connect_fallback() -> Model | None:
    """Who answers while the first model is down; None if nobody does. What its parameters leave out is the first's."""
    if not (name := os.environ["FALLBACK_MODEL_NAME"]):
        return None
    key = partial(keys.get, os.environ["FALLBACK_KEY_SECRET_ARN"] or key_arn)
    return Model(os.environ["FALLBACK_BASE_URL"] or os.environ["MODEL_BASE_URL"], name, key, prices)


model = runner.run(connect())
fallback = runner.run(connect_fallback())
breaker = Breaker(os.environ["GUARDS_TABLE"], os.environ["MODEL_BASE_URL"])


@observed
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    ends_at = time.time() + context.get_remaining_time_in_millis() / 1000
    unfinished = runner.run(work(event["Records"], ends_at))
    return {"batchItemFailures": [{"itemIdentifier": record["messageId"]} for record in unfinished]}


async def work(records: Sequence[dict[str, Any]], ends_at: float) -> list[dict[str, Any]]:
    """Run the turns of a batch. Returns the records of those that must come back."""
    sessions: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        sessions.setdefault(record["attributes"]["MessageGroupId"], []).append(record)
    # At once, and for all: should this process die, the sessions wait for a lease and not for the queue's time-out.
    await hide(records, ends_at + _LEASE_MARGIN_SECONDS + 1 - time.time())
    unfinished = await asyncio.gather(*(run_session(records, ends_at) for records in sessions.values()))
    return [record for session in unfinished for record in session]


async def run_session(records: Sequence[dict[str, Any]], ends_at: float) -> Sequence[dict[str, Any]]:
    """Run the turns of one session in order, up to the first that must come back. Returns it and those behind it.

    A malformed message is no turn and has no order to keep: it is returned, and those behind it are run.
    """
    malformed: list[dict[str, Any]] = []
    for index, record in enumerate(records):
        try:
            verdict = await run_turn(decode(record["body"]), ends_at)
        except Malformed:
            logger.error("message is malformed", extra={"message_id": record["messageId"]})
            count("MessageMalformed")
            malformed.append(record)
            await hide([record], 1)
            continue
        except (BotoCoreError, ClientError) as error:
            logger.error("AWS call failed", extra={"message_id": record["messageId"], "error": error_name(error)})
            deliveries = int(record["attributes"]["ApproximateReceiveCount"])
            verdict = ComeBack(min(deliveries * _AWS_BACKOFF_SECONDS, _LONGEST_AWS_BACKOFF_SECONDS))
        except Exception as error:
            logger.error("turn failed", extra={"error": error_name(error), "where": where(error)})
            verdict = ComeBack(None)
        if verdict:
            unfinished = records[index:]
            if verdict.seconds is not None:
                await hide(unfinished, verdict.seconds)
            return [*malformed, *unfinished]
        await delete(record)
    return malformed


async def run_turn(key: Key, ends_at: float) -> ComeBack | None:
    """Bring the turn of a message one attempt further. Returns None when it is final: its message is done with."""
    now = time.time()
    if ends_at - now < _RESERVE_SECONDS + _LEAST_SECONDS:
        return ComeBack(0)
    try:
        turn = await asyncio.to_thread(store.claim, key, now, ends_at + _LEASE_MARGIN_SECONDS)
    except Refused as refused:
        return await _not_claimed(key, refused.current)
    if turn.tries == 1:
        milliseconds("QueueTime", now - turn.queued_at)
    try:
        return await _attempt(turn, ends_at)
    except Refused as refused:
        return _superseded(turn, refused.current)


async def _not_claimed(key: Key, current: Turn | None) -> ComeBack | None:
    """What becomes of a message whose turn could not be claimed."""
    now = time.time()
    if current is None or current.final:
        logger.info("message of a finished task", extra={"task_id": key.task_id})
        return None
    if current.overdue(now):
        code = "deadline_exceeded"
    elif current.attempt >= current.last_attempt and not current.held(now):
        code = "worker_lost"  # The last attempt died without a word.
    else:
        return ComeBack(max((current.lease_until or now) - now, 0) + 1)
    try:
        await asyncio.to_thread(store.fail, key, code, now)
    except Refused as refused:
        return ComeBack(1) if refused.current and not refused.current.final else None
    return None


def _superseded(turn: Turn, current: Turn | None) -> ComeBack | None:
    """Our lease was over and another has the turn, or it was ended without us: what we hold is worth nothing."""
    logger.warning("attempt superseded", extra={"task_id": turn.key.task_id, "attempt": turn.attempt})
    return None if current is None or current.final else ComeBack(None)


async def _attempt(turn: Turn, ends_at: float) -> ComeBack | None:
    """Ask the model and record what comes of it. Raises Refused when the turn is no longer ours."""
    if turn.cancel_requested:
        await _fail(turn, "cancelled")
        return None
    reply = Reply()
    try:
        told = persona(turn.request["role"])
        reply.structured = told.output is not None
        history = await asyncio.to_thread(store.history, turn.key, time.time(), limit=HISTORY_TURNS)
        ticket = await _ask_whom(turn, ends_at)
        if ticket.first or fallback is None:
            answering = _answered(model, told, history, turn, reply)
        else:
            count("FallbackUsed")
            answering = _answered(fallback, replace(told, model=None), history, turn, reply)
        budget = min(ends_at - _RESERVE_SECONDS, turn.deadline_at) - time.time()
        answer = await _watched(turn, reply, answering, budget)
    except ModelError as error:
        # It comes of an answer, or of the images for it, so there is a ticket. Of a turn whose time is up it tells
        # nothing of the model, which may have had a second.
        if not turn.overdue(time.time()) and await _told(turn, ticket, error.code):
            error = ModelError(error.code)  # The next attempt asks another, who has not said how long to wait.
        return await _give_back_or_up(turn, error, reply)
    except Refused as refused:
        await _cancelled(turn, refused, reply)
        return None
    except Exception as error:
        logger.error(
            "attempt failed", extra={"task_id": turn.key.task_id, "error": error_name(error), "where": where(error)}
        )
        return await _give_back_or_up(turn, ModelError("internal_error"), reply)
    now = time.time()
    await asyncio.to_thread(store.succeed, turn, answer.result, answer.usage | way(turn, now), now)
    await settle(turn, answer.usage, answers=1)
    if ticket.first:  # else another model has answered than would be asked
        await keep_reply(turn)
    await _told(turn, ticket, None)
    return None


async def _answered(asked: Model, told: Persona, history: Sequence[Turn], turn: Turn, reply: Reply) -> Answer:
    """The answer of a model, once it has been fetched what it is to look at."""
    shown = await asyncio.to_thread(images.load, uploads, history, turn)
    return await asked.answer(told, history, turn, shown, reply)


async def _ask_whom(turn: Turn, ends_at: float) -> Ticket:
    """The first model, unless there is a fallback and the first is down. A turn's last attempt goes to the fallback
    whatever is known, so that a first model that is down fails no turn by itself."""
    now = time.time()
    if fallback is None:
        return Ticket(True, now)
    if turn.attempt >= turn.last_attempt:
        return Ticket(False, now)
    return await asyncio.to_thread(breaker.ask, now, ends_at)


async def _told(turn: Turn, ticket: Ticket, code: str | None) -> bool:
    """Tell what became of an attempt: the code of its failure, None for an answer. Returns whether the next one will
    ask the fallback where this one asked the first model."""
    if fallback is None or not ticket.first:
        return False
    is_open = await asyncio.to_thread(breaker.tell, ticket, code)
    return is_open or turn.attempt + 1 >= turn.last_attempt


def way(turn: Turn, now: float) -> dict[str, int]:
    """How the turn came to its answer of now, since it was queued."""
    return {
        "attempts": turn.tries,
        "queue_ms": round(max((turn.started_at or now) - turn.queued_at, 0) * 1000),
        "total_ms": round(max(now - turn.queued_at, 0) * 1000),
    }


async def _watched(turn: Turn, reply: Reply, answering: Any, budget: float) -> Answer:
    """The answer, if it comes within `budget` seconds and nobody cancels it meanwhile.

    Raises ModelError, or Refused when the turn was cancelled or is no longer ours. The model's stream is closed then.
    """
    answer, watch = asyncio.ensure_future(answering), asyncio.ensure_future(_watch(turn, reply))
    try:
        done, _ = await asyncio.wait((answer, watch), timeout=budget, return_when=asyncio.FIRST_COMPLETED)
    finally:
        answer.cancel()
        watch.cancel()
        await asyncio.gather(answer, watch, return_exceptions=True)
    if answer in done:
        result: Answer = answer.result()
        return result
    if watch in done:
        watch.result()
    raise ModelError("model_timeout")


async def _watch(turn: Turn, reply: Reply) -> None:
    """Show the answer growing, at most once a second, and look for a cancellation: in the answer to that write, or
    while the model is silent by a read every other second. Ends only by raising Refused."""
    shown, silent = "", 0
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        text = reply.readable()
        try:
            if text != shown:
                await asyncio.to_thread(store.report_progress, turn, reply.progress(), text)
                shown, silent = text, 0
            elif silent := (silent + 1) % 2:
                continue
            else:
                current = await asyncio.to_thread(store.read, turn.key, time.time())
                if current is None or current.final or current.attempt != turn.attempt or current.cancel_requested:
                    raise Refused(current)
        except (BotoCoreError, ClientError) as error:
            # Progress is a courtesy. The answer is not given up for it.
            logger.warning("progress not shown", extra={"task_id": turn.key.task_id, "error": error_name(error)})


async def _give_back_or_up(turn: Turn, error: ModelError, reply: Reply) -> ComeBack | None:
    """After a failed attempt: back to the queue if another may help and there is time and budget, else FAILURE."""
    now = time.time()
    if error.code == "model_rate_limited":
        count("ModelRateLimited")
    delay = backoff(turn.tries, error.retry_after)
    if turn.overdue(now):
        await _fail(turn, "deadline_exceeded", reply)
        return None
    if not error.retryable or turn.attempt >= turn.last_attempt or now + delay >= turn.deadline_at:
        await _fail(turn, error.code, reply)
        return None
    try:
        await asyncio.to_thread(store.release, turn)
    except Refused as refused:
        await _cancelled(turn, refused, reply)
        return None
    count("TaskRetried")
    logger.warning(
        "attempt failed, task goes back",
        extra={"task_id": turn.key.task_id, "attempt": turn.attempt, "code": error.code, "delay_s": round(delay, 1)},
    )
    return ComeBack(delay)


async def settle(turn: Turn, used: Mapping[str, Any] | None, answers: int = 0) -> None:
    """Add what a finished turn used to its owner's day. If that fails, its reservation stays (turnqueue/usage.py)."""
    try:
        await asyncio.to_thread(usage.settle, turn, used, time.time(), is_final=True, answers=answers)
    except (BotoCoreError, ClientError) as error:
        logger.warning("usage not added", extra={"task_id": turn.key.task_id, "error": error_name(error)})


async def keep_reply(turn: Turn) -> None:
    """Keep the reply for equal messages, if it may be. If that fails, the model is asked once more than it need be."""
    if not turn.cache:
        return
    # Not made by submit, which may know another model or persona than has answered, while a new version is deployed.
    reply = reply_key(turn.key.owner, turn.request, asked_model, shared=turn.cache["shared"])
    try:
        await asyncio.to_thread(replies.keep, reply, turn.key, turn.cache["seconds"], time.time())
    except (BotoCoreError, ClientError) as error:
        logger.warning("reply not kept", extra={"task_id": turn.key.task_id, "error": error_name(error)})


async def _cancelled(turn: Turn, refused: Refused, reply: Reply) -> None:
    """After a refused write: end the turn if it was refused for its cancellation. Raises Refused if it is not ours."""
    current = refused.current
    if current is None or current.attempt != turn.attempt or not current.cancel_requested:
        raise refused
    await _fail(turn, "cancelled", reply)


async def _fail(turn: Turn, code: str, reply: Reply | None = None) -> None:
    partial = reply.readable() if reply else None
    await asyncio.to_thread(store.fail_attempt, turn, code, partial, time.time())
    await settle(turn, None)


def backoff(tries: int, retry_after: float | None) -> float:
    """Seconds before the next attempt: 2 doubling, at least what the provider asked for, and up to half as much again
    by chance, so that those who failed together do not come back together."""
    return min(max(2.0**tries, retry_after or 0), _LONGEST_BACKOFF_SECONDS) * (1 + random.random() / 2)


async def hide(records: Sequence[dict[str, Any]], seconds: float) -> None:
    """Make the messages come back in so many seconds. If that fails they come back later: nothing is lost by it."""
    whole = min(max(math.ceil(seconds), 0), 43_200)
    try:
        await asyncio.to_thread(queue.hide, {record["receiptHandle"]: whole for record in records})
    except (BotoCoreError, ClientError) as error:
        logger.warning("visibility not changed", extra={"error": error_name(error)})


async def delete(record: dict[str, Any]) -> None:
    """Delete the message now, so that its session moves on. If that fails, Lambda deletes it when the batch is done."""
    try:
        await asyncio.to_thread(queue.delete, record["receiptHandle"])
    except (BotoCoreError, ClientError) as error:
        logger.warning("message not deleted", extra={"message_id": record["messageId"], "error": error_name(error)})
