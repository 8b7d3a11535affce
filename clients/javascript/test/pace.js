/**
 * Simulates the client's ways to wait: how late an answer shows, and how much the waiting costs.
 * `node clients/javascript/test/pace.js` prints the table of docs/javascript.md.
 *
 * The simulation has a virtual clock, a network that takes 40 ms each way, and an API with the long polls of
 * turnqueue/wait.py and the `poll_after_ms` of the status function.
 */

import { pathToFileURL } from "node:url";

import { createClient } from "../turnqueue.js";
import { ACCEPTED, running, succeeded, task } from "./support.js";

const WAY_MS = 40;
// Billed for each poll: CPU and two calls of DynamoDB (benchmarks/results.md: 15 ms for a poll).
const POLL_MS = 15;
// Dollars for a million: a request of the HTTP API and of Lambda; a second of Lambda with 256 MB (arm64); a read of half a unit.
const PRICES = { request: 1.2, second: 0.25 * 13.3334, read: 0.0625 };

/**
 * A chat that is answered `answerMs` after its submit. Resolves to {lateMs, looks, heldMs, reads, dollars}: the delay until
 * the client has the answer, and the use of its polls (`looks`). `dollars` are for a million such chats.
 */
export async function simulate(answerMs, { startMs = 100, progress = false, random = 0.5, ...options } = {}) {
  let now = 0;
  const used = { looks: 0, heldMs: 0, reads: 0 };
  const state = () => {
    if (now >= answerMs) return succeeded();
    const poll_after_ms = now < 60_000 ? Math.min(Math.max(now / 4, 500), 5000) : Math.min(now / 12, 15_000);
    return now >= startMs ? running({ poll_after_ms }) : task({ poll_after_ms });
  };
  const hold = (ms) => {
    const end = now + ms;
    for (let pause = 100; state().status !== "SUCCESS" && now < end; pause = Math.min(pause * 1.06, 1000)) {
      now += Math.min(pause, end - now);
      used.reads += 1;
    }
  };
  const fetch = async (url) => {
    if (!url.includes("/chat/task/")) {
      now = WAY_MS; // the task's age is counted from its submit
      return answer(ACCEPTED.body, 202, ACCEPTED.headers);
    }
    now += WAY_MS;
    const began = now;
    used.looks += 1;
    used.reads += 1;
    hold(1000 * Number(new URL(url).searchParams.get("wait")));
    used.heldMs += now - began + POLL_MS;
    const body = state();
    now += WAY_MS;
    return answer(body);
  };
  const clock = { now: () => now, random: () => random, sleep: async (ms) => void (now += ms) };
  const client = createClient({ baseUrl: "http://127.0.0.1", fetch, clock, ...options });
  await client.chat({ message: "Hello" }, progress ? { onProgress() {} } : {});
  const dollars = used.looks * PRICES.request + (used.heldMs / 1000) * PRICES.second + used.reads * PRICES.read;
  return { lateMs: now - answerMs, ...used, dollars };
}

function answer(body, status = 200, headers = {}) {
  return { status, headers: new Headers(headers), text: async () => JSON.stringify(body) };
}

/** Means over answers that take about `seconds`, because the delay depends on the moment between two polls. */
async function mean(seconds, options) {
  const runs = [];
  for (let n = 0; n < 101; n++) runs.push(await simulate(seconds * 1000 * (0.8 + 0.004 * n), options));
  const sum = (name) => runs.reduce((total, run) => total + run[name], 0) / runs.length;
  return { late: sum("lateMs"), worst: Math.max(...runs.map(({ lateMs }) => lateMs)), looks: sum("looks"), dollars: sum("dollars") };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  console.log("| answered after about | way | mean delay | worst delay | requests | dollars for a million chats |");
  console.log("| --- | --- | --- | --- | --- | --- |");
  for (const seconds of [1, 3, 10, 30, 100]) {
    for (const [name, options] of [
      ["`wait: 20`", {}],
      ["`wait: 20`, with `onProgress`", { progress: true }],
      ["`wait: 0`", { wait: 0 }],
    ]) {
      const { late, worst, looks, dollars } = await mean(seconds, options);
      const times = `${(late / 1000).toFixed(2)} s | ${(worst / 1000).toFixed(1)} s`;
      console.log(`| ${seconds} s | ${name} | ${times} | ${looks.toFixed(1)} | ${dollars.toFixed(2)} |`);
    }
  }
}
