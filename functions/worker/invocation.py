"""One invocation runs the turns of its event. While they run, it receives more turns from the queue. Sessions run
concurrently, and the turns of a session in order. The worker deletes a message as soon as its turn is final. If a turn
is returned to the queue, the later turns of its session are returned too, so that the order holds.
"""

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from attempt import RESERVE_SECONDS, Attempt, Services
from batches import Batches
from decisions import DONE, Decision, Verdict, aws_failed, back, not_claimed
from intake import READ_SECONDS, Intake
from leases import LEASE_SECONDS
from modelkeys import ModelKeys
from turnqueue.circuit_breaker import Wait
from turnqueue.queue import MOST_AT_ONCE, Malformed, Message, TurnQueue, decode
from turnqueue.store import Refused
from turnqueue.telemetry import count, error_name, flush, logger, milliseconds, where
from turnqueue.turn import Key, Turn

FLUSH_SECONDS = 15.0
"""Seconds between two writes of metrics. An invocation lasts for minutes, and an alarm must not wait for its end."""

_JITTER = 0.7
"""Workers with the same start time must not all stop receiving turns at the same time. So each invocation stops at a
random moment in the last part of its receiving time. This number is that part's share of the time. With 0.2, new turns
waited for a minute (docs/decisions.md)."""

type Record = dict[str, Any]
"""A message as Lambda's event source passes it."""


class Worker(NamedTuple):
    """The parts that all invocations of a process share. `polled`: the queue's client with the timeouts that Intake
    needs. `turns`: the maximum number of turns that an invocation has at a time."""

    services: Services
    queue: TurnQueue
    polled: TurnQueue
    keys: ModelKeys
    turns: int

    async def work(self, records: Sequence[Record], ends_at: float) -> list[str]:
        """Run the turns of a batch, and more turns that the worker receives. Returns the ids of the batch's messages
        that SQS must deliver again."""
        return await Invocation(self, ends_at).run([_message(record) for record in records])


class Invocation:
    """One invocation, which Lambda ends at `ends_at`."""

    def __init__(self, worker: Worker, ends_at: float) -> None:
        self._services = worker.services
        self._queue = worker.queue
        self._deletions = Batches[None](self._delete_now)
        self._visibilities = Batches[int](self._change_visibility_now)
        self._intake = Intake(worker.polled)
        self._turns = worker.turns
        self._ends_at = ends_at
        now = time.time()
        # Stop receiving early enough that the last turn has time for the longest allowed answer.
        taking = ends_at - RESERVE_SECONDS - worker.services.longest_answer - READ_SECONDS - now
        self._takes_until = now + taking * (1 - random.random() * _JITTER)
        self._sessions: dict[str, deque[Message]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._unfinished: set[str] = set()

    async def run(self, batch: Sequence[Message]) -> list[str]:
        """Run the messages of the event, and those received in the meantime. Returns the ids of the event's messages
        that SQS must deliver again. All other messages are deleted, or returned to the queue, before this method
        returns."""
        leases, stop = self._services.leases, asyncio.Event()
        # Shorten the visibility of all messages first. If this process dies, its sessions then wait for the end of a
        # lease, and not for the queue's longer visibility timeout.
        await self._change_visibility(batch, LEASE_SECONDS)
        beside = [asyncio.create_task(leases.renew_until(stop)), asyncio.create_task(_flush_until(stop))]
        try:
            async with asyncio.TaskGroup() as self._group:
                self._begin(batch)
                await self._refill()
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        finally:
            stop.set()
            await asyncio.gather(*beside)
        return [message.id for message in batch if message.id in self._unfinished]

    async def _refill(self) -> None:
        """Receive more turns while turns run, slots are free and time is left. Returns when all turns have ended."""
        while self._running or self._intake.is_owed:
            if self._running:
                await asyncio.wait(self._running, timeout=self._intake.pause)
            if self._intake.is_owed or (self._running and self._free and time.time() < self._takes_until):
                self._begin(await self._intake.poll(min(self._free, MOST_AT_ONCE)))

    @property
    def _free(self) -> int:
        """The number of turns that this invocation can still take."""
        return max(self._turns - self._services.room.slots - sum(map(len, self._sessions.values())), 0)

    def _begin(self, messages: Sequence[Message]) -> None:
        """Run the turns of these messages, each after the earlier turns of its session. While messages of a session are
        hidden, SQS delivers no other messages of this session. So a running session gets more messages only if a
        visibility timeout has ended."""
        self._services.leases.hold_messages([message.handle for message in messages])
        for message in messages:
            if (session := self._sessions.get(message.group)) is not None:
                session.append(message)
                continue
            self._sessions[message.group] = deque([message])
            running = self._group.create_task(self._run_session(message.group))
            self._running.add(running)
            running.add_done_callback(self._running.discard)

    async def _run_session(self, group: str) -> None:
        """Run the turns of one session in order, up to the first turn that must be delivered again. That turn and the
        later turns are returned to the queue. A malformed message is not a turn, so it has no order to keep: only this
        message is returned, and the later turns run.
        """
        session = self._sessions[group]
        while session:
            message = session[0]
            try:
                decision = await self._run_turn(decode(message.body), message.deliveries)
            except Malformed:
                logger.error("message is malformed", extra={"message_id": message.id})
                count("MessageMalformed")
                session.popleft()
                await self._give_back([message], 1)
                continue
            except (BotoCoreError, ClientError) as error:
                logger.error("AWS call failed", extra={"message_id": message.id, "error": error_name(error)})
                decision = aws_failed(message.deliveries)
            except Exception as error:
                logger.error("turn failed", extra={"error": error_name(error), "where": where(error)})
                decision = back(None)
            if decision.verdict is Verdict.BACK:
                del self._sessions[group]
                await self._give_back(session, decision.seconds)
                return
            await self._delete(message)
            session.popleft()
        del self._sessions[group]

    async def _run_turn(self, key: Key, deliveries: int) -> Decision:
        """Run one attempt at the turn of a message."""
        services, now = self._services, time.time()
        if self._ends_at - now < RESERVE_SECONDS + services.longest_answer:
            return back(0)
        chosen = await services.choose(services.servers, again=deliveries > 1)
        if isinstance(chosen, Wait):
            return await self._defer(key, chosen)
        server, permit = chosen
        try:
            turn = await asyncio.to_thread(services.store.claim, key, now, now + LEASE_SECONDS)
        except Refused as refused:
            await asyncio.to_thread(server.admission.unused, permit)
            return await self._close(key, refused.current)
        if turn.is_first_claim:
            milliseconds("QueueTime", now - turn.queued_at)
        server, permit = await services.prefer(turn, server, permit)
        return await Attempt(services, turn, server, permit, self._ends_at).run()

    async def _defer(self, key: Key, wait: Wait) -> Decision:
        """Return a message to the queue while no model may be called. First reads the turn, because a cancelled or
        overdue turn needs no model and must not block its session."""
        turn = await asyncio.to_thread(self._services.store.read, key, time.time())
        if turn is None or turn.final:
            return DONE
        if turn.held(time.time()):
            return not_claimed(turn, time.time())
        count("TaskDeferred")
        logger.info("task waits for the model", extra={"task_id": key.task_id, "code": wait.code})
        return back(wait.seconds)

    async def _close(self, key: Key, current: Turn | None) -> Decision:
        """Handle a message whose turn could not be claimed. Ends the turn if its deadline has passed or no attempts are
        left."""
        now = time.time()
        decision = not_claimed(current, now)
        if decision.verdict is not Verdict.FAIL:
            if decision is DONE:
                logger.info("message of a finished task", extra={"task_id": key.task_id})
            return decision
        assert current is not None, "only a turn that exists fails"
        store = self._services.store
        try:
            if current.overdue(now):
                await asyncio.to_thread(store.fail_overdue, current, now)
            else:
                await asyncio.to_thread(store.fail, key, decision.code, now)
        except Refused as refused:
            return back(1) if refused.current and not refused.current.final else DONE
        return DONE

    # ---- messages: if a call fails, SQS delivers the message again, so nothing is lost

    async def _give_back(self, messages: Collection[Message], seconds: float | None) -> None:
        """Make the messages visible in `seconds`. None: when their visibility timeout ends."""
        self._unfinished |= {message.id for message in messages}
        await self._services.leases.drop_messages([message.handle for message in messages])
        if seconds is not None:
            await self._change_visibility(messages, seconds)

    async def _change_visibility(self, messages: Collection[Message], seconds: float) -> None:
        await self._visibilities.add(dict.fromkeys(messages, max(math.ceil(seconds), 0)))

    def _change_visibility_now(self, seconds: Mapping[Message, int]) -> None:
        try:
            self._queue.change_visibility({message.handle: each for message, each in seconds.items()})
        except (BotoCoreError, ClientError) as error:
            logger.warning("visibility not changed", extra={"error": error_name(error)})

    async def _delete(self, message: Message) -> None:
        """Delete the message now, so that its session continues. If that fails, Lambda later deletes a message of the
        invocation's event. SQS delivers any other message again, and the worker then finds the turn final."""
        await self._services.leases.drop_messages([message.handle])
        await self._deletions.add({message: None})

    def _delete_now(self, messages: Collection[Message]) -> None:
        try:
            errors = self._queue.delete([message.handle for message in messages])
        except (BotoCoreError, ClientError) as error:
            errors = dict.fromkeys((message.handle for message in messages), error_name(error))
        for message in messages:
            if code := errors.get(message.handle):
                logger.warning("message not deleted", extra={"message_id": message.id, "error": code})


def _message(record: Record) -> Message:
    attributes = record["attributes"]
    return Message(
        record["messageId"],
        record["receiptHandle"],
        record["body"],
        attributes["MessageGroupId"],
        int(attributes["ApproximateReceiveCount"]),
    )


async def _flush_until(stop: asyncio.Event) -> None:
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), FLUSH_SECONDS)
        flush()
