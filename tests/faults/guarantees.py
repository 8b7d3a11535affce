"""The guarantees of Turnqueue (docs/guarantees.md), watched during a simulation and checked at its end. The watch sees
every committed write, every model call and every line of output. So it also finds a guarantee that is broken only for a
moment.
"""

import itertools
import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from tests.faults.model import ANSWER, PLANTED, PROMPT, ModelCall, answer_to, said
from tests.faults.scheduler import Group, here
from tests.faults.table import Item

if TYPE_CHECKING:
    from tests.faults.world import Exchange, World

GUARANTEES = {
    1: "an accepted task becomes final",
    2: "a final state never changes",
    3: "one answer is recorded, and during a lease no other worker calls the model",
    4: "a session's turns run in order, one at a time, and delay no other session",
    5: "an Idempotency-Key makes one task",
    6: "nobody reaches another owner's task or session",
    7: "past its deadline every task reads as final",
    8: "an accepted task is never 404, an unknown one never PENDING",
    9: "no prompt, answer or key appears where it does not belong",
    10: "a sync request never loses its result",
    11: "an owner's usage of a day counts every token and stays within its quota",
    12: "all readers of a growing answer get the same events, and none after its end",
    13: "the function calls of an answer get their results once: one for each call, and no others",
}

FINAL = ("SUCCESS", "FAILURE")
END = 2**31 - 1
"""The id of the end of an answer."""
HISTORY_TURNS = 20
MOST_ATTEMPTS = 3
LONGEST_UNWRITTEN = 20.0
"""Seconds from the moment in which a worker counts something until its metric is written."""
MOST_HIDDEN = 60
"""Seconds: a cancelled turn frees its session within a minute. A lease is shorter."""
SHORTEST_LEASE, LONGEST_LEASE = 40.0, 62.0
SKEW = 1.0
"""By how much two clocks may differ in a simulation."""


class GuaranteeBroken(AssertionError):
    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"guarantee {number} ({GUARANTEES[number]}) is broken: {what}")
        self.number = number


@dataclass
class Claim:
    attempt: int
    process: Group
    at: float
    lease_until: float
    is_over: bool = False


@dataclass(frozen=True)
class Row:
    """A row of an event log."""

    kind: str
    attempt: int
    text: str


@dataclass
class Record:
    """What the watch knows of a turn."""

    key: str
    session: str
    ulid: str
    marker: str
    deadline_at: float
    idempotency_key: str | None
    """That of the request that recorded it."""
    claims: list[Claim] = field(default_factory=list)
    refusals: int = 0
    """Calls of the model for this turn that were turned away before any token."""
    final_at: float | None = None


@dataclass
class Watch:
    world: "World"
    turns: dict[tuple[str, str], Record] = field(default_factory=dict)
    by_marker: dict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))
    owners_of: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Whose a planted prompt is."""
    accepted: dict[str, "Exchange"] = field(default_factory=dict)
    """The answer that first accepted a task, by task id."""
    keys: dict[tuple[str, str], list["Exchange"]] = field(default_factory=lambda: defaultdict(list))
    too_long: set[str] = field(default_factory=set)
    """The names of processes whose model has refused a conversation as too long. They send less for an hour."""
    refused_at: list[float] = field(default_factory=list)
    """When the model has turned calls away that the metrics do not show yet."""
    rows: dict[str, list["Row"]] = field(default_factory=lambda: defaultdict(list))
    """The event logs, by their keys: row 1 is the first."""
    streams: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    """The events of the responses of the OpenAI API, by path and number."""
    calls_of: dict[str, list[str]] = field(default_factory=dict)
    """The ids of the functions that a task's answer asks for, as a client was told first."""
    out_of_order: set[str] = field(default_factory=set)
    """Sessions whose messages the test itself has put out of order."""

    # ---- while it runs

    def sent(self, owner: str, message: str) -> None:
        """A client has posted a message."""
        for marker in PROMPT.findall(message):
            self.owners_of[marker].add(owner)

    def committed(self, old: Item | None, new: Item) -> None:
        """A write of the turns table has taken effect."""
        place = (new["session"]["S"], new["turn"]["S"])
        if old is None:
            request = json.loads(new["request"]["S"]) if "request" in new else {"message": ""}
            marker = (PROMPT.findall(said(request)) or [""])[0]
            deadline = float(new["deadline_at"]["N"]) if "deadline_at" in new else 0.0
            record = Record(place[1], place[0], place[1], marker, deadline, self._key_of_request())
            self.turns[place] = record
            self.by_marker[marker].append(record)
            owner = place[0].rpartition("#")[0]
            if owner not in self.owners_of[marker]:
                self._broken(6, f"{marker} was sent by {self.owners_of[marker]} and recorded for {owner}")
            if new["status"]["S"] in FINAL:
                record.final_at = self.world.now
                self._check_answered_at_once(record, new)
            if "context" in request:
                self._check_continuation(record, request)
            return
        record = self.turns[place]
        if old["status"]["S"] in FINAL and old != new:
            changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
            if changed == {"answered_by"}:  # the mark that its calls have their results is no part of its state
                return
            self._broken(
                2,
                f"{_name(record)} was {old['status']['S']} and is now {new['status']['S']}; changed: {sorted(changed)}",
            )
        self._check_zombie(record, new)
        if new.get("attempt") != old.get("attempt"):
            self._claimed(record, new)
        elif new["status"]["S"] != "STARTED":
            for claim in record.claims:
                claim.is_over = True
            if new["status"]["S"] == "PENDING" and "place_at" in new:  # it waits for its place: no attempt
                record.refusals += 1
        elif record.claims and "lease_until" in new:
            record.claims[-1].lease_until = float(new["lease_until"]["N"])
        if new["status"]["S"] in FINAL and record.final_at is None:
            record.final_at = self.world.now
            if new["status"]["S"] == "SUCCESS":
                self._check_answer_in_time(record)

    def _check_answer_in_time(self, record: Record) -> None:
        now = self.world.calendar()
        if record.deadline_at + SKEW < now:
            self._broken(7, f"{_name(record)} is answered past its deadline")
        if not self.world.has_trouble and record.claims[-1].lease_until + SKEW < now:
            self._broken(3, f"{_name(record)} is answered after the end of its lease, which nobody has renewed")

    @staticmethod
    def _key_of_request() -> str | None:
        found = here()
        invocation = getattr(found and found[1].group, "invocation", None)
        return invocation.event["headers"].get("idempotency-key") if invocation else None

    def _check_answered_at_once(self, record: Record, new: Item) -> None:
        """A turn that is recorded as answered is the first of its session, and its owner has had this answer before."""
        if any(other.session == record.session for other in self.turns.values() if other is not record):
            self._broken(4, f"{_name(record)} is recorded as answered, though there is more in its session")
        owner = record.session.rpartition("#")[0]
        others = [r for r in self.by_marker[record.marker] if r is not record and r.session.rpartition("#")[0] == owner]
        if not any(self._item(other).get("result") == new.get("result") for other in others):
            self._broken(6, f"{_name(record)} is recorded as answered by what {owner} was never answered")

    def _check_continuation(self, record: Record, request: dict[str, Any]) -> None:
        """A turn that brings results is the only one for its calls that has not failed, and brings those of all calls."""
        if "answers" not in request:
            self._broken(13, f"{_name(record)} brings results that nobody has asked for")
        calling = self._item(self.turns[record.session, request["answers"]])
        asked = [call["call_id"] for call in json.loads(calling["result"]["S"])["tool_calls"]]
        brought = [entry["call_id"] for entry in request["context"]]
        if sorted(brought) != sorted(asked):
            self._broken(13, f"{_name(record)} brings the results of {brought}, and {asked} were asked for")
        for other in self.turns.values():
            if other is record or other.session != record.session or self._item(other)["status"]["S"] == "FAILURE":
                continue
            if json.loads(self._item(other)["request"]["S"]).get("answers") == request["answers"]:
                self._broken(13, f"{_name(record)} brings results that {_name(other)} has brought")

    def logged(self, old: Item | None, new: Item) -> None:
        """A write of the events table has taken effect."""
        log, n = self.rows[new["task"]["S"]], int(new["n"]["N"])
        if n == 0:  # a cancellation
            return
        if old is not None:
            self._broken(12, f"row {n} of {new['task']['S'][-6:]} is written over")
        if n != len(log) + 1:
            self._broken(12, f"row {n} of {new['task']['S'][-6:]} is written behind {len(log)}")
        row = Row(new["k"]["S"], int(new["a"]["N"]), new["t"]["S"])
        if log and row.attempt < log[-1].attempt:
            self._broken(12, f"row {n} of {new['task']['S'][-6:]} is of attempt {row.attempt}, after a later one")
        if log and row.attempt > log[-1].attempt and row.kind != "s":
            self._broken(12, f"row {n} of {new['task']['S'][-6:]} goes on with the text of another attempt")
        log.append(row)
        said = "".join(row.text for row in log if row.attempt == log[-1].attempt)
        session, _, ulid = new["task"]["S"].rpartition(".")
        if not answer_to(self.turns[session, ulid].marker).startswith(said):
            self._broken(12, f"the rows of {ulid[-6:]} say {said!r}")

    def guarded(self, new: Item) -> None:
        """A write of the guards table has taken effect."""
        if found := PLANTED.findall(json.dumps(new)):
            self._broken(9, f"{found} is in the guards table")

    def _check_zombie(self, record: Record, new: Item) -> None:
        """A process whose claim another has taken over may not write any more; it may claim anew, and close what is overdue."""
        found = here()
        assert found and found[1].group
        writer, now = found[1].group, self.world.calendar()
        had = [claim for claim in record.claims if claim.process is writer]
        last = record.claims[-1] if record.claims else None
        is_late = had and last and last.process is not writer and not last.is_over and last.lease_until > now + SKEW
        if is_late and not (new["status"]["S"] == "FAILURE" and record.deadline_at <= now + SKEW):
            self._broken(2, f"{writer.name} writes {_name(record)}, which {last and last.process.name} has taken over")

    def _claimed(self, record: Record, new: Item) -> None:
        found = here()
        assert found and found[1].group
        lease_until = float(new.get("lease_until", {"N": "0"})["N"])
        record.claims.append(Claim(int(new["attempt"]["N"]), found[1].group, self.world.now, lease_until))
        self._check_lease(record, record.claims[-1])
        if record.deadline_at + SKEW < self.world.calendar() + found[1].group.skew:
            self._broken(7, f"{_name(record)} is begun past its deadline")
        if len(record.claims) - record.refusals > MOST_ATTEMPTS:
            self._broken(3, f"{_name(record)} is begun {len(record.claims)} times and refused {record.refusals} times")
        if record.session in self.out_of_order:
            return
        for earlier in self._queued_before(record):
            if earlier.final_at is None:
                self._broken(4, f"{_name(record)} is begun, though {_name(earlier)} came before it and is not final")

    def _check_lease(self, record: Record, claim: Claim) -> None:
        """A lease is short, by its worker's own clock. A worker that lives renews it: without a fault nobody takes a turn
        over from a worker that is at work."""
        left = claim.lease_until - claim.process.skew - self.world.calendar()
        if not SHORTEST_LEASE <= left <= LONGEST_LEASE:
            self._broken(3, f"{claim.process.name} takes {_name(record)} for {left:.0f} s")
        for earlier in record.claims[:-1]:
            if not (earlier.is_over or earlier.process.dead or self.world.has_trouble):
                self._broken(3, f"{claim.process.name} takes {_name(record)} from {earlier.process.name}, which lives")

    def model_refused(self, call: ModelCall) -> None:
        """The model has turned a call away before any token."""
        self.refused_at.append(self.world.now)
        for record in self.by_marker[call.marker]:
            if any(claim.process is call.process for claim in record.claims) and record.final_at is None:
                record.refusals += 1

    def model_called(self, call: ModelCall) -> None:
        now = self.world.calendar()
        records = [r for r in self.by_marker[call.marker] if any(c.process is call.process for c in r.claims)]
        if not records:
            self._broken(3, f"{call.process.name} calls the model for {call.marker}, which it has not claimed")
        # One process may run turns of one text in several sessions: the history tells which of them asks.
        asking = [r for r in records if r.final_at is None] or records[-1:]
        record = next((r for r in asking if list(call.told) == self._history(r, call)), asking[-1])
        own = self._claim_of(record, call)
        if own.lease_until < now:
            # Its clock is wrong, for Lambda ends it before its lease. It cannot know that it was taken over.
            return
        for claim in record.claims:
            if claim is not own and not claim.is_over and claim.lease_until > now + SKEW:
                self._broken(
                    3,
                    f"{call.process.name} calls the model for {_name(record)} while {claim.process.name} has the lease"
                    f" for {claim.lease_until - now:.0f} s more",
                )
        self._check_history(record, call)

    @staticmethod
    def _claim_of(record: Record, call: ModelCall) -> Claim:
        return next(claim for claim in reversed(record.claims) if claim.process is call.process)

    def _check_history(self, record: Record, call: ModelCall) -> None:
        foreign = [
            marker for marker in call.told if not any(r.session == record.session for r in self.by_marker[marker])
        ]
        if foreign:
            self._broken(6, f"{_name(record)} is answered with {foreign} before it, of another session")
        wanted = self._history(record, call)
        if record.session not in self.out_of_order and [marker for marker in call.told if marker in wanted] != wanted:
            self._broken(4, f"{_name(record)} is answered after {list(call.told)}, but it follows {wanted}")
        if call.answers != call.told:
            self._broken(4, f"{_name(record)} is told the answers {call.answers} to the messages {call.told}")

    def _history(self, record: Record, call: ModelCall) -> list[str]:
        """The messages that the model must be told before this one."""
        began = self._claim_of(record, call).at
        before = sorted(r.ulid for r in self.turns.values() if r.session == record.session and r.ulid < record.ulid)
        wanted = []
        for ulid in before[-HISTORY_TURNS:]:
            earlier = self.turns[record.session, ulid]
            is_answered = earlier.final_at is not None and earlier.final_at <= began
            if is_answered and self._item(earlier)["status"]["S"] == "SUCCESS":
                wanted.append(earlier.marker)
        if call.process.name in self.too_long:  # it leaves out the oldest messages
            wanted = wanted[len(wanted) - len(call.told) :]
        return wanted

    def printed(self, text: str) -> None:
        if found := PLANTED.findall(text):
            self._broken(9, f"{found} is printed: {text.strip()[:300]}")
        if '"ModelRateLimited"' in text and not self.world.has_trouble and self.refused_at:
            self._check_metrics(self.refused_at.pop(0))

    def _check_metrics(self, counted_at: float) -> None:
        if self.world.now - counted_at > LONGEST_UNWRITTEN:
            error = AssertionError(f"a metric is written {self.world.now - counted_at:.0f} s after it was counted")
            self.world.scheduler.fail(error)
            raise error

    def misreported(self, message_ids: list[str]) -> None:
        """A function has reported messages as failed that are not of its event: to Lambda the whole batch has failed."""
        self._broken(1, f"{message_ids} are reported, which Lambda did not give: it takes the whole batch for failed")

    def handed_out(self, place: tuple[str, str] | None) -> None:
        """SQS has handed out the message of this turn."""
        record = self.turns.get(place) if place else None
        claim = record.claims[-1] if record and record.claims else None
        if claim and record and not (claim.is_over or claim.process.dead or self.world.has_trouble or record.final_at):
            if self.world.queue.was_expired:
                return
            self._broken(3, f"{_name(record)} is handed out again, though {claim.process.name} is at work on it")

    def answered(self, exchange: "Exchange") -> None:
        """A client has its answer."""
        text = json.dumps(exchange.document)
        self._check_leaks(exchange, text)
        if exchange.invocation and exchange.invocation.function == "submit" and "media" not in exchange.route:
            self._check_submit(exchange)
        if "task_id" in exchange.request["path"]:
            self._check_task(exchange)
        if "stream" in exchange.document:
            self._check_stream(exchange)
        elif exchange.route.endswith("/events"):
            self._check_events(exchange)
        elif exchange.status == 200 and "GET" in exchange.route:
            for task in exchange.document.get("turns", [exchange.document]):
                self._check_deadline(exchange, task)
                self._check_calls(exchange, task)

    def _check_leaks(self, exchange: "Exchange", text: str) -> None:
        if exchange.status >= 400 and PLANTED.search(text):
            self._broken(9, f"answer {exchange.number} of {exchange.status} says {PLANTED.findall(text)}")
        if "planted-key" in text or "planted-idem" in text:
            self._broken(9, f"answer {exchange.number} holds a key")
        for marker in PROMPT.findall(text) + ANSWER.findall(text):
            if marker in self.owners_of and exchange.owner not in self.owners_of[marker]:
                self._broken(6, f"{exchange.owner} was told {marker} of {self.owners_of[marker]}")

    def _check_submit(self, exchange: "Exchange") -> None:
        task_id = exchange.document.get("task_id")
        if exchange.accepted:
            if not isinstance(task_id, str):
                self._broken(10, f"answer {exchange.number} of {exchange.status} names no task")
            if self.world.item(task_id, exchange.owner) is None:
                self._broken(8, f"task {task_id} was accepted and is not recorded for {exchange.owner}")
            self.accepted.setdefault(task_id, exchange)
            self._check_quota(exchange)
            if exchange.status == 200 and exchange.document.get("status", "SUCCESS") == "SUCCESS":
                self._check_answer(exchange, task_id)
        self._check_key(exchange)
        invocation = exchange.invocation
        assert invocation
        if not invocation.acknowledged or invocation.fate == "died":
            return
        # From here on the task is accepted, and the answer must be its result or its id.
        if invocation.fate != "answered" or (exchange.status == 503 and not task_id):
            self._broken(
                10, f"task {invocation.acknowledged[-1]} is queued, but request {exchange.number} {invocation.fate}"
            )
        if not isinstance(task_id, str):
            self._broken(10, f"answer {exchange.number} of {exchange.status} names no task, though one is queued")
        item = self.world.item(task_id, exchange.owner)
        assert item
        if exchange.status >= 400 and item["status"]["S"] != "FAILURE":
            self._broken(10, f"answer {exchange.number} is {exchange.status}, but {task_id} is {item['status']['S']}")

    def _check_quota(self, exchange: "Exchange") -> None:
        """When a message is accepted, the tokens that were used or reserved before it are less than the quota."""
        if not self.world.quota:
            return
        reserved = 0
        for record in self.turns.values():
            if record.final_at is None:
                reserved += int(self._item(record).get("reserved_tokens", {"N": "0"})["N"])
        last = max(int(self._item(record).get("reserved_tokens", {"N": "0"})["N"]) for record in self.turns.values())
        if last == 0 or reserved - last >= self.world.quota:
            self._broken(
                11, f"answer {exchange.number} accepts a message beyond the quota of {self.world.quota} tokens"
            )

    def _check_answer(self, exchange: "Exchange", task_id: str) -> None:
        item = self.world.item(task_id, exchange.owner)
        recorded = json.loads(item["result"]["S"])["message"] if item and "result" in item else None
        if exchange.document["message"] != recorded:
            self._broken(10, f"answer {exchange.number} is not what is recorded of {task_id}")

    def _check_key(self, exchange: "Exchange") -> None:
        key = exchange.request["headers"].get("idempotency-key")
        if not key:
            return
        same = self.keys[exchange.owner, key.strip('"')]
        same.append(exchange)
        accepted = [earlier for earlier in same if earlier.accepted]
        tasks = {earlier.document["task_id"] for earlier in accepted}
        if len(tasks) > 1:
            self._broken(5, f"requests {[e.number for e in accepted]} with one key made the tasks {sorted(tasks)}")
        if len({json.dumps(earlier.request["body"], sort_keys=True) for earlier in accepted}) > 1:
            self._broken(5, f"requests {[e.number for e in accepted]} with one key and several bodies were accepted")
        bodies = {json.dumps(earlier.request["body"], sort_keys=True) for earlier in self._sent_with(exchange)}
        if exchange.document.get("code") == "idempotency_key_reused" and len(bodies) == 1:
            self._broken(5, f"request {exchange.number} is refused, though its key came with no other body")

    def _sent_with(self, exchange: "Exchange") -> list["Exchange"]:
        key = exchange.request["headers"]["idempotency-key"]
        return [
            e
            for e in self.world.exchanges
            if e.owner == exchange.owner and e.request["headers"].get("idempotency-key") == key
        ]

    def _check_task(self, exchange: "Exchange") -> None:
        task_id = exchange.request["path"]["task_id"]
        accepted = self.accepted.get(task_id)
        is_own = accepted is not None and accepted.owner == exchange.owner
        if is_own and accepted and accepted.answered_at <= exchange.sent_at and exchange.status == 404:
            self._broken(8, f"request {exchange.number}: {task_id} was accepted and is not found")
        if exchange.status < 300 and self.world.item(task_id, exchange.owner) is None:
            number = 6 if any(place[1] == task_id.rpartition(".")[2] for place in self.turns) else 8
            self._broken(
                number, f"request {exchange.number}: {exchange.owner} was shown {task_id}, which it does not have"
            )

    def _check_calls(self, exchange: "Exchange", task: dict[str, Any]) -> None:
        """Every reader of a task sees the same calls."""
        if told := (task.get("result") or {}).get("tool_calls"):
            ids = [call["call_id"] for call in told]
            seen = self.calls_of.setdefault(task["task_id"], ids)
            if ids != seen:
                self._broken(13, f"answer {exchange.number} tells the calls {ids}, and {seen} were told before")

    def _check_deadline(self, exchange: "Exchange", task: dict[str, Any]) -> None:
        ulid = task.get("task_id", "").rpartition(".")[2]
        record = self.turns.get((f"{exchange.owner}#{task.get('session_id')}", ulid))
        if record and self._sent(exchange) > record.deadline_at + SKEW and task["status"] not in FINAL:
            self._broken(
                7, f"request {exchange.number}: {_name(record)} is past its deadline and reads {task['status']}"
            )

    def _check_events(self, exchange: "Exchange") -> None:
        """What a reader is told follows from the rows alone, and from the turn at its end."""
        session_id, _, ulid = exchange.request["path"]["task_id"].rpartition(".")
        place = (f"{exchange.owner}#{session_id}", ulid)
        record, log = self.turns.get(place), self.rows[".".join(place)]
        is_over = record is not None and record.final_at is not None and record.final_at <= exchange.sent_at
        after = exchange.request["query"].get("after")
        what = f"answer {exchange.number} to the reader of {ulid[-6:]} after {after}"
        if exchange.status == 204 and not (is_over and after == str(END)):
            self._broken(12, f"{what} is 204")
        if exchange.status != 200:
            return
        reached = int(after or 0)
        for event in exchange.document["events"]:
            number, kind = event["id"], event["event"]
            if is_over and kind != "done":
                self._broken(12, f"{what} tells {event} though the turn is final")
            if kind == "done":
                item = self._item(record) if record else {}
                result = json.loads(item["result"]["S"])["message"] if "result" in item else None
                told = (event["task"]["result"] or {}).get("message")
                if number != END or item.get("status", {}).get("S") not in FINAL or told != result:
                    self._broken(12, f"{what} ends with {event}")
            elif kind == "snapshot":
                rows = [row for row in log[:number] if row.attempt == event["attempt"]]
                if after is not None or event["text"] != "".join(row.text for row in rows):
                    self._broken(12, f"{what} tells {event}, but the log holds {log[:number]}")
            elif kind != "start":
                reached += 1
                row = log[number - 1]
                said = ("s" if kind == "retract" else "d", event["attempt"], event["text"])
                if number != reached or said != (row.kind, row.attempt, row.text):
                    self._broken(12, f"{what} tells {event}, but row {reached} is {row}")

    def _check_stream(self, exchange: "Exchange") -> None:
        """The events of a response have dense numbers from where its reader was, the same for all readers, and an end."""
        after = int(exchange.request["query"].get("starting_after", -1))
        *events, last = exchange.document["stream"]
        if last["type"] != "error":
            events.append(last)
        for number, event in enumerate(events, after + 1):
            told = self.streams.setdefault((exchange.request["path"]["proxy"], number), event)
            if event["sequence_number"] != number or event != told:
                self._broken(12, f"answer {exchange.number} after {after} tells {event}, another reader got {told}")
        if last["type"] not in ("error", "response.completed", "response.incomplete", "response.failed"):
            self._broken(12, f"answer {exchange.number} after {after} has no end but {last}")

    def _sent(self, exchange: "Exchange") -> float:
        return self.world.calendar() - self.world.now + exchange.sent_at

    # ---- when it is over

    def check(self) -> None:
        """Check what can be told only when time has run on and nothing is left to do."""
        world = self.world
        for body in world.queue.bodies:
            if PLANTED.search(body):
                self._broken(9, f"the queue holds {body}")
        for task_id, exchange in self.accepted.items():
            item = world.item(task_id, exchange.owner)
            if item is None or item["status"]["S"] not in FINAL:
                status = item["status"]["S"] if item else "gone"
                self._broken(1, f"{task_id} was accepted by answer {exchange.number} and is {status} in the end")
        if not world.quiet():
            left = [message.message_id for message in world.queue.waiting() + world.dead_letters.waiting()]
            self._broken(1, f"after {world.now:.0f} s there is no end: {left} are still in the queues")
        made: dict[tuple[str, str], list[Item]] = defaultdict(list)
        for record in self.turns.values():
            item, owner = self._item(record), record.session.rpartition("#")[0]
            if item.get("error_code", {}).get("S") == "enqueue_failed":
                continue
            for name in (record.idempotency_key, item.get("retry_of", {}).get("S")):
                if name:
                    made[owner, name].append(item)
        for (owner, name), items in made.items():
            if len(items) > 1:
                self._broken(5, f"the key, or the retries of, {name} of {owner} made {len(items)} tasks")
        if world.queue.longest_hidden > MOST_HIDDEN:
            self._broken(4, f"a message was hidden for {world.queue.longest_hidden:.0f} s at once")
        self._check_pace()
        if not world.has_trouble:
            self._check_usage()
        self._read_everything()

    def _check_pace(self) -> None:
        """Calls below a known rate come at its pace."""
        world = self.world
        if not world.per_minute or world.has_trouble:
            return
        moments = sorted(call.at for call in world.model.calls)
        for earlier, later in itertools.pairwise(moments):
            if later - earlier < 60 / world.per_minute - SKEW:
                self._broken(
                    3, f"two calls within {later - earlier:.1f} s of a model that grants {world.per_minute} a minute"
                )

    def _check_usage(self) -> None:
        """When all turns are final, what the days are charged with is what was used: no reservation is left."""
        for item in self.world.tables["GuardsTable"].items():
            if item["guard"]["S"].startswith("usage#"):
                used = sum(int(item.get(name, {"N": "0"})["N"]) for name in ("prompt_tokens", "completion_tokens"))
                charged = int(item.get("charged_tokens", {"N": "0"})["N"])
                if used != charged:
                    self._broken(11, f"a day is charged with {charged} tokens, and {used} were used")

    def _read_everything(self) -> None:
        """Past every deadline read the turns, each that is not final, one and all of every session; and as another owner."""
        world = self.world
        if not self.turns:
            return
        latest = max(record.deadline_at for record in self.turns.values())
        world.run(max(0.0, latest - world.calendar()) + 2 * SKEW)
        sessions = {record.session: record for record in self.turns.values()}
        chosen = {record.ulid: record for record in self.turns.values() if record.final_at is None}
        chosen |= {record.ulid: record for record in sessions.values()}
        route, told = "GET /chat/task/{task_id}", []

        def reader() -> None:
            nobody = world.ask("eve", route, path={"task_id": "no.such-task"})
            for record in chosen.values():
                owner, _, session_id = record.session.rpartition("#")
                own = world.ask(owner, route, path={"task_id": f"{session_id}.{record.ulid}"})
                self._expect_final(own, [own.document])
            for session, record in sessions.items():
                owner, _, session_id = session.rpartition("#")
                page = world.ask(owner, "GET /chat/session/{session_id}", path={"session_id": session_id})
                self._expect_final(page, page.document.get("turns", []))
                # Whoever it claims to be: only its token tells.
                claims = {"headers": {"x-owner": owner, "x-user-id": owner}, "query": {"owner": owner}}
                foreign = world.ask("eve", route, path={"task_id": f"{session_id}.{record.ulid}"}, **claims)
                if (foreign.status, foreign.document) != (nobody.status, nobody.document) or foreign.status != 404:
                    self._broken(6, f"{_name(record)} reads {foreign.status} for another owner")
            told.append(True)

        world.scheduler.spawn("reader", reader)
        world.run(600, lambda: bool(told))

    def _expect_final(self, read: "Exchange", tasks: list[dict[str, Any]]) -> None:
        if read.status != 200 or not tasks or any(task["status"] not in FINAL for task in tasks):
            self._broken(7, f"past its deadline {read.route} {read.request['path']} reads {read.status} {tasks}")

    # ---- inside

    def _queued_before(self, record: Record) -> list[Record]:
        """The turns of the session whose messages came before, but for those that the queue gave up."""
        order: list[Record] = []
        given_up = {place_of(body) for body in self.world.dead_letters.bodies}
        for body in self.world.queue.bodies:
            place = place_of(body)
            found = self.turns.get(place) if place else None
            if found is record:
                return order
            if found and found.session == record.session and place not in given_up:
                order.append(found)
        return order

    def _item(self, record: Record) -> Item:
        key = {"session": {"S": record.session}, "turn": {"S": record.ulid}}
        item = self.world.tables["TurnsTable"].item(key)
        assert item
        return item

    def _broken(self, number: int, what: str) -> NoReturn:
        self.world.tell("BROKEN", f"guarantee {number}: {what}")
        error = GuaranteeBroken(number, what)
        # Told to the scheduler as well: the product may stand between here and there, and it catches what it can.
        self.world.scheduler.fail(error)
        raise error


def place_of(body: str) -> tuple[str, str] | None:
    """The key of the turn that a message tells of; None if it tells of none."""
    try:
        message = json.loads(body)
        return message["session"], message["turn"]
    except (ValueError, TypeError, KeyError):
        return None


def _name(record: Record) -> str:
    return f"{record.marker} ({record.ulid[-6:]})"


def tell(story: list[tuple[float, str, str]]) -> str:
    """A story to read: who did what, when."""
    return "\n".join(f"{at:9.3f}  {who:12} {re.sub(r'planted-', '', what)}" for at, who, what in story)
