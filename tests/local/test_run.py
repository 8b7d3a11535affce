"""`make run`, used by a script: its files for other programs, `make invoke`, and its end."""

import json
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from local import env_file
from local.env_file import NotRunning
from local.tools import ROOT

FUNCTIONS = {
    "submit": ["submit", "media", "retry", "openai-create"],
    "status": ["events", "status", "cancel", "session", "usage", "health", "openai-retrieve", "openai-delete"],
    "worker": ["worker"],
    "deadletter": ["deadletter"],
}
ANSWERS = {"submit": 202, "media": 201, "retry": 202}
CASES = [(function, file) for function, files in FUNCTIONS.items() for file in files]
SECONDS_TO_START = 240  # with a build, on a machine that does much else

pytestmark = pytest.mark.timeout(SECONDS_TO_START + 60)


class Run:
    """`python -m local run` as a background job of a script, which a shell starts with SIGINT ignored."""

    def __init__(self) -> None:
        ignoring = ["bash", "-c", 'trap "" INT; exec "$@"', "bash"]
        self.process = subprocess.Popen(
            [*ignoring, sys.executable, "-m", "local", "run"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )

    def wait_until_it_serves(self) -> None:
        alarm = threading.Timer(SECONDS_TO_START, self.process.kill)
        alarm.start()
        assert self.process.stdout
        said = ""
        for line in self.process.stdout:
            said += line
            if line.startswith("curl") and "async_mode" in line:  # the last one
                break
        else:
            raise AssertionError(f"it ended instead of serving:\n{said}")
        alarm.cancel()
        [found] = re.findall(r"^For scripts: +(.+)$", said, re.MULTILINE)
        self.env = Path(found)
        self.folder = self.env.parent

    def invoke(self, function: str, event: Path | str) -> subprocess.CompletedProcess[str]:
        command = ["make", "-s", "invoke", f"FUNCTION={function}", f"EVENT={event}", f"RUN={self.folder}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    def task(self, task_id: str) -> dict[str, Any]:
        variables = env_file.read(self.folder)
        bearer = {"Authorization": f"Bearer {variables['TOKEN']}"}
        task: dict[str, Any] = httpx.get(
            f"{variables['API']}/chat/task/{task_id}", headers=bearer, trust_env=False
        ).json()
        return task


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    run = Run()
    try:
        run.wait_until_it_serves()
        yield run
    finally:
        run.process.terminate()  # harmless if it has ended
        run.process.communicate(timeout=60)


def test_a_script_finds_everything_in_the_env_file(run: Run) -> None:
    script = 'set -a; . "$1"; curl -s --noproxy "*" "$API/chat/" -H "Authorization: Bearer $TOKEN" -d "$2"'
    script += ' -H "Content-Type: application/json"; echo; echo "$TURNS_TABLE_NAME $SUBMIT_FUNCTION $AWS_ENDPOINT_URL"'
    ran = subprocess.run(
        ["bash", "-c", script, "bash", str(run.env), '{"message": "Hello"}'], capture_output=True, text=True, check=True
    )
    answer, names = ran.stdout.splitlines()
    assert 'You said "Hello"' in json.loads(answer)["message"]
    assert re.fullmatch(r"turnqueue-local-TurnsTable-\w+ turnqueue-local-SubmitFunction-\w+ http://127\S+", names)
    assert stat.S_IMODE(run.env.stat().st_mode) == 0o600


def test_every_event_has_a_case() -> None:
    assert sorted(file for _, file in CASES) == sorted(path.stem for path in (ROOT / "events").glob("*.json"))


@pytest.mark.parametrize(("function", "file"), CASES)
def test_make_invoke_runs_every_event(run: Run, function: str, file: str) -> None:
    ran = run.invoke(function, f"events/{file}.json")
    assert ran.returncode == 0, ran.stderr
    assert "in the local Lambda host, because no Docker runs here" in ran.stderr
    returned = json.loads(ran.stdout)
    if function in ("worker", "deadletter"):
        assert returned in ({"batchItemFailures": []}, None)
    else:
        assert returned["statusCode"] == ANSWERS.get(file, 200), returned


@pytest.mark.parametrize(
    ("function", "outcome"), [("worker", ("SUCCESS", None)), ("deadletter", ("FAILURE", "worker_lost"))]
)
def test_the_event_of_a_message_names_a_turn_that_waits(
    run: Run, function: str, outcome: tuple[str, str | None]
) -> None:
    event = run.folder / "events" / f"{function}.json"
    task_id = json.loads(event.read_text())["Records"][0]["attributes"]["MessageDeduplicationId"]
    assert run.task(task_id)["status"] == "PENDING"
    assert run.invoke(function, event).returncode == 0
    task = run.task(task_id)
    assert (task["status"], task["error_code"]) == outcome


def test_make_invoke_says_what_is_wrong(run: Run) -> None:
    for function, event, message in [
        ("nothing", "events/submit.json", "FUNCTION: no function has the name nothing. The functions are Auth"),
        ("submit", "events/nothing.json", "No such file"),
        ("worker", "Makefile", "EVENT: "),
    ]:
        ran = run.invoke(function, event)
        assert ran.returncode != 0
        assert message in ran.stderr
        assert "Traceback" not in ran.stderr


def test_a_function_that_fails_fails_the_command(run: Run, tmp_path: Path) -> None:
    event = tmp_path / "event.json"
    event.write_text('{"Records": 1}')
    ran = run.invoke("worker", event)
    assert ran.returncode != 0
    assert "errorType" in ran.stderr


def test_sam_has_the_variables_of_each_function(run: Run) -> None:
    functions = json.loads((run.folder / "functions.json").read_text())
    variables = env_file.read(run.folder)
    worker = functions["WorkerFunction"]
    assert worker["TURNS_TABLE"] == variables["TURNS_TABLE_NAME"]
    assert worker["AWS_ENDPOINT_URL"] == variables["AWS_ENDPOINT_URL"].replace("127.0.0.1", "host.docker.internal")
    assert "127.0.0.1" not in json.dumps(functions)


def test_sigint_ends_it_though_the_shell_had_it_ignored(run: Run) -> None:
    """The last test: it takes the stack away."""
    variables = env_file.read(run.folder)
    run.process.send_signal(signal.SIGINT)
    rest, _ = run.process.communicate(timeout=60)
    assert (run.process.returncode, rest.splitlines()[-1]) == (0, "Stopped.")
    assert not (run.folder / "events").exists()
    with pytest.raises(NotRunning):
        env_file.read(run.folder)
    assert run.invoke("submit", "events/submit.json").returncode != 0
    port = int(variables["API"].rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
