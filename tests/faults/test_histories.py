"""Random histories break no guarantee."""

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.histories import History
from tests.faults.jobs import HISTORIES, SEED, STEPS


@pytest.mark.timeout(900)
def test_random_histories_break_no_guarantee() -> None:
    run_state_machine_as_test(
        seed(SEED)(History),
        settings=settings(
            max_examples=HISTORIES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,  # FAULT_SEED repeats a run
            suppress_health_check=list(HealthCheck),
        ),
    )
