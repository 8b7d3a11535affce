import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import fs from "node:fs";
import { test } from "node:test";

import * as turnqueue from "../turnqueue.js";
import {
  ACCEPTED,
  answers,
  DROP,
  fakeClock,
  failed,
  HANG,
  problem,
  RESULT,
  running,
  serve,
  succeeded,
  task,
  TASK_ID,
} from "./support.js";

const { ApiError, createClient, NetworkError, TaskFailedError, TaskTimeoutError, TurnqueueError } = turnqueue;

async function clientOf(t, answer, options = {}) {
  const { url, requests } = await serve(t, answer);
  const clock = fakeClock(options.clock);
  const client = createClient({ baseUrl: url, token: "t", ...options, clock });
  return { client, requests, slept: clock.slept };
}

async function rejected(promise, kind) {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof kind, `${error} is no ${kind.name}`);
    assert.ok(error instanceof TurnqueueError);
    assert.equal(error.name, kind.name);
    return error;
  }
  assert.fail("it did not reject");
}

// ---- Requests

test("chat submits once, polls, and gives the answer", async (t) => {
  const { client, requests } = await clientOf(t, answers(task(), running(), succeeded()));
  assert.deepEqual(await client.chat({ message: "Hello", role: "booking" }), RESULT);
  const [submit, ...looks] = requests;
  assert.deepEqual(submit.body, { message: "Hello", role: "booking" });
  assert.deepEqual(submit.query, { async_mode: "true" });
  assert.equal(submit.headers["content-type"], "application/json");
  assert.equal(looks.length, 3);
  for (const request of requests) assert.equal(request.headers.authorization, "Bearer t");
});

test("submit, task, cancel, retry and history are one request each", async (t) => {
  const page = { session_id: "s", turns: [], next_cursor: "01" };
  const { client, requests } = await clientOf(t, ({ method, path }) => {
    if (path === "/chat/") return ACCEPTED;
    if (path === "/chat/session/s") return { body: page };
    if (path.endsWith("/retry")) return ACCEPTED;
    return { status: method === "POST" ? 202 : 200, body: running() };
  });
  assert.deepEqual(await client.submit({ message: "Hello" }), ACCEPTED.body);
  assert.equal((await client.task(TASK_ID, { wait: 20 })).status, "STARTED");
  assert.equal((await client.cancel(TASK_ID)).status, "STARTED");
  assert.deepEqual(await client.retry(TASK_ID), ACCEPTED.body);
  assert.deepEqual(await client.history("s"), page);
  assert.deepEqual(await client.history("s", { cursor: "01", limit: 5 }), page);
  assert.deepEqual(
    requests.map(({ method, path, query }) => [method, path, query]),
    [
      ["POST", "/chat/", { async_mode: "true" }],
      ["GET", `/chat/task/${TASK_ID}`, { wait: "20" }],
      ["POST", `/chat/task/${TASK_ID}/cancel`, {}],
      ["POST", `/chat/task/${TASK_ID}/retry`, {}],
      ["GET", "/chat/session/s", {}],
      ["GET", "/chat/session/s", { cursor: "01", limit: "5" }],
    ],
  );
});

test("a message says of the cache what its sender says, and otherwise nothing", async (t) => {
  const { client, requests } = await clientOf(t, ({ path }) => (path === "/chat/" ? ACCEPTED : { body: succeeded() }));
  await client.submit({ message: "Hello" });
  await client.submit({ message: "Hello" }, { cacheControl: "no-store" });
  await client.chat({ message: "Hello" }, { cacheControl: "no-cache" });
  assert.deepEqual(
    requests.filter(({ method }) => method === "POST").map(({ headers }) => headers["cache-control"]),
    [undefined, "no-store", "no-cache"],
  );
});

test("a token may be a function, and is asked for before every request", async (t) => {
  let number = 0;
  const { client, requests } = await clientOf(t, answers(running(), DROP, succeeded()), {
    token: async () => `t${++number}`,
  });
  await client.chat({ message: "Hello" });
  assert.deepEqual(
    requests.map(({ headers }) => headers.authorization),
    ["Bearer t1", "Bearer t2", "Bearer t3", "Bearer t4"],
  );
});

test("what a token function throws reaches the caller", async (t) => {
  const { client, requests } = await clientOf(t, answers(succeeded()), {
    token: () => Promise.reject(new Error("signed out")),
  });
  await assert.rejects(client.chat({ message: "Hello" }), { message: "signed out" });
  assert.equal(requests.length, 0);
});

for (const [name, token] of Object.entries({
  "an inner newline": "secret-a\nsecret-b",
  "a NUL": "secret-a\0secret-b",
  "a space": "secret-a secret-b",
  "a letter outside ASCII": "secret-a\u2026secret-b",
  "a control character": "secret-a\u007fsecret-b",
  "another type": { token: "secret-a" },
})) {
  test(`a token with ${name} is refused before any request, and not quoted`, async (t) => {
    const { client, requests, slept } = await clientOf(t, answers(succeeded()), { token });
    const error = await rejected(client.task(TASK_ID), TurnqueueError);
    assert.equal(error.code, "invalid_token");
    assert.equal(error.retryable, false);
    for (let shown = error; shown; shown = shown.cause) assert.doesNotMatch(`${shown.stack} ${shown.message}`, /secret-/);
    assert.equal(requests.length, 0);
    assert.deepEqual(slept, []);
  });
}

test("white space around a token is dropped", async (t) => {
  const { client, requests } = await clientOf(t, answers(succeeded()), { token: " abc\r\n" });
  await client.task(TASK_ID);
  assert.equal(requests[0].headers.authorization, "Bearer abc");
});

test("without a token there is no Authorization", async (t) => {
  const { client, requests } = await clientOf(t, answers(succeeded()), { token: undefined });
  await client.poll(TASK_ID);
  assert.equal(requests[0].headers.authorization, undefined);
});

test("the base URL may end in a slash and have a path", async (t) => {
  const { url, requests } = await serve(t, answers(succeeded()));
  await createClient({ baseUrl: `${url}/stage/`, clock: fakeClock() }).poll(TASK_ID);
  assert.equal(requests[0].path, `/stage/chat/task/${TASK_ID}`);
});

test("an id cannot leave its place in the path", async (t) => {
  const { client, requests } = await clientOf(t, () => problem(404, "task_not_found"));
  await rejected(client.task("../session/s?limit=1#"), ApiError);
  assert.equal(requests[0].path, "/chat/task/..%2Fsession%2Fs%3Flimit%3D1%23");
});

test("a base URL that is none is refused at once", () => {
  assert.throws(() => createClient({ baseUrl: "nonsense" }), TypeError);
});

// ---- Pace

test("polls at the pace of poll_after_ms, else of Retry-After, else at its own", async (t) => {
  const { client, slept } = await clientOf(
    t,
    answers(
      running({ poll_after_ms: 700 }),
      { headers: { "Retry-After": "3" }, body: running({ poll_after_ms: null }) },
      running({ poll_after_ms: undefined }),
      running({ poll_after_ms: 0 }),
      running({ poll_after_ms: 9e9 }),
      succeeded(),
    ),
  );
  await client.poll(TASK_ID);
  assert.deepEqual(slept, [700, 3000, 1000, 100, 30_000]);
});

test("the first look comes when the 202 says, and of a poll at once", async (t) => {
  const looks = [running({ poll_after_ms: 700 }), succeeded()];
  for (const send of ["chat", "sendChatMessage"]) {
    const { client, slept } = await clientOf(t, answers(...looks));
    await client[send]({ message: "Hello" });
    assert.deepEqual(slept, [1000, 700]);
  }
  const { client, slept } = await clientOf(t, answers(...looks));
  await client.poll(TASK_ID);
  assert.deepEqual(slept, [700]);
});

test("an answer that is there already is looked for at once", async (t) => {
  for (const [status, end] of [
    ["SUCCESS", succeeded()],
    ["FAILURE", failed("model_timeout")],
  ]) {
    const accepted = { ...ACCEPTED, headers: { "Retry-After": "5" }, body: { ...ACCEPTED.body, status } };
    const { client, slept } = await clientOf(t, ({ path }) => (path === "/chat/" ? accepted : { body: end }));
    await client.chat({ message: "Hello" }).catch((error) => assert.ok(error instanceof TaskFailedError));
    assert.deepEqual(slept, []);
  }
});

test("a chat that is answered in 3 s is looked at 5 times", async (t) => {
  const { url, requests } = await serve(t, ({ path }) => (path === "/chat/" ? ACCEPTED : { body: look() }));
  const clock = fakeClock({ random: 0.5 });
  const look = () => {
    const ms = clock.now(); // the API tells a quarter of the task's age, from 0.5 to 5 s
    return ms < 3100 ? running({ poll_after_ms: Math.min(Math.max(ms / 4, 500), 5000) }) : succeeded();
  };
  await createClient({ baseUrl: url, clock }).chat({ message: "Hello" });
  assert.equal(requests.length, 1 + 5);
});

test("jitter makes the pace slower, never faster than the server wants", async (t) => {
  const { client, slept } = await clientOf(t, answers(running({ poll_after_ms: 1000 }), succeeded()), {
    clock: { random: 1 },
  });
  await client.poll(TASK_ID);
  assert.deepEqual(slept, [1200]);
});

test("onProgress sees every look, the last one too", async (t) => {
  const { client } = await clientOf(
    t,
    answers(task(), running({ progress: 0.2, partial: "I can" }), succeeded({ partial: null })),
  );
  const seen = [];
  await client.chat({ message: "Hello" }, { onProgress: (progress) => seen.push(progress) });
  assert.deepEqual(
    seen.map(({ status, progress, partial }) => [status, progress, partial]),
    [
      ["PENDING", null, null],
      ["STARTED", 0.2, "I can"],
      ["SUCCESS", 1, null],
    ],
  );
  assert.equal(seen[1].task.attempt, 1);
});

test("a status that is not known is polled on", async (t) => {
  const { client } = await clientOf(t, answers(task({ status: "RETRY" }), succeeded()));
  assert.deepEqual(await client.poll(TASK_ID), RESULT);
});

// ---- What may pass

test("a poll survives the loss of the network and refusals that pass", async (t) => {
  const { client, slept } = await clientOf(
    t,
    answers(
      DROP,
      DROP,
      running({ poll_after_ms: 5000 }),
      problem(503, "unavailable", {}, { "Retry-After": "2" }),
      { status: 429, body: { message: "Too Many Requests" } },
      { status: 502, body: "<html>Bad Gateway</html>", headers: { "Content-Type": "text/html" } },
      succeeded(),
    ),
  );
  assert.deepEqual(await client.poll(TASK_ID), RESULT);
  assert.deepEqual(slept, [250, 500, 5000, 2000, 500, 1000]);
});

test("a connection that ends in the middle of an answer is a loss of the network", async (t) => {
  const { client } = await clientOf(
    t,
    answers({ headers: { "Content-Length": "100", Connection: "close" }, body: '{"status":' }, succeeded()),
    { requestTimeoutMs: 200 },
  );
  assert.deepEqual(await client.poll(TASK_ID), RESULT);
});

test("a page of something in between is not taken for an answer", async (t) => {
  const portal = { headers: { "Content-Type": "text/html" }, body: "<html>Please sign in to the Wi-Fi</html>" };
  const { client } = await clientOf(t, answers(portal, succeeded()));
  assert.deepEqual(await client.poll(TASK_ID), RESULT);
  const { client: other } = await clientOf(t, answers(portal));
  assert.equal((await rejected(other.poll(TASK_ID), NetworkError)).code, "unreadable_answer");
});

test("the back-off doubles up to a bound, by chance between half and whole, and ends", async (t) => {
  for (const [random, expected] of [
    [0, [250, 500, 1000, 2000, 4000, 7500]],
    [1, [500, 1000, 2000, 4000, 8000, 15000]],
  ]) {
    const { client, requests, slept } = await clientOf(t, answers(DROP), { clock: { random } });
    const error = await rejected(client.poll(TASK_ID), NetworkError);
    assert.equal(error.code, "network_error");
    assert.equal(error.taskId, TASK_ID);
    assert.equal(error.retryable, true);
    assert.ok(error.cause);
    assert.equal(requests.length, 7);
    assert.deepEqual(slept, expected);
  }
});

test("each look has its own tries", async (t) => {
  const looks = Array.from({ length: 9 }, () => [DROP, running()]).flat();
  const { client, requests } = await clientOf(t, answers(...looks, succeeded()), { attempts: 2 });
  assert.deepEqual(await client.poll(TASK_ID), RESULT);
  assert.equal(requests.length, 19);
});

test("Retry-After may be a date", async (t) => {
  const date = new Date(Date.now() + 20_000).toUTCString();
  const { client, slept } = await clientOf(t, answers(problem(429, "slow", {}, { "Retry-After": date }), succeeded()));
  await client.poll(TASK_ID);
  assert.ok(slept[0] > 15_000 && slept[0] <= 20_000, `${slept}`);
});

test("who is told to come back much later is told so at once", async (t) => {
  const { client, requests } = await clientOf(t, () => problem(429, "rate_limited", {}, { "Retry-After": "3600" }));
  const error = await rejected(client.submit({ message: "Hello" }), ApiError);
  assert.equal(error.retryAfterMs, 3_600_000);
  assert.equal(error.retryable, true);
  assert.equal(requests.length, 1);
});

test("a server that does not answer is given up after a time", async (t) => {
  const { client, requests } = await clientOf(t, answers(HANG), { requestTimeoutMs: 20, attempts: 2 });
  const error = await rejected(client.poll(TASK_ID), NetworkError);
  assert.equal(error.code, "request_timeout");
  assert.equal(requests.length, 2);
});

// ---- Submitting

test("a submit is sent again with the key that it had, and every submit has its own", async (t) => {
  const { client, requests } = await clientOf(t, (request, n) =>
    n === 0 ? DROP : n === 1 ? problem(503, "unavailable") : ACCEPTED,
  );
  await client.submit({ message: "Hello" });
  await client.submit({ message: "Hello" });
  const keys = requests.map(({ headers }) => headers["idempotency-key"]);
  assert.match(keys[0], /^[0-9a-f]{32}$/);
  assert.deepEqual(keys.slice(0, 3), [keys[0], keys[0], keys[0]]);
  assert.notEqual(keys[3], keys[0]);
});

test("a submit that was given up can be taken up again with its key", async (t) => {
  let down = true;
  const { client, requests } = await clientOf(t, () => (down ? DROP : ACCEPTED), { attempts: 2 });
  const error = await rejected(client.submit({ message: "Hello" }), NetworkError);
  down = false;
  await client.submit({ message: "Hello" }, { idempotencyKey: error.idempotencyKey });
  assert.equal(new Set(requests.map(({ headers }) => headers["idempotency-key"])).size, 1);
  assert.equal(requests.length, 3);
});

test("a message that could not be queued is sent again: its key is free", async (t) => {
  const { client, requests } = await clientOf(t, (request, n) =>
    n === 0
      ? problem(503, "enqueue_failed", { task_id: TASK_ID, retryable: true }, { "Retry-After": "2" })
      : ACCEPTED,
  );
  await client.submit({ message: "Hello" });
  assert.equal(requests.length, 2);
});

test("a request that is wrong is not repeated, and its problem is told", async (t) => {
  for (const status of [400, 401, 403, 404, 409, 413, 415, 422]) {
    const members = { errors: [{ field: "message", code: "string_too_short", detail: "…" }] };
    const { client, requests } = await clientOf(t, () => problem(status, "invalid_request", members));
    const error = await rejected(client.submit({ message: "" }), ApiError);
    assert.equal(error.status, status);
    assert.equal(error.code, "invalid_request");
    assert.equal(error.message, "This is invalid_request.");
    assert.equal(error.problem.errors[0].field, "message");
    assert.equal(error.retryable, false);
    assert.equal(requests.length, 1);
  }
});

test("a refusal of API Gateway, which has no code, is understood", async (t) => {
  const { client, requests } = await clientOf(t, () => ({ status: 401, body: { message: "Unauthorized" } }));
  const error = await rejected(client.task(TASK_ID), ApiError);
  assert.deepEqual([error.status, error.code, error.message], [401, "http_401", "Unauthorized"]);
  assert.equal(requests.length, 1);
});

// ---- Failed tasks

test("a failed task is an error that holds the task", async (t) => {
  const members = { retryable: true, partial: "I can", error: "The model did not answer in time." };
  const end = failed("model_timeout", members);
  const { client } = await clientOf(t, answers(end));
  const error = await rejected(client.poll(TASK_ID), TaskFailedError);
  assert.equal(error.message, "The model did not answer in time.");
  assert.deepEqual([error.status, error.code, error.taskId, error.retryable], [null, "model_timeout", TASK_ID, true]);
  assert.deepEqual(error.task, end);
});

test("a task that failed while the request waited is no fault that passes", async (t) => {
  for (const [status, code, retryable] of [
    [502, "model_auth", false],
    [503, "model_unavailable", true],
    [504, "deadline_exceeded", true],
    [422, "prompt_refused", false],
  ]) {
    const members = { task_id: TASK_ID, session_id: "session_123", retryable };
    const { client, requests } = await clientOf(t, () => problem(status, code, members, { "Retry-After": "5" }));
    const error = await rejected(client.sendChatMessage({ message: "Hello" }), TaskFailedError);
    assert.deepEqual([error.status, error.code, error.taskId, error.retryable], [status, code, TASK_ID, retryable]);
    assert.equal(error.problem.session_id, "session_123");
    assert.equal(requests.length, 1);
  }
});

test("a task that is not there is not waited for", async (t) => {
  const { client, requests } = await clientOf(t, () => problem(404, "task_not_found"));
  const error = await rejected(client.poll(TASK_ID), ApiError);
  assert.deepEqual([error.status, error.code, error.taskId], [404, "task_not_found", TASK_ID]);
  assert.equal(requests.length, 1);
});

// ---- Bounds

test("a task is not waited for longer than it may take, whatever the time here", async (t) => {
  // A minute of life, which by our own clock was over long ago; and a server that forgets to end it.
  const stuck = running({
    created_at: "2020-01-01T00:00:00.000Z",
    deadline_at: "2020-01-01T00:01:00.000Z",
    poll_after_ms: 10_000,
  });
  const { client, slept } = await clientOf(t, answers(stuck));
  const error = await rejected(client.poll(TASK_ID), TaskTimeoutError);
  assert.equal(slept.reduce((sum, ms) => sum + ms), 90_000);
  assert.deepEqual([error.code, error.taskId, error.retryable], ["client_timeout", TASK_ID, true]);
  assert.deepEqual(error.task, stuck);
});

test("a server that says nothing of a deadline is not asked for ever", async (t) => {
  const { client, slept } = await clientOf(t, answers({ body: { status: "PENDING", poll_after_ms: 30_000 } }));
  await rejected(client.poll(TASK_ID), TaskTimeoutError);
  assert.equal(slept.reduce((sum, ms) => sum + ms), 20 * 60_000);
});

test("timeoutMs bounds the waiting, with a last look at its end", async (t) => {
  const { client, requests, slept } = await clientOf(t, answers(running({ poll_after_ms: 800 })));
  await rejected(client.poll(TASK_ID, { timeoutMs: 2000 }), TaskTimeoutError);
  assert.deepEqual(slept, [800, 800, 400]);
  assert.equal(requests.length, 4);

  const once = await clientOf(t, answers(running()));
  await rejected(once.client.poll(TASK_ID, { timeoutMs: 0 }), TaskTimeoutError);
  assert.equal(once.requests.length, 1);
});

test("timeoutMs bounds the wait before the first look", async (t) => {
  const { client, requests, slept } = await clientOf(t, answers(running()));
  await rejected(client.chat({ message: "Hello" }, { timeoutMs: 400 }), TaskTimeoutError);
  assert.deepEqual(slept, [400]);
  assert.equal(requests.length, 2);
});

test("timeoutMs bounds the tries of a network that is gone", async (t) => {
  const { client, slept } = await clientOf(t, answers(DROP));
  await rejected(client.poll(TASK_ID, { timeoutMs: 1000 }), NetworkError);
  assert.deepEqual(slept, [250, 500]);
});

test("timeoutMs bounds a request that hangs, but for a last moment", async (t) => {
  const { setTimeout } = globalThis;
  const timers = t.mock.method(globalThis, "setTimeout", (run, ms, ...rest) => setTimeout(run, ms / 100, ...rest));
  const { client } = await clientOf(t, () => HANG);
  assert.equal((await rejected(client.poll(TASK_ID, { timeoutMs: 100 }), NetworkError)).code, "request_timeout");
  assert.ok(timers.mock.calls.some((call) => call.arguments[1] === 5000));
});

// ---- Aborting

test("a signal that is aborted already sends nothing", async (t) => {
  const { client, requests } = await clientOf(t, answers(succeeded()));
  const signal = AbortSignal.abort(new Error("enough"));
  for (const call of [
    client.chat({ message: "Hello" }, { signal }),
    client.submit({ message: "Hello" }, { signal }),
    client.poll(TASK_ID, { signal }),
    client.cancel(TASK_ID, { signal }),
    client.history("s", { signal }),
  ]) {
    await assert.rejects(call, { message: "enough" });
  }
  assert.equal(requests.length, 0);
});

test("an abort ends a request that is under way, and is not taken for a loss of the network", async (t) => {
  const controller = new AbortController();
  const abort = () => {
    controller.abort();
    return HANG;
  };
  const { client, requests } = await clientOf(t, abort, { attempts: 1 });
  await assert.rejects(client.poll(TASK_ID, { signal: controller.signal }), { name: "AbortError" });
  assert.equal(requests.length, 1);
  assert.equal(getEventListeners(controller.signal, "abort").length, 0);
});

test("an abort ends the wait between two looks, on the real clock", { timeout: 5000 }, async (t) => {
  const controller = new AbortController();
  const { url, requests } = await serve(t, answers(running({ poll_after_ms: 30_000 })));
  const client = createClient({ baseUrl: url });
  const polling = client.poll(TASK_ID, {
    signal: controller.signal,
    onProgress: () => setTimeout(() => controller.abort(new Error("enough")), 5),
  });
  await assert.rejects(polling, { message: "enough" });
  assert.equal(requests.length, 1);
  assert.equal(getEventListeners(controller.signal, "abort").length, 0);
});

test("an abort ends the wait before the first look, on the real clock", { timeout: 5000 }, async (t) => {
  const controller = new AbortController();
  const accepted = { ...ACCEPTED, headers: { "Retry-After": "30" } };
  const { url, requests } = await serve(t, () => {
    setTimeout(() => controller.abort(new Error("enough")), 50);
    return accepted;
  });
  const chat = createClient({ baseUrl: url }).chat({ message: "Hello" }, { signal: controller.signal });
  await assert.rejects(chat, { message: "enough" });
  assert.equal(requests.length, 1);
  assert.equal(getEventListeners(controller.signal, "abort").length, 0);
});

test("nothing stays with a signal that many calls were given", async (t) => {
  const { signal } = new AbortController();
  const { url } = await serve(t, answers(running({ poll_after_ms: 1 }), succeeded()));
  const client = createClient({ baseUrl: url });
  await Promise.all(Array.from({ length: 5 }, () => client.poll(TASK_ID, { signal })));
  assert.equal(getEventListeners(signal, "abort").length, 0);
});

test("the real clock waits, and wakes when the network is back", { timeout: 5000 }, async (t) => {
  const page = new EventTarget();
  globalThis.addEventListener = page.addEventListener.bind(page);
  globalThis.removeEventListener = page.removeEventListener.bind(page);
  t.after(() => {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
  });
  const { url } = await serve(t, answers(running({ poll_after_ms: 30_000 }), succeeded()));
  const polling = createClient({ baseUrl: url }).poll(TASK_ID, {
    onProgress: ({ status }) => status === "STARTED" && setTimeout(() => page.dispatchEvent(new Event("online")), 5),
  });
  assert.deepEqual(await polling, RESULT);
  assert.equal(getEventListeners(page, "online").length, 0);
});

// ---- The surface

test("the declarations declare what there is", () => {
  const text = fs.readFileSync(new URL("../turnqueue.d.ts", import.meta.url), "utf8");
  const declared = new Set(Array.from(text.matchAll(/^export (?:function|class) (\w+)/gm), ([, name]) => name));
  assert.deepEqual([...declared].sort(), Object.keys(turnqueue).sort());
  const members = /export interface Client \{(.*?)\n\}/s.exec(text)[1];
  const methods = Array.from(members.matchAll(/^ {2}(\w+)[(:]/gm), ([, name]) => name);
  assert.deepEqual(methods.sort(), Object.keys(createClient({ baseUrl: "http://127.0.0.1" })).sort());
});
