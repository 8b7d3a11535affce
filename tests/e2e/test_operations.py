"""`python -m operations`, as an operator runs it, against the emulated account."""

import os
import re
import shlex
import subprocess
import sys
import time
import uuid

from local.deploy import STACK_NAME
from local.stack import LocalStack
from local.tools import ROOT
from tests.e2e.conftest import Api, worker_stopped
from turnqueue.queue import encode
from turnqueue.turn import MAX_ATTEMPTS, Key


def operate(stack: LocalStack, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m operations` as an operator does, in the emulated account."""
    variables = {**os.environ, **stack.emulator.account.variables(), "NO_PROXY": "127.0.0.1", **environment}
    command = [sys.executable, "-W", "error", "-m", "operations", *arguments]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=50, check=False)


def dead_letter(stack: LocalStack, task_id: str) -> None:
    """Do what SQS does with the message of a task after 50 receives, here with all attempts made: move it there."""
    sqs, queue = stack.client("sqs"), stack.outputs["QueueUrl"]
    key = Key.of_task("alice", task_id)
    assert key
    [message] = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=5)["Messages"]
    assert message["Body"] == encode(key)
    stack.client("dynamodb").update_item(
        TableName=stack.outputs["TurnsTableName"],
        Key={"session": {"S": key.session}, "turn": {"S": key.turn}},
        UpdateExpression="SET attempt = :all",
        ExpressionAttributeValues={":all": {"N": str(MAX_ATTEMPTS)}},
    )
    sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    letter = {"MessageBody": message["Body"], "MessageGroupId": key.group, "MessageDeduplicationId": task_id}
    sqs.send_message(QueueUrl=stack.outputs["DeadLetterQueueUrl"], **letter)


def wait_until_empty(stack: LocalStack) -> None:
    request = {"QueueUrl": stack.outputs["QueueUrl"], "AttributeNames": ["All"]}
    end = time.monotonic() + 20
    while int(stack.client("sqs").get_queue_attributes(**request)["Attributes"]["ApproximateNumberOfMessages"]):
        assert time.monotonic() < end, "messages are still waiting"
        time.sleep(0.1)


def test_a_lost_task_is_replayed(alice: Api, stack: LocalStack) -> None:
    session = f"s-{uuid.uuid4().hex}"
    with worker_stopped(stack):
        task_id = alice.submit("hello again", session_id=session)
        dead_letter(stack, task_id)
        assert alice.finished(task_id)["error_code"] == "worker_lost"

        looked = operate(stack, "replay", "--stack", STACK_NAME, "--dry-run")
        assert (looked.returncode, looked.stderr) == (0, "")
        assert f"{task_id}  worker_lost: would be queued\n" in looked.stdout
        assert alice.task(task_id)["status"] == "FAILURE"

        ran = operate(stack, "replay", "--stack", STACK_NAME, "--code", "worker_lost", "--since", "24h", task_id)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert f"{task_id}  worker_lost: queued\ntasks queued: 1, changed meanwhile: 0" in ran.stdout
        assert alice.task(task_id)["status"] == "PENDING"

    task = alice.finished(task_id)
    assert (task["status"], task["error"], task["attempt"]) == ("SUCCESS", None, MAX_ATTEMPTS + 1)
    assert "hello again" in task["result"]["message"]


def documented() -> list[str]:
    """The commands of docs/operations.md, without those that other tests here and test_verify.py run."""
    text = (ROOT / "docs/operations.md").read_text()
    return re.findall(r"^    python -m operations ((?!smoke|verify|deploy).*)$", text, re.MULTILINE)


def test_every_command_as_it_is_written_down(stack: LocalStack) -> None:
    assert {command.split()[0] for command in documented()} == {"replay", "forget", "restore", "breaker"}
    for command in documented():
        for name, value in {
            "turnqueue-dev": STACK_NAME,
            "STACK": STACK_NAME,  # as "Alarms" sets it
            "SUB": "nobody",
            "turns-restored": stack.outputs["TurnsTableName"],
        }.items():
            command = re.sub(rf'("?\${name}"?|\b{name})(?=\s|$)', value, command)
        ran = operate(stack, *shlex.split(command, comments=True))
        assert (ran.returncode, ran.stderr) == (0, ""), command
        assert ran.stdout


def test_an_unknown_stack_is_told_so(stack: LocalStack) -> None:
    ran = operate(stack, "replay", "--stack", "no-such-stack")

    assert ran.returncode == 1
    assert "there is no stack no-such-stack" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_an_owner_is_forgotten(stack: LocalStack) -> None:
    """One whose name begins with another's, and the other way round."""
    apis = {owner: Api(stack.api_url, stack.token(owner)) for owner in ("carol", "carol#s", "caro")}
    tasks = {owner: api.submit("hello", headers={"Idempotency-Key": "k"}) for owner, api in apis.items()}
    for owner, api in apis.items():
        api.finished(tasks[owner])
        api.until_used(1)
    with worker_stopped(stack):
        waiting = apis["carol"].submit("and then?")

        asked = operate(stack, "forget", "--stack", STACK_NAME, "--owner", "carol")
        assert (asked.returncode, asked.stderr) == (0, "")
        # The guard rows are her key, her rate and her usage.
        assert "would delete: 2 turns of 2 sessions, 0 event rows, 3 guard rows" in asked.stdout
        assert apis["carol"].task(waiting)["status"] == "PENDING"

        done = operate(stack, "forget", "--stack", STACK_NAME, "--owner", "carol", "--yes")
        assert (done.returncode, done.stderr) == (0, "")
        assert "deleted: 2 turns of 2 sessions, 0 event rows, 3 guard rows" in done.stdout

    again = operate(stack, "forget", "--stack", STACK_NAME, "--owner", "carol", "--yes")
    assert "deleted: 0 turns" in again.stdout
    for task_id in (tasks["carol"], waiting):
        assert apis["carol"].http.get(f"/chat/task/{task_id}").status_code == 404
    for owner in ("carol#s", "caro"):
        assert apis[owner].finished(tasks[owner])["status"] == "SUCCESS"
    wait_until_empty(stack)  # its message is received, and dropped
    assert apis["carol"].http.get(f"/chat/task/{waiting}").status_code == 404
    for api in apis.values():
        api.http.close()


def test_a_smoke_test_of_a_deployment(stack: LocalStack) -> None:
    ran = operate(stack, "smoke", "--url", stack.api_url, API_TOKEN=stack.token("smoke"))

    assert (ran.returncode, ran.stderr) == (0, "")
    assert " is SUCCESS after " in ran.stdout


def test_a_smoke_test_that_fails_says_so_and_not_the_token(stack: LocalStack) -> None:
    for token, complaint in (("", "give --stack, or --url and API_TOKEN"), ("planted-token", "returns 401")):
        ran = operate(stack, "smoke", "--url", stack.api_url, API_TOKEN=token)
        assert ran.returncode == 1
        assert complaint in ran.stderr
        assert "planted-token" not in ran.stdout + ran.stderr
    nowhere = operate(stack, "smoke", "--url", "http://127.0.0.1:9", API_TOKEN="planted-token")
    assert (nowhere.returncode, "got no answer" in nowhere.stderr) == (1, True)
