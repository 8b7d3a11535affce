"""Random histories break no guarantee."""

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.histories import History
from tests.faults.jobs import HISTORIES, PARTS, SEED, STEPS


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_random_histories_break_no_guarantee(part: int) -> None:
    run_state_machine_as_test(
        seed(SEED * PARTS + part)(History),
        settings=settings(
            max_examples=max(1, HISTORIES // PARTS),
            stateful_step_count=STEPS,
            deadline=None,
            database=None,  # FAULT_SEED repeats a run
            suppress_health_check=list(HealthCheck),
        ),
    )
