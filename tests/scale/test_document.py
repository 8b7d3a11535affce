"""docs/scale.md agrees with the template, the arithmetic and the simulation; and the simulation has the rules of the
code."""

import ast
import re
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks import report
from benchmarks.scale import demand, overhead, scenarios, simulation
from development import cfn
from turnqueue import responses, turn, wait

DOCUMENT = (cfn.ROOT / "docs/scale.md").read_text()
DATA = (cfn.ROOT / "docs/data.md").read_text()
TEMPLATE = cfn.template()


def rows(text: str, head: list[str]) -> list[list[str]]:
    """The rows of the Markdown table with that head."""
    lines = text.splitlines()
    start = lines.index("| " + " | ".join(head) + " |") + 2
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append(line.strip("| ").split(" | "))
    return table


def test_what_the_template_says() -> None:
    parameters = TEMPLATE["Parameters"]
    workers, worker = parameters["WorkerConcurrency"], cfn.resources("AWS::Serverless::Function")["WorkerFunction"]
    source, queue = worker["Events"]["Turns"]["Properties"], cfn.resources("AWS::SQS::Queue")["TurnQueue"]
    requests, burst = parameters["ApiRequestsPerSecond"], parameters["ApiBurst"]
    billing = {table["BillingMode"] for table in cfn.resources("AWS::DynamoDB::Table").values()}
    memory = {
        properties.get("MemorySize", TEMPLATE["Globals"]["Function"]["MemorySize"])
        for properties in cfn.resources("AWS::Serverless::Function").values()
    }

    assert source["ScalingConfig"]["MaximumConcurrency"] == {"Ref": "WorkerConcurrency"}
    assert rows(DOCUMENT, ["setting", "value"]) == [
        ["`BatchSize` of the worker's event source", f"{source['BatchSize']}"],
        [
            "`WorkerConcurrency` (its `MaximumConcurrency`)",
            f"{workers['Default']}, from {workers['MinValue']} to {workers['MaxValue']}",
        ],
        ["`TurnsPerWorker`", parameters["TurnsPerWorker"]["Default"]],
        ["worker `Timeout`", f"{worker['Timeout']} s"],
        ["queue `VisibilityTimeout`", f"{queue['VisibilityTimeout']} s"],
        ["functions' `MemorySize`", f"{', '.join(map(str, memory))} MB"],
        ["`ApiRequestsPerSecond`", f"{requests['Default']}, at most {requests['MaxValue']}"],
        ["`ApiBurst`", f"{burst['Default']}, at most {burst['MaxValue']}"],
        ["queue `DeduplicationScope`", queue["DeduplicationScope"]],
        ["queue `FifoThroughputLimit`", queue["FifoThroughputLimit"]],
        ["tables' `BillingMode`", ", ".join(billing)],
    ]


def test_what_is_simulated_is_deployed() -> None:
    worker = cfn.resources("AWS::Serverless::Function")["WorkerFunction"]
    limits = {limit.name: limit.limit for limit in demand.limits()}
    own = demand.workers()

    assert own.batch_size == overhead.BATCH == worker["Events"]["Turns"]["Properties"]["BatchSize"]
    assert own.concurrency == TEMPLATE["Parameters"]["WorkerConcurrency"]["Default"]
    assert worker["Timeout"] == own.timeout
    assert 60 * int(TEMPLATE["Parameters"]["LongestAnswer"]["Default"]) == own.longest_answer
    assert TEMPLATE["Mappings"]["LongestAnswer"]["10"]["WorkerTimeout"] == scenarios.TEN_MINUTES["timeout"]
    assert 60 * int(TEMPLATE["Parameters"]["DeadlineMinutes"]["Default"]) == simulation.DEADLINE
    assert overhead.on_lambda(1, 0) == pytest.approx(1769 / TEMPLATE["Globals"]["Function"]["MemorySize"])
    assert limits["`WorkerConcurrency`, default"] == own.concurrency
    assert limits["`WorkerConcurrency`, most"] == TEMPLATE["Parameters"]["WorkerConcurrency"]["MaxValue"]
    assert limits["`ApiRequestsPerSecond`, default"] == TEMPLATE["Parameters"]["ApiRequestsPerSecond"]["Default"]


def test_what_a_load_asks_for() -> None:
    assert rows(DOCUMENT, demand.HEAD) == [demand.row(rate) for rate in demand.RATES]


def test_what_binds_first() -> None:
    assert rows(DOCUMENT, demand.BINDING_HEAD) == demand.binding_rows()


@pytest.mark.parametrize(
    "head", [scenarios.CAPACITY_HEAD, scenarios.EFFICIENCY_HEAD, scenarios.SLOW_HEAD, scenarios.HEAD]
)
def test_what_was_simulated(head: list[str]) -> None:
    told = rows(DOCUMENT, head)

    assert len(told) > 3
    assert all(row in rows(report.RESULTS.read_text(), head) for row in told)


def test_the_results_are_those_of_this_code() -> None:
    """Only two quick rows are simulated again."""
    told = rows(DOCUMENT, scenarios.HEAD)

    assert scenarios.row(scenarios.burst(*scenarios.BURSTS["10"])) in told
    assert scenarios.row(scenarios.one_session()) in told


def test_what_trouble_costs() -> None:
    """The table equals the measured one. It is not simulated again, because each change of the gate's code changes a
    digit. test_queueing.py tests the promised bounds."""
    told = rows(DOCUMENT, scenarios.TROUBLE_HEAD)

    assert len(told) == 6
    assert told == rows(report.RESULTS.read_text(), scenarios.TROUBLE_HEAD)


# ---- The rules of the code that the simulation and the arithmetic repeat


def constants(file: str) -> dict[str, Any]:
    """The literals that a module assigns to names."""
    found = {}
    for node in ast.parse((cfn.ROOT / file).read_text()).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.targets[0], ast.Name)
        ):
            found[node.targets[0].id] = node.value.value
    return found


def test_the_attempts_and_times_of_the_worker() -> None:
    assert turn.MAX_ATTEMPTS == simulation.ATTEMPTS
    attempt = constants("functions/worker/attempt.py")
    assert attempt["RESERVE_SECONDS"] == simulation.RESERVE
    assert attempt["_SHORT_PAUSE_SECONDS"] == simulation.SHORT_PAUSE
    assert attempt["_EARLY_SECONDS"] == simulation.EARLY


def test_how_the_worker_refills_its_slots() -> None:
    intake, refill = constants("functions/worker/intake.py"), simulation.Refill()

    assert intake["POLL_SECONDS"] == refill.poll_seconds
    assert intake["POLL_SECONDS"] + 3 == refill.read_seconds
    assert "READ_SECONDS = POLL_SECONDS + 3.0" in (cfn.ROOT / "functions/worker/intake.py").read_text()
    assert intake["_PAUSE_SECONDS"] == refill.pause
    assert constants("functions/worker/invocation.py")["_JITTER"] == refill.jitter
    assert TEMPLATE["Parameters"]["TurnsPerWorker"]["Default"] == f"{refill.slots}"


@pytest.mark.parametrize("age", [0.1, 3.0, 8.0, 59.0, 60.0, 100.0, 300.0])
def test_the_pace_of_the_polls(age: float) -> None:
    """The client adds at most JITTER to the API's pauses, as `polls` assumes."""
    told = responses.poll_after_ms(cast("turn.Turn", SimpleNamespace(created_at=0.0)), age) / 1000
    javascript = (cfn.ROOT / "clients/javascript").rglob("*.js")

    assert demand.pause(age) == pytest.approx(told * (1 + demand.JITTER / 2), abs=0.002)
    assert any(f"const JITTER = {demand.JITTER};" in file.read_text() for file in javascript)


def test_the_first_poll_comes_when_the_202_says() -> None:
    """The first pause is that of submit's 202, and the number of polls is that of the client's test."""
    told = responses.poll_after_ms(cast("turn.Turn", SimpleNamespace(created_at=0.0)), 0.0)
    tests = (cfn.ROOT / "clients/javascript/test/client.test.js").read_text()

    assert (
        "retry_after = max(1, round(poll_after_ms(turn, time.time()) / 1000))"
        in (cfn.ROOT / "functions/submit/submit.py").read_text()
    )
    assert max(1, round(told / 1000)) == demand.FIRST_POLL
    assert f"answered in 3 s is looked at {demand.polls(3.1)} times" in tests


def test_how_often_a_wait_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in the product's loop, with a clock that only its pauses move."""
    clock, reads = [0.0], [0]

    def begun(*, final: bool) -> turn.Turn:
        return cast("turn.Turn", SimpleNamespace(final=final, key=None, status=turn.Status.STARTED))

    class Store:
        def read(self, *args: object, **more: object) -> Any:
            reads[0] += 1
            return begun(final=clock[0] >= 3.1)

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(wait, "time", SimpleNamespace(time=lambda: clock[0], sleep=sleep))
    wait.wait_until_final(cast("Any", Store()), begun(final=False), 25, 29)

    assert reads[0] == demand.reads_of_a_wait(3.1)


def test_the_units_are_those_of_the_tables_page() -> None:
    head = ["access", "by", "when", "call", "5 small turns", "500 large turns"]
    units = {row[0]: float(re.sub(r" \w+$", "", row[4])) for row in rows(DATA, head)}

    recorded = ("record a turn", "claim", "record the answer")
    assert sum(units[access] for access in recorded) == demand.TURN_WRITES
    assert units["add a row to the log"] == demand.ROW_WRITES
    assert units["read the log"] == demand.LOG_READS
    assert units["add to the usage of the day"] == demand.GUARD_WRITES
    assert units["read the history"] == demand.HISTORY_READS
    assert units["read a task"] == demand.POLL_READS
    assert units["read a task again while waiting"] == demand.WAIT_READS
