"""docs/scale.md agrees with the template and with the arithmetic of benchmarks/demand.py, and that with the code."""

import re
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks import demand
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


def test_what_is_computed_is_deployed() -> None:
    limits = {limit.name: limit.limit for limit in demand.limits()}
    parameters = TEMPLATE["Parameters"]

    assert parameters["WorkerConcurrency"]["Default"] == demand.WORKERS == limits["`WorkerConcurrency`, default"]
    assert parameters["WorkerConcurrency"]["MaxValue"] == limits["`WorkerConcurrency`, maximum"]
    assert parameters["ApiRequestsPerSecond"]["Default"] == limits["`ApiRequestsPerSecond`, default"]
    assert parameters["TurnsPerWorker"]["Default"] == f"{demand.SLOTS}"
    assert TEMPLATE["Globals"]["Function"]["MemorySize"] == demand.MEMORY


def test_what_a_load_asks_for() -> None:
    assert rows(DOCUMENT, demand.HEAD) == [demand.row(rate) for rate in demand.RATES]


def test_what_binds_first() -> None:
    assert rows(DOCUMENT, demand.BINDING_HEAD) == demand.binding_rows()


# ---- The rules of the code that the arithmetic repeats


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
