"""The circuit that all workers share: one item of the guards table. Whatever the table does, no turn fails for it.

While the first model is well, it is read once in READ_SECONDS by a process that has work, and never written.
"""

import time
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from circuit import FAILED, FAILURES, Circuit, Phase
from turnqueue import aws
from turnqueue.http import error_name
from turnqueue.telemetry import count, logger
from turnqueue.turn import guard_key

READ_SECONDS = 5.0
"""How old what a process knows may be: for so long it may ask a model that others have found to be down."""

NO_NEWS = ("internal_error", "media_missing", "media_invalid")
"""Failures that come before the model is asked, or tell nothing of it."""

KEPT_SECONDS = 86_400
"""After its last change: longer than any outage goes without one."""

# Each is a read and a write. Who loses so often has seen as many others count, and that opens it.
_TRIES = FAILURES


class Ticket(NamedTuple):
    """Whom an attempt asks. `probe`: the end of the probe that it is, 0 for none."""

    first: bool
    asked_at: float
    probe: float = 0.0


class Change(NamedTuple):
    before: Circuit
    after: Circuit


class Breaker:
    """`server`: that of the first model. Each has a circuit of its own."""

    def __init__(self, table: str, server: str) -> None:
        self._table = table
        self._key = {"guard": {"S": guard_key("circuit", server)}}
        self._known = Circuit()
        self._read_at = 0.0
        self._answered_at = 0.0

    @cached_property
    def _client(self) -> Any:
        # Made when it is needed first: many stacks have no fallback.
        return aws.client("dynamodb", attempts=1, read_timeout=1)

    def ask(self, now: float, ends_at: float) -> Ticket:
        """Whom to ask in an attempt that is over at `ends_at`, whatever becomes of it."""
        if abs(now - self._read_at) >= READ_SECONDS:
            self._read_at = now  # At once: the other turns of this process go by what is known, meanwhile.
            self._safely(lambda: self._read(consistent=False))
        phase = self._known.phase(now)
        if phase is Phase.HALF_OPEN and (change := self._change(lambda circuit: circuit.probed(now, ends_at))):
            return Ticket(True, now, change.after.open_until)
        return Ticket(phase is Phase.CLOSED, now)

    def tell(self, ticket: Ticket, code: str | None) -> bool:
        """What became of an attempt: the code of its failure, None for an answer. Returns whether the next attempt had
        better not wait for the first model."""
        now = time.time()
        if not ticket.first or code in NO_NEWS:
            return False
        answered = code not in FAILED
        if answered:
            self._answered_at = now
        if ticket.probe:
            self._change(lambda circuit: circuit.settled(ticket.probe, answered=answered, now=now))
        elif not answered and self._answered_at < ticket.asked_at:  # else it is well enough for others
            change = self._change(lambda circuit: circuit.failed(now))
            if change and not change.before.open_until and change.after.open_until:
                count("CircuitOpened")
                logger.warning("circuit opened", extra={"code": code})
        return self._known.phase(now) is not Phase.CLOSED

    def _change(self, step: Callable[[Circuit], Circuit]) -> Change | None:
        """Take the shared circuit a step further. None if there was no step to take, or we could not."""

        def attempt() -> Change | None:
            for _ in range(_TRIES):
                before = self._read(consistent=True)
                after = step(before)
                if after == before:
                    return None
                try:
                    self._write(before, after)
                except self._client.exceptions.ConditionalCheckFailedException:
                    continue
                self._known = after
                return Change(before, after)
            return None

        return self._safely(attempt)

    def _safely[T](self, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except (BotoCoreError, ClientError) as error:
            logger.warning("circuit not known", extra={"error": error_name(error)})
            return None

    def _read(self, *, consistent: bool) -> Circuit:
        answer = self._client.get_item(TableName=self._table, Key=self._key, ConsistentRead=consistent)
        item: dict[str, Any] = answer.get("Item", {})
        failures, *times = (item.get(name, {"N": "0"})["N"] for name in Circuit._fields)
        self._known = Circuit(int(failures), *map(float, times))
        self._read_at = time.time()
        return self._known

    def _write(self, before: Circuit, after: Circuit) -> None:
        """Raises ConditionalCheckFailedException if it is no longer as it was before."""
        names = Circuit._fields
        was = " AND ".join(f"{name} = :was_{name}" for name in names)
        values = {f":{name}": value for name, value in after._asdict().items()}
        values |= {":expires_at": int(max(time.time(), *after[1:]) + KEPT_SECONDS)}
        if before == Circuit():  # which may be no item at all
            was = f"attribute_not_exists(guard) OR ({was})"
        values |= {f":was_{name}": value for name, value in before._asdict().items()}
        self._client.update_item(
            TableName=self._table,
            Key=self._key,
            UpdateExpression="SET expires_at = :expires_at, " + ", ".join(f"{name} = :{name}" for name in names),
            ConditionExpression=was,
            ExpressionAttributeValues={name: {"N": repr(value)} for name, value in values.items()},
        )
