"""Planted bugs, each of which the simulation must catch: `python -m tests.faults.mutants`.

A checker that cannot fail is worthless. Every mutant is a copy of functions/ and layers/ with one bug. The stories,
races and histories run with it until a check fails. Prints the check that caught each mutant, and `N of N caught`;
exits with 1 if a mutant survives. `--write` puts the table into README.md.
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
from itertools import batched
from pathlib import Path

from development import cfn

README = Path(__file__).parent / "README.md"
SECONDS = 900


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    changes: tuple[tuple[str, ...], ...]
    """What is replaced by what. Each must be found exactly once."""


class Inapplicable(Exception):
    """The product has changed, so a text of the bug is no longer there exactly once."""


class HuntFailed(Exception):
    """The hunt failed, or did not end in time."""


BUGS: dict[str, dict[str, tuple[str, ...]]] = {
    "layers/shared/turnqueue/store.py": {
        "the claim does not check the state": (
            'condition=f"{_UNHELD} AND {_BUDGETED}',
            'condition=f"{_BUDGETED}',
            '''                    "pending": Status.PENDING,
                    "started": Status.STARTED,
                    "now": now,
                    "max_attempts"''',
            '''                    "now": now,
                    "max_attempts"''',
        ),
        "the claim ignores the lease": (
            '(#status = :pending OR (#status = :started AND #lease_until < :now))"',
            '(#status = :pending OR (#status = :started AND NOT #lease_until = :now))"',
        ),
        "the end of an attempt does not check that the worker has the claim": (
            '_OURS = "#status = :started AND #attempt = :attempt"',
            '_OURS = "#status = :started AND #attempt >= :attempt"',
        ),
        "the end of an attempt only checks that the turn exists": (
            '_OURS = "#status = :started AND #attempt = :attempt"',
            '_OURS = "NOT #status = :started OR #attempt > :attempt OR #status = :started"',
        ),
        "a reader does not end an overdue turn": (
            "        if not turn.overdue(now):\n            return turn",
            "        return turn",
        ),
        "a reader ends an overdue turn without a condition": (
            'f"{_UNFINISHED} AND #deadline_at <= :now"',
            '"#deadline_at <= :now"',
        ),
        "a turn that is returned to the queue stays STARTED until its lease ends": (
            'changes: dict[str, Any] = {"status": Status.PENDING}',
            'changes: dict[str, Any] = {"lease_until": claimed.lease_until}',
            'remove=("lease_until", "progress", *(() if place_at is not None',
            'remove=("progress", *(() if place_at is not None',
        ),
        "a cancellation overwrites a final state": (
            '_UNCLAIMED if code == "enqueue_failed" else _UNHELD)',
            '"attribute_exists(#status)" if code == "cancelled" else _UNHELD)',
        ),
        "a dead letter overwrites a final state": (
            '_UNCLAIMED if code == "enqueue_failed" else _UNHELD)',
            '"attribute_exists(#status)" if code == "worker_lost" else _UNHELD)',
        ),
        "a worker that has lost a turn can return the turn to the queue": (
            """("place_at",))),
                condition=_OURS_UNCANCELLED,
                values=_ours(claimed),""",
            """("place_at",))),
                condition="#status = :started",
                values={"started": Status.STARTED},""",
        ),
        "a turn has three times as many attempts as it should": (
            '"max_attempts": MAX_ATTEMPTS,',
            '"max_attempts": 3 * MAX_ATTEMPTS,',
        ),
        "a worker begins a turn past its deadline": ("AND {_BUDGETED} AND #deadline_at > :now", "AND {_BUDGETED}"),
        "a refused call counts as an attempt": ("        if is_refund:\n", "        if place_at:\n"),
        "the model gets the oldest turns and not the newest": (
            "ScanIndexForward=False,\n                Limit=limit,",
            "ScanIndexForward=True,\n                Limit=limit,",
        ),
        "the model gets the history in reverse order": (
            "        return found[:limit][::-1]",
            "        return found[:limit]",
        ),
        "a cancelled turn keeps its reservation of tokens": (
            "        self._settle(turn, now)\n        return turn\n",
            "        return turn\n",
        ),
        "a cancellation of a running turn writes no row to the event log": (
            "                if self._log:\n                    self._log.ask_to_cancel(turn, now)\n",
            "",
        ),
        "two requests can send results for the same function calls": (
            "OR #answered_by IN (:turn, :earlier))",
            "OR #answered_by <> :turn OR #answered_by <> :earlier)",
        ),
    },
    "functions/worker/invocation.py": {
        "the message is deleted before the turn is final": (
            "                decision = await self._run_turn(decode(message.body), message.deliveries)",
            "                await self._delete(message)\n                decision = await self._run_turn(decode(message.body), 1)",
        ),
        "the worker runs a session's later turns although an earlier turn was returned": (
            """                del self._sessions[group]
                await self._give_back(session, decision.seconds)
                return
""",
            """                session.popleft()
                await self._give_back([message], decision.seconds)
                continue
""",
        ),
        "the worker runs the sessions of a batch one after the other": (
            "            running = self._group.create_task(self._run_session(message.group))",
            "            running = self._group.create_task(_one_by_one(self._run_session(message.group)))",
            "async def _flush_until",
            """_lock = asyncio.Lock()


async def _one_by_one(session: Any) -> None:
    async with _lock:
        await session


async def _flush_until""",
        ),
        "the message of a returned turn stays hidden until the lease ends": (
            "        if seconds is not None:",
            "        if seconds is None:",
            "await self._change_visibility(messages, seconds)",
            "await self._change_visibility(messages, LEASE_SECONDS)",
        ),
        "if a turn is returned, the later messages of its session stay hidden": (
            "await self._give_back(session, decision.seconds)",
            "await self._give_back([message], decision.seconds)",
        ),
        "the worker abandons a running receive when its last turn ends": (
            "                self._begin(await self._intake.poll(min(self._free, MOST_AT_ONCE)))",
            """                poll = asyncio.create_task(self._intake.poll(min(self._free, MOST_AT_ONCE)))
                while self._running and not poll.done():
                    await asyncio.wait([poll, *self._running], return_when=asyncio.FIRST_COMPLETED)
                if poll.done():
                    self._begin(poll.result())""",
        ),
        "the worker's report of failed messages includes messages that it received itself": (
            "        return [message.id for message in batch if message.id in self._unfinished]",
            "        return sorted(self._unfinished)",
        ),
        "the messages of a session run at the same time": (
            """            if (session := self._sessions.get(message.group)) is not None:
                session.append(message)
                continue
            self._sessions[message.group] = deque([message])
            running = self._group.create_task(self._run_session(message.group))""",
            """            self._sessions[message.id] = deque([message])
            running = self._group.create_task(self._run_session(message.id))""",
        ),
        "a worker takes new turns until its timeout": (" and time.time() < self._takes_until):", "):"),
        "a turn that is returned to the queue keeps a slot of the worker": (
            "                del self._sessions[group]\n                await",
            '                self._sessions[f"{message.id} is gone"] = self._sessions.pop(group)\n                await',
        ),
        "the worker does not renew the visibility of messages that it received itself": (
            "        self._services.leases.hold_messages([message.handle for message in messages])",
            """        if not self._running:
            self._services.leases.hold_messages([message.handle for message in messages])""",
        ),
    },
    "functions/submit/submit.py": {
        "`submit` answers before it sends the message": (
            "def submit(",
            "_unsent: list[Key] = []\n\n\ndef submit(",
            "        return turn if turn.final else _queue_or_close(turn), False",
            "        for earlier in _unsent:\n            queue.send(earlier)\n        _unsent[:] = [turn.key]\n        return turn, False",
        ),
        "`submit` ignores a failed send": (
            "    except (BotoCoreError, ClientError) as error:\n        try:\n            store.fail",
            "    except (BotoCoreError, ClientError) as error:\n        return turn\n        try:\n            store.fail",
        ),
        "`submit` answers 202 although the send failed, if the request has a key": (
            "        # The turn stays PENDING, because another",
            "        return turn, False\n        # The turn stays PENDING, because another",
        ),
        "`submit` reserves the Idempotency-Key after it records the turn": (
            "    bound = keys.reserve(",
            "    store.create(turn)\n    queue.send(turn.key)\n    bound = keys.reserve(",
        ),
        "`submit` does not queue the PENDING turn of a repeated request again": (
            "        if earlier and earlier.status is not Status.PENDING:",
            "        if earlier:",
        ),
        "`submit` does not compare a request with the first one of the same Idempotency-Key": (
            "        if bound.fingerprint != wanted.fingerprint:",
            "        if not bound.fingerprint:",
        ),
        "`submit` takes the owner from the body": (
            "    key = Key(session_key(caller,",
            '    caller = (request.metadata or {}).get("owner", caller)\n    key = Key(session_key(caller,',
        ),
        "`submit` logs the prompt": (
            'logger.info("task submitted", extra={"task_id": turn.key.task_id, "wait": wait})',
            'logger.info("task submitted", extra={"task_id": turn.key.task_id, "code": turn.request["message"]})',
        ),
        "the queue message contains the prompt": (
            "import os\n",
            "import json\nimport os\n",
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
        "`submit` answers a sync request with 504 when the wait ends": (
            '        count("SyncWaitTimedOut")',
            '        count("SyncWaitTimedOut")\n        raise Problem("unavailable", "The task was not finished in time.", status=504)',
        ),
        "the cache answers a later message of a conversation": (
            "    if allowed.keeps and begins:",
            "    if allowed.keeps:",
        ),
        "`submit` returns a cached reply, but the turn is recorded without the reply": (
            "        if store.create(replied):",
            "        if store.create(replied) or replied:",
        ),
        'each click on "retry" makes another task': (
            'or f"retry {old.task_id}"',
            'or f"retry {old.task_id} {time.time()}"',
        ),
        "`submit` marks later turns as the first turn of their session": (
            "    begins = request.session_id is None",
            "    begins = not request.session_id or not key_of_client",
        ),
        "`submit` reserves no tokens": (
            "turn = turn._replace(begins_session=begins, reserved_tokens=tokens)",
            "turn = turn._replace(begins_session=begins)",
        ),
        "a turn is recorded before its images are stored": (
            "    for upload_id, url in data_urls.items():\n        uploads.put_data_url(turn.key.owner, upload_id, url)\n",
            "",
            "        _give_back(turn)\n    return turn",
            """        _give_back(turn)
    for upload_id, url in data_urls.items():
        uploads.put_data_url(turn.key.owner, upload_id, url)
    return turn""",
        ),
        "a turn is recorded although S3 did not store its image": (
            "        uploads.put_data_url(turn.key.owner, upload_id, url)\n",
            """        try:
            uploads.put_data_url(turn.key.owner, upload_id, url)
        except (BotoCoreError, ClientError):
            pass
""",
        ),
    },
    "functions/worker/attempt.py": {
        "the worker reads the histories of a batch before its first claim": (
            "history = [] if turn.begins_session else await asyncio.to_thread(recall, time.time())",
            "history = _early.setdefault(turn.key.session, await asyncio.to_thread(recall, time.time()))",
            "class Attempt:",
            "_early: dict[str, list[Turn]] = {}\n\n\nclass Attempt:",
        ),
        "the cache stores the answer in the guards table": (
            "replies.keep, reply, turn.key,",
            'replies.keep, reply, turn.key._replace(session=f"{answer}#"),',
            "await self._keep_reply()",
            "await self._keep_reply(answer)",
            "async def _keep_reply(self)",
            "async def _keep_reply(self, answer: Answer)",
        ),
        "the last attempt of a turn goes to a model that is down": (
            "        is_last = turn.attempt >= turn.last_attempt",
            "        is_last = False",
        ),
        "a worker answers from a history that it read earlier": (
            "        history = [] if turn.begins_session else await asyncio.to_thread(recall, time.time())",
            """        history = _known.get(turn.key.session) or await asyncio.to_thread(recall, time.time())
        _known[turn.key.session] = history""",
            "        await self._settle(answer.usage, is_final=True, answers=1)",
            """        told = turn._replace(status=Status.SUCCESS, result=answer.result)
        _known[turn.key.session] = [*_known.get(turn.key.session, []), told]
        await self._settle(answer.usage, is_final=True, answers=1)""",
            "class Attempt:",
            "_known: dict[str, list[Turn]] = {}\n\n\nclass Attempt:",
            "from turnqueue.turn import Turn\n",
            "from turnqueue.turn import Status, Turn\n",
        ),
        "the model gets only five turns of the history": ("limit=HISTORY_TURNS,", "limit=5,"),
        "a finished turn keeps its reservation of tokens": (
            "await self._settle(answer.usage, is_final=True, answers=1)",
            "await self._settle(answer.usage, is_final=False, answers=1)",
        ),
        "a failed turn keeps its reservation of tokens": (
            "await self._settle(self._used(), is_final=True)",
            "await self._settle(self._used(), is_final=False)",
        ),
    },
    "layers/shared/turnqueue/http.py": {
        "`submit` takes the owner from a header of the client": (
            '    sub = _claims(event).get("sub", "")',
            '    sub = event["headers"].get("x-owner") or _claims(event).get("sub", "")',
        ),
    },
    "functions/worker/decisions.py": {
        "the worker deletes a message after a temporary error": (
            "            return back(refused_wait, is_refund=True)",
            "            return DONE",
        ),
        "the worker deletes a duplicate message while another worker runs the turn": (
            "            return back(min((current.lease_until or now) - now + 1, MOST_HIDDEN_SECONDS))",
            "            return DONE",
        ),
        "a refused turn waits for more than a minute": (
            "    return wait if wait < MOST_HIDDEN_SECONDS else",
            "    return wait if wait < 1000 else",
            "2.0 ** min(refusals, 10)",
            "2.0 ** min(4 + refusals, 10)",
        ),
    },
    "functions/worker/worker.py": {
        "the worker does not report which messages of a batch failed": (
            '[{"itemIdentifier": message_id} for message_id in unfinished]',
            "[]",
        ),
    },
    "functions/deadletter/deadletter.py": {
        "the deadletter function drops a message whose turn it cannot close": (
            'extra={"task_id": key.task_id, "error": error_name(error)})\n        return False',
            'extra={"task_id": key.task_id, "error": error_name(error)})\n        return True',
        ),
    },
    "functions/worker/model.py": {
        "the worker logs the text of the model's error": (
            "import count, ",
            "import count, logger, ",
            "        said = refusals.parsed(await refusals.body(response))\n",
            """        said = refusals.parsed(await refusals.body(response))
        logger.warning("refused", extra={"code": str(said)})
""",
        ),
    },
    "layers/shared/turnqueue/wait.py": {
        "a failed read ends a waiting request": (
            '            logger.warning("read failed"',
            '            raise\n            logger.warning("read failed"',
        ),
    },
    "layers/shared/turnqueue/idempotency.py": {
        "owners share their Idempotency-Keys": ('f"{owner}\\n{key}"', "key"),
    },
    "layers/shared/turnqueue/replies.py": {
        "the cache serves one owner's reply to all owners": ('guard_key("reply", owner)', '"reply#of all"'),
    },
    "functions/worker/admission.py": {
        "the worker calls a model whose circuit breaker is open": (
            "            if breaker.state(now) is State.OPEN\n",
            "            if False\n",
        ),
        "the worker ignores the circuit breaker after the first read": (
            "if abs(now - self._read_at) >= READ_SECONDS:",
            "if not self._is_known:",
        ),
    },
    "functions/worker/leases.py": {
        "the worker does not renew the lease of a turn": (
            "        if not turns and not messages:",
            "        turns = []\n        if not messages:",
        ),
    },
    "functions/worker/intake.py": {
        "a failed receive is repeated with a new attempt id": (
            "        if not self._failures or now >= self._attempt_until:",
            "        if True:",
        ),
    },
    "layers/shared/turnqueue/turn.py": {
        "an overdue task reports `deadline_exceeded` and not the model's refusal": (
            'return self.last_refusal or "deadline_exceeded"',
            'return "deadline_exceeded"',
        ),
    },
    "layers/shared/turnqueue/circuit_breaker.py": {
        "every worker probes at once": (
            "        return self._replace(open_until=_millis(now + PROBE_LEASE_SECONDS))",
            "        return self._replace(open_until=_millis(now))",
        ),
        "after a lost probe, no worker probes for 25 minutes": (
            "PROBE_LEASE_SECONDS = 15.0",
            "PROBE_LEASE_SECONDS = 1500.0",
        ),
    },
    "functions/worker/pace.py": {
        "with `ModelRequestsPerMinute`, a turn does not wait for its slot": (
            "max(grant.full_after - self._rate.interval, 0)",
            "0",
        ),
    },
    "layers/shared/turnqueue/usage.py": {
        "the end of a turn subtracts its reservation twice": (
            'counts["completion_tokens"] - reserved\n',
            'counts["completion_tokens"] - 2 * reserved\n',
        ),
        "the tokens of answers do not count in the day's usage": (
            'charge = counts["prompt_tokens"] + counts["completion_tokens"] - reserved',
            'charge = counts["prompt_tokens"] - reserved',
        ),
        "`submit` ignores the quota of tokens": ('OR {_CHARGED} < :quota"', 'OR NOT {_CHARGED} = :quota"'),
    },
    "layers/shared/turnqueue/media.py": {
        "an image counts as missing although S3 only failed": (
            'in ("NoSuchKey", "AccessDenied"):',
            'in ("NoSuchKey", "AccessDenied", "InternalServerError"):',
        ),
        "the worker retries a turn whose image is missing": ('in ("NoSuchKey", "AccessDenied"):', 'in ("NoSuchKey",):'),
    },
    "layers/shared/turnqueue/events.py": {
        "a row of the event log overwrites another row": (
            'ConditionExpression="attribute_not_exists(#task)"',
            'ConditionExpression="attribute_not_exists(#task) OR attribute_exists(#task)"',
        ),
        "a worker that has lost its turn writes to the log": (
            "if there.attempt > self._turn.attempt:",
            "if there.attempt > self._turn.attempt + 9:",
        ),
        "a new attempt does not void the text of the previous one": (
            "= (last.n + 1, True) if last",
            "= (last.n + 1, False) if last",
        ),
        "the worker does not notice that another row has the same number": (
            "self._take(self._log.put(self._turn.key, event, now))",
            "self._log.put(self._turn.key, event, now)\n            self._take(event)",
        ),
    },
    "functions/status/status.py": {
        "readers get rows after the end of the answer": (
            "    if turn.final:\n        found = [done(",
            "    if turn.final and not rows:\n        found = [done(",
        ),
        "a reader that reconnects misses a row": (
            "rows = [] if after == END else log.after(key, after or 0)",
            "rows = log.after(key, (after or -1) + 1)",
        ),
    },
    "functions/submit/v1_post.py": {
        "the OpenAI API makes a new response for each request with the same key": (
            "call = partial(_Call, event, desk, idempotency_key, ends_at)",
            "call = partial(_Call, event, desk, None, ends_at)",
        ),
    },
    "layers/shared/turnqueue/v1/streams.py": {
        "a stream's first event depends on the time of the read": (
            """        fresh["x_turnqueue"] = {name: now["x_turnqueue"][name] for name in ("task_id", "session_id")}
""",
            "",
        ),
        "the events of a turn with void text change when the turn ends": (
            """            yield from self._close(turn, "incomplete")

    def _close""",
            """            if turn.final:
                yield self._of_text("response.output_text.done", text=self._text, logprobs=[])
            yield from self._close(turn, "incomplete")

    def _close""",
        ),
    },
    "functions/submit/continuation.py": {
        "`submit` accepts a result for a function call that no answer contains": (
            '                raise _mismatch(where, "has a result, but no function call waits for it")',
            "                continue",
        ),
    },
}
"""The bugs of each file: a name, then texts of the file in turn with what replaces them."""

MUTANTS = [
    Mutant(name, file, tuple(batched(texts, 2, strict=True)))
    for file, bugs in BUGS.items()
    for name, texts in bugs.items()
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
