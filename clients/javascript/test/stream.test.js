/** stream() and onDelta, before an API and a network that have a bad day. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { ApiError, createClient, NetworkError, TaskFailedError, TaskTimeoutError } from "../turnqueue.js";
import {
  ACCEPTED,
  CUT,
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

const END = 2 ** 31 - 1; // the id of `done`
const TEXTS = ["Grüße ", "👋🏽 ", "from\n\ndata: a queue", " that waits."];
const ANSWER = { ...RESULT, message: `${TEXTS.join("")} And more.` };

/** The log of an answer that was begun anew, as [event, attempt, text] of row 1, 2, … */
const ROWS = [
  ["delta", 1, "I think"],
  ["delta", 1, " not"],
  ["retract", 2, ""],
  ...TEXTS.map((text) => ["delta", 2, text]),
];

/** What the API answers behind `after`, when `known` rows are written: as functions/status does. */
function eventsAt(after, known, { end = succeeded({ result: ANSWER, attempt: 2 }) } = {}) {
  const rows = ROWS.slice(0, known);
  if (known > ROWS.length) return after === END ? null : [{ id: END, event: "done", task: end }];
  if (after === null) {
    let [attempt, text] = [1, ""];
    for (const [event, at, piece] of rows) [attempt, text] = [at, event === "retract" ? "" : text + piece];
    return [{ id: rows.length, event: "snapshot", task: running({ attempt }), attempt, text }];
  }
  return rows.flatMap(([event, attempt, text], index) => {
    const row = { id: index + 1, event, attempt, text };
    if (index < after) return [];
    return index === 0 ? [{ id: 0, event: "start", attempt }, row] : [row];
  });
}

function sse(events, { retry = 300 } = {}) {
  const blocks = events.map(({ id, event, ...data }) => `id: ${id}\nevent: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
  return `retry: ${retry}\n\n${blocks.join("")}`;
}

const SSE = { "Content-Type": "text/event-stream; charset=utf-8" };

/**
 * An API whose answer grows by a row with each request for its events. `spoil(events, n, headers)` may return what is
 * answered in place of the n-th, `alter(events)` other events.
 */
async function apiOf(t, { spoil = () => null, alter = (events) => events, first = 0, options = {}, end } = {}) {
  let looks = 0;
  let known = first;
  const { url, requests } = await serve(t, ({ method, path, query, headers }) => {
    if (method === "POST") return ACCEPTED;
    assert.equal(path, `/chat/task/${TASK_ID}/events`);
    const after = query.after ?? headers["last-event-id"];
    const events = eventsAt(after === undefined ? null : Number(after), known, { end });
    const spoilt = spoil(events, looks++, headers);
    if (spoilt !== null) return spoilt;
    known += 1;
    return events === null ? { status: 204, body: "" } : { headers: SSE, body: sse(alter(events)) };
  });
  const clock = fakeClock();
  const asked = () => requests.filter(({ method }) => method === "GET").map(({ headers }) => headers["last-event-id"] ?? null);
  return { client: createClient({ baseUrl: url, clock, ...options }), requests, asked, slept: clock.slept };
}

async function collected(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

/** The text of an answer by its events, and each state of it. */
function shownBy(events) {
  let text = "";
  return events.map((event) => {
    if (event.type === "delta") text += event.text;
    else if (event.type === "snapshot" || event.type === "retract") ({ text } = event);
    else if (event.type === "done") text = event.task.result?.message ?? event.task.partial;
    return text;
  });
}

const GROWING = ["", "", "I think", "I think not", "", TEXTS[0], TEXTS.slice(0, 2).join(""), TEXTS.slice(0, 3).join(""), TEXTS.join("")];

test("the events of an answer, from its begin to its end", async (t) => {
  const { client, requests, asked, slept } = await apiOf(t);
  const events = await collected(client.stream(TASK_ID));
  assert.deepEqual(
    events.map(({ type, id }) => [type, id]),
    [["snapshot", 0], ["start", 0], ...ROWS.map(([type], index) => [type, index + 1]), ["done", END]],
  );
  assert.deepEqual(shownBy(events), [...GROWING, ANSWER.message]);
  assert.deepEqual(events[4], { type: "retract", id: 3, attempt: 2, text: "" });
  assert.deepEqual(events.at(-1).task.result, ANSWER);
  assert.deepEqual(asked(), [null, "0", "1", "2", "3", "4", "5", "6", "7"]);
  assert.ok(requests.every(({ headers }) => headers.accept === "text/event-stream"));
  assert.deepEqual(new Set(slept), new Set([300]));
});

test("the pace is the server's, within reason, and clients do not come together", async (t) => {
  for (const [retry, random, expected] of [
    [1000, 0, 1000],
    [1000, 0.5, 1100],
    [0, 0, 100],
    [3_600_000, 0, 30_000],
    ["soon", 0, 1000],
  ]) {
    const clock = fakeClock({ random });
    const spoil = (events, n) => (n === 0 ? { headers: SSE, body: sse(events, { retry }) } : null);
    const { client } = await apiOf(t, { spoil, first: ROWS.length, options: { clock } });
    await collected(client.stream(TASK_ID));
    assert.equal(clock.slept[0], expected, retry);
  }
});

test("a reader that comes back behind any row has the same text, to the byte", async (t) => {
  for (let known = 0; known <= ROWS.length; known++) {
    const { client } = await apiOf(t, { first: known });
    const before = shownBy(await collected(client.stream(TASK_ID)));
    assert.equal(before[0], GROWING[Math.max(known + 1, 1)] ?? "", `snapshot at ${known}`);
    assert.equal(before.at(-2), TEXTS.join(""));
    const { client: again } = await apiOf(t, { first: ROWS.length });
    const events = await collected(again.stream(TASK_ID, { after: known }));
    assert.deepEqual(
      events.map(({ type, id }) => [type, id]).filter(([type]) => type !== "start"),
      [...ROWS.map(([type], index) => [type, index + 1]).slice(known), ["done", END]],
    );
  }
});

test("a stream that is cut at any byte goes on behind the last whole event", async (t) => {
  const whole = Buffer.from(sse(eventsAt(0, ROWS.length)));
  for (let at = 0; at <= whole.length; at += 5) {
    const spoil = (events, n) => (n === 1 ? { headers: SSE, body: [whole.subarray(0, at), CUT] } : null);
    const alter = (events) => (events[0]?.event === "snapshot" ? eventsAt(null, 0) : events);
    const { client, asked } = await apiOf(t, { first: ROWS.length - 1, spoil, alter });
    const events = await collected(client.stream(TASK_ID));
    const ids = events.map(({ type, id }) => `${type} ${id}`);
    assert.equal(new Set(ids).size, ids.length, `twice: ${ids}`);
    assert.deepEqual(shownBy(events), [...GROWING, ANSWER.message]);
    const came = whole.toString("utf8", 0, at).split("\n\n").length - 2; // without the first block, which is `retry`
    assert.equal(asked()[2], String(Math.max(came - 1, 0)), "what came before the cut is not read again");
    assert.ok(asked().length <= 4, `${asked()}`);
  }
});

test("characters and lines may come apart anywhere", async (t) => {
  for (const size of [1, 2, 3, 7]) {
    const spoil = (events, n) => {
      if (n > 0) return null;
      const bytes = Buffer.from(sse(events).replaceAll("\n", size === 3 ? "\r\n" : "\n"));
      const pieces = [];
      for (let at = 0; at < bytes.length; at += size) pieces.push(bytes.subarray(at, at + size));
      return { headers: SSE, body: pieces };
    };
    const { client } = await apiOf(t, { first: ROWS.length, spoil });
    const events = await collected(client.stream(TASK_ID));
    assert.equal(events[0].text, TEXTS.join(""));
  }
});

test("an event that comes twice is told once", async (t) => {
  const seen = [];
  const alter = (events) => {
    seen.push(...events);
    return events[0]?.event === "snapshot" ? events : seen.slice(1);
  };
  const { client } = await apiOf(t, { alter });
  assert.deepEqual(shownBy(await collected(client.stream(TASK_ID))), [...GROWING, ANSWER.message]);
});

const PASSING = {
  "a 429 that says when": problem(429, "slow", {}, { "Retry-After": "3" }),
  "a 503 of the gateway": { status: 503, body: { message: "Service Unavailable" } },
  "a 502 in HTML": { status: 502, headers: { "Content-Type": "text/html" }, body: "<html>" },
  "a page of a hotel": { status: 200, headers: { "Content-Type": "text/html" }, body: "<html>Log in</html>" },
  "data that is no JSON": { status: 200, headers: SSE, body: "id: 9\nevent: delta\ndata: {\n\n" },
  "JSON that is something else": { status: 200, body: { hello: 1 } },
  "a lost connection": DROP,
};

for (const [what, failure] of Object.entries(PASSING)) {
  test(`${what} is waited out at each point, and nothing is lost or told twice`, async (t) => {
    let last = -1;
    const spoil = (events, n) => (n % 3 === 1 && last !== n ? ((last = n), failure) : null);
    const { client, slept } = await apiOf(t, { spoil });
    const events = await collected(client.stream(TASK_ID));
    assert.deepEqual(shownBy(events), [...GROWING, ANSWER.message]);
    if (what.startsWith("a 429")) assert.ok(slept.includes(3000));
  });
}

test("after the first event a failure is waited out until the task must have ended", async (t) => {
  const spoil = (events, n) => (n === 0 ? null : DROP);
  const { client, slept } = await apiOf(t, { spoil });
  const events = [];
  await assert.rejects(async () => {
    for await (const event of client.stream(TASK_ID)) events.push(event.type);
  }, NetworkError);
  assert.deepEqual(events, ["snapshot"]);
  const waited = slept.reduce((sum, ms) => sum + ms, 0);
  assert.ok(waited > 15 * 60_000 && waited < 17 * 60_000, `${waited} ms`);
});

test("a response that hangs is given up after 10 s", async (t) => {
  const { setTimeout } = globalThis;
  const timers = t.mock.method(globalThis, "setTimeout", (run, ms, ...rest) => setTimeout(run, ms / 1000, ...rest));
  const { client } = await apiOf(t, { spoil: (events, n) => (n === 1 ? HANG : null) });
  const events = await collected(client.stream(TASK_ID));
  assert.deepEqual(shownBy(events), [...GROWING, ANSWER.message]);
  assert.ok(timers.mock.calls.some((call) => call.arguments[1] === 10_000));
});

test("something in between that gathers a response gives it late, and all of it", async (t) => {
  const late = async (events) => {
    await new Promise((resolve) => setTimeout(resolve, 50));
    return { headers: { ...SSE, Connection: "close" }, body: [Buffer.from(sse(events))] };
  };
  const { client } = await apiOf(t, { first: 3, spoil: (events, n) => (n === 1 ? late(eventsAt(3, ROWS.length)) : null) });
  const shown = shownBy(await collected(client.stream(TASK_ID)));
  assert.deepEqual(shown, ["", ...GROWING.slice(5), ANSWER.message]);
});

test("an API or a proxy that answers in JSON is understood", async (t) => {
  let n = 0;
  const spoil = () => ({ body: { events: eventsAt(n ? n - 1 : null, n++), next: 0, done: false, poll_after_ms: 400 } });
  const { client, slept } = await apiOf(t, { spoil });
  const events = await collected(client.stream(TASK_ID));
  assert.deepEqual(shownBy(events), [...GROWING, ANSWER.message]);
  assert.deepEqual(new Set(slept), new Set([400]));
});

test("an event of a later API is passed over", async (t) => {
  const spoil = (events, n) =>
    n === 1 ? { headers: SSE, body: sse([{ id: 1, event: "delta", attempt: 1, text: "I think" }, { id: 2, event: "tool", name: "x" }]) } : null;
  const { client, asked } = await apiOf(t, { spoil });
  assert.ok((await collected(client.stream(TASK_ID))).every(({ type }) => type !== "tool"));
  assert.equal(asked()[2], "2");
});

test("behind the end there is nothing", async (t) => {
  const { client, requests } = await apiOf(t, { first: ROWS.length + 1 });
  assert.deepEqual(await collected(client.stream(TASK_ID, { after: END })), []);
  assert.equal(requests.length, 1);
});

test("a new snapshot takes the place of what was shown, whatever its id", async (t) => {
  const snapshot = { id: 1, event: "snapshot", task: running(), attempt: 1, text: "I think" };
  const { client } = await apiOf(t, { first: 5, spoil: (events, n) => (n === 1 ? { headers: SSE, body: sse([snapshot]) } : null) });
  const shown = shownBy(await collected(client.stream(TASK_ID)));
  assert.deepEqual(shown.slice(0, 4), [TEXTS.slice(0, 2).join(""), "I think", "I think not", ""]);
  assert.equal(shown.at(-1), ANSWER.message);
});

test("a task that is not there ends the stream with an error that names it", async (t) => {
  const { client, requests } = await apiOf(t, { spoil: () => problem(404, "task_not_found") });
  const error = await collected(client.stream(TASK_ID)).catch((caught) => caught);
  assert.ok(error instanceof ApiError);
  assert.deepEqual([error.status, error.code, error.taskId], [404, "task_not_found", TASK_ID]);
  assert.equal(requests.length, 1);
});

/** An API of before there were events: each look at the task is answered by the next of `looks`. */
async function oldApi(t, looks) {
  let look = 0;
  const { url, requests } = await serve(t, ({ method, path, body }) => {
    if (path.endsWith("/events")) return { status: 404, body: { message: "Not Found" } };
    if (method === "GET") return { body: looks[Math.min(look++, looks.length - 1)] };
    const errors = [{ field: "stream", code: "extra_forbidden", detail: "unknown" }];
    return "stream" in body ? problem(422, "invalid_request", { errors }) : ACCEPTED;
  });
  return { client: createClient({ baseUrl: url, clock: fakeClock() }), requests };
}

const LOOKS = [
  task(),
  running({ partial: "I think" }),
  running({ partial: "I think not" }),
  task({ attempt: 1, partial: null }),
  running({ attempt: 2, partial: TEXTS[0] }),
  running({ attempt: 2, partial: TEXTS[0] }),
  running({ attempt: 2, partial: TEXTS.join("") }),
  succeeded({ attempt: 2, result: ANSWER }),
];

test("an old API without events is polled, and the events are made of the looks", async (t) => {
  const { client } = await oldApi(t, LOOKS);
  const events = await collected(client.stream(TASK_ID, { after: 5 }));
  assert.deepEqual(
    events.map(({ type }) => type),
    ["snapshot", "delta", "delta", "retract", "delta", "delta", "done"],
  );
  assert.deepEqual(shownBy(events), ["", "I think", "I think not", "", TEXTS[0], TEXTS.join(""), ANSWER.message]);
  assert.ok(events.every(({ id }) => id === null));
});

test("chat() with onDelta asks for a stream and tells the text so far", async (t) => {
  const { client, requests } = await apiOf(t);
  const told = [];
  const progress = [];
  const answer = await client.chat(
    { message: "Hello" },
    { onDelta: (text, { type }) => told.push([type, text]), onProgress: ({ status }) => progress.push(status) },
  );
  assert.deepEqual(answer, ANSWER);
  assert.deepEqual(told.map(([, text]) => text), [...GROWING, ANSWER.message]);
  assert.deepEqual(told[4], ["retract", ""]);
  assert.deepEqual(progress, ["STARTED", "SUCCESS"]);
  assert.deepEqual(requests[0].body, { stream: true, message: "Hello" });
  assert.ok(requests.every(({ method, path }) => method === "POST" || path.endsWith("/events")));
});

test("chat and submit ask for a stream, unless the message says otherwise; the functions of api.js do not", async (t) => {
  const calls = {
    chat: (client, message) => client.chat(message, { onDelta() {} }),
    submit: (client, message) => client.submit(message),
  };
  for (const call of Object.values(calls)) {
    for (const stream of [undefined, null, true, false]) {
      const { client, requests } = await apiOf(t, { first: ROWS.length + 1 });
      await call(client, { message: "Hello", ...(stream === undefined ? {} : { stream }) });
      assert.deepEqual(requests[0].body, { message: "Hello", stream: stream ?? true });
    }
  }
  const { client, requests } = await apiOf(t, { first: ROWS.length + 1 });
  await client.sendChatMessage({ message: "Hello" }, true);
  assert.deepEqual(requests[0].body, { message: "Hello" });
});

test("chat() with onDelta does without a stream where the API knows none, under one key", async (t) => {
  const { client, requests } = await oldApi(t, LOOKS);
  const told = [];
  assert.deepEqual(await client.chat({ message: "Hello" }, { onDelta: (text) => told.push(text) }), ANSWER);
  assert.deepEqual(told.slice(-3), [TEXTS[0], TEXTS.join(""), ANSWER.message]);
  const posts = requests.filter(({ method }) => method === "POST");
  assert.deepEqual(posts.map(({ body }) => body.stream), [true, undefined]);
  assert.equal(posts[0].headers["idempotency-key"], posts[1].headers["idempotency-key"]);
});

test("a refusal for another reason is a refusal", async (t) => {
  const { url, requests } = await serve(t, () =>
    problem(422, "invalid_request", { errors: [{ field: "role", code: "x", detail: "unknown" }] }),
  );
  const client = createClient({ baseUrl: url, clock: fakeClock() });
  await assert.rejects(client.chat({ message: "Hello" }, { onDelta() {} }), { status: 422 });
  assert.equal(requests.length, 1);
});

test("a failure is told as the end of a stream, and rejects a chat, with the words that came", async (t) => {
  const end = failed("cancelled", { partial: "I thi" });
  const { client } = await apiOf(t, { end, first: ROWS.length + 1 });
  const events = await collected(client.stream(TASK_ID));
  assert.deepEqual(shownBy(events), ["I thi"]);
  const { client: again } = await apiOf(t, { end, first: ROWS.length + 1 });
  const told = [];
  const chat = again.poll(TASK_ID, { onDelta: (text) => told.push(text) });
  await assert.rejects(chat, (error) => error instanceof TaskFailedError && error.task.partial === "I thi");
  assert.deepEqual(told, ["I thi"]);
});

test("a stream ends by its time limit, its signal, and its reader", async (t) => {
  const { client } = await apiOf(t, { spoil: (events, n) => (n === 0 ? null : { headers: SSE, body: sse([]) }) });
  await assert.rejects(
    collected(client.stream(TASK_ID, { timeoutMs: 5000 })),
    (error) => error instanceof TaskTimeoutError && error.taskId === TASK_ID && error.task.status === "STARTED",
  );
  const controller = new AbortController();
  const { client: second, requests } = await apiOf(t);
  await assert.rejects(async () => {
    for await (const { type } of second.stream(TASK_ID, { signal: controller.signal })) if (type === "retract") controller.abort();
  }, { name: "AbortError", taskId: TASK_ID });
  const before = requests.length;
  const { client: third, requests: asked } = await apiOf(t);
  for await (const { type } of third.stream(TASK_ID)) if (type === "start") break;
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(asked.length, 2);
  assert.equal(requests.length, before);
});

test("a token that is refused in the middle is renewed once, and nothing is told twice", async (t) => {
  let token = "old";
  const options = { token: () => token, refreshToken: () => void (token = "new") };
  const spoil = (events, n, { authorization }) =>
    n > 2 && authorization !== "Bearer new" ? { status: 401, body: { message: "Unauthorized" } } : null;
  const { client } = await apiOf(t, { options, spoil });
  assert.deepEqual(shownBy(await collected(client.stream(TASK_ID))), [...GROWING, ANSWER.message]);
});

test("a browser without streams of bodies reads the text", async (t) => {
  const { url } = await serve(t, ({ headers }) => {
    const events = eventsAt(headers["last-event-id"] === undefined ? null : 0, headers["last-event-id"] === undefined ? 0 : ROWS.length + 1);
    return { headers: SSE, body: sse(events) };
  });
  const bare = async (...request) => {
    const response = await fetch(...request);
    return { status: response.status, ok: response.ok, headers: response.headers, text: () => response.text() };
  };
  const client = createClient({ baseUrl: url, fetch: bare, clock: fakeClock() });
  assert.deepEqual(shownBy(await collected(client.stream(TASK_ID))), ["", ANSWER.message]);
});
