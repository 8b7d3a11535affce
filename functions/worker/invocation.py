"""One invocation and its messages: sessions side by side, the turns of a session in order.

A message is deleted as soon as its turn is final. The first turn of a session that must come back takes those behind it
along, so that the order holds.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from attempt import RESERVE_SECONDS, Attempt, Services
from decisions import DONE, Decision, Verdict, aws_failed, back, not_claimed
from leases import LEASE_SECONDS
from modelkeys import ModelKeys
from turnqueue.gate import Wait
from turnqueue.http import error_name, where
from turnqueue.queue import Malformed, TurnQueue, decode
from turnqueue.store import Refused
from turnqueue.telemetry import count, logger, milliseconds
from turnqueue.turn import Key, Turn

type Record = dict[str, Any]
"""A message as Lambda's event source hands it over."""


@dataclass(frozen=True)
class Worker:
    """The parts that all invocations of a process share."""

    services: Services
    queue: TurnQueue
    keys: ModelKeys

    async def work(self, records: Sequence[Record], ends_at: float) -> list[Record]:
        """Run the turns of a batch. Returns the records of those that must come back."""
        return await Invocation(self, ends_at).run(records)


class Invocation:
    """One invocation, which Lambda ends at `ends_at`."""

    def __init__(self, worker: Worker, ends_at: float) -> None:
        self._services = worker.services
        self._queue = worker.queue
        self._ends_at = ends_at

    async def run(self, records: Sequence[Record]) -> list[Record]:
        sessions: dict[str, list[Record]] = {}
        for record in records:
            sessions.setdefault(record["attributes"]["MessageGroupId"], []).append(record)
        # At once, and for all: if this process dies, the sessions wait for a lease and not for the queue's time-out.
        await self._hide(records, LEASE_SECONDS)
        leases, stop = self._services.leases, asyncio.Event()
        leases.hold_messages([record["receiptHandle"] for record in records])
        renewing = asyncio.create_task(leases.renew_until(stop))
        try:
            unfinished = await asyncio.gather(*(self._run_session(records) for records in sessions.values()))
        finally:
            stop.set()
            await renewing
        return [record for session in unfinished for record in session]

    async def _run_session(self, records: Sequence[Record]) -> Sequence[Record]:
        """Run the turns of one session in order, up to the first that must come back. Returns it and those behind it.

        A malformed message is no turn and has no order to keep: it is returned, and those behind it are run.
        """
        malformed: list[Record] = []
        for index, record in enumerate(records):
            try:
                decision = await self._run_turn(decode(record["body"]), _deliveries(record))
            except Malformed:
                logger.error("message is malformed", extra={"message_id": record["messageId"]})
                count("MessageMalformed")
                malformed.append(record)
                await self._give_back([record], 1)
                continue
            except (BotoCoreError, ClientError) as error:
                logger.error("AWS call failed", extra={"message_id": record["messageId"], "error": error_name(error)})
                decision = aws_failed(_deliveries(record))
            except Exception as error:
                logger.error("turn failed", extra={"error": error_name(error), "where": where(error)})
                decision = back(None)
            if decision.verdict is Verdict.BACK:
                unfinished = records[index:]
                await self._give_back(unfinished, decision.seconds)
                return [*malformed, *unfinished]
            await self._delete(record)
        return malformed

    async def _run_turn(self, key: Key, deliveries: int) -> Decision:
        """Bring the turn of a message one attempt further."""
        services, now = self._services, time.time()
        if self._ends_at - now < RESERVE_SECONDS + services.longest_answer:
            return back(0)
        chosen = await services.choose(services.servers, again=deliveries > 1)
        if isinstance(chosen, Wait):
            return await self._defer(key, chosen)
        server, passed = chosen
        try:
            turn = await asyncio.to_thread(services.store.claim, key, now, now + LEASE_SECONDS)
        except Refused as refused:
            await asyncio.to_thread(server.gatekeeper.unused, passed)
            return await self._close(key, refused.current)
        if turn.is_first_claim:
            milliseconds("QueueTime", now - turn.queued_at)
        server, passed = await services.prefer(turn, server, passed)
        return await Attempt(services, turn, server, passed, self._ends_at).run()

    async def _defer(self, key: Key, wait: Wait) -> Decision:
        """Send a message back while no model may be called. One read finds the turns that need no model any more: a
        cancelled turn must not hold its session."""
        turn = await asyncio.to_thread(self._services.store.read, key, time.time())
        if turn is None or turn.final:
            return DONE
        if turn.held(time.time()):
            return not_claimed(turn, time.time())
        count("TaskDeferred")
        logger.info("task waits for the model", extra={"task_id": key.task_id, "code": wait.code})
        return back(wait.seconds)

    async def _close(self, key: Key, current: Turn | None) -> Decision:
        """For a message whose turn could not be claimed: end the turn if it is time."""
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

    # ---- messages: a call that fails loses nothing, because the message comes back by its visibility timeout

    async def _give_back(self, records: Sequence[Record], seconds: float | None) -> None:
        """Make the messages come back in so many seconds; None: when their visibility timeout ends."""
        await self._services.leases.drop_messages([record["receiptHandle"] for record in records])
        if seconds is not None:
            await self._hide(records, seconds)

    async def _hide(self, records: Sequence[Record], seconds: float) -> None:
        whole = max(math.ceil(seconds), 0)
        try:
            await asyncio.to_thread(self._queue.hide, {record["receiptHandle"]: whole for record in records})
        except (BotoCoreError, ClientError) as error:
            logger.warning("visibility not changed", extra={"error": error_name(error)})

    async def _delete(self, record: Record) -> None:
        """Delete the message now, so that its session moves on. If that fails, Lambda deletes it with the batch."""
        await self._services.leases.drop_messages([record["receiptHandle"]])
        try:
            await asyncio.to_thread(self._queue.delete, record["receiptHandle"])
        except (BotoCoreError, ClientError) as error:
            logger.warning("message not deleted", extra={"message_id": record["messageId"], "error": error_name(error)})


def _deliveries(record: Record) -> int:
    return int(record["attributes"]["ApproximateReceiveCount"])
