"""clients/javascript against the deployed stack, in a browser and in Node, mainly with the calls of the replaced
client, and the programs of the client's pages."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from local.tools import ROOT
from tests.e2e.conftest import Deployment

MODULE = ROOT / "clients" / "javascript" / "turnqueue.js"

# Word by word from the description of the replaced system.
AS_WRITTEN = """
// Async mode
const response = await sendChatMessage({message: "Hello"}, true);
const taskId = response.data.task_id;

// Poll for completion
const result = await pollChatTask(taskId);
"""
ALSO_AS_WRITTEN = """
// Send message in async mode
const response = await sendChatMessage({
    message: "I need a haircut",
    session_id: "session_123"
}, true);

const taskId = response.data.task_id;

// Poll until complete
const result = await pollChatTask(taskId);
console.log(result.message); // "I can help you with that..."
"""

PROGRAM = f"""
const {{ configure, createClient, newIdempotencyKey, TaskFailedError, ...api }} = await import(url);
const {{ sendChatMessage, getChatTaskStatus, pollChatTask }} = api;
configure({{ baseUrl, token }});
const results = await Promise.all([
  (async () => {{ {AS_WRITTEN} return result; }})(),
  (async () => {{ {ALSO_AS_WRITTEN} return result; }})(),
]);
const synchronous = await sendChatMessage({{ message: "Hello" }});
const status = await getChatTaskStatus(synchronous.data.task_id);

const client = createClient({{ baseUrl, token: async () => token }});
const seen = [];
const chat = await client.chat({{ message: "hello again" }}, {{ onProgress: ({{ status }}) => seen.push(status) }});
const page = await client.history(chat.session_id);
const image = await client.upload(new Blob(["GIF89a and so on"], {{ type: "image/gif" }}));
const looked = await client.chat({{ message: "look", media: [image] }});
const {{ task_id }} = await client.submit({{ message: "[[drip=0.5 tokens=100]] never mind" }});
await client.cancel(task_id);
const failure = await client.poll(task_id).catch((error) => error);
const missing = await client.task("nothing").catch((error) => error);

const accepted = [];
const twice = {{ idempotencyKey: newIdempotencyKey(), onAccepted: (task) => accepted.push(task.task_id) }};
for (let n = 0; n < 2; n++) await client.chat({{ message: "only once" }}, twice);
const day = await client.usage();
const aborter = new AbortController();
const long = client.chat({{ message: "[[drip=0.5 tokens=100]] for long" }}, {{
  signal: aborter.signal,
  onAccepted: () => aborter.abort(),
}});
const aborted = await long.catch((error) => error);
await client.cancel(aborted.taskId);
const began = performance.now();
let refreshes = 0;
const signedOut = createClient({{ baseUrl, token: () => "of.another.issuer", refreshToken: () => void refreshes++ }});
const refused = await signedOut.chat({{ message: "let me in" }}).catch((error) => error);
const gone = await createClient({{ baseUrl: "http://127.0.0.1:9", attempts: 2 }}).usage().catch((error) => error);
return {{
  results, seen, looked: looked.message, synchronous: synchronous.data, status: status.data, chat,
  messages: page.turns.map(({{ message }}) => message),
  failure: [failure instanceof TaskFailedError, failure.code],
  missing: [missing.status, missing.code, missing.problem.title],
  accepted, answers: day.answers, aborted: [aborted.name, aborted.taskId],
  refused: [refused.status, refused.code, refreshes, performance.now() - began < 5000], gone: gone.code,
}};
"""


def check(answer: dict[str, Any]) -> None:
    first, second = answer["results"]
    assert 'You said "Hello"' in first["message"]
    assert 'You said "I need a haircut"' in second["message"]
    assert second["session_id"] == "session_123"
    assert 'You said "Hello"' in answer["synchronous"]["message"]
    assert answer["status"]["result"] == answer["synchronous"]
    assert answer["seen"][-1] == "SUCCESS"
    assert "1 image" in answer["looked"]
    assert answer["messages"] == ["hello again"]
    assert answer["failure"] == [True, "cancelled"]
    assert answer["missing"] == [404, "task_not_found", "Not Found"]
    first, second = answer["accepted"]
    assert first == second, "one task for one key"
    assert answer["answers"] >= 5
    name, task_id = answer["aborted"]
    assert (name, bool(task_id)) == ("AbortError", True)
    assert answer["refused"] == [401, "unauthorized", 1, True]
    assert answer["gone"] == "network_error"


@pytest.fixture
def node() -> str:
    if path := shutil.which("node"):
        return path
    pytest.skip("no Node: `node` is not on PATH")


@pytest.mark.usefixtures("directives")
def test_in_node(deployment: Deployment, node: str) -> None:
    given = json.dumps({"url": MODULE.as_uri(), "baseUrl": deployment.url, "token": deployment.tokens["bob"]})
    program = f"""
        const {{ url, baseUrl, token }} = {given};
        const console = {{ log() {{}} }};
        const answer = await (async () => {{ {PROGRAM} }})();
        process.stdout.write(JSON.stringify(answer));
    """
    ran = subprocess.run(
        [node, "--input-type=module", "-"], input=program, capture_output=True, text=True, timeout=50, check=True
    )
    check(json.loads(ran.stdout))


def programs() -> dict[str, tuple[str, str]]:
    """The programs of the pages, unchanged, by their names; each with the last line of its output."""

    def code(page: Path) -> list[str]:
        return re.findall(r"^```(?:javascript|diff)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)

    chat, growing = code(MODULE.parent / "README.md")
    moved, existing, new = code(ROOT / "docs" / "javascript.md")
    moved = "\n".join(re.findall(r"^\+(.*)", moved, re.MULTILINE))
    submit = 'const { task_id: taskId } = await client.submit({ message: "Go on" });\nconst after = undefined;\n'
    return {
        "chat and stream": (f"{chat}{submit}{growing}console.log(shown.at(-1));", "Go on"),
        "the calls of api.js": (f"{moved}\n{existing}", "I need a haircut"),
        "the new calls": (f"{new}console.log(shown.at(-1));", "Tell me about queues"),
    }


@pytest.mark.parametrize("name", ["chat and stream", "the calls of api.js", "the new calls"])
@pytest.mark.usefixtures("directives")
def test_the_programs_of_the_pages(name: str, deployment: Deployment, node: str, tmp_path: Path) -> None:
    packages = tmp_path / "node_modules"
    packages.mkdir()
    (packages / "turnqueue").symlink_to(MODULE.parent)
    program, said = programs()[name]
    (tmp_path / "program.mjs").write_text(
        f"""
        const baseUrl = process.env.API, token = process.env.TOKEN;
        const auth = {{ idToken: token }}, session = async () => auth, controller = new AbortController();
        const shown = [], show = (text) => shown.push(text), offerToSendAgain = (problem) => {{ throw problem; }};
        {program.replace('"https://…"', "baseUrl")}
        """
    )
    ran = subprocess.run(
        [node, tmp_path / "program.mjs"],
        env={**os.environ, "API": deployment.url, "TOKEN": deployment.tokens["alice"]},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert said in ran.stdout.splitlines()[-1], ran.stdout
