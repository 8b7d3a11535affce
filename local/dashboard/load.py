"""Runs a minute of chats with typical errors on a local stack, and collects the metrics that CloudWatch would have. The
functions write their metrics. This module measures AWS's metrics: the API at its caller, Lambda at its host, and the
queue by its attributes. The age of the oldest message is computed from the turns, because SQS reports it only to
CloudWatch."""

import http.client
import json
import math
import random
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from local.dashboard.metrics import Metric, Metrics, emitted, log_lines
from local.environment import THROTTLED
from local.lambda_host import Invocation
from local.stack import LocalStack

_OWNERS = ("alice", "bob")
_SESSIONS = 40
_CLIENTS = 48
_SAMPLE_SECONDS = 0.5
_POLL_SECONDS = 0.7


class Load:
    """Chats for `seconds`. `start` and `end` (seconds since the epoch) are known after it runs."""

    start: float
    end: float

    def __init__(self, stack: LocalStack, seconds: float) -> None:
        self._stack = stack
        self._address = urlsplit(stack.api_url).netloc
        self._tokens = {owner: stack.token(owner) for owner in _OWNERS}
        # The seed makes the same chats in each run, but their times differ.
        self._random = random.Random(5)
        self._outside = Metrics()
        self.logs = stack.logs
        self._lock = threading.Lock()
        self._over = threading.Event()
        stack.host.watch = self._invoked
        self._seconds = seconds

    def run(self, tell: Callable[[str], None]) -> None:
        """Start the functions' processes, then chat until the end. For a twelfth of the time the model refuses every
        call. Calls `tell` with the progress."""
        with ThreadPoolExecutor(_CLIENTS // 2) as clients:
            for _ in range(2 * _CLIENTS):
                clients.submit(self._call, "alice", "POST", "/chat", {"message": "[[latency=0.5]] hello"})
        self.start = time.time()
        self.end = self.start + self._seconds
        outage_at = self.start + (self.end - self.start) * 0.4
        submitted = 0
        with ThreadPoolExecutor(_CLIENTS) as clients, self._sampled():
            while (now := time.time()) < self.end:
                if now > outage_at:
                    self._order({"status": 429, "retry_after": 3, "for_seconds": (self.end - self.start) / 12})
                    outage_at = math.inf
                clients.submit(self._chat, self._random.choice(_OWNERS), self._random.randrange(_SESSIONS))
                submitted += 1
                tell(f"{submitted} chats, {self.end - now:.0f} s to go")
                time.sleep(1 / self._pace((now - self.start) / (self.end - self.start)))

    def metrics(self) -> Metrics:
        """All samples so far."""
        metrics = emitted(log_lines(self._stack.logs))
        for metric in self._outside.names():
            for at, value in self._outside.samples(metric):
                metrics.add(metric, at, value)
        return metrics

    @staticmethod
    def _pace(part: float) -> float:
        """Chats a second: a morning, a peak and an afternoon."""
        return 3 + 3 * math.exp(-(((part - 0.3) / 0.12) ** 2)) + 2 * math.exp(-(((part - 0.75) / 0.1) ** 2))

    def _chat(self, owner: str, session: int) -> None:
        """One chat as a client has it: submit, then poll until it is final. Some clients hang up, repeat a request or
        cancel."""
        with self._lock:
            chance, kind = self._random.random(), self._random.random()
            words = self._random.randint(20, 160)
            seconds = round(self._random.lognormvariate(-0.1, 0.6), 2)
        body = {"message": f"[[latency={seconds} words={words}]] {self._trouble(kind)} chat {uuid.uuid4().hex[:6]}"}
        body["session_id"] = f"session-{session}-{uuid.uuid4().hex[:4] if chance < 0.7 else 'a'}"
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        wants = {"Prefer": "wait=1"} if chance > 0.9 else {"Prefer": "respond-async"}
        status, answer = self._call(owner, "POST", "/chat", body, headers | wants)
        if 0.3 < chance < 0.36:
            self._call(owner, "POST", "/chat", body, headers | wants)  # its first response was lost
        task_id = answer.get("task_id", "")
        if status == 202 and chance < 0.02:
            self._call(owner, "POST", f"/chat/task/{task_id}/cancel")
        while status == 202 and not self._over.wait(_POLL_SECONDS):
            _, task = self._call(owner, "GET", f"/chat/task/{task_id}")
            if task.get("status") in ("SUCCESS", "FAILURE"):
                break
        if chance > 0.985:
            self._call(owner, "GET", f"/chat/task/x.{task_id[-26:]}")  # an unknown task: a 404

    @staticmethod
    def _trouble(kind: float) -> str:
        """The trouble that the stand-in model makes for the chat. Most have none."""
        if kind < 0.02:
            return "[[refuse]]"
        if kind < 0.03:
            return "[[status=400]]"
        if kind < 0.07:
            return "[[status=500 times=1]]"
        return "[[status=429 retry_after=2 times=1]]" if kind < 0.1 else ""

    def _order(self, fault: dict[str, Any]) -> None:
        url = f"{self._stack.model_url.removesuffix('/v1')}/stand-in/faults"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(url, json.dumps(fault).encode(), {"Content-Type": "application/json"})
        opener.open(request).close()

    # ---- What AWS measures from outside

    def _add(self, namespace: str, name: str, dimensions: dict[str, str], value: float) -> None:
        with self._lock:
            self._outside.add(Metric.of(namespace, name, dimensions), time.time(), value)

    def _call(
        self, owner: str, method: str, target: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        began = time.monotonic()
        connection = http.client.HTTPConnection(self._address, timeout=40)
        try:
            sent = {"Authorization": f"Bearer {self._tokens[owner]}", "Content-Type": "application/json"}
            connection.request(method, target, json.dumps(body) if body else None, sent | (headers or {}))
            response = connection.getresponse()
            status, answer = response.status, json.loads(response.read())
        finally:
            connection.close()
        api = {"ApiId": self._stack.outputs["HttpApiId"]}
        self._add("AWS/ApiGateway", "Count", api, 1)
        self._add("AWS/ApiGateway", "4xx", api, 400 <= status < 500)
        self._add("AWS/ApiGateway", "5xx", api, status >= 500)
        self._add("AWS/ApiGateway", "Latency", api, (time.monotonic() - began) * 1000)
        return status, answer

    def _invoked(self, invocation: Invocation) -> None:
        function = {"FunctionName": self._stack.functions[invocation.function].name}
        throttled = invocation.error == THROTTLED
        self._add("AWS/Lambda", "Throttles", function, throttled)
        if not throttled:
            self._add("AWS/Lambda", "Errors", function, invocation.error is not None)
            self._add("AWS/Lambda", "Duration", function, (invocation.ended_at - invocation.began_at) * 1000)

    @contextmanager
    def _sampled(self) -> Iterator[None]:
        """Measure the queues and the functions during the load, and end the clients' polls."""
        sampler = threading.Thread(target=self._sample, name="sampler")
        sampler.start()
        try:
            yield
            time.sleep(_SAMPLE_SECONDS)
        finally:
            self._over.set()
            sampler.join()

    def _sample(self) -> None:
        sqs = self._stack.client("sqs")
        counts = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        while not self._over.wait(_SAMPLE_SECONDS):
            for output in ("QueueUrl", "DeadLetterQueueUrl"):
                url = self._stack.outputs[output]
                found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(counts))["Attributes"]
                queue = {"QueueName": url.rpartition("/")[2]}
                self._add("AWS/SQS", "ApproximateNumberOfMessagesVisible", queue, int(found[counts[0]]))
                self._add("AWS/SQS", "ApproximateNumberOfMessagesNotVisible", queue, int(found[counts[1]]))
                if output == "QueueUrl" and (age := self._age_of_the_oldest()) is not None:
                    self._add("AWS/SQS", "ApproximateAgeOfOldestMessage", queue, age)
            for function in self._stack.functions.values():
                running = self._stack.host.running(function.name)
                self._add("AWS/Lambda", "ConcurrentExecutions", {"FunctionName": function.name}, running)

    def _age_of_the_oldest(self) -> float | None:
        """Age in seconds of the oldest open task. None if no task is open."""
        pages = (
            self._stack.client("dynamodb")
            .get_paginator("scan")
            .paginate(
                TableName=self._stack.outputs["TurnsTableName"],
                FilterExpression="#status IN (:pending, :started)",
                ExpressionAttributeNames={"#status": "status"},
                ExpressionAttributeValues={":pending": {"S": "PENDING"}, ":started": {"S": "STARTED"}},
            )
        )
        open_since = [float(item["created_at"]["N"]) for page in pages for item in page["Items"]]
        return time.time() - min(open_since) if open_since else None
