"""`python -m operations verify` checks a deployed stack from outside: the API by chats, and the resources by AWS's
APIs.

Each check is a generator that yields a sentence for each failure. docs/operations.md, "Verify", has an entry for each
check.
"""

import itertools
import json
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from botocore.exceptions import BotoCoreError, ClientError

from operations import CommandFailed
from operations.api import Answer, Api
from operations.output import say
from operations.smoke import MESSAGE, NOT_CACHED, answered, finished
from operations.stack import Stack

ALIAS = "live"
ORIGIN = "https://verify.invalid"
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a4944415478da63600000000200"
    "01e527defc0000000049454e44ae426082"
)
"""A PNG image of one pixel."""

OF_A_CHAT = ("TaskSubmitted", "TaskFailed", "AnswerTime")
"""The metrics that an answered chat emits."""

_SETTINGS = ("CodeSha256", "Handler", "MemorySize", "Role", "Runtime", "Timeout", "Architectures")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_PAUSE_SECONDS = 2


@dataclass
class Verification:
    """The state that the checks share. `patience`: the maximum seconds until CloudWatch shows a log line or a
    metric."""

    stack: Stack
    api: Api
    patience: float
    began_at: float = field(default_factory=time.time)
    task_ids: list[str] = field(default_factory=list)  # the task ids of the answered chats

    def submit(self, message: str = MESSAGE, *, headers: dict[str, str] | None = None, **request: str) -> str:
        """Submit a chat and return its task id. Raises ApiFailed."""
        body = {"message": message, **request}
        path, sent = "/chat?async_mode=true", NOT_CACHED | (headers or {})
        return self.api.expect(202, "POST", path, body, headers=sent).task_id

    def functions(self) -> dict[str, str]:
        """The functions' names by their logical ids."""
        return {
            name: resource.name
            for name, resource in self.stack.resources.items()
            if resource.kind == "AWS::Lambda::Function"
        }

    def until(self, found: Callable[[], bool]) -> bool:
        """Call `found` until it returns true, for at most `patience` seconds. Returns whether `found` returned true."""
        end = time.monotonic() + self.patience
        while not found():
            if time.monotonic() > end:
                return False
            time.sleep(_PAUSE_SECONDS)
        return True


type Failures = Iterator[str]


# ---- The parts of the stack


def check_stack(v: Verification) -> Failures:
    status = v.stack.description["StackStatus"]
    if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE"):
        yield f"CloudFormation says {status}, so the last deployment is under way or has failed"


def check_versions(v: Verification) -> Failures:
    for label, name in v.functions().items():
        client = v.stack.client("lambda")
        alias = client.get_alias(FunctionName=name, Name=ALIAS)
        version = alias["FunctionVersion"]
        if version == "$LATEST":
            yield f"the alias {ALIAS} of {label} leads to $LATEST, not to a version"
        if alias.get("RoutingConfig", {}).get("AdditionalVersionWeights"):
            yield f"the alias {ALIAS} of {label} still divides its traffic between two versions"
        served = client.get_function_configuration(FunctionName=name, Qualifier=ALIAS)
        newest = client.get_function_configuration(FunctionName=name)
        differing = [setting for setting in _SETTINGS if served.get(setting) != newest.get(setting)]
        differing += [title for title, read in _READ.items() if read(served) != read(newest)]
        if differing:
            yield f"{label} serves version {version}, which is older than the deployed {', '.join(differing)}"


_READ: dict[str, Callable[[dict[str, Any]], Any]] = {
    "Environment": lambda configuration: configuration.get("Environment", {}).get("Variables", {}),
    "Layers": lambda configuration: [layer["Arn"] for layer in configuration.get("Layers", [])],
}


def check_configuration(v: Verification) -> Failures:
    """Check that each live function has the variables that the template and the stack's parameters define."""
    for label, name in v.functions().items():
        declared = v.stack.template["Resources"][label]["Properties"].get("Environment", {}).get("Variables", {})
        configuration = v.stack.client("lambda").get_function_configuration(FunctionName=name, Qualifier=ALIAS)
        live = _READ["Environment"](configuration)
        for variable, value in declared.items():
            wanted = _resolved(v.stack, value)
            if wanted is not None and live.get(variable, "") != wanted:
                yield f"{label} runs with a value of {variable} that differs from the stack's template and parameters"


def _resolved(stack: Stack, value: Any) -> str | None:
    """The text of a plain value or a Ref. None for other intrinsics, which this module cannot resolve."""
    if not isinstance(value, dict):
        return str(value)
    name = value.get("Ref")
    if name == "AWS::StackName":
        return stack.name
    if name in stack.parameters:
        return stack.parameters[name]
    return stack.resources[name].name if name in stack.resources else None


def check_event_sources(v: Verification) -> Failures:
    sources = {label: r.name for label, r in v.stack.resources.items() if r.kind == "AWS::Lambda::EventSourceMapping"}
    if not sources:
        yield "the stack has no event source"
    for label, source in sources.items():
        found = v.stack.client("lambda").get_event_source_mapping(UUID=source)
        if found["State"] not in ("Enabled", "Updating"):
            yield f"the event source {label} is {found['State']}, so nothing calls its function"
        if not found["FunctionArn"].endswith(f":{ALIAS}"):
            yield f"the event source {label} does not call the alias {ALIAS}"
        result = found.get("LastProcessingResult", "")
        if result.startswith("PROBLEM"):
            yield f"the event source {label} reports: {result}"


def check_alarms(v: Verification) -> Failures:
    names = [r.name for r in v.stack.resources.values() if r.kind.endswith(("CloudWatch::Alarm", "::CompositeAlarm"))]
    declared = [
        resource
        for resource in v.stack.template["Resources"].values()
        if resource["Type"] in ("AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm")
    ]
    if not names or not declared:
        yield "the stack has no alarms"
        return
    answer = v.stack.client("cloudwatch").describe_alarms(
        AlarmNames=names, AlarmTypes=["MetricAlarm", "CompositeAlarm"], MaxRecords=100
    )
    found = {alarm["AlarmName"]: alarm for alarm in answer["MetricAlarms"] + answer["CompositeAlarms"]}
    topic = v.stack.parameters.get("AlarmTopicArn", "")
    for name in names:
        entry = name.removeprefix(f"{v.stack.name}-")
        if name not in found:
            yield f"the alarm {entry} does not exist"
            continue
        # no-success is in ALARM whenever nobody chats, so its state says nothing
        if found[name]["StateValue"] == "ALARM" and entry != "no-success":
            yield f'the alarm {entry} is in ALARM: see docs/operations.md, "Alarms", "{entry}"'
        if any(dimensions != {"service": v.stack.name} for dimensions in _own_dimensions(found[name])):
            yield f"the alarm {entry} watches a metric of another stack"
        if topic and entry != "no-success" and topic not in found[name].get("AlarmActions", []):
            yield f"the alarm {entry} does not notify the topic in AlarmTopicArn"


def _own_dimensions(alarm: dict[str, Any]) -> list[dict[str, str]]:
    """The dimensions of each metric that the alarm watches in the namespace Turnqueue."""
    metrics = [each["MetricStat"]["Metric"] for each in alarm.get("Metrics", []) if "MetricStat" in each] or [alarm]
    return [
        {dimension["Name"]: dimension["Value"] for dimension in metric.get("Dimensions", [])}
        for metric in metrics
        if metric.get("Namespace") == "Turnqueue"
    ]


# ---- The API


def check_health(v: Verification) -> Failures:
    answer = v.api.expect(200, "GET", "/health", token=False)
    if answer.document.get("status") != "ok":
        yield "GET /health does not say `ok`"
    v.api.expect(200, "HEAD", "/health", token=False)


def _declared_routes(v: Verification) -> dict[str, str]:
    """The authorizer of each route in the template."""
    return {
        resource["Properties"]["RouteKey"]: resource["Properties"].get("AuthorizationType", "NONE")
        for resource in v.stack.template["Resources"].values()
        if resource["Type"] == "AWS::ApiGatewayV2::Route"
    }


def check_routes(v: Verification) -> Failures:
    client, api_id = v.stack.client("apigatewayv2"), v.stack.outputs["HttpApiId"]
    pages = client.get_paginator("get_routes").paginate(ApiId=api_id)
    found = {route["RouteKey"]: route for page in pages for route in page["Items"]}
    for key, authorization in _declared_routes(v).items():
        if key not in found:
            yield f"the route {key} does not exist"
        elif found[key].get("AuthorizationType", "NONE") != authorization:
            yield f"the route {key} has the authorization {found[key].get('AuthorizationType')}, not {authorization}"
    for path in ("/chat", "/chat/"):  # An empty message is refused, so it costs no model call.
        answer = v.api.call("POST", path, {"message": ""})
        if (answer.status, _is_problem(answer)) != (422, True):
            yield f"POST {path} with an empty message returns {answer.status}, not 422 with a problem document"
    answer = v.api.call("GET", "/chat/no-such-path")
    if (answer.status, _is_problem(answer)) != (404, True):
        yield f"an unknown path returns {answer.status}, not 404 with a problem document"


def _is_problem(answer: Answer) -> bool:
    return str(answer.headers.get("content-type", "")).startswith("application/problem+json")


def _paths(v: Verification) -> list[tuple[str, str]]:
    """The method and path of each route. An id replaces each variable in a path."""
    routes = [key.split(" ") for key in _declared_routes(v) if " " in key and not key.startswith("OPTIONS")]
    return [(method, re.sub(r"\{\w+\}", "verify", path)) for method, path in routes] + [("POST", "/chat/")]


def check_preflight(v: Verification) -> Failures:
    """Check that browsers may call the API: they send a preflight before they send a token."""
    allowed = v.stack.parameters.get("AllowedOrigins", "*").split(",")
    origin = ORIGIN if "*" in allowed else allowed[0]
    for method, path in _paths(v):
        asked = {
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        answer = v.api.call("OPTIONS", path, token=False, headers=asked)
        headers = answer.headers.get("access-control-allow-headers", "").lower()
        if not 200 <= answer.status < 300:
            yield f"the preflight of {method} {path} returns {answer.status}"
        elif answer.headers.get("access-control-allow-origin") not in ("*", origin):
            yield f"the preflight of {method} {path} does not allow the origin {origin}"
        elif "*" not in headers and "authorization" not in headers:
            yield f"the preflight of {method} {path} does not allow the header Authorization"


def check_token(v: Verification) -> Failures:
    protected = {key for key, authorization in _declared_routes(v).items() if authorization == "JWT"}
    if not protected:
        yield "no route requires a token"
    for method, path in _paths(v):
        if path.startswith("/health"):
            continue
        for title, headers in (("no token", {}), ("a wrong token", {"Authorization": "Bearer verify.verify.verify"})):
            answer = v.api.call(method, path, token=False, headers=headers)
            if answer.status not in (401, 403):
                yield f"{method} {path} with {title} returns {answer.status}, not 401"
    v.api.expect(200, "GET", "/chat/usage")


def check_sync(v: Verification) -> Failures:
    answer = v.api.call("POST", "/chat?async_mode=false", {"message": MESSAGE}, headers=NOT_CACHED)
    if answer.status not in (200, 202):
        yield f"a sync chat returns {answer.status}{_code(answer)}"
        return
    task = answered(v.api, answer.task_id)
    v.task_ids.append(task["task_id"])
    if answer.status == 200 and not answer.text("message"):
        yield "a sync chat is answered 200 without a message"


def _code(answer: Answer) -> str:
    code = answer.document.get("code")
    return f", {code}" if isinstance(code, str) else ""


def check_async(v: Verification) -> Failures:
    answer = v.api.expect(202, "POST", "/chat?async_mode=true", {"message": MESSAGE}, headers=NOT_CACHED)
    for name in ("location", "retry-after"):
        if name not in answer.headers:
            yield f"the 202 of an async chat has no {name.title()}"
    if v.api.call("GET", f"/chat/task/{answer.task_id}").status != 200:
        yield "a task cannot be read straight after its 202"
    v.task_ids.append(answered(v.api, answer.task_id)["task_id"])


def check_idempotency(v: Verification) -> Failures:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    first = v.submit(headers=key)
    if v.submit(headers=key) != first:
        yield "the same Idempotency-Key and the same body made two tasks"
    answer = v.api.call("POST", "/chat?async_mode=true", {"message": f"{MESSAGE} Other."}, headers=key | NOT_CACHED)
    if answer.status != 422:
        yield f"the same Idempotency-Key with another body returns {answer.status}, not 422"
    v.task_ids.append(answered(v.api, first)["task_id"])


def check_order(v: Verification) -> Failures:
    """Send three messages of a session together, and check that they are answered in order."""
    session = f"verify-{uuid.uuid4().hex}"
    submitted = [v.submit(f"{MESSAGE} {number}", session_id=session) for number in (1, 2, 3)]
    tasks = [answered(v.api, task_id) for task_id in submitted]
    v.task_ids += submitted
    for earlier, later in itertools.pairwise(tasks):
        if not str(earlier["finished_at"]) <= str(later["started_at"]):  # RFC 3339 times in UTC can be compared as text
            yield f"{later['task_id']} began before {earlier['task_id']} of its session had ended"
    page = v.api.expect(200, "GET", f"/chat/session/{session}")
    listed = [turn.get("task_id") for turn in page.document.get("turns", [])]
    if listed not in (submitted, submitted[::-1]):
        yield "the session does not list its messages in their order"


def check_cancel(v: Verification) -> Failures:
    """Check that a waiting message can be cancelled. The second message of a session waits for the first one, so cancel
    the second one. If it is answered before the cancellation, try again."""
    for _ in range(3):
        session = f"verify-{uuid.uuid4().hex}"
        v.submit(session_id=session)
        task_id = v.submit(session_id=session)
        answer = v.api.call("POST", f"/chat/task/{task_id}/cancel")
        if answer.status not in (200, 202):
            yield f"a cancellation returns {answer.status}{_code(answer)}"
            return
        task = finished(v.api, task_id)
        if task.get("error_code") == "cancelled":
            return
    yield f"a cancelled task ended as {task['status']}, three times"


def check_upload(v: Verification) -> Failures:
    offered = v.api.expect(201, "POST", "/chat/media", {"type": "image", "content_type": "image/png"})
    url, fields = offered.text("url"), offered.document.get("fields")
    if not isinstance(fields, dict) or not url.startswith(("https://", "http://127.0.0.1:")):
        yield "POST /chat/media did not return an upload form"
        return
    try:
        answer = httpx.post(url, data=fields, files={"file": ("pixel.png", PIXEL)}, timeout=40, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        yield f"S3 does not answer: {type(error).__name__}"
        return
    if answer.status_code not in (200, 201, 204):
        yield f"S3 answers the upload with {answer.status_code}"


# ---- What CloudWatch shows of the chats


def check_logs(v: Verification) -> Failures:
    """Check the log lines since the verification began: that submit and worker logged the answered chats, and that
    CloudWatch can read each line."""
    groups = {label: r.name for label, r in v.stack.resources.items() if r.kind == "AWS::Logs::LogGroup"}
    for label in ("SubmitLogGroup", "StatusLogGroup", "WorkerLogGroup", "DeadletterLogGroup", "AuthorizerLogGroup"):
        if label not in groups:
            yield f"the stack has no {label}"
    wanted = {"SubmitLogGroup": v.task_ids, "WorkerLogGroup": v.task_ids}
    lines: dict[str, list[str]] = {}

    def read() -> bool:
        lines.update({label: _lines(v, group) for label, group in groups.items() if label != "AccessLogGroup"})
        return all(any(task_id in line for line in lines.get(label, ())) for label in wanted for task_id in v.task_ids)

    if not v.until(read):
        for label in wanted:
            missing = [t for t in v.task_ids if not any(t in line for line in lines.get(label, ()))]
            if missing:
                yield f"{label} has no line about {len(missing)} of the {len(v.task_ids)} answered chats"
    for label, found in lines.items():
        bad = {reason for reason in map(_fault, found) if reason}
        for reason in sorted(bad):
            yield f"{label} has {reason}"


def _lines(v: Verification, group: str) -> list[str]:
    pages = v.stack.client("logs").get_paginator("filter_log_events")
    found = pages.paginate(logGroupName=group, startTime=int(v.began_at * 1000))
    return [event["message"] for page in found for event in page["events"]]


def _fault(line: str) -> str | None:
    """The reason why Lambda or CloudWatch cannot read the line, or None."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return "a line that is not JSON"
    if not isinstance(document, dict):
        return "a line that is not a JSON object"
    if "_aws" in document or "type" in document:  # skip lines with metrics, and Lambda's lines
        return None
    if not _RFC3339.fullmatch(str(document.get("timestamp", ""))):
        return "a line without an RFC 3339 timestamp, so Lambda treats it as INFO"
    return None if isinstance(document.get("level"), str) else "a line without a level"


def check_dashboard(v: Verification) -> Failures:
    client = v.stack.client("cloudwatch")
    body = json.loads(client.get_dashboard(DashboardName=v.stack.outputs["DashboardName"])["DashboardBody"])
    if not body.get("widgets"):
        yield "the dashboard is empty"
        return
    shown = json.dumps(body)
    missing = [name for name in OF_A_CHAT if f'"{name}"' not in shown]
    for name in missing:
        yield f"the dashboard does not show {name}"
    without = set(OF_A_CHAT) if v.task_ids else set()  # no metrics to wait for if no chat was sent

    def read() -> bool:
        without.difference_update({name for name in without if _has_data(v, name)})
        return not without

    if not v.until(read):
        for name in sorted(without):
            yield f"the metric {name} has no data about the answered chats"


def _has_data(v: Verification, name: str) -> bool:
    answer = v.stack.client("cloudwatch").get_metric_statistics(
        Namespace="Turnqueue",
        MetricName=name,
        Dimensions=[{"Name": "service", "Value": v.stack.name}],
        StartTime=int(v.began_at) // 60 * 60,
        EndTime=int(time.time()) + 60,
        Period=60,
        Statistics=["SampleCount"],
    )
    return bool(answer["Datapoints"])


CHECKS: dict[str, Callable[[Verification], Failures]] = {
    "stack": check_stack,
    "versions": check_versions,
    "configuration": check_configuration,
    "event-sources": check_event_sources,
    "alarms": check_alarms,
    "health": check_health,
    "routes": check_routes,
    "preflight": check_preflight,
    "token": check_token,
    "sync": check_sync,
    "async": check_async,
    "idempotency": check_idempotency,
    "order": check_order,
    "cancel": check_cancel,
    "upload": check_upload,
    "logs": check_logs,
    "dashboard": check_dashboard,
}
"""The checks run in this order, because a failure of an early check often causes failures of later checks."""


def verify(
    stack: Stack,
    api: Api,
    tell: Callable[[str], object] = say,
    *,
    only: Collection[str] = CHECKS,
    patience: float = 180.0,
) -> dict[str, list[str]]:
    """Run the checks named in `only`, in the order of CHECKS, and print each result. Returns the failures by check.

    All checks together submit 8 chats as the owner of the token, and up to 4 more if the first chats of check_cancel
    are answered too quickly.
    """
    verification, failed = Verification(stack, api, patience), {}
    for name, check in CHECKS.items():
        if name not in only:
            continue
        failures = list(_failures(check, verification))
        if not failures:
            tell(f"ok      {name}")
            continue
        failed[name] = failures
        for failure in failures:
            tell(f"FAILED  {name}: {failure}")
        tell(f'        docs/operations.md, "Verify", "{name}"')
    return failed


def _failures(check: Callable[[Verification], Failures], verification: Verification) -> Failures:
    try:
        yield from check(verification)
    except (CommandFailed, ClientError, BotoCoreError) as error:
        yield str(error)
    except Exception as error:  # a malformed answer must not stop the other checks
        yield f"the answer has an unexpected form ({type(error).__name__} at {_where(error)})"


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"line {trace.tb_lineno}" if trace else "an unknown line"
