"""Pages of other sites, in a developer's browser, attack every listening port of a running stack. The ports come from
the operating system, so a listener without a guard fails these tests.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from playwright.sync_api import Browser, Page, Response, Route

from local.stack import LocalStack
from tests.e2e.conftest import Api

EVIL = "evil.example"
REBINDING = "rebinding.example"
# Chromium lately asks the user before a page reaches loopback. Not every browser does.
CHROMIUM_OPTIONS = ("--host-resolver-rules=MAP *.example 127.0.0.1", "--disable-features=LocalNetworkAccessChecks")

ATTACKS = """async (port) => {
  const base = `http://127.0.0.1:${port}/`;
  const at = (name) => `${base}?attack=${name}`;
  const opaque = { mode: "no-cors", credentials: "include" };
  const sent = (name, request) => fetch(at(name), { ...opaque, ...request }).catch(() => {});
  const form = new FormData();
  form.set("Action", "CreateRole");
  const text = new Blob(["{}"], { type: "text/plain" });
  await sent("get", {});
  await sent("text", { method: "POST", body: text });
  await sent("urlencoded", { method: "POST", body: new URLSearchParams("Action=CreateRole") });
  await sent("multipart", { method: "POST", body: form });
  const loaded = (element) => new Promise((resolve) => {
    element.onload = element.onerror = resolve;
    document.body.append(element);
  });
  await loaded(Object.assign(document.createElement("img"), { src: at("img") }));
  await loaded(Object.assign(document.createElement("script"), { src: at("script") }));
  await loaded(Object.assign(document.createElement("iframe"), { src: at("iframe") }));
  for (const enctype of ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data"]) {
    const name = `form-${enctype.split("/")[1]}`;
    const frame = Object.assign(document.createElement("iframe"), { name });
    document.body.append(frame);
    const form = Object.assign(document.createElement("form"), { action: at(name), method: "post", enctype });
    form.target = name;
    form.append(Object.assign(document.createElement("input"), { name: "Action", value: "CreateRole" }));
    document.body.append(form);
    const answered = new Promise((resolve) => { frame.onload = resolve; });
    form.submit();
    await answered;
  }
  const simple = { mode: "cors", method: "POST", body: text };
  const preflight = { mode: "cors", method: "POST", headers: { "X-Amz-Target": "secretsmanager.ListSecrets" } };
  const reads = [simple, preflight].map((request) => fetch(base, request).then(() => true, () => false));
  const opened = await new Promise((resolve) => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/`);
    socket.onopen = () => resolve(true);
    socket.onerror = () => resolve(false);
  });
  return { read: (await Promise.all(reads)).includes(true), opened };
}"""
SEEN = {
    *("get", "text", "urlencoded", "multipart", "iframe"),
    *("form-x-www-form-urlencoded", "form-plain", "form-form-data"),
}
"""The attacks whose answer has a status to see. Of the others Chromium withholds the answer, also from this test."""

SUBMIT_FORM = """async ([action, fields]) => {
  const form = Object.assign(document.createElement("form"), { action, method: "post", target: "answer" });
  for (const [name, value] of Object.entries(fields)) {
    form.append(Object.assign(document.createElement("input"), { name, value }));
  }
  const frame = Object.assign(document.createElement("iframe"), { name: "answer" });
  document.body.append(form, frame);
  const answered = new Promise((resolve) => { frame.onload = resolve; });
  form.submit();
  await answered;
}"""

REBOUND = """async () => {
  const statuses = [];
  statuses.push((await fetch("/?attack=get")).status);
  statuses.push((await fetch("/?attack=post", { method: "POST", body: "{}" })).status);
  const headers = { "X-Amz-Target": "secretsmanager.ListSecrets", Authorization: "Credential=test" };
  statuses.push((await fetch("/?attack=headers", { method: "POST", body: "{}", headers })).status);
  return statuses;
}"""


def commands_by_port() -> dict[int, str]:
    """The TCP ports on which this process and all its descendants listen, with the command of each, from /proc."""
    ports = {f"socket:[{inode}]": port for table in ("tcp", "tcp6") for inode, port in _listening(table)}
    commands = {}
    for pid in _descendants():
        for fd in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if port := ports.get(os.readlink(fd)):
                    commands[port] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    return commands


def _listening(table: str) -> Iterator[tuple[str, int]]:
    """The inode of each listening socket, and its port."""
    for line in Path("/proc/net", table).read_text().splitlines()[1:]:
        _, local, _, state, *_, inode = line.split()[:10]
        if state == "0A":
            yield inode, int(local.rpartition(":")[2], 16)


def _descendants() -> list[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [os.getpid()]
    for pid in found:  # grows while it is read
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def still_open(listeners: dict[int, str]) -> Iterator[tuple[int, str]]:
    """The listeners that have not closed meanwhile. An environment of a function ends when it was idle for long."""
    for port, command in listeners.items():
        if port in commands_by_port():
            yield port, command


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context() as context:
        yield context.new_page()


@pytest.fixture(scope="module")
def foreign_port() -> Iterator[int]:
    """A web server with an empty page, which answers to every name."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><body>")

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def listeners(stack: LocalStack, alice: Api, foreign_port: int) -> dict[int, str]:
    """The command of each port of the stack, with an environment of every function that answers a chat."""
    if not Path("/proc/net/tcp").exists():
        pytest.skip("needs /proc, to know which ports this process and its children listen on")
    assert alice.chat("Hello").status_code == 200
    commands = commands_by_port()
    del commands[foreign_port]
    known = [stack.api_url, stack.emulator.account.endpoint_url, stack.issuer.url, stack.model_url, stack.console.url]
    assert {urlsplit(url).port for url in known} <= commands.keys()
    assert len(commands) > len(known) + 3
    return commands


def test_a_page_of_another_origin_is_refused_by_every_port(
    page: Page, stack: LocalStack, listeners: dict[int, str], foreign_port: int
) -> None:
    """tests/local/test_guard.py has a page of another port of this machine."""
    open_to_pages = {urlsplit(url).port for url in (stack.api_url, stack.stream_url)}
    answers: dict[int, dict[str, int]] = {port: {} for port in listeners}

    def note(response: Response) -> None:
        url = urlsplit(response.url)
        if url.port in answers and (attack := parse_qs(url.query).get("attack")):
            answers[url.port][attack[0]] = response.status

    page.on("response", note)
    for port, command in still_open(listeners):
        page.goto(f"http://{EVIL}:{foreign_port}/")
        seen = page.evaluate(ATTACKS, port)
        assert answers[port].keys() >= SEEN, command
        if port in open_to_pages:  # It has CORS, and wants a token in a header, which no form can send.
            assert set(answers[port].values()) <= {401, 404}
            continue
        assert set(answers[port].values()) == {403}, f"{answers[port]} from port {port}: {command}"
        assert seen == {"read": False, "opened": False}, f"port {port}: {command}"


def test_a_foreign_name_that_leads_here_is_refused_by_every_port(page: Page, listeners: dict[int, str]) -> None:
    """DNS rebinding: the page came from its own server, then its name began to mean this machine."""

    def own_page(route: Route) -> None:
        route.fulfill(content_type="text/html", body="<!doctype html><body>")

    page.route("**/as-it-was", own_page)
    for port, command in still_open(listeners):
        page.goto(f"http://{REBINDING}:{port}/as-it-was")
        assert page.evaluate(REBOUND) == [403, 403, 403], f"port {port}: {command}"
        answer = page.goto(f"http://{REBINDING}:{port}/")
        assert answer is not None
        assert answer.status == 403, f"port {port}: {command}"


def test_three_forms_of_a_page_run_no_code(page: Page, stack: LocalStack, foreign_port: int) -> None:
    """The first makes a role for a function with the attacker's code. MiniStack believes any signature by `test`.

    The API's port hands on to MiniStack too, from every origin: there it is a request for a route that is none.
    """
    signed = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"test/{datetime.now(UTC):%Y%m%d}/us-east-1/iam/aws4_request",
        "X-Amz-Date": f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}",
        "X-Amz-Expires": "600",
        "X-Amz-SignedHeaders": "host",
        "X-Amz-Signature": "0" * 64,
    }
    role = {"Action": "CreateRole", "RoleName": "intruder", "AssumeRolePolicyDocument": "{}", "Version": "2010-05-08"}
    for url in (stack.emulator.account.endpoint_url, stack.api_url):
        page.goto(f"http://{EVIL}:{foreign_port}/")
        page.evaluate(SUBMIT_FORM, [f"{url}/?{urlencode(signed)}", role])
        page.goto(f"http://{EVIL}:{foreign_port}/")
        page.evaluate(SUBMIT_FORM, [f"{url}/?{urlencode(signed | role)}", {}])
    names = [role["RoleName"] for role in stack.client("iam").list_roles()["Roles"]]
    assert names
    assert "intruder" not in names


def test_a_page_cannot_reset_the_account(page: Page, stack: LocalStack, foreign_port: int) -> None:
    account = stack.emulator.account.endpoint_url
    up = "/..%2f..%2f..%2f..%2f_ministack/reset"
    for url in (f"{account}/_ministack/reset", f"{stack.api_url}{up}", f"{stack.api_url}/_ministack/reset"):
        page.goto(f"http://{EVIL}:{foreign_port}/")
        page.evaluate("(url) => fetch(url, {mode: 'no-cors', method: 'POST'})", url)
    table = stack.outputs["TurnsTableName"]
    assert stack.client("dynamodb").describe_table(TableName=table)["Table"]["TableStatus"] == "ACTIVE"
