"""The Lambda service, with the real runtime client running toy functions."""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from local.environment import THROTTLED
from local.lambda_host import LambdaHost
from tests.local.conftest import AddFunction, state_of, wait_for, wait_until_gone

MEETING = """
    import os, time

    def handler(event, context):
        # Both invocations of the test must be here at once, or neither goes on.
        open(os.path.join(event["folder"], event["name"]), "w").close()
        while len(os.listdir(event["folder"])) < 2:
            time.sleep(0.01)
        return os.getpid()
"""


def test_a_function_gets_the_event_and_the_context_that_it_would_get_on_aws(
    host: LambdaHost, add_function: AddFunction
) -> None:
    name = add_function(
        """
        def handler(event, context):
            return {
                "event": event,
                "name": context.function_name,
                "arn": context.invoked_function_arn,
                "memory": context.memory_limit_in_mb,
                "request_id": context.aws_request_id,
                "remaining": context.get_remaining_time_in_millis(),
            }
        """,
        timeout=7,
        memory=512,
    )

    answer = host.invoke(name, {"text": "grüße"})

    assert answer.error is None
    told = answer.json()
    assert told["event"] == {"text": "grüße"}
    assert told["name"] == name
    assert told["arn"].endswith(f":function:{name}")
    assert told["memory"] == "512"
    assert told["request_id"]
    assert 6000 < told["remaining"] <= 7000


def test_the_environment_of_a_function_holds_its_own_variables_and_nothing_of_the_callers(
    host: LambdaHost, add_function: AddFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "OPENAI_API_KEY", "OPENAI_BASE_URL", "SOME_TOKEN"):
        monkeypatch.setenv(name, "the developer's own")
    function = add_function(
        """
        import os

        def handler(event, context):
            return dict(os.environ)
        """,
        variables={"TABLE": "turns"},
    )

    variables = host.invoke(function, {}).json()

    assert variables["TABLE"] == "turns"
    assert variables["AWS_LAMBDA_FUNCTION_NAME"] == function
    assert "the developer's own" not in variables.values()


def test_layers_can_be_imported_and_the_functions_own_modules_come_first(
    host: LambdaHost, add_function: AddFunction, tmp_path: Path
) -> None:
    for layer, text in (("below", "below"), ("above", "above")):
        package = tmp_path / layer / "python"
        package.mkdir(parents=True)
        (package / "shared.py").write_text(f"text = {text!r}")
        (package / "toy.py").write_text("raise AssertionError('the function comes first')")
    function = add_function(
        """
        import shared

        def handler(event, context):
            return shared.text
        """,
        layers=(tmp_path / "below", tmp_path / "above"),
    )

    assert host.invoke(function, {}).json() == "above"


def test_invocations_at_once_run_in_environments_of_their_own(
    host: LambdaHost, add_function: AddFunction, tmp_path: Path
) -> None:
    function = add_function(MEETING)
    folder = tmp_path / "meeting"
    folder.mkdir()

    with ThreadPoolExecutor() as pool:
        events = [{"folder": str(folder), "name": name} for name in "ab"]
        pids = list(pool.map(lambda event: host.invoke(function, event).json(), events))

    assert len(set(pids)) == 2


def test_an_environment_is_frozen_while_it_has_nothing_to_do(host: LambdaHost, add_function: AddFunction) -> None:
    function = add_function("def handler(event, context): return 1")
    host.invoke(function, {})
    [pid] = host.processes_of(function)

    wait_for(lambda: state_of(pid).startswith("T"))
    assert host.invoke(function, {}).json() == 1


def test_with_reserved_concurrency_the_next_invocation_is_throttled(
    host: LambdaHost, add_function: AddFunction, tmp_path: Path
) -> None:
    function = add_function(MEETING, reserved_concurrency=1)
    folder = tmp_path / "meeting"
    folder.mkdir()

    with ThreadPoolExecutor() as pool:
        first = pool.submit(host.invoke, function, {"folder": str(folder), "name": "a"})
        wait_for(lambda: any(folder.iterdir()))
        second = host.invoke(function, {"folder": str(folder), "name": "b"})
        (folder / "b").touch()
        assert first.result().error is None

    assert second.error == THROTTLED


def test_at_the_most_environments_the_next_invocation_waits(host: LambdaHost, add_function: AddFunction) -> None:
    function = add_function("import os\ndef handler(event, context): return os.getpid()")

    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(lambda _: host.invoke(function, {}), range(60)))

    assert all(answer.error is None for answer in answers)
    assert len({answer.json() for answer in answers}) <= 8


def test_an_exception_is_reported_in_the_runtimes_own_words_and_the_environment_lives_on(
    host: LambdaHost, add_function: AddFunction
) -> None:
    function = add_function(
        """
        import os

        def handler(event, context):
            if event["fail"]:
                raise LookupError("nothing there")
            return os.getpid()
        """
    )

    failed = host.invoke(function, {"fail": True})

    assert failed.error == "LookupError"
    assert failed.json()["errorMessage"] == "nothing there"
    assert failed.json()["stackTrace"]
    [pid] = host.processes_of(function)
    assert host.invoke(function, {"fail": False}).json() == pid


def test_a_module_that_cannot_be_imported_is_an_error_of_each_invocation(
    host: LambdaHost, add_function: AddFunction
) -> None:
    function = add_function("import no_such_module\ndef handler(event, context): pass")

    for _ in range(2):
        answer = host.invoke(function, {})
        assert answer.error == "Runtime.ImportModuleError"
        assert "no_such_module" in answer.json()["errorMessage"]


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("os._exit(3)", "exit status 3"),
        ("os._exit(0)", "without providing a reason"),
        ("os.kill(os.getpid(), 9)", "signal: Killed"),
    ],
)
def test_a_process_that_ends_is_an_error_at_once_and_the_next_invocation_gets_a_new_one(
    host: LambdaHost, add_function: AddFunction, end: str, reason: str
) -> None:
    function = add_function(
        f"""
        import os

        def handler(event, context):
            if event["end"]:
                {end}
            return "well"
        """,
        timeout=60,
    )

    failed, seconds = timed(lambda: host.invoke(function, {"end": True}))

    assert failed.error == "Runtime.ExitError"
    assert reason in failed.json()["errorMessage"]
    assert seconds < 10
    assert host.invoke(function, {"end": False}).json() == "well"


def test_a_module_that_ends_the_process_is_an_error(host: LambdaHost, add_function: AddFunction) -> None:
    answer = host.invoke(add_function("import os; os._exit(7)"), {})

    assert answer.error == "Runtime.ExitError"
    assert "exit status 7" in answer.json()["errorMessage"]


def test_a_timeout_kills_the_process_and_what_it_started(
    host: LambdaHost, add_function: AddFunction, tmp_path: Path
) -> None:
    function = add_function(
        """
        import subprocess, time

        def handler(event, context):
            if event["hang"]:
                child = subprocess.Popen(["sleep", "60"])
                with open(event["note"], "w") as note:
                    note.write(str(child.pid))
                time.sleep(60)
            return "well"
        """,
        timeout=1,
    )
    note = tmp_path / "note"

    failed, seconds = timed(lambda: host.invoke(function, {"hang": True, "note": str(note)}))

    assert failed.error == "Sandbox.Timedout"
    assert failed.json()["errorMessage"].endswith("Task timed out after 1.00 seconds")
    assert 1 <= seconds < 5
    wait_until_gone(int(note.read_text()))
    assert host.invoke(function, {"hang": False}).json() == "well"


def test_an_idle_environment_that_was_killed_costs_no_invocation(host: LambdaHost, add_function: AddFunction) -> None:
    function = add_function("def handler(event, context): return 1")

    for _ in range(5):
        assert host.invoke(function, {}).json() == 1
        [pid] = host.processes_of(function)
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)


def test_a_fault_from_outside_ends_the_invocation_under_way(
    host: LambdaHost, add_function: AddFunction, tmp_path: Path
) -> None:
    function = add_function(MEETING, timeout=60)
    folder = tmp_path / "meeting"
    folder.mkdir()

    with ThreadPoolExecutor() as pool:
        running = pool.submit(host.invoke, function, {"folder": str(folder), "name": "a"})
        wait_for(lambda: any(folder.iterdir()))
        assert host.kill(function) == 1
        assert running.result(timeout=10).error == "Runtime.ExitError"


def test_what_a_function_writes_and_how_it_failed_is_in_its_log(
    host: LambdaHost, add_function: AddFunction, tmp_path: Path
) -> None:
    function = add_function(
        """
        import os

        def handler(event, context):
            print('{"level": "INFO", "message": "line"}', flush=True)
            os._exit(1)
        """
    )

    host.invoke(function, {})

    lines = (tmp_path / f"{function}.log").read_text().splitlines()
    assert '{"level": "INFO", "message": "line"}' in lines
    assert '"type": "platform.report"' in lines[-1]
    assert '"errorType": "Runtime.ExitError"' in lines[-1]


def test_close_ends_every_process(host: LambdaHost, add_function: AddFunction) -> None:
    function = add_function("def handler(event, context): return 1")
    host.invoke(function, {})
    pids = host.processes_of(function)

    host.close()

    assert pids
    wait_until_gone(*pids)


def timed[T](call: Callable[[], T]) -> tuple[T, float]:
    started = time.monotonic()
    return call(), time.monotonic() - started
