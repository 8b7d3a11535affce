"""Counts the usage of a local stack's functions, from their calls, invocations, processes and logs."""

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.process import cpu_seconds
from local.capacity import read_units, write_units
from local.lambda_host import Invocation
from local.recorder import Call
from local.stack import POLLER, LocalStack

type Use = defaultdict[tuple[str, str], float]
"""Amounts by (kind, owner), for example ("write units", "TurnsTable"). A route of the API has "requests" and "bytes
out", which the client counts. A table has "writes" and "write units"; those of the event log also count as "progress".
DynamoDB's reads have "reads" and "read units". An SQS operation has "SQS requests", without empty polls. A function has
"calls" of AWS, "invocations", "seconds" (of invocations, on this machine), "CPU seconds" (of processes), "log lines",
"log bytes" and "metric lines", which are also log lines.
"""

_READS = ("dynamodb:GetItem", "dynamodb:Query")
_KEYS = {"TurnsTable": ("session", "turn"), "GuardsTable": ("guard",), "EventsTable": ("task", "n")}


class Meter:
    """Counts the usage of a recording stack from construction on. Public: the ended `invocations`; `tables`, the label
    of each counted table by its name.
    """

    def __init__(self, stack: LocalStack) -> None:
        assert stack.recorder, "the stack does not record"
        self._stack = stack
        self._dynamodb = stack.client("dynamodb")
        self.tables = {stack.outputs[f"{table}Name"]: table for table in _KEYS}
        self._items: dict[str, Any] = {}  # the last written version of each item
        self._lock = threading.Lock()
        self._use: Use = defaultdict(float)
        self.invocations: list[Invocation] = []
        stack.recorder.watch = self._called
        stack.host.watch = self._invoked

    @contextmanager
    def measured(self) -> Iterator[Use]:
        """Gives a Usage, which after the block has everything used during the block."""
        before, processes = self._so_far(), self._cpu()
        use: Use = defaultdict(float)
        yield use
        for each, amount in self._so_far().items():
            use[each] += amount - before[each]
        for (function, pid), seconds in self._cpu().items():
            use["CPU seconds", function] += seconds - processes.get((function, pid), 0)

    def count(self, what: str, whose: str) -> float:
        """The usage so far."""
        return self._use[what, whose]

    def add(self, what: str, whose: str, amount: float = 1) -> None:
        """Count usage that only the caller knows."""
        with self._lock:
            self._use[what, whose] += amount

    def _called(self, call: Call, answer: bytes) -> None:
        self.add("calls", call.caller)
        service, _, operation = call.action.partition(":")
        if service == "sqs":
            polled_in_vain = operation == "ReceiveMessage" and not json.loads(answer or b"{}").get("Messages")
            if not polled_in_vain:
                by = "Lambda's " if call.caller.endswith(POLLER) else ""
                self.add("SQS requests", f"{by}{operation}")
        elif service == "dynamodb":
            self._count_access(call, json.loads(answer))

    def _count_access(self, call: Call, answer: dict[str, Any]) -> None:
        assert call.status == 200 or "ConditionalCheckFailed" in answer["__type"], answer
        parameters = call.parameters
        if (
            call.action == "dynamodb:BatchGetItem"
        ):  # control rows: each costs the same as a row of up to 4 KB, even if it does not exist
            self.add("reads", "BatchGetItem")
            keys = sum(len(asked["Keys"]) for asked in parameters["RequestItems"].values())
            self.add("read units", "BatchGetItem", keys / 2)
            return
        table = self.tables.get(parameters["TableName"])
        if table is None:
            return
        if call.action in _READS:
            items = answer["Items"] if "Items" in answer else [answer["Item"]] if "Item" in answer else []
            operation = call.action.partition(":")[2]
            self.add("reads", operation)
            self.add("read units", operation, read_units(items, consistent=parameters.get("ConsistentRead", False)))
            return
        key = parameters.get("Key") or {name: parameters["Item"][name] for name in _KEYS[table]}
        item = self._dynamodb.get_item(TableName=parameters["TableName"], Key=key, ConsistentRead=True)["Item"]
        before = self._items.get(json.dumps(key), item)
        self._items[json.dumps(key)] = item
        units = write_units(before, item)
        self.add("writes", table)
        self.add("write units", table, units)
        if table == "EventsTable":
            self.add("writes", "progress")
            self.add("write units", "progress", units)

    def _invoked(self, invocation: Invocation) -> None:
        self.invocations.append(invocation)
        self.add("invocations", invocation.function)
        self.add("seconds", invocation.function, invocation.ended_at - invocation.began_at)

    def _so_far(self) -> Use:
        with self._lock:
            use = self._use.copy()
        for function in self._stack.functions:
            log = self._stack.logs / f"{function}.log"
            for line in log.read_text().splitlines() if log.exists() else ():
                use["log lines", function] += 1
                use["log bytes", function] += len(line.encode())
                use["metric lines", function] += '"_aws":' in line
        return use

    def _cpu(self) -> dict[tuple[str, int], float]:
        """CPU seconds of each living process, by its function and its id."""
        return {
            (label, pid): cpu_seconds(pid)
            for label, function in self._stack.functions.items()
            for pid in self._stack.host.processes_of(function.name)
        }
