"""Starts the runs of all stories in processes of their own as soon as the tests begin, and tells in the end what was run."""

from collections.abc import Iterator

import pytest

from tests.faults.histories import Tally
from tests.faults.jobs import HISTORIES, PAIRS, RACE_SEEDS, SEED, Sweep, pairs, races, single_faults
from tests.faults.runs import Result
from tests.faults.stories import STORIES


@pytest.fixture(scope="session")
def sweep(request: pytest.FixtureRequest) -> Iterator[Sweep]:
    swept = Sweep()
    request.config.stash[SWEEP] = swept
    wanted = {item.name for item in request.session.items}
    if "test_two_faults_break_no_guarantee" in wanted:
        swept.begin("pairs", pairs(swept.counted, SEED, PAIRS))
    if "test_a_race_breaks_no_guarantee" in wanted:
        swept.begin("races", races(SEED, RACE_SEEDS))
    for name, counted in swept.counted.items():
        if f"test_a_single_fault_breaks_no_guarantee[{name}]" in wanted:
            swept.begin(name, single_faults(counted))
    yield swept
    swept.close()


SWEEP = pytest.StashKey[Sweep]()


@pytest.fixture(autouse=True, scope="session")
def at_once(request: pytest.FixtureRequest) -> None:
    """The sweep takes longest, so it begins before the first test and goes on beside the others."""
    if any("sweep" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("sweep")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    swept = config.stash.get(SWEEP, None)
    if swept is None and not Tally.histories:
        return
    say = terminalreporter.write_line
    say("")
    broken = 0
    if swept:
        singles = [name for name in STORIES if name in swept.results]
        points = sum(len(swept.counted[name].points(STORIES[name])) for name in singles)
        runs = [result for name in singles for result in swept.results[name]]
        broken += sum(bool(result.broken) for results in swept.results.values() for result in results)
        say(f"faults: {points} calls of {len(singles)} stories, {len(runs)} single faults, {deaths(runs)} deaths")
        if others := {name: swept.results[name] for name in ("pairs", "races") if name in swept.results}:
            told = ", ".join(f"{len(results)} {name}" for name, results in others.items())
            say(f"        {told} (FAULT_SEED={SEED})")
    if Tally.histories:
        say(
            f"        {Tally.histories} random histories, {Tally.steps} steps, {Tally.faults} misfortunes,"
            f" {Tally.deaths} deaths, {Tally.tasks} tasks accepted (FAULT_HISTORIES={HISTORIES})"
        )
    failed = [report for report in terminalreporter.stats.get("failed", []) if "tests/faults/" in report.nodeid]
    broken = broken or len(failed)
    say(f"        {broken} runs broke a guarantee" if broken else "        no guarantee broke")


def deaths(results: list[Result]) -> int:
    return sum(result.deaths for result in results)
