"""One attempt at a claimed turn: ask a model, write the growing answer to the event log, and record the outcome."""

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

import images
from admission import PROBE_SECONDS, Admission, Permit
from cancellations import Cancellations
from decisions import DONE, Decision, Verdict, after_failure, back, superseded
from leases import Leases
from model import Model
from modelerror import ModelError
from pace import Pace
from persona import Persona, asked_for, persona
from reply import Answer, Reply
from room import Room
from turnqueue.circuit_breaker import Wait
from turnqueue.events import EventLog, Growing, Superseded
from turnqueue.media import MediaUrls, Uploads
from turnqueue.replies import KeptReplies, reply_key
from turnqueue.store import Refused, TurnStore
from turnqueue.telemetry import count, error_name, logger, where
from turnqueue.turn import Turn
from turnqueue.usage import UsageStore, lost_attempt

HISTORY_TURNS = 20

RESERVE_SECONDS = 10.0
"""Each attempt ends this number of seconds before the function does. This leaves time to record the answer or to return
the turn to the queue, even if those calls are retried."""

REFUSALS_BEFORE_FALLBACK = 2
"""After this number of refused calls, the turn asks the fallback first, even if the first model accepts calls again."""

# DynamoDB's error codes for an item that is too large or malformed
_NOT_STORABLE = ("ValidationException", "SerializationException")

_PACE_OF_A_STREAM = ((2.0, 0.25), (10.0, 0.5))
"""How often the worker writes a row of a streamed answer. (2.0, 0.25) means: a row every 0.25 s until 2 s after the
first text. For later rows, `_show` chooses the time between two rows."""

# After this number of bytes of new text, a streamed answer gets a row at once. A longer pause between rows would save
# little, because DynamoDB bills each KB of a row.
_ROW_BYTES = 1024

_SHORT_PAUSE_SECONDS = 2.0  # if the turn's slot begins within this number of seconds, the worker waits for it
# If the worker does not wait for the slot, SQS delivers the turn again this number of seconds before the slot. The
# margin is needed, because SQS takes only whole seconds, and they are rounded up.
_EARLY_SECONDS = 1.0


class Server(NamedTuple):
    """A model, and the rules that decide when it may be called."""

    model: Model
    admission: Admission
    pace: Pace | None


class Services(NamedTuple):
    """The services that all attempts of a process share. `first_token_seconds`: after this number of seconds without
    text or thoughts from the first model, the worker asks the fallback; 0 for never."""

    store: TurnStore
    usage: UsageStore
    replies: KeptReplies
    uploads: Uploads
    media_urls: MediaUrls
    leases: Leases
    log: EventLog
    cancellations: Cancellations
    room: Room
    first: Server
    fallback: Server | None
    model_name: tuple[str, str]
    longest_answer: float
    first_token_seconds: float
    watch_seconds: float = 1.0
    """The seconds between two rows of an answer that no client asked to stream. An answer that takes less time gets no
    row."""

    @property
    def servers(self) -> list[Server]:
        return [self.first, self.fallback] if self.fallback else [self.first]

    def preferred(self, turn: Turn) -> Server:
        """The model that this turn asks first. The last allowed attempt asks the fallback, so that a turn does not fail
        only because the first model is down."""
        is_last = turn.attempt >= turn.last_attempt
        if self.fallback and (is_last or turn.refusals >= REFUSALS_BEFORE_FALLBACK):
            return self.fallback
        return self.first

    async def choose(self, servers: Sequence[Server], *, again: bool) -> tuple[Server, Permit] | Wait:
        """The first of `servers` that may be called now, or the seconds to wait if no model may be called. `again`:
        whether the message was delivered before."""
        waits = []
        for server in servers:
            permit = await server.admission.permit(again=again)
            if isinstance(permit, Permit):
                return server, permit
            waits.append(permit)
        return min(waits)

    async def prefer(self, turn: Turn, server: Server, permit: Permit) -> tuple[Server, Permit]:
        """Returns the model that this turn prefers, and a permit for it, if this model may be called now. Otherwise
        returns `server` and `permit`."""
        preferred = self.preferred(turn)
        if preferred is server:
            return server, permit
        chosen = await self.choose([preferred], again=True)
        if isinstance(chosen, Wait):
            return server, permit
        # this turn does not call `server`, so another turn may use the probe in `permit`
        await asyncio.to_thread(server.admission.unused, permit)
        return chosen


class Attempt:
    """One attempt at a claimed turn. It ends at `ends_at` at the latest."""

    def __init__(self, services: Services, turn: Turn, server: Server, permit: Permit, ends_at: float) -> None:
        self._services = services
        self._turn = turn
        self._server = server
        self._permit = permit
        self._reply = Reply()
        self._asked_persona: Persona | None = None  # None until `_answer` has loaded the persona
        self._is_accepted = False
        self._growing = Growing(services.log, turn)
        self._ends_at = min(ends_at - RESERVE_SECONDS, time.time() + services.longest_answer, turn.deadline_at)
        self._lost: asyncio.Future[Refused] = asyncio.get_running_loop().create_future()

    async def run(self) -> Decision:
        """Ask the model, record the outcome, and return the decision about the message. Raises botocore's ClientError
        or BotoCoreError if the outcome cannot be recorded."""
        turn, services = self._turn, self._services
        services.leases.hold_turn(turn, self._lost.set_result)
        try:
            if turn.lost_lease:
                await self._settle(lost_attempt(turn), is_final=False)
            return await self._run()
        except Refused as refused:
            logger.warning("attempt superseded", extra={"task_id": turn.key.task_id, "attempt": turn.attempt})
            await self._settle(self._used(), is_final=False)
            return superseded(refused.current)
        finally:
            services.leases.drop_turn(turn)

    async def _run(self) -> Decision:
        turn = self._turn
        if turn.cancel_requested:
            return await self._fail("cancelled")
        try:
            if (late := await self._wait_for_place()) is not None:
                return late
            answer = await self._answer()
        except ModelError as error:
            return await self._failed(error)
        except Refused as refused:
            return await self._cancelled(refused)
        except Exception as error:
            logger.error(
                "attempt failed",
                extra={"task_id": turn.key.task_id, "error": error_name(error), "where": where(error)},
            )
            return await self._failed(ModelError("internal_error"))
        return await self._succeed(answer)

    # ---- asking the model

    async def _wait_for_place(self) -> Decision | None:
        """Wait for the turn's slot under the model's known rate limit. If the slot is too far away, releases the turn
        and returns a decision: SQS delivers the message again shortly before the slot."""
        if self._server.pace is None:
            return None
        place = await asyncio.to_thread(self._server.pace.place, self._turn, time.time())
        seconds = place.at - time.time()
        if seconds <= _SHORT_PAUSE_SECONDS:
            await asyncio.sleep(max(seconds, 0))
            return None
        await asyncio.to_thread(self._server.admission.unused, self._permit)
        await self._release(back(seconds, is_refund=True), place_at=place.at if place.is_taken else None)
        count("TaskPaced")
        return back(seconds - _EARLY_SECONDS)

    async def _answer(self) -> Answer:
        turn, services = self._turn, self._services
        asked = self._asked_persona = asked_for(persona(turn.request["role"]), turn.request)
        self._reply.structured = asked.is_structured
        previous = turn.request.get("previous")
        recall = partial(services.store.history, turn.key, limit=HISTORY_TURNS, previous=previous)
        history = [] if turn.begins_session else await asyncio.to_thread(recall, time.time())
        if self._is_first:
            try:
                return await self._asked(self._server, asked, history, self._first_token_seconds)
            except _Silent:
                return await self._second_answer(asked, history)
        return await self._answer_of_fallback(asked, history)

    async def _second_answer(self, asked: Persona, history: Sequence[Turn]) -> Answer:
        """Ask the fallback, because the first model was silent for too long."""
        fallback = self._services.fallback
        assert fallback is not None, "only with a fallback a silent model is given up early"
        permit = await fallback.admission.permit(again=True)
        if isinstance(permit, Wait):
            raise ModelError("model_timeout")
        await self._settle(self._used(), is_final=False)
        self._server, self._permit, self._is_accepted = fallback, permit, False
        self._reply = Reply()
        self._reply.structured = asked.is_structured
        return await self._answer_of_fallback(asked, history)

    async def _answer_of_fallback(self, asked: Persona, history: Sequence[Turn]) -> Answer:
        count("FallbackUsed")
        self._asked_persona = asked._replace(model=None)  # a persona's model exists only on the first model's server
        return await self._asked(self._server, self._asked_persona, history, 0)

    @property
    def _is_first(self) -> bool:
        return self._server is self._services.first

    @property
    def _first_token_seconds(self) -> float:
        return self._services.first_token_seconds if self._services.fallback else 0

    async def _asked(self, server: Server, asked: Persona, history: Sequence[Turn], silence: float) -> Answer:
        """Ask a model and return its answer. Raises ModelError if the call fails or takes too long. Raises Refused if a
        client cancels the turn, or if another worker has it. Raises _Silent after `silence` seconds without text or
        thoughts (0: no limit). Closes the model's stream before it raises.
        """
        guards = [self._show(), self._give_up_when_cancelled(), self._give_up_when_lost()]
        guards.append(self._settle_when_accepted(server.admission, self._permit, silence))
        if silence:
            guards.append(self._give_up_when_silent(silence))
        try:
            async with asyncio.timeout(max(self._ends_at - time.time(), 0)):
                answer = await _guarded(self._shown_and_asked(server.model, asked, history), guards)
        except TimeoutError:
            raise ModelError("model_timeout") from None
        await self._accepted()
        return answer

    async def _shown_and_asked(self, model: Model, asked: Persona, history: Sequence[Turn]) -> Answer:
        """Fetch the images of the request, then return the model's answer."""
        *history, turn = (images.allowed(each, self._services.media_urls) for each in (*history, self._turn))
        async with images.loaded(self._services.room, self._services.uploads, history, turn) as shown:
            return await model.answer(asked, history, turn, shown, self._reply)

    # ---- guards: they run while the model writes, and can end the attempt by an exception

    async def _show(self) -> None:
        """Write the growing answer to the event log, row by row, until the guard is cancelled."""
        reply, unit = self._reply, self._services.watch_seconds
        if not self._turn.request.get("live"):
            # No reader waits for the first word. If the answer ends within this time, it needs no rows.
            await asyncio.sleep(unit)
        if self._turn.attempt > 1:
            await self._show_now()  # write a first row, because it voids the text of earlier attempts
        began, size = 0.0, 0
        while True:
            await reply.grow(size)
            began, size = began or time.time(), reply.size
            await self._show_now()
            pause = unit
            if self._turn.request.get("stream"):
                age = (time.time() - began) / unit
                slowest = 0.5 if self._turn.request.get("live") else 1.0
                pause *= next((pause for end, pause in _PACE_OF_A_STREAM if age < end), slowest)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await reply.grow(size + _ROW_BYTES)
            else:
                await asyncio.sleep(pause)

    async def _show_now(self) -> None:
        """Write the text that the log does not have yet. Even if this method is cancelled, it waits for the end of the
        write, so that no row is written after the turn's end."""
        reply, turn = self._reply, self._turn
        text = reply.readable().rstrip("\ufffd")  # If the text ends inside a character, leave out this character.
        writing = asyncio.create_task(asyncio.to_thread(self._growing.show, text, reply.progress(), time.time()))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.gather(writing, return_exceptions=True)
            raise
        except Superseded:
            await self._look()
        except (BotoCoreError, ClientError) as error:
            # The answer does not depend on this write of progress, so a failure is only logged.
            logger.warning("progress not shown", extra={"task_id": turn.key.task_id, "error": error_name(error)})

    async def _give_up_when_cancelled(self) -> None:
        while True:
            await self._services.cancellations.asked(self._turn)
            await self._look()

    async def _look(self) -> None:
        """Raises Refused if another worker has the turn, or if the turn's cancellation was requested."""
        turn, store = self._turn, self._services.store
        try:
            current = await asyncio.to_thread(store.read, turn.key, time.time())
        except (BotoCoreError, ClientError) as error:
            logger.warning("turn not read", extra={"task_id": turn.key.task_id, "error": error_name(error)})
            return
        if current is None or current.final or current.attempt != turn.attempt or current.cancel_requested:
            raise Refused(current)

    async def _give_up_when_lost(self) -> None:
        raise await self._lost

    async def _give_up_when_silent(self, seconds: float) -> None:
        """Raises _Silent if the model has sent nothing, not even thoughts, `seconds` after the call."""
        await asyncio.sleep(seconds)
        if not self._reply.begun:
            raise _Silent

    async def _settle_when_accepted(self, admission: Admission, permit: Permit, silence: float) -> None:
        """Wait for the response headers, and then tell the circuit breakers that the server has accepted the call.
        Without `silence`, a probe also counts as accepted if the server does not refuse it within PROBE_SECONDS. With
        `silence`, the guard `_give_up_when_silent` ends the wait."""
        accepted = asyncio.Event()
        self._reply.on_headers = accepted.set
        try:
            async with asyncio.timeout(PROBE_SECONDS if permit.probes and not silence else None):
                await accepted.wait()
        except TimeoutError:
            pass
        await admission.accepted(permit)
        self._is_accepted = True

    async def _accepted(self) -> None:
        """Tell the circuit breakers that the server has accepted the call, unless the guard `_settle_when_accepted` has
        done so. A short answer can end before that guard runs."""
        if not self._is_accepted:
            await self._server.admission.accepted(self._permit)

    # ---- ending the attempt

    async def _succeed(self, answer: Answer) -> Decision:
        turn, services, now = self._turn, self._services, time.time()
        usage = answer.usage | _timing(turn, now)
        try:
            await asyncio.to_thread(
                services.store.succeed,
                turn,
                answer.result,
                usage,
                now,
                provider_request_id=self._reply.request_id,
            )
        except Refused as refused:
            if (current := refused.current) and current.overdue(now) and current.attempt == turn.attempt:
                return await self._fail(current.overdue_code)
            raise
        except (ParamValidationError, ClientError) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] not in _NOT_STORABLE:
                raise
            # The fault is in this worker's data and not in AWS, so DynamoDB would refuse the same answer again.
            logger.error("answer cannot be stored", extra={"task_id": turn.key.task_id, "error": error_name(error)})
            return await self._fail("internal_error")
        await self._settle(answer.usage, is_final=True, answers=1)
        if self._is_first:  # only answers of the first model are cached
            await self._keep_reply()
        return DONE

    async def _failed(self, error: ModelError) -> Decision:
        """Handle a failed attempt. If another attempt can help, and time and attempts are left, return the turn to the
        queue. Otherwise end the turn as FAILURE."""
        turn, server, now = self._turn, self._server, time.time()
        if error.refused:
            await asyncio.to_thread(server.admission.refused, self._permit, error.code, error.retry_after)
        elif self._reply.headers_at:
            await self._accepted()
        next_turn = turn._replace(attempt=turn.attempt + 1, refusals=turn.refusals + error.refused)
        is_fallback_next = (
            bool(self._services.fallback)
            and self._is_first
            and (self._services.preferred(next_turn) is not server or not server.admission.is_closed(now))
        )
        decision = after_failure(turn, error, now, is_fallback_next=is_fallback_next)
        details = {"task_id": turn.key.task_id, "attempt": turn.attempt, "code": error.code}
        details["provider_request_id"] = error.request_id
        if decision.verdict is Verdict.FAIL:
            logger.warning("attempt failed, task fails", extra=details)
            return await self._fail(decision.code)
        logger.warning("attempt failed, task goes back", extra=details | {"delay_s": round(decision.seconds or 0, 1)})
        try:
            await self._release(decision, refusal=error.code if error.refused else None)
        except Refused as refused:
            return await self._cancelled(refused)
        await self._settle(self._used(), is_final=False)
        count("TaskRetried")
        return decision

    async def _release(self, decision: Decision, *, refusal: str | None = None, place_at: float | None = None) -> None:
        await asyncio.to_thread(
            self._services.store.release,
            self._turn,
            is_refund=decision.is_refund,
            refusal=refusal,
            next_try_at=time.time() + (decision.seconds or 0),
            place_at=place_at,
        )

    async def _cancelled(self, refused: Refused) -> Decision:
        """Handle a refused write. If the turn's cancellation is the reason, end the turn. Raises Refused if another
        worker has the turn."""
        current = refused.current
        if current is None or current.attempt != self._turn.attempt or not current.cancel_requested:
            raise refused
        return await self._fail("cancelled")

    async def _fail(self, code: str) -> Decision:
        # The user must not read text that the provider has filtered.
        readable = "" if code == "prompt_refused" else self._reply.readable()
        await asyncio.to_thread(self._services.store.fail_attempt, self._turn, code, readable, time.time())
        await self._settle(self._used(), is_final=True)
        return DONE

    def _used(self) -> dict[str, Any]:
        """The usage of this attempt so far, reported by the server or estimated."""
        return self._server.model.usage(self._asked_persona, self._reply) if self._asked_persona else {}

    async def _settle(self, used: Mapping[str, Any], *, is_final: bool, answers: int = 0) -> None:
        """Add the attempt's usage to the owner's usage of today. If that fails, the turn's reserved tokens count until
        the end of the day (turnqueue/usage.py)."""
        turn = self._turn
        try:
            await asyncio.to_thread(
                self._services.usage.settle, turn, used, time.time(), is_final=is_final, answers=answers
            )
        except (BotoCoreError, ClientError) as error:
            logger.warning("usage not added", extra={"task_id": turn.key.task_id, "error": error_name(error)})

    async def _keep_reply(self) -> None:
        """Cache the answer if the request allowed it. If that fails, later identical messages go to the model."""
        turn, services = self._turn, self._services
        if not turn.cache:
            return
        reply = reply_key(turn.key.owner, turn.request, services.model_name, shared=turn.cache["shared"])
        try:
            await asyncio.to_thread(services.replies.keep, reply, turn.key, turn.cache["seconds"], time.time())
        except (BotoCoreError, ClientError) as error:
            logger.warning("reply not kept", extra={"task_id": turn.key.task_id, "error": error_name(error)})


class _Silent(Exception):
    """The model was silent for longer than FirstTokenSeconds."""


async def _guarded[T](work: Coroutine[Any, Any, T], guards: Sequence[Coroutine[Any, Any, None]]) -> T:
    """The result of `work`, unless a guard raises first. `work` and all guards have ended when this function
    returns."""
    try:
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(guard) for guard in guards]
            result = await work
            for guard in beside:
                guard.cancel()
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    return result


def _timing(turn: Turn, now: float) -> dict[str, int]:
    """Three members of the turn's usage: the number of attempts, and the milliseconds from queueing to the start and to
    now."""
    return {
        "attempts": turn.tries,
        "queue_ms": round(max((turn.started_at or now) - turn.queued_at, 0) * 1000),
        "total_ms": round(max(now - turn.queued_at, 0) * 1000),
    }
