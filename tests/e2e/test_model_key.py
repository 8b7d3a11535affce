"""The model's key: a worker keeps it, and fetches it again when the model refuses it."""

from local.stack import LocalStack
from tests.e2e import tour
from tests.e2e.conftest import Api, until_idle
from tests.stand_in import StandIn


def test_a_key_rotated_in_mid_run_fails_no_turn(alice: Api, stack: LocalStack) -> None:
    assert stack.recorder

    def outcome(message: str) -> tuple[str, int]:
        until_idle(stack)
        task = alice.finished(alice.submit(message))
        return task["status"], task["attempt"]

    outcome("fetch your key")
    until_idle(stack)
    before, refused = len(stack.recorder.calls()), StandIn(stack.model_url).calls()["unauthorized"]
    with tour.model_key(stack, "sk-rotated"):
        assert [outcome("hello"), outcome("hello again")] == [("SUCCESS", 1)] * 2

    actions = [call.action for call in stack.recorder.calls()[before:]]
    assert actions.count("secretsmanager:GetSecretValue") == 1
    assert StandIn(stack.model_url).calls()["unauthorized"] - refused == 1
