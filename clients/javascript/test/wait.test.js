/** The API holds a look until the task is final: how late an answer is, and what ends the holding. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { createClient, TaskTimeoutError } from "../turnqueue.js";
import { simulate } from "./pace.js";
import { ACCEPTED, DROP, fakeClock, HANG, problem, RESULT, running, serve, succeeded, task, TASK_ID } from "./support.js";

const SECONDS = [0.2, 1.3, 3, 11, 29.5, 61, 150];

test("chat() has an answer within a second of its end, with few looks, by default", async () => {
  for (const seconds of SECONDS) {
    const { lateMs, looks } = await simulate(seconds * 1000);
    assert.ok(lateMs < 1100, `${seconds} s: ${lateMs} ms late`);
    assert.ok(looks <= 1 + seconds / 20, `${seconds} s: ${looks} looks`);
  }
});

test("with onProgress too, and it looks as often as a client that polls", async () => {
  for (const seconds of SECONDS) {
    const { lateMs, looks } = await simulate(seconds * 1000, { progress: true });
    const polling = await simulate(seconds * 1000, { progress: true, wait: 0 });
    assert.ok(lateMs < 700, `${seconds} s: ${lateMs} ms late`);
    assert.ok(looks <= polling.looks + 1 && looks >= polling.looks / 3, `${seconds} s: ${looks} and ${polling.looks} looks`);
  }
});

test("a task that queues for more than a minute is polled, and a running one is waited for again", async () => {
  const { lateMs, heldMs } = await simulate(400_000, { startMs: 300_000 });
  assert.ok(lateMs < 1100, `${lateMs} ms late`);
  assert.ok(heldMs < 180_000, `${heldMs} ms of Lambda`);
});

test("the guide has the table of these simulations", () => {
  const guide = fs.readFileSync(new URL("../../../docs/javascript.md", import.meta.url), "utf8");
  const program = fileURLToPath(new URL("pace.js", import.meta.url));
  const table = execFileSync(process.execPath, [program], { encoding: "utf8" });
  assert.ok(table.split("\n").length > 15);
  assert.ok(guide.includes(table), "run `node clients/javascript/test/pace.js` and put its table there");
});

/** A client whose looks at the task are answered by `look(n, wait)`, and what `wait` they asked for. */
async function clientOf(t, look, options = {}) {
  const { url, requests } = await serve(t, ({ method, query }) => {
    if (method === "POST") return ACCEPTED;
    const next = look(requests.filter((request) => request.method === "GET").length - 1, query.wait);
    return typeof next === "symbol" || "body" in next ? next : { body: next };
  });
  const clock = fakeClock();
  const waits = () => requests.filter(({ method }) => method === "GET").map(({ query }) => query.wait);
  return { client: createClient({ baseUrl: url, clock, ...options }), waits, slept: clock.slept };
}

test("the first look at a message is held, and `wait` says how long", async (t) => {
  for (const [ofClient, ofCall, expected] of [
    [undefined, undefined, "20"],
    [undefined, 5, "5"],
    [5, undefined, "5"],
    [5, 60, "20"],
    [5, 0, undefined],
    [0, undefined, undefined],
  ]) {
    for (const call of ["chat", "poll", "sendChatMessage", "pollChatTask"]) {
      const { client, waits } = await clientOf(t, () => succeeded(), { wait: ofClient });
      const options = { wait: ofCall };
      if (call === "chat") await client.chat({ message: "Hello" }, options);
      else if (call === "sendChatMessage") await client.sendChatMessage({ message: "Hello" }, false, options);
      else await client[call](TASK_ID, options);
      assert.deepEqual(waits(), [expected], `${call} ${ofClient} ${ofCall}`);
    }
  }
});

test("a poll with onProgress shows at once how the task stands", async (t) => {
  const { client, waits } = await clientOf(t, (n) => (n < 1 ? running({ poll_after_ms: 3000 }) : succeeded()));
  await client.poll(TASK_ID, { onProgress() {} });
  assert.deepEqual(waits(), [undefined, "3"]);
});

test("an API that does not hold a look is not asked to hold another, and is polled at its pace", async (t) => {
  const { client, waits, slept } = await clientOf(t, (n) => (n < 3 ? running({ poll_after_ms: 700 }) : succeeded()));
  await client.poll(TASK_ID);
  assert.deepEqual(waits(), ["20", undefined, undefined, undefined]);
  assert.deepEqual(slept, [700, 700, 700]);
});

for (const [what, failure] of [
  ["is cut by something in between", DROP],
  ["finds no Lambda", { status: 503, body: { message: "Service Unavailable" } }],
  ["is one request too many", problem(429, "slow", {}, { "Retry-After": "1" })],
]) {
  test(`a held look that ${what} is the last one that is held`, async (t) => {
    const { client, waits } = await clientOf(t, (n) => (n === 0 ? failure : n < 4 ? running() : succeeded()));
    await client.chat({ message: "Hello" });
    assert.deepEqual(waits(), ["20", undefined, undefined, undefined, undefined]);
  });
}

test("a held look that is not answered is lost 10 s after its time", async (t) => {
  const { setTimeout } = globalThis;
  const timers = t.mock.method(globalThis, "setTimeout", (run, ms, ...rest) => setTimeout(run, ms / 1000, ...rest));
  const { client } = await clientOf(t, (n) => (n === 0 ? HANG : succeeded()));
  assert.deepEqual(await client.poll(TASK_ID), RESULT);
  assert.ok(timers.mock.calls.some((call) => call.arguments[1] === 30_000));
});

test("a look is held for half of a request's time at most", async (t) => {
  const { client, waits } = await clientOf(t, () => succeeded(), { requestTimeoutMs: 7000 });
  await client.poll(TASK_ID);
  assert.deepEqual(waits(), ["3"]);
});

test("a look is held no longer than the time limit leaves", async (t) => {
  const { client, waits } = await clientOf(t, () => task());
  await assert.rejects(client.poll(TASK_ID, { timeoutMs: 8500 }), TaskTimeoutError);
  assert.equal(waits()[0], "7");
  assert.equal(waits().at(-1), undefined);
});
