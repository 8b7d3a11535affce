"""What the functions of a local stack use: counted from what they call, from their invocations, their processes and
their logs."""

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
"""So much of what and whose, for example of ("write units", "TurnsTable"):

of a route of the API "requests" and "bytes out", which its client counts; of a table "writes" and "write units", and
those of the event log as "progress" too; of DynamoDB's reads "reads" and "read units"; of an operation of SQS
"SQS requests", but not the polls that found nothing; of a function "calls" of AWS, "invocations", "seconds" (of
them, on this machine), "CPU seconds" (of its processes), "log lines", "log bytes" and "metric lines", which are log
lines too.
"""

_READS = ("dynamodb:GetItem", "dynamodb:Query")
_KEYS = {"TurnsTable": ("session", "turn"), "GuardsTable": ("guard",), "EventsTable": ("task", "n")}


class Meter:
    """Counts what a stack that records does, from construction on.

    Public: the `invocations` that have ended; `tables`, by their names what each is counted as; others are not.
    """

    def __init__(self, stack: LocalStack) -> None:
        assert stack.recorder, "the stack does not record"
        self._stack = stack
        self._dynamodb = stack.client("dynamodb")
        self.tables = {stack.outputs[f"{table}Name"]: table for table in _KEYS}
        self._items: dict[str, Any] = {}  # as each was last written
        self._lock = threading.Lock()
        self._use: Use = defaultdict(float)
        self.invocations: list[Invocation] = []
        stack.recorder.watch = self._called
        stack.host.watch = self._invoked

    @contextmanager
    def measured(self) -> Iterator[Use]:
        """Gives what is used between its beginning and its end, once it has ended."""
        before, processes = self._so_far(), self._cpu()
        use: Use = defaultdict(float)
        yield use
        for each, amount in self._so_far().items():
            use[each] += amount - before[each]
        for (function, pid), seconds in self._cpu().items():
            use["CPU seconds", function] += seconds - processes.get((function, pid), 0)

    def count(self, what: str, whose: str) -> float:
        """So far."""
        return self._use[what, whose]

    def add(self, what: str, whose: str, amount: float = 1) -> None:
        """Count something that only the caller sees."""
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
        ):  # of control rows: each costs as one of 4 KB, also one that is not there
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
