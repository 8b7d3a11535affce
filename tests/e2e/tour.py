"""Makes every request and every error once, on the local stack, so that the code makes every AWS call. Its private
texts are planted words, which tests search for afterwards where they must not be."""

import base64
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from local.stack import LocalStack
from tests.e2e.conftest import Api
from tests.stand_in import StandIn
from turnqueue.api_keys import api_key_guard

PROMPT, ANSWER, PRIVATE = "Xyzzy-prompt", "Plugh-answer", "Frotz-private"
IDEMPOTENCY_KEY = "Gnusto-idempotency-key"
MODEL_KEY = "Rezrov-model-key"
API_KEY = "tq_Nitfol-api-key"
PLANTED = (PROMPT, ANSWER, PRIVATE, IDEMPOTENCY_KEY, MODEL_KEY, API_KEY)

IMAGE = {"type": "image", "url": f"https://example.com/{PRIVATE}.png"}
DATA_URL = "data:image/gif;base64," + base64.b64encode(f"GIF89a {PRIVATE}".encode().ljust(6000, b".")).decode()
"""So large that submit puts it into S3."""


def take(stack: LocalStack, alice: Api, nobody: Api) -> None:
    with model_key(stack, MODEL_KEY):
        answered(alice)
        with_functions(alice)
        by_key(stack, nobody)
        streamed(stack, alice)
        shown(alice)
        worked_on(alice)
        failed(alice)
        refused(alice, nobody)
        not_queued(stack, alice)
        given_up_by_the_queue(stack, alice)
        malformed(stack)


def request(message: str, **more: Any) -> dict[str, Any]:
    return {"message": f"{message} {PROMPT}", "media": [IMAGE], "metadata": {"k": PRIVATE}, **more}


def answered(alice: Api) -> None:
    key = {"Idempotency-Key": IDEMPOTENCY_KEY}
    chat = alice.chat(headers=key, **request(f"[[echo={ANSWER}]]"))
    assert chat.json()["message"] == ANSWER, chat.text
    assert alice.chat(headers=key, **request(f"[[echo={ANSWER}]]")).headers["Idempotency-Replayed"] == "true"
    assert alice.chat(headers=key, **request("another")).status_code == 422
    session = chat.json()["session_id"]
    draft = alice.chat(**request(f"I need a haircut {ANSWER}", session_id=session, role="booking"))
    assert draft.status_code == 200, draft.text
    kept = {"Cache-Control": "max-age=600"}
    hits = [
        alice.chat(headers=kept, **request(f"[[echo={ANSWER}]] kept")).headers.get("Cache-Status") for _ in range(2)
    ]
    assert hits == [None, "turnqueue; hit"]
    page = alice.http.get(f"/chat/session/{session}")
    assert [turn["status"] for turn in page.json()["turns"]] == ["SUCCESS", "SUCCESS"]
    assert alice.http.get("/chat/usage").json()["answers"] >= 2


def with_functions(alice: Api) -> None:
    """A function of the client, and its result in the next message."""
    session = f"functions-{uuid.uuid4()}"
    tools = [{"type": "function", "name": "find", "parameters": {"properties": {"k": {"type": "string"}}}}]
    asked = alice.chat(**request("find it", session_id=session, tools=tools))
    (call,) = asked.json()["tool_calls"]
    results = [{"call_id": call["call_id"], "output": PRIVATE}]
    answer = alice.http.post("/chat", json={"session_id": session, "tool_outputs": results})
    assert PRIVATE in answer.json()["message"], answer.text


def by_key(stack: LocalStack, nobody: Api) -> None:
    """The OpenAI API, with an API key."""
    key = {"guard": {"S": api_key_guard(API_KEY)}, "owner": {"S": "alice"}}
    stack.client("dynamodb").put_item(TableName=stack.outputs["GuardsTableName"], Item=key)
    headers = {"Authorization": f"Bearer {API_KEY}"}
    asked = {"model": "general", "input": f"[[echo={ANSWER}]] {PROMPT}", "metadata": {"k": PRIVATE}}
    answer = nobody.http.post("/v1/responses", json=asked, headers=headers)
    assert answer.json()["output"][0]["content"][0]["text"] == ANSWER, answer.text
    refused = nobody.http.post("/v1/responses", json=asked | {PRIVATE: PROMPT}, headers=headers)
    assert refused.status_code == 400, refused.text
    wrong = nobody.http.get("/v1/models", headers={"Authorization": f"Bearer {API_KEY}x"})
    assert wrong.status_code == 403, wrong.text
    content = [{"type": "input_image", "image_url": DATA_URL}]
    seen = nobody.http.post(
        "/v1/responses", json=asked | {"input": [{"role": "user", "content": content}]}, headers=headers
    )
    path = f"/v1/responses/{seen.json()['id']}"
    [item] = nobody.http.get(f"{path}/input_items", headers=headers).json()["data"]
    assert item["content"][0]["image_url"] == DATA_URL, item
    assert nobody.http.delete(path, headers=headers).status_code == 200
    streamed = nobody.http.post("/v1/responses", json=asked | {"stream": True, "background": True}, headers=headers)
    assert "response.completed" in streamed.text, streamed.text
    slow = {"input": f"[[drip=0.3 tokens=100]] {ANSWER}", "background": True}
    path = f"/v1/responses/{nobody.http.post('/v1/responses', json=asked | slow, headers=headers).json()['id']}"
    while nobody.http.get(path, headers=headers).json()["status"] == "queued":
        time.sleep(0.2)
    assert nobody.http.post(f"{path}/cancel", headers=headers).json()["status"] == "cancelled"


def streamed(stack: LocalStack, alice: Api) -> None:
    """By the URL of streams: with a key and a token, to the end of an answer and to the end of its time."""
    key = {"Authorization": f"Bearer {API_KEY}"}
    asked = {"model": "general", "input": f"[[echo={ANSWER}]] {PROMPT}", "stream": True}
    answer = alice.http.post(f"{stack.stream_url}/v1/responses", json=asked, headers=key)
    assert "response.completed" in answer.text, answer.text
    assert alice.http.get(f"{stack.stream_url}/v1/models").status_code == 200
    wrong = alice.http.get(f"{stack.stream_url}/v1/models", headers={"Authorization": f"Bearer {API_KEY}x"})
    assert wrong.status_code == 401, wrong.text
    overdue = alice.submit(**request(f"[[drip=0.3 tokens=100]] {ANSWER}"))
    session, _, turn = overdue.rpartition(".")
    stack.client("dynamodb").update_item(
        TableName=stack.outputs["TurnsTableName"],
        Key={"session": {"S": f"alice#{session}"}, "turn": {"S": turn}},
        UpdateExpression="SET deadline_at = :now",
        ExpressionAttributeValues={":now": {"N": str(int(time.time()))}},
    )
    events = alice.http.get(f"{stack.stream_url}/chat/task/{overdue}/events")
    assert "deadline_exceeded" in events.text, events.text


def shown(alice: Api) -> None:
    """Images that are there, and one that is not."""
    image, moved = alice.upload(b"GIF89a " + PRIVATE.encode(), "image/gif"), {"type": "image", "url": DATA_URL}
    chat = alice.chat("look", media=[image, IMAGE, moved]).json()
    assert "3 images" in chat["message"]
    [turn] = alice.http.get(f"/chat/session/{chat['session_id']}").json()["turns"]
    assert turn["media"] == [image, IMAGE, moved]
    missing = {"type": "image", "upload_id": alice.offer()["upload_id"]}
    assert alice.chat(**request("look") | {"media": [missing]}).json()["code"] == "media_missing"


def worked_on(alice: Api) -> None:
    """Watched while the model speaks and while it is silent, waited for, tried again, cancelled."""
    silent = alice.submit(**request("[[hang=4]]"))
    assert alice.task(silent, wait=1)["status"] != "FAILURE"  # unfinished, however slow this machine is: it waits
    again = alice.submit(**request(f"[[status=500 times=1]] [[drip=0.3 tokens=8]] {uuid.uuid4()}"))
    running = alice.submit(**request(f"[[drip=0.3 tokens=100]] {ANSWER}"))
    alice.until(running, lambda task: bool(task["partial"]))
    assert alice.http.post(f"/chat/task/{running}/cancel").status_code == 202
    assert alice.finished(running)["error_code"] == "cancelled"
    assert alice.task(silent, wait=20)["status"] == "SUCCESS"
    assert alice.finished(again)["attempt"] == 2


def failed(alice: Api) -> None:
    for message, role, code in (
        (f"[[{PRIVATE}=1]]", "general", "model_rejected"),  # the stand-in's error quotes it, as a provider's may
        ("[[refuse]]", "general", "prompt_refused"),
        ("[[status=429 code=insufficient_quota]]", "general", "model_quota"),
    ):
        chat = alice.chat(**request(message, role=role))
        assert chat.json()["code"] == code, chat.text
        assert alice.task(chat.json()["task_id"])["error_code"] == code
        again = alice.http.post(f"/chat/task/{chat.json()['task_id']}/retry?async_mode=false")
        assert again.json()["code"] == code, again.text


def refused(alice: Api, nobody: Api) -> None:
    unknown = f"{PRIVATE}.01KANEC0X00000000000000000"
    for response, status in (
        (alice.chat(**request("x", role=PRIVATE)), 422),
        (alice.chat(**request("x", session_id=f"{PRIVATE}!")), 422),
        (alice.chat(**request("x"), headers={"Prefer": "wait=1", "Idempotency-Key": f"{PRIVATE} x"}), 422),
        (alice.http.post("/chat", content=f'{{"message": "{PROMPT}'), 400),
        (alice.http.post("/chat", json={"message": [PROMPT]}), 422),
        (alice.http.get(f"/chat/task/{PRIVATE}"), 404),
        (alice.http.get(f"/chat/task/{unknown}"), 404),
        (alice.http.post(f"/chat/task/{unknown}/cancel"), 404),
        (alice.http.post(f"/chat/task/{unknown}/retry"), 404),
        (alice.http.get(f"/chat/session/{PRIVATE}"), 404),
        (alice.http.get(f"/chat/session/{PRIVATE}", params={"cursor": PRIVATE}), 422),
        (nobody.chat(**request("x")), 401),
        (nobody.http.get(f"/chat/task/{unknown}"), 401),
    ):
        assert response.status_code == status, response.text


def not_queued(stack: LocalStack, alice: Api) -> None:
    with denied(stack, "SubmitFunction", "sqs:SendMessage"):
        chat = alice.chat(**request("x"))
    assert (chat.status_code, chat.json()["code"]) == (503, "enqueue_failed")
    assert alice.task(chat.json()["task_id"])["error_code"] == "enqueue_failed"


def given_up_by_the_queue(stack: LocalStack, alice: Api) -> None:
    """A message that is received more often than it may be goes to the dead letters, by the queue's own rule."""
    sqs, url = stack.client("sqs"), stack.outputs["QueueUrl"]
    policy = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["RedrivePolicy"])["Attributes"]["RedrivePolicy"]
    once = json.dumps(json.loads(policy) | {"maxReceiveCount": 1})
    stack.event_sources["WorkerFunction"].stop(drain=True)
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": once})
    try:
        task_id = alice.submit(**request("never read"))
        assert sqs.receive_message(QueueUrl=url, VisibilityTimeout=0, WaitTimeSeconds=5).get("Messages")
        assert not sqs.receive_message(QueueUrl=url).get("Messages")
        assert alice.finished(task_id)["error_code"] == "worker_lost"
    finally:
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": policy})
        stack.event_sources["WorkerFunction"].start()


def malformed(stack: LocalStack) -> None:
    """A message that no function of ours has sent stays in the queue, and both functions name it by its id."""
    for output, function in (("QueueUrl", "WorkerFunction"), ("DeadLetterQueueUrl", "DeadletterFunction")):
        sqs, url = stack.client("sqs"), stack.outputs[output]
        sent = sqs.send_message(
            QueueUrl=url, MessageBody=PRIVATE, MessageGroupId="stray", MessageDeduplicationId=str(uuid.uuid4())
        )
        log = stack.logs / f"{function}.log"
        end = time.monotonic() + 30
        while sent["MessageId"] not in log.read_text():
            assert time.monotonic() < end, f"{function} did not say that the message is malformed"
            time.sleep(0.1)
        sqs.purge_queue(QueueUrl=url)


@contextmanager
def denied(stack: LocalStack, function: str, action: str) -> Iterator[None]:
    """The role of the function may not do that meanwhile."""
    role = stack.functions[function].role.rpartition("/")[2]
    statement = {"Effect": "Deny", "Action": action, "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam = stack.client("iam")
    iam.put_role_policy(RoleName=role, PolicyName="denied", PolicyDocument=document)
    try:
        yield
    finally:
        iam.delete_role_policy(RoleName=role, PolicyName="denied")


@contextmanager
def model_key(stack: LocalStack, key: str) -> Iterator[None]:
    """The model takes only this key, which is in the secret meanwhile; afterwards both are as they were."""
    secrets = stack.client("secretsmanager")
    secrets.put_secret_value(SecretId=secret_arn(stack), SecretString=key)
    model = StandIn(stack.model_url)
    model.only_key(key)
    try:
        yield
    finally:
        model.only_key(None)
        secrets.put_secret_value(SecretId=secret_arn(stack), SecretString=stack.model.key)


def secret_arn(stack: LocalStack) -> str:
    return stack.functions["WorkerFunction"].variables["MODEL_KEY_SECRET_ARN"]
