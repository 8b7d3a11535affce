"""Planted bugs, each of which the simulation must catch: `python -m tests.faults.mutants`.

A checker that cannot fail is worthless. Every mutant is a copy of functions/ and layers/ with one bug, and the stories,
races and histories are run with it until something breaks. Prints what caught each, and `N of N caught`; exits with 1 if
one lives. `--write` puts the table into README.md.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from development import cfn

README = Path(__file__).parent / "README.md"
SECONDS = 900
STORE = "layers/shared/turnqueue/store.py"
WORKER = "functions/worker/worker.py"
INVOCATION = "functions/worker/invocation.py"
INTAKE = "functions/worker/intake.py"
ATTEMPT = "functions/worker/attempt.py"
DECISIONS = "functions/worker/decisions.py"
GATEKEEPER = "functions/worker/gatekeeper.py"
LEASES = "functions/worker/leases.py"
PACE = "functions/worker/pace.py"
TURN = "layers/shared/turnqueue/turn.py"
USAGE = "layers/shared/turnqueue/usage.py"
GATE = "layers/shared/turnqueue/gate.py"
SUBMIT = "functions/submit/submit.py"
STATUS = "functions/status/status.py"
DEADLETTER = "functions/deadletter/deadletter.py"
MEDIA = "layers/shared/turnqueue/media.py"
EVENTS = "layers/shared/turnqueue/events.py"


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    changes: tuple[tuple[str, str], ...]
    """What is replaced by what. Each must be found exactly once."""


class Inapplicable(Exception):
    """The product has changed: a patch must be written anew."""


class HuntFailed(Exception):
    """The hunt did not come to an end of its own."""


def mutant(name: str, file: str, *changes: tuple[str, str]) -> Mutant:
    return Mutant(name, file, changes)


MUTANTS = [
    mutant(
        "the claim has no condition on the state",
        STORE,
        ('condition=f"{_UNHELD} AND {_BUDGETED}', 'condition=f"{_BUDGETED}'),
        (
            '''                    "pending": Status.PENDING,
                    "started": Status.STARTED,
                    "now": now,
                    "max_attempts"''',
            '''                    "now": now,
                    "max_attempts"''',
        ),
    ),
    mutant(
        "the lease is ignored",
        STORE,
        (
            '(#status = :pending OR (#status = :started AND #lease_until < :now))"',
            '(#status = :pending OR (#status = :started AND NOT #lease_until = :now))"',
        ),
    ),
    mutant(
        "the message is deleted before the turn is final",
        INVOCATION,
        (
            "                decision = await self._run_turn(decode(message.body), message.deliveries)",
            "                await self._delete(message)\n                decision = await self._run_turn(decode(message.body), 1)",
        ),
    ),
    mutant(
        "the end of an attempt does not ask whose attempt it is",
        STORE,
        (
            '_OURS = "#status = :started AND #attempt = :attempt"',
            '_OURS = "#status = :started AND #attempt >= :attempt"',
        ),
    ),
    mutant(
        "the end of an attempt has no condition but that the turn is there",
        STORE,
        (
            '_OURS = "#status = :started AND #attempt = :attempt"',
            '_OURS = "NOT #status = :started OR #attempt > :attempt OR #status = :started"',
        ),
    ),
    mutant(
        "the request is answered before its message is sent",
        SUBMIT,
        ("def submit(", "_unsent: list[Key] = []\n\n\ndef submit("),
        (
            "        return turn if turn.final else _queue_or_close(turn), False",
            "        for earlier in _unsent:\n            queue.send(earlier)\n        _unsent[:] = [turn.key]\n        return turn, False",
        ),
    ),
    mutant(
        "a failed send is swallowed",
        SUBMIT,
        (
            "    except (BotoCoreError, ClientError) as error:\n        try:\n            store.fail",
            "    except (BotoCoreError, ClientError) as error:\n        return turn\n        try:\n            store.fail",
        ),
    ),
    mutant(
        "a send that failed with a key is answered 202",
        SUBMIT,
        (
            "        # The turn stays PENDING. Another",
            "        return turn, False\n        # The turn stays PENDING. Another",
        ),
    ),
    mutant(
        "the histories of a batch are read before its first claim",
        ATTEMPT,
        (
            "history = [] if turn.begins_session else await asyncio.to_thread(recall, time.time())",
            "history = _early.setdefault(turn.key.session, await asyncio.to_thread(recall, time.time()))",
        ),
        ("class Attempt:", "_early: dict[str, list[Turn]] = {}\n\n\nclass Attempt:"),
    ),
    mutant(
        "the later turns of a session are run though the first must come back",
        INVOCATION,
        (
            """                del self._sessions[group]
                await self._give_back(session, decision.seconds)
                return
""",
            """                session.popleft()
                await self._give_back([message], decision.seconds)
                continue
""",
        ),
    ),
    mutant(
        "the sessions of a batch are run one after the other",
        INVOCATION,
        (
            "            running = self._group.create_task(self._run_session(message.group))",
            "            running = self._group.create_task(_one_by_one(self._run_session(message.group)))",
        ),
        (
            "async def _flush_until",
            """_lock = asyncio.Lock()


async def _one_by_one(session: Any) -> None:
    async with _lock:
        await session


async def _flush_until""",
        ),
    ),
    mutant(
        "a reader does not end what is overdue",
        STORE,
        ("        if not turn.overdue(now):\n            return turn", "        return turn"),
    ),
    mutant(
        "a reader ends what is overdue without a condition",
        STORE,
        ('f"{_UNFINISHED} AND #deadline_at <= :now"', '"#deadline_at <= :now"'),
    ),
    mutant(
        "a released turn stays STARTED until its lease is over",
        STORE,
        (
            'changes: dict[str, Any] = {"status": Status.PENDING}',
            'changes: dict[str, Any] = {"lease_until": claimed.lease_until}',
        ),
        (
            'remove=("lease_until", "progress", *(() if place_at is not None',
            'remove=("progress", *(() if place_at is not None',
        ),
    ),
    mutant(
        "a turn that goes back keeps the visibility of its lease",
        INVOCATION,
        ("        if seconds is not None:", "        if seconds is None:"),
        ("await self._change_visibility(messages, seconds)", "await self._change_visibility(messages, LEASE_SECONDS)"),
    ),
    mutant(
        "the Idempotency-Key is reserved after the turn is recorded",
        SUBMIT,
        (
            "    wanted = Reservation(turn.key.task_id, fingerprint)\n",
            "    wanted = Reservation(turn.key.task_id, fingerprint)\n    store.create(turn)\n    queue.send(turn.key)\n",
        ),
    ),
    mutant(
        "a replay does not send again what is PENDING",
        SUBMIT,
        ("        if earlier and earlier.status is not Status.PENDING:", "        if earlier:"),
    ),
    mutant(
        "an Idempotency-Key is taken whatever the body",
        SUBMIT,
        ("        if bound.fingerprint != wanted.fingerprint:", "        if not bound.fingerprint:"),
    ),
    mutant(
        "the owner is taken from a header of the client's",
        "layers/shared/turnqueue/http.py",
        (
            '    sub = _claims(event).get("sub", "")',
            '    sub = event["headers"].get("x-owner") or _claims(event).get("sub", "")',
        ),
    ),
    mutant(
        "the owner is taken from the body",
        SUBMIT,
        (
            "    key = Key(session_key(caller,",
            '    caller = (request.metadata or {}).get("owner", caller)\n    key = Key(session_key(caller,',
        ),
    ),
    mutant(
        "an error that may pass deletes the message",
        DECISIONS,
        ("            return back(refused_wait, is_refund=True)", "            return DONE"),
    ),
    mutant(
        "a duplicate deletes the message of a turn that another works on",
        DECISIONS,
        (
            "            return back(min((current.lease_until or now) - now + 1, MOST_HIDDEN_SECONDS))",
            "            return DONE",
        ),
    ),
    mutant(
        "the failures of a batch are not reported",
        WORKER,
        ('[{"itemIdentifier": message_id} for message_id in unfinished]', "[]"),
    ),
    mutant(
        "a cancellation overwrites a final state",
        STORE,
        (
            '_UNCLAIMED if code == "enqueue_failed" else _UNHELD)',
            '"attribute_exists(#status)" if code == "cancelled" else _UNHELD)',
        ),
    ),
    mutant(
        "a dead letter overwrites a final state",
        STORE,
        (
            '_UNCLAIMED if code == "enqueue_failed" else _UNHELD)',
            '"attribute_exists(#status)" if code == "worker_lost" else _UNHELD)',
        ),
    ),
    mutant(
        "a dead letter whose turn cannot be closed is dropped",
        DEADLETTER,
        (
            'extra={"task_id": key.task_id, "error": error_name(error)})\n        return False',
            'extra={"task_id": key.task_id, "error": error_name(error)})\n        return True',
        ),
    ),
    mutant(
        "the prompt is logged",
        SUBMIT,
        (
            'logger.info("task submitted", extra={"task_id": turn.key.task_id, "wait": wait})',
            'logger.info("task submitted", extra={"task_id": turn.key.task_id, "code": turn.request["message"]})',
        ),
    ),
    mutant(
        "the text of the model's error is logged",
        ATTEMPT,
        ('"attempt": turn.attempt, "code": error.code}', '"attempt": turn.attempt, "code": str(error.__cause__)}'),
    ),
    mutant(
        "the prompt is in the message",
        SUBMIT,
        ("import os\n", "import json\nimport os\n"),
        (
            "        queue.send(turn.key)\n    except (BotoCoreError, ClientError) as error:\n        try:",
            """        queue._client.send_message(
            QueueUrl=queue._url,
            MessageBody=json.dumps(turn.key._asdict() | {"text": turn.request["message"]}),
            MessageGroupId=turn.key.group,
            MessageDeduplicationId=turn.key.task_id,
        )
    except (BotoCoreError, ClientError) as error:
        try:""",
        ),
    ),
    mutant(
        "a sync request whose time is up is answered 504",
        SUBMIT,
        (
            '        count("SyncWaitTimedOut")',
            '        count("SyncWaitTimedOut")\n        raise Problem("unavailable", "The task was not finished in time.", status=504)',
        ),
    ),
    mutant(
        "a read that fails ends a waiting request",
        "layers/shared/turnqueue/wait.py",
        ('            logger.warning("read failed"', '            raise\n            logger.warning("read failed"'),
    ),
    mutant(
        "the Idempotency-Key of one owner is that of all",
        "layers/shared/turnqueue/idempotency.py",
        ('f"{owner}\\n{key}"', "key"),
    ),
    mutant(
        "a reply that is kept for one owner is given to all",
        "layers/shared/turnqueue/replies.py",
        ('guard_key("reply", owner)', '"reply#of all"'),
    ),
    mutant(
        "a message in a conversation is answered by what was kept",
        SUBMIT,
        ("    if allowed.keeps and begins:", "    if allowed.keeps:"),
    ),
    mutant(
        "the answer is kept in the guards table",
        ATTEMPT,
        ("replies.keep, reply, turn.key,", 'replies.keep, reply, turn.key._replace(session=f"{answer}#"),'),
        ("await self._keep_reply()", "await self._keep_reply(answer)"),
        ("async def _keep_reply(self)", "async def _keep_reply(self, answer: Answer)"),
    ),
    mutant(
        "a reply that was kept is given though the turn is recorded without it",
        SUBMIT,
        ("        if store.create(replied):", "        if store.create(replied) or replied:"),
    ),
    mutant(
        "each click makes a retry of its own",
        SUBMIT,
        ('or f"retry {old.task_id}"', 'or f"retry {old.task_id} {time.time()}"'),
    ),
    mutant(
        "a turn is handed back by whoever had it",
        STORE,
        (
            """("place_at",))),
                condition=_OURS_UNCANCELLED,
                values=_ours(claimed),""",
            """("place_at",))),
                condition="#status = :started",
                values={"started": Status.STARTED},""",
        ),
    ),
    mutant(
        "a turn is begun as often as its workers die",
        STORE,
        ('"max_attempts": MAX_ATTEMPTS,', '"max_attempts": 3 * MAX_ATTEMPTS,'),
    ),
    mutant(
        "a turn is begun past its deadline",
        STORE,
        ("AND {_BUDGETED} AND #deadline_at > :now", "AND {_BUDGETED}"),
    ),
    mutant(
        "the last attempt of a turn goes to a model that is down",
        ATTEMPT,
        ("        is_last = turn.attempt >= turn.last_attempt", "        is_last = False"),
    ),
    mutant(
        "an open gate is not looked at",
        GATEKEEPER,
        ("        if wait := self._wait(now):\n            return wait\n        passed", "        passed"),
    ),
    mutant(
        "a lease is not renewed",
        LEASES,
        ("        if not turns and not messages:", "        turns = []\n        if not messages:"),
    ),
    mutant(
        "the turns behind one that goes back keep the visibility of their lease",
        INVOCATION,
        ("await self._give_back(session, decision.seconds)", "await self._give_back([message], decision.seconds)"),
    ),
    mutant(
        "a poll is abandoned when the last turn is over",
        INVOCATION,
        (
            "                self._begin(await self._intake.poll(min(self._free, MOST_AT_ONCE)))",
            """                poll = asyncio.create_task(self._intake.poll(min(self._free, MOST_AT_ONCE)))
                while self._running and not poll.done():
                    await asyncio.wait([poll, *self._running], return_when=asyncio.FIRST_COMPLETED)
                if poll.done():
                    self._begin(poll.result())""",
        ),
    ),
    mutant(
        "a failed poll is not repeated as the same attempt",
        INTAKE,
        ("        if not self._failures or now >= self._attempt_until:", "        if True:"),
    ),
    mutant(
        "messages that the worker has taken itself are reported as failed",
        INVOCATION,
        (
            "        return [message.id for message in batch if message.id in self._unfinished]",
            "        return sorted(self._unfinished)",
        ),
    ),
    mutant(
        "a message runs beside the others of its session",
        INVOCATION,
        (
            """            if (session := self._sessions.get(message.group)) is not None:
                session.append(message)
                continue
            self._sessions[message.group] = deque([message])
            running = self._group.create_task(self._run_session(message.group))""",
            """            self._sessions[message.id] = deque([message])
            running = self._group.create_task(self._run_session(message.id))""",
        ),
    ),
    mutant(
        "a worker takes turns until its end",
        INVOCATION,
        (" and time.time() < self._takes_until):", "):"),
    ),
    mutant(
        "a turn that goes back keeps its slot",
        INVOCATION,
        (
            "                del self._sessions[group]\n                await",
            '                self._sessions[f"{message.id} is gone"] = self._sessions.pop(group)\n                await',
        ),
    ),
    mutant(
        "the messages that the worker has taken itself are not renewed",
        INVOCATION,
        (
            "        self._services.leases.hold_messages([message.handle for message in messages])",
            """        if not self._running:
            self._services.leases.hold_messages([message.handle for message in messages])""",
        ),
    ),
    mutant(
        "metrics are written at the end of an invocation only",
        INVOCATION,
        ("await asyncio.wait_for(stop.wait(), FLUSH_SECONDS)", "await stop.wait()"),
    ),
    mutant(
        "a worker goes by the history that it knows of a session",
        ATTEMPT,
        (
            "        history = [] if turn.begins_session else await asyncio.to_thread(recall, time.time())",
            """        history = _known.get(turn.key.session) or await asyncio.to_thread(recall, time.time())
        _known[turn.key.session] = history""",
        ),
        (
            "        await self._settle(answer.usage, is_final=True, answers=1)",
            """        told = turn._replace(status=Status.SUCCESS, result=answer.result)
        _known[turn.key.session] = [*_known.get(turn.key.session, []), told]
        await self._settle(answer.usage, is_final=True, answers=1)""",
        ),
        ("class Attempt:", "_known: dict[str, list[Turn]] = {}\n\n\nclass Attempt:"),
        ("from turnqueue.turn import Turn\n", "from turnqueue.turn import Status, Turn\n"),
    ),
    mutant(
        "a turn is taken for the first of its session whenever it may be",
        SUBMIT,
        ("    begins = request.session_id is None", "    begins = not request.session_id or not idempotency_key"),
    ),
    mutant(
        "a refusal uses up an attempt",
        STORE,
        ("        if is_refund:\n", "        if place_at:\n"),
    ),
    mutant(
        "a task that waited for its model says that its time was up",
        TURN,
        ('return self.last_refusal or "deadline_exceeded"', 'return "deadline_exceeded"'),
    ),
    mutant(
        "an open gate is not looked at once the process knows it",
        GATEKEEPER,
        ("if gate.phase(now) is Phase.OPEN)", "if gate.phase(now) is None)"),
    ),
    mutant(
        "every worker probes at once",
        GATE,
        (
            "        return self._replace(open_until=_millis(now + PROBE_LEASE_SECONDS))",
            "        return self._replace(open_until=_millis(now))",
        ),
    ),
    mutant(
        "a probe keeps the others waiting for ever",
        GATE,
        ("PROBE_LEASE_SECONDS = 15.0", "PROBE_LEASE_SECONDS = 1500.0"),
    ),
    mutant(
        "a turn waits for its model as long as the provider asks",
        DECISIONS,
        ("    return wait if wait < MOST_HIDDEN_SECONDS else", "    return wait if wait < 1000 else"),
        ("2.0 ** min(refusals, 10)", "2.0 ** min(4 + refusals, 10)"),
    ),
    mutant(
        "a turn below a known rate does not wait for its place",
        PACE,
        ("max(grant.full_after - self._rate.interval, 0)", "0"),
    ),
    mutant(
        "the model is told the oldest turns",
        STORE,
        (
            "ScanIndexForward=False,\n                Limit=limit,",
            "ScanIndexForward=True,\n                Limit=limit,",
        ),
    ),
    mutant(
        "the model is told fewer turns than it may be",
        ATTEMPT,
        ("limit=HISTORY_TURNS,", "limit=5,"),
    ),
    mutant(
        "the model is told the answers before the messages that got them",
        STORE,
        ("        return found[:limit][::-1]", "        return found[:limit]"),
    ),
    mutant(
        "a cancelled turn keeps its reservation of tokens",
        STORE,
        ("        self._settle(turn, now)\n        return turn\n", "        return turn\n"),
    ),
    mutant(
        "the end of a turn takes its reservation back twice",
        USAGE,
        ('counts["completion_tokens"] - reserved\n', 'counts["completion_tokens"] - 2 * reserved\n'),
    ),
    mutant(
        "the tokens of an answer are not charged",
        USAGE,
        (
            'charge = counts["prompt_tokens"] + counts["completion_tokens"] - reserved',
            'charge = counts["prompt_tokens"] - reserved',
        ),
    ),
    mutant(
        "a quota of tokens is not looked at",
        USAGE,
        ('OR {_CHARGED} < :quota"', 'OR NOT {_CHARGED} = :quota"'),
    ),
    mutant(
        "queued messages reserve no tokens",
        SUBMIT,
        (
            "turn = turn._replace(begins_session=begins, reserved_tokens=tokens)",
            "turn = turn._replace(begins_session=begins)",
        ),
    ),
    mutant(
        "a finished turn keeps its reservation of tokens",
        ATTEMPT,
        (
            "await self._settle(answer.usage, is_final=True, answers=1)",
            "await self._settle(answer.usage, is_final=False, answers=1)",
        ),
    ),
    mutant(
        "a failed turn keeps its reservation of tokens",
        ATTEMPT,
        ("await self._settle(self._used(), is_final=True)", "await self._settle(self._used(), is_final=False)"),
    ),
    mutant(
        "an image that S3 does not give now is taken for one that is missing",
        MEDIA,
        ('in ("NoSuchKey", "AccessDenied"):', 'in ("NoSuchKey", "AccessDenied", "InternalServerError"):'),
    ),
    mutant(
        "an image that is missing brings the turn back",
        MEDIA,
        ('in ("NoSuchKey", "AccessDenied"):', 'in ("NoSuchKey",):'),
    ),
    mutant(
        "a row takes the place of another",
        EVENTS,
        (
            'ConditionExpression="attribute_not_exists(#task)"',
            'ConditionExpression="attribute_not_exists(#task) OR attribute_exists(#task)"',
        ),
    ),
    mutant(
        "a lost worker goes on writing to the log",
        EVENTS,
        ("if there.attempt > self._turn.attempt:", "if there.attempt > self._turn.attempt + 9:"),
    ),
    mutant(
        "a new attempt does not void the text of the one before",
        EVENTS,
        ("= (last.n + 1, True) if last", "= (last.n + 1, False) if last"),
    ),
    mutant(
        "a row that has taken effect unheard is not looked at",
        EVENTS,
        (
            "self._take(self._log.put(self._turn.key, event, now))",
            "self._log.put(self._turn.key, event, now)\n            self._take(event)",
        ),
    ),
    mutant(
        "rows are told after the end",
        STATUS,
        ("    if turn.final:\n        found = [done(", "    if turn.final and not rows:\n        found = [done("),
    ),
    mutant(
        "a reader that comes back misses a row",
        STATUS,
        ("rows = [] if after == END else log.after(key, after or 0)", "rows = log.after(key, (after or -1) + 1)"),
    ),
    mutant(
        "a gap in what DynamoDB knows is passed over",
        EVENTS,
        (
            "return [row for number, row in enumerate(map(_event, items), n + 1) if row.n == number]",
            "return [_event(item) for item in items]",
        ),
    ),
    mutant(
        "a cancellation is not told to the worker",
        STORE,
        ("                if self._log:\n                    self._log.ask_to_cancel(turn, now)\n", ""),
    ),
]


def plant(planted: Mutant, place: Path) -> None:
    """Copy the product to `place` with the bug in it."""
    for folder in ("functions", "layers"):
        shutil.copytree(cfn.ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    file = place / planted.file
    text = file.read_text()
    for old, new in planted.changes:
        if text.count(old) != 1:
            raise Inapplicable(f"{planted.name}: {planted.file} holds {text.count(old)} times: {old}")
        text = text.replace(old, new)
    compile(text, str(file), "exec")
    file.write_text(text)


def hunt(planted: Mutant) -> tuple[str, str]:
    """By what a planted bug is caught, and in what; nothing, if it lives. Raises HuntFailed."""
    with tempfile.TemporaryDirectory() as folder:
        plant(planted, Path(folder))
        environment = {**os.environ, "FAULTS_SOURCE": folder}
        command = [sys.executable, "-m", "tests.faults.hunt"]
        try:
            ran = subprocess.run(
                command, cwd=cfn.ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise HuntFailed(f"no end of the hunt in {SECONDS} s") from None
    if ran.returncode:
        raise HuntFailed(f"the hunt ended with {ran.returncode}: {ran.stderr[-2000:]}")
    caught = json.loads(ran.stdout.splitlines()[-1])
    return caught["by"], caught["in"]


def main() -> int:
    wanted = [word for word in sys.argv[1:] if not word.startswith("-")]
    chosen = [planted for planted in MUTANTS if all(word in planted.name for word in wanted)]
    rows: list[str] = []
    with ThreadPoolExecutor(os.process_cpu_count()) as pool:
        hunts = [pool.submit(hunt, planted) for planted in chosen]
        for planted, hunted in zip(chosen, hunts, strict=True):
            try:
                by, where = hunted.result()
            except (Inapplicable, HuntFailed) as error:
                print(f"FAILED  {planted.name}: {error}", flush=True)
                continue
            if by:
                rows.append(f"| {planted.name} | {by} | {where} |")
                print(f"caught  {planted.name}: by {by}, in {where}", flush=True)
            else:
                print(f"LIVES   {planted.name}", flush=True)
    print(f"{len(rows)} of {len(chosen)} caught")
    if "--write" in sys.argv and chosen == MUTANTS:
        write(rows)
    return 0 if len(rows) == len(chosen) else 1


def write(rows: list[str]) -> None:
    """Put the table of the mutants into the README."""
    table = "\n".join(["| planted bug | caught by | in |", "| --- | --- | --- |", *rows])
    text = README.read_text()
    README.write_text(
        re.sub(r"\| planted bug \|.*?(?=\n\n|\Z)", lambda match: table, text.rstrip(), flags=re.DOTALL) + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
