"""The whole API with an account in this process, for attacks."""

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.hostile.checks import harmless
from tests.hostile.gateway import Answer, Gateway
from tests.unit.conftest import (
    QUEUE_URL,
    Account,
    Clock,
    Parts,
    account,
    clock,
    functions,
    model,
    model_url,
    only_loopback,
    simulated_aws,
    wire,
)

__all__ = ["account", "clock", "functions", "model", "model_url", "only_loopback", "simulated_aws", "wire"]


@pytest.fixture(scope="module")
def common_account(simulated_aws: None, functions: dict[str, ModuleType]) -> Iterator[Account]:
    """One for all tests of a file: there are thousands of requests, and each makes what it needs under its own name."""
    Parts(functions["worker"]).forget()
    yield Account(functions)
    importlib.import_module("turnqueue.telemetry")._metrics.clear_metrics()


@pytest.fixture(scope="module")
def common_clock() -> Iterator[Clock]:
    """A sleep takes no time but sets the clock forward: a request waits 25 seconds for its answer in none."""
    with pytest.MonkeyPatch.context() as patch:
        yield Clock(patch)


@pytest.fixture(scope="module")
def gateway(common_account: Account, common_clock: Clock) -> Iterator[Gateway]:
    def judge(answer: Answer) -> None:
        harmless(answer)
        # What is queued costs time and nothing else: moto looks at all of it whenever a message is sent.
        if Gateway.answered % 20 == 0:
            common_account.sqs.purge_queue(QueueUrl=f"{QUEUE_URL}TurnQueue.fifo")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTO_SQS_ENFORCE_STRICT_QUEUE_PURGE_BEHAVIOUR", "false")
        yield Gateway(common_account.functions, judge)
