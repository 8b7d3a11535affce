"""What the functions called, logged, sent and answered in the whole run: of the tests before this file, and of a tour
that leaves nothing out."""

import pytest

from local.deploy import STACK_NAME
from local.recorder import Call
from local.stack import POLLER, LocalStack
from tests import cfn
from tests.e2e import tour
from tests.e2e.conftest import Api, Deployment

pytestmark = pytest.mark.timeout(240)  # some 20 s of the tour, and the start of the stack if this file runs alone

type Permission = tuple[str, str, str]
"""(function, action, resource), both by their logical ids"""

LOG_ACTIONS = ("logs:CreateLogStream", "logs:PutLogEvents")
NOT_CALLED_HERE: dict[Permission, str] = {
    **{
        (f"{name}Function", action, f"{name}LogGroup"): "Lambda writes a function's log with its role; here to a file"
        for name in ("Submit", "Status", "Worker", "Deadletter")
        for action in LOG_ACTIONS
    },
    ("WorkerFunction", "sqs:GetQueueAttributes", "TurnQueue"): "Lambda's poller asks with the role; ours does not",
    ("DeadletterFunction", "sqs:GetQueueAttributes", "DeadLetterQueue"): "the same",
}
"""What the roles allow and the run cannot show to be needed. Lambda demands the last two of the role of a function
that it feeds from a queue (its developer guide, "Using Lambda with Amazon SQS", 2026-11)."""


@pytest.fixture(scope="module")
def whole_run(deployment: Deployment, alice: Api, nobody: Api) -> LocalStack:
    if deployment.stack is None:
        pytest.skip("needs the emulated account: API_URL is set")
    tour.take(deployment.stack, alice, nobody)
    return deployment.stack


@pytest.fixture(scope="module")
def calls(whole_run: LocalStack) -> list[Call]:
    assert whole_run.recorder
    return whole_run.recorder.calls()


def resources(stack: LocalStack) -> dict[str, str]:
    """The logical id of each resource of the stack by its name in the account."""
    answer = stack.client("cloudformation").describe_stack_resources(StackName=STACK_NAME)["StackResources"]
    names = {each["PhysicalResourceId"].rpartition("/")[2]: each["LogicalResourceId"] for each in answer}
    return names | {tour.secret_arn(stack): "ModelKeySecretArn"}


def used(calls: list[Call], names: dict[str, str]) -> set[Permission]:
    permissions = set()
    for call in calls:
        named = [call.parameters[key] for key in ("TableName", "QueueUrl", "SecretId") if key in call.parameters]
        [resource] = [names[name if name in names else name.rpartition("/")[2]] for name in named] or ["?"]
        # A batch is one permission with the single call, on AWS.
        permissions.add((call.caller.removesuffix(POLLER), call.action.removesuffix("Batch"), resource))
    return permissions


def test_every_role_allows_what_its_function_does_and_nothing_else(whole_run: LocalStack, calls: list[Call]) -> None:
    granted = {
        (function, action, resource)
        for function in whole_run.functions
        for action, resource in cfn.permissions(cfn.role(function))
    }

    done = used(calls, resources(whole_run))

    assert done - granted == set(), "not allowed by the template"
    assert granted - done - set(NOT_CALLED_HERE) == set(), "allowed, and never used"
    assert set(NOT_CALLED_HERE) - granted == set(), "an exception for what is not allowed"
    assert set(NOT_CALLED_HERE) & done == set(), "an exception for what is used"
