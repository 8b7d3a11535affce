"""Computes the use of each service at a number of chats a second, and the limit that is reached first, by Little's law:
`python -m benchmarks.demand` prints the tables of docs/scale.md. The chat is small (docs/data.md): asynchronous, polled
like the JavaScript client with `wait: 0`, in a conversation of 5 turns, with an answer that streams from its first
second on. All rates are per second.
"""

import math
import statistics
from functools import cache
from statistics import NormalDist
from typing import NamedTuple

MEAN, SIGMA = 3.0, 0.5
"""The model's lognormal latency: the mean in seconds, and the standard deviation of the logarithm."""

SUBMIT_CPU, STATUS_CPU, WORKER_CPU = 0.0025, 0.0015, 0.01
"""The CPU seconds of a message, a poll and a turn, measured and rounded (benchmarks/results.md, `scale`)."""
SUBMIT_CALLS, STATUS_CALLS, WORKER_CALLS = 2, 1, 5
"""Their calls to AWS. Those of a turn: claim, history, answer, usage and deletion."""
MEMORY, MB_OF_A_CPU = 256, 1769
"""docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html: at 1,769 MB a function has one vCPU, and with less
memory a proportional share."""
NETWORK_SECONDS = 0.005
"""The wait for one call of DynamoDB or SQS. An assumption: AWS promises single-digit milliseconds."""
WORKERS, SLOTS = 10, 40
"""The defaults of WorkerConcurrency and TurnsPerWorker."""

TOKENS = 200
"""The tokens of a chat: the one in docs/api.md has 138 for its prompt and 58 for its answer."""
TURN_WRITES, GUARD_WRITES, ROW_WRITES = 3, 1, 1
HISTORY_READS, POLL_READS, WAIT_READS, LOG_READS = 1, 1, 0.5, 0.5
"""DynamoDB's units from the table in docs/data.md. Writes: record, claim and answer; usage; a row of the event log.
Reads: a poll; a read during a wait; a read of the log, by each poll of a running turn, and by its worker each 2 s."""

FIRST_POLL = 1.0
"""Seconds: the Retry-After of a 202."""

JITTER = 0.2
"""The JavaScript client waits up to this share longer than the API asks."""


def on_lambda(cpu: float, calls: float) -> float:
    """The seconds of a function with this CPU time and this number of calls to AWS."""
    return cpu * MB_OF_A_CPU / MEMORY + calls * NETWORK_SECONDS


def turn_seconds() -> float:
    """The mean seconds of a turn that is alone in its worker."""
    return MEAN + on_lambda(WORKER_CPU, WORKER_CALLS)


@cache
def full_worker(slots: int = SLOTS) -> float:
    """Chats a second of a worker whose slots are always full: turns that wait for their model, or queue for the CPU.

    A closed network of one queue and one delay, by mean value analysis (Reiser and Lavenberg, 1980)."""
    cpu = on_lambda(WORKER_CPU, 0)
    waiting, in_queue, rate = turn_seconds() - cpu, 0.0, 0.0
    for turns in range(1, slots + 1):
        at_the_cpu = cpu * (1 + in_queue)
        rate = turns / (waiting + at_the_cpu)
        in_queue = rate * at_the_cpu
    return rate


@cache
def _latencies() -> list[float]:
    """A thousand representative latencies: the middles of equal parts of the distribution."""
    logarithm = NormalDist(math.log(MEAN) - SIGMA**2 / 2, SIGMA)
    return [math.exp(logarithm.inv_cdf((index + 0.5) / 1000)) for index in range(1000)]


def waited(told: float) -> float:
    """The client's mean wait if the API asks for `seconds`: it adds half of its maximum on average."""
    return told * (1 + JITTER / 2)


def pause(age: float) -> float:
    """The seconds between two polls of a task of this age, by its `poll_after_ms`."""
    return waited(min(max(age / 4, 0.5), 5.0) if age < 60 else min(age / 12, 15.0))


def polls(seconds: float) -> int:
    """The number of polls of a task that is final after `seconds`."""
    asked, now = 1, waited(FIRST_POLL)
    while now < seconds:
        now += pause(now)
        asked += 1
    return asked


def reads_of_a_wait(seconds: float) -> int:
    """The reads of turnqueue/wait.py for a task that is final after `seconds`: first after 0.1 s, then with pauses that
    grow by 6 %, up to 1 s."""
    reads, now, pause = 0, 0.0, 0.1
    while now < seconds:
        now, pause, reads = now + pause, min(pause * 1.06, 1.0), reads + 1
    return reads


class Chat(NamedTuple):
    """The mean use of one chat."""

    seconds: float
    """Seconds from submission to answer, if the turn is alone in its worker."""
    polls: float
    rows: float
    """Writes of the event log: one a second while the answer grows."""
    reads_of_a_wait: float

    @property
    def requests(self) -> float:
        return 1 + self.polls

    @property
    def writes(self) -> float:
        """Units of the three tables."""
        return TURN_WRITES + GUARD_WRITES + self.rows * ROW_WRITES

    @property
    def turn_reads(self) -> float:
        """Units of the turns table."""
        return HISTORY_READS + self.polls * POLL_READS

    @property
    def log_reads(self) -> float:
        """Units of the event log. The last poll finds the answer."""
        return LOG_READS * (self.polls - 1 + self.seconds / 2)

    @property
    def environment_seconds(self) -> float:
        """The busy environments of submit, status and a worker with full slots for each chat a second, by Little's
        law."""
        status = on_lambda(STATUS_CPU, STATUS_CALLS)
        return on_lambda(SUBMIT_CPU, SUBMIT_CALLS) + self.polls * status + 1 / full_worker()

    @property
    def waiting_seconds(self) -> float:
        """The same in sync mode, where submit waits for the answer and nobody polls."""
        return on_lambda(SUBMIT_CPU, SUBMIT_CALLS) + self.seconds + 1 / full_worker()


@cache
def chat() -> Chat:
    extra = turn_seconds() - MEAN
    finals = [latency + extra for latency in _latencies()]
    return Chat(
        seconds=turn_seconds(),
        polls=statistics.fmean([polls(final) for final in finals]),
        rows=statistics.fmean([float(int(latency)) for latency in _latencies()]),
        reads_of_a_wait=statistics.fmean([reads_of_a_wait(final) for final in finals]),
    )


class Limit(NamedTuple):
    """`each`: the amount that one chat a second needs. `turn`: the setting that raises the limit."""

    name: str
    each: float
    limit: float
    turn: str

    @property
    def binds_at(self) -> float:
        """Chats a second."""
        return self.limit / self.each


def limits() -> list[Limit]:
    """All limits that are reached below 100,000 chats a second, in their order."""
    one, worker = chat(), 1 / full_worker()
    found = [
        Limit("model: requests a minute in tier 1", 60, 500, "the provider's tier"),
        Limit("model: requests a minute in tier 5", 60, 30_000, "ask the provider, or use several providers"),
        Limit("model: tokens a minute in tier 1", 60 * TOKENS, 200_000, "the provider's tier"),
        Limit(
            "model: tokens a minute in tier 5", 60 * TOKENS, 150_000_000, "ask the provider, or use several providers"
        ),
        Limit("`WorkerConcurrency`, default", worker, WORKERS, "`WorkerConcurrency`"),
        Limit("`WorkerConcurrency`, maximum", worker, 1000, "use a second stack, or provisioned pollers"),
        Limit("Lambda's concurrency, new account", one.environment_seconds, 10, "Service Quotas"),
        Limit("Lambda's concurrency", one.environment_seconds, 1000, "Service Quotas"),
        Limit(
            "Lambda's concurrency, sync mode", one.waiting_seconds, 1000, "`FeatureAsyncChatEnabled`, Service Quotas"
        ),
        Limit("`ApiRequestsPerSecond`, default", one.requests, 1000, "`ApiRequestsPerSecond`"),
        Limit("API Gateway, account", one.requests, 10_000, "Service Quotas"),
        Limit(
            "Lambda's requests a second", one.requests, 10_000, "raise Lambda's concurrency: this limit is 10 x as high"
        ),
        *_table_limits("turns table", TURN_WRITES, one.turn_reads),
        *_table_limits("event log", one.rows, one.log_reads),
        *_table_limits("guards table", GUARD_WRITES, 0),
        Limit("SQS FIFO without high throughput", 1, 300, "no action: the template switches high throughput on"),
        Limit("SQS FIFO: calls of one kind, in most regions", 1, 2400, "choose another region, or ask Service Quotas"),
        Limit("SQS FIFO: calls of one kind, in the largest regions", 1, 70_000, "a second queue"),
        Limit("messages in flight", one.seconds, 120_000, "a second queue"),
    ]
    return sorted(found, key=lambda limit: limit.binds_at)


def _table_limits(table: str, writes: float, reads: float) -> list[Limit]:
    limits = []
    for what, each, new in (("writes", writes, 4000), ("reads", reads, 12_000)):
        if each:
            limits.append(
                Limit(f"{table}: {what} of a new table", each, new, "set warm throughput, or let the load grow slowly")
            )
            limits.append(Limit(f"{table}: quota of {what}", each, 40_000, "Service Quotas"))
    return limits


def row(rate: float) -> list[str]:
    """A row of the table of loads, for `rate` chats a second."""
    one = chat()
    return [
        f"{rate:,.0f}",
        number(rate),
        number(rate * one.polls),
        number(rate * turn_seconds()),
        number(rate / full_worker()),
        number(rate * one.seconds),
        number(rate),
        number(rate * one.writes),
        number(rate * (one.turn_reads + one.log_reads)),
        number(rate * 60),
        number(rate * 60 * TOKENS),
    ]


HEAD = [
    "chats/s",
    "submit/s",
    "polls/s",
    "turns at work",
    "full workers",
    "submits that wait, in sync mode",
    "FIFO sends, deletions/s",
    "WRU/s",
    "RRU/s",
    "requests/min",
    "tokens/min",
]
RATES = (1, 10, 100, 1_000, 10_000)


def number(value: float) -> str:
    """The number with two significant digits, or as an integer."""
    if value >= 100:
        digits = 1 - math.floor(math.log10(value))
        return f"{round(value, digits):,.0f}"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}".removesuffix(".0")


def binding_rows() -> list[list[str]]:
    return [
        [limit.name, number(limit.each), f"{limit.limit:,.0f}", number(limit.binds_at), limit.turn]
        for limit in limits()
    ]


BINDING_HEAD = ["limit", "needed for 1 chat a second", "limit is", "reached at chats/s", "what to change"]


def main() -> None:
    for head, rows in ((HEAD, [row(rate) for rate in RATES]), (BINDING_HEAD, binding_rows())):
        for line in (head, ["---"] * len(head), *rows):
            print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
