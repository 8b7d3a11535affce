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
  pageAt,
  problem,
  RESULT,
  running,
  serve,
  succeeded,
  task,
  TASK_ID,
} from "./support.js";

const { AbortError, ApiError, createClient, NetworkError, TaskFailedError, TaskTimeoutError, TurnqueueError } = turnqueue;

/** A client that polls, unless `wait` says otherwise: the server here answers at once. */
async function clientOf(t, answer, options = {}) {
  const { url, requests } = await serve(t, answer);
  const clock = fakeClock(options.clock);
  const client = createClient({ baseUrl: url, token: "t", wait: 0, ...options, clock });
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
  assert.deepEqual(submit.body, { message: "Hello", role: "booking", stream: true });
  assert.deepEqual(submit.query, { async_mode: "true" });
  assert.equal(submit.headers["content-type"], "application/json");
  assert.equal(looks.length, 3);
  for (const request of requests) assert.equal(request.headers.authorization, "Bearer t");
});

test("submit, task, cancel, retry, history and usage are one request each", async (t) => {
  const page = { session_id: "s", turns: [], next_cursor: "01" };
  const day = { day: "2026-11-22", answers: 1, prompt_tokens: 2, completion_tokens: 3, cached_tokens: 0, cost_usd: null };
  const { client, requests } = await clientOf(t, ({ method, path }) => {
    if (path === "/chat") return ACCEPTED;
    if (path === "/chat/session/s") return { body: page };
    if (path === "/chat/usage") return { body: day };
    if (path.endsWith("/retry")) return ACCEPTED;
    return { status: method === "POST" ? 202 : 200, body: running() };
  });
  assert.deepEqual(await client.submit({ message: "Hello" }), ACCEPTED.body);
  assert.equal((await client.task(TASK_ID, { wait: 20 })).status, "STARTED");
  assert.equal((await client.cancel(TASK_ID)).status, "STARTED");
  assert.deepEqual(await client.retry(TASK_ID), ACCEPTED.body);
  assert.deepEqual(await client.history("s"), page);
  assert.deepEqual(await client.history("s", { cursor: "01", limit: 5 }), page);
  assert.deepEqual(await client.usage(), day);
  assert.deepEqual(await client.usage({ day: "2026-11-22" }), day);
  assert.deepEqual(
    requests.map(({ method, path, query }) => [method, path, query]),
    [
      ["POST", "/chat", { async_mode: "true" }],
      ["GET", `/chat/task/${TASK_ID}`, { wait: "20" }],
      ["POST", `/chat/task/${TASK_ID}/cancel`, {}],
      ["POST", `/chat/task/${TASK_ID}/retry`, {}],
      ["GET", "/chat/session/s", {}],
      ["GET", "/chat/session/s", { cursor: "01", limit: "5" }],
      ["GET", "/chat/usage", {}],
      ["GET", "/chat/usage", { day: "2026-11-22" }],
    ],
  );
});

test("a message says of the cache what its sender says, and otherwise nothing", async (t) => {
  const { client, requests } = await clientOf(t, ({ path }) => (path === "/chat" ? ACCEPTED : { body: succeeded() }));
  await client.submit({ message: "Hello" });
  await client.submit({ message: "Hello" }, { cacheControl: "no-store" });
  await client.chat({ message: "Hello" }, { cacheControl: "no-cache" });
  assert.deepEqual(
    requests.filter(({ method }) => method === "POST").map(({ headers }) => headers["cache-control"]),
    [undefined, "no-store", "no-cache"],
  );
});

test("a token may be a function, and is called before every request", async (t) => {
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

test("a base URL that is missing, relative or no web address is refused at once, in a page too", (t) => {
  for (const inPage of [false, true]) {
    if (inPage) pageAt(t, "https://app.example");
    for (const options of [undefined, {}, { baseUrl: null }, { baseUrl: "" }]) {
      assert.throws(() => createClient(options), { name: "TypeError", message: /^baseUrl is missing; it must be/ });
    }
    for (const baseUrl of ["/api", "api", "//api.example", "nonsense", "api.example:80/x", "ftp://api.example", "undefined"]) {
      assert.throws(() => createClient({ baseUrl }), { name: "TypeError", message: /^baseUrl is ".*"; it must be an absolute URL/ });
    }
    createClient({ baseUrl: new URL("https://api.example") });
  }
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
    const { client, slept } = await clientOf(t, ({ path }) => (path === "/chat" ? accepted : { body: end }));
    await client.chat({ message: "Hello" }).catch((error) => assert.ok(error instanceof TaskFailedError));
    assert.deepEqual(slept, []);
  }
});

test("a chat that is answered in 3 s is looked at 5 times", async (t) => {
  const { url, requests } = await serve(t, ({ path }) => (path === "/chat" ? ACCEPTED : { body: look() }));
  const clock = fakeClock({ random: 0.5 });
  const look = () => {
    const ms = clock.now(); // the API tells a quarter of the task's age, from 0.5 to 5 s
    return ms < 3100 ? running({ poll_after_ms: Math.min(Math.max(ms / 4, 500), 5000) }) : succeeded();
  };
  await createClient({ baseUrl: url, wait: 0, clock }).chat({ message: "Hello" });
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
  const { client, requests } = await clientOf(t, answers(HANG), { requestTimeoutMs: 300, attempts: 2 });
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

test("every call that sends a message has the key that it is given", async (t) => {
  const { client, requests } = await clientOf(t, answers(succeeded()));
  const idempotencyKey = turnqueue.newIdempotencyKey();
  await client.submit({ message: "Hello" }, { idempotencyKey });
  await client.chat({ message: "Hello" }, { idempotencyKey });
  await client.sendChatMessage({ message: "Hello" }, true, { idempotencyKey });
  await client.sendChatMessage({ message: "Hello" }, false, { idempotencyKey });
  await client.retry(TASK_ID, { idempotencyKey });
  const keys = requests.filter(({ method }) => method === "POST").map(({ headers }) => headers["idempotency-key"]);
  assert.deepEqual(keys, Array(5).fill(idempotencyKey));
});

test("every error of a chat has the key, and the task once there is one", async (t) => {
  const { client } = await clientOf(t, answers(failed("model_timeout")));
  const error = await rejected(client.chat({ message: "Hello" }, { idempotencyKey: "k" }), TaskFailedError);
  assert.deepEqual([error.idempotencyKey, error.taskId], ["k", TASK_ID]);
});

test("onAccepted is called once, with the task, before it is waited for", async (t) => {
  const { client, requests } = await clientOf(t, answers(running(), succeeded()));
  const calls = [];
  await client.chat({ message: "Hello" }, { onAccepted: (task) => calls.push([task, requests.length]) });
  assert.deepEqual(calls, [[ACCEPTED.body, 1]]);
});

const LIMITED = {
  "RateLimit-Policy": '"tokens";q=100000;qu="tokens";w=86400, "messages";q=5;w=15',
  RateLimit: '"tokens";r=87412;t=31022, "messages";r=4;t=3',
};
const LIMITS = [
  { policy: "tokens", quota: 100000, unit: "tokens", window_seconds: 86400, remaining: 87412, reset_seconds: 31022 },
  { policy: "messages", quota: 5, unit: "requests", window_seconds: 15, remaining: 4, reset_seconds: 3 },
];

test("every result tells the caller's limits as the API told them, or null", async (t) => {
  const limited = { ...ACCEPTED, headers: { ...ACCEPTED.headers, ...LIMITED } };
  const { client } = await clientOf(t, ({ method, path }) => {
    if (path === "/chat/usage") return { body: {}, headers: { RateLimit: '"odd name, with; signs";r=1' } };
    if (path.startsWith("/chat/session")) return { body: { turns: [] }, headers: { RateLimit: "none of a list" } };
    return method === "POST" ? limited : { body: succeeded() };
  });
  const seen = [];
  const chat = await client.chat({ message: "Hello" }, { onAccepted: (task) => seen.push(task) });
  for (const result of [chat, ...seen, await client.submit({ message: "Hello" }), await client.retry(TASK_ID)]) {
    assert.deepEqual(result.rateLimit, LIMITS);
  }
  for (const result of [await client.poll(TASK_ID), await client.task(TASK_ID), await client.history("s")]) {
    assert.equal(result.rateLimit, null);
  }
  const [odd] = (await client.usage()).rateLimit;
  assert.deepEqual([odd.policy, odd.remaining, odd.quota, odd.reset_seconds], ["odd name, with; signs", 1, null, null]);
  assert.deepEqual(JSON.parse(JSON.stringify(chat)), RESULT, "the document is what the API gave");
});

test("an error tells them too", async (t) => {
  const { client } = await clientOf(t, () => problem(429, "rate_limited", {}, { "Retry-After": "3600", ...LIMITED }));
  assert.deepEqual((await rejected(client.submit({ message: "Hello" }), ApiError)).rateLimit, LIMITS);
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
  assert.deepEqual([error.status, error.code, error.message], [401, "unauthorized", "Unauthorized"]);
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

for (const [what, trouble] of [
  ["a network that is gone", DROP],
  ["an API that fails", problem(500, "internal_error")],
  ["an API that asks for patience", problem(503, "unavailable", {}, { "Retry-After": "900" })],
  ["a page of something in between", { headers: { "Content-Type": "text/html" }, body: "<html>" }],
]) {
  test(`an accepted task is not given up for ${what} before its deadline`, { timeout: 50_000 }, async (t) => {
    let accepted = 0;
    const world = await clientOf(t, ({ path }) => {
      if (path !== "/chat") return world.slept.reduce((sum, ms) => sum + ms, 0) < 3 * 3_600_000 ? trouble : { body: succeeded() };
      accepted += 1;
      return ACCEPTED;
    });
    assert.deepEqual(await world.client.chat({ message: "Hello" }), RESULT);
    assert.equal(accepted, 1);
  });
}

test("a task that was seen is not given up before its deadline, and then with the error of the last look", async (t) => {
  const hour = running({ created_at: "2026-11-22T12:00:00.000Z", deadline_at: "2026-11-22T13:00:00.000Z" });
  const { client, slept } = await clientOf(t, (request, n) => (n === 0 ? { body: hour } : DROP));
  const error = await rejected(client.poll(TASK_ID), NetworkError);
  assert.deepEqual([error.code, error.taskId], ["network_error", TASK_ID]);
  assert.equal(slept.reduce((sum, ms) => sum + ms), 3_600_000 + 30_000);
});

test("a server that says nothing of a deadline is asked for as long as any task may live, and not for ever", async (t) => {
  const { client, slept } = await clientOf(t, answers({ body: { status: "PENDING", poll_after_ms: 30_000 } }));
  await rejected(client.poll(TASK_ID), TaskTimeoutError);
  assert.equal(slept.reduce((sum, ms) => sum + ms), 12 * 3_600_000 + 30_000);
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

// ---- Time limits

const NEVER = new Promise(() => {});

/** Every call of a client that waits for an answer of the API. */
const CALLS = {
  chat: (client, options) => client.chat({ message: "Hello" }, options),
  submit: (client, options) => client.submit({ message: "Hello" }, options),
  poll: (client, options) => client.poll(TASK_ID, options),
  task: (client, options) => client.task(TASK_ID, options),
  upload: (client, options) => client.upload(new Blob(["GIF89a"], { type: "image/gif" }), options),
  cancel: (client, options) => client.cancel(TASK_ID, options),
  retry: (client, options) => client.retry(TASK_ID, options),
  history: (client, options) => client.history("s", options),
  usage: (client, options) => client.usage(options),
  sendChatMessage: (client, options) => client.sendChatMessage({ message: "Hello" }, false, options),
  getChatTaskStatus: (client, options) => client.getChatTaskStatus(TASK_ID, options),
  pollChatTask: (client, options) => client.pollChatTask(TASK_ID, options),
};

/** What never settles, whatever the signal that it was given. */
const HANGS = {
  "a token function": { token: () => NEVER },
  "a refresh hook": { token: () => "old", refreshToken: () => NEVER, status: 401 },
  "fetch": { fetch: () => NEVER },
  "the body of an answer": { fetch: async () => ({ status: 200, headers: new Headers(), text: () => NEVER }) },
  "the probe of /health": { page: true, fetch: async (url) => (url.endsWith("/health") ? NEVER : Promise.reject(new TypeError())) },
};

for (const [what, { page, status, ...options }] of Object.entries(HANGS)) {
  test(`${what} that never settles ends with the time limit, and with the signal`, { timeout: 20_000 }, async (t) => {
    if (page) pageAt(t, "https://app.example");
    const { url } = await serve(t, () => ({ status, body: { message: "Unauthorized" } }));
    const client = createClient({ baseUrl: url, ...options });
    await Promise.all(
      Object.values(CALLS).map(async (call) => {
        const began = performance.now();
        await rejected(call(client, { timeoutMs: 50 }), NetworkError);
        assert.ok(performance.now() - began < 1500, `${call}`);

        const reason = new Error("enough");
        const controller = new AbortController();
        const calling = call(client, { signal: controller.signal });
        setTimeout(() => controller.abort(reason), 20);
        const error = await rejected(calling, AbortError);
        assert.equal(error.cause, reason);
        assert.equal(getEventListeners(controller.signal, "abort").length, 0);
      }),
    );
  });
}

test("timeoutMs counts from the call of chat on, its submit included", async (t) => {
  const { client } = await clientOf(t, ({ path }) => (path === "/chat" ? HANG : { body: succeeded() }));
  const error = await rejected(client.chat({ message: "Hello" }, { timeoutMs: 30 }), NetworkError);
  assert.equal(error.code, "request_timeout");
  assert.match(error.idempotencyKey, /^[0-9a-f]{32}$/);
});

test("an endless timeoutMs is none", async (t) => {
  for (const timeoutMs of [Infinity, 2 ** 40, null, undefined]) {
    const { client } = await clientOf(t, answers(running(), succeeded()));
    assert.deepEqual(await client.chat({ message: "Hello" }, { timeoutMs }), RESULT);
  }
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
    const error = await rejected(call, AbortError);
    assert.deepEqual([error.code, error.cause], ["aborted", signal.reason]);
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
  const error = await rejected(client.poll(TASK_ID, { signal: controller.signal }), AbortError);
  assert.deepEqual([error.taskId, error.cause.name], [TASK_ID, "AbortError"]);
  assert.equal(requests.length, 1);
  assert.equal(getEventListeners(controller.signal, "abort").length, 0);
});

test("an abort ends the wait between two looks, on the real clock", { timeout: 5000 }, async (t) => {
  const controller = new AbortController();
  const { url, requests } = await serve(t, answers(running({ poll_after_ms: 30_000 })));
  const client = createClient({ baseUrl: url });
  const polling = client.poll(TASK_ID, {
    wait: 0,
    signal: controller.signal,
    onProgress: () => setTimeout(() => controller.abort(new Error("enough")), 5),
  });
  assert.equal((await rejected(polling, AbortError)).taskId, TASK_ID);
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
  const chat = createClient({ baseUrl: url, wait: 0 }).chat({ message: "Hello" }, { signal: controller.signal });
  const error = await rejected(chat, AbortError);
  assert.equal(error.taskId, TASK_ID);
  assert.match(error.idempotencyKey, /^[0-9a-f]{32}$/);
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
  const polling = createClient({ baseUrl: url, wait: 0 }).poll(TASK_ID, {
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
