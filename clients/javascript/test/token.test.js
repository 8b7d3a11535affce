/** A token that the API refuses, in Node and in a page that may not see the refusal. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { ApiError, createClient, NetworkError } from "../turnqueue.js";
import { ACCEPTED, CUT, DROP, fakeClock, pageAt, serve, succeeded } from "./support.js";

const UNAUTHORIZED = { status: 401, body: { message: "Unauthorized" } };

/**
 * An API that takes the token "new" only; in a page from elsewhere its refusal has no CORS headers, so that fetch shows a
 * lost network. `up`: whether it is there at all.
 */
async function world(t, { hidden, up = true, answer = () => ACCEPTED, ...options }) {
  const { url, requests } = await serve(t, (request, n) => {
    if (request.path === "/health") return { body: { status: "ok" } };
    return request.headers.authorization === "Bearer new" ? answer(request, n) : UNAUTHORIZED;
  });
  if (hidden) pageAt(t, "https://app.example");
  const fetch = async (...request) => {
    if (!up) throw new TypeError("Failed to fetch");
    const response = await globalThis.fetch(...request);
    if (hidden && response.status === 401) throw new TypeError("Failed to fetch");
    return response;
  };
  const clock = fakeClock();
  const client = createClient({ baseUrl: url, fetch, clock, ...options });
  const count = (method) => requests.filter((request) => request.method === method).length;
  return { client, count, slept: clock.slept };
}

async function refused(promise) {
  const error = await promise.then(() => assert.fail("it was not refused"), (error) => error);
  assert.ok(error instanceof ApiError, `${error}`);
  assert.deepEqual([error.status, error.code, error.retryable], [401, "unauthorized", false]);
  return error;
}

for (const hidden of [false, true]) {
  const where = hidden ? "a page that does not see the refusal" : "Node";

  test(`in ${where} an expired token is "unauthorized", soon, and told apart from a lost network`, async (t) => {
    for (const token of ["old", () => "old", async () => "old"]) {
      const { client, count, slept } = await world(t, { hidden, token });
      const error = await refused(client.chat({ message: "Hello" }));
      assert.match(error.idempotencyKey, /^[0-9a-f]{32}$/);
      // What was not seen is asked once more, because a connection may have been lost at this very moment.
      assert.equal(count("POST"), hidden ? 2 : 1);
      assert.ok(slept.reduce((sum, ms) => sum + ms, 0) <= 500);
      if (hidden) assert.match(error.message, /token/);
    }
  });

  test(`in ${where} the refresh hook is called once, and the request sent with the new token`, async (t) => {
    let current = "old";
    let calls = 0;
    const refreshToken = async () => {
      calls += 1;
      current = "new";
    };
    const { client, count } = await world(t, { hidden, token: () => current, refreshToken });
    await client.submit({ message: "Hello" });
    assert.deepEqual([calls, count("POST")], [1, 2]);
    await client.submit({ message: "Hello" });
    assert.deepEqual([calls, count("POST")], [1, 3]);
  });

  test(`in ${where} a refresh that brings nothing is not repeated`, async (t) => {
    let calls = 0;
    const { client, count } = await world(t, { hidden, token: () => "old", refreshToken: () => void calls++ });
    await refused(client.submit({ message: "Hello" }));
    assert.equal(calls, 1);
    assert.equal(count("POST"), hidden ? 2 : 1);
  });

  test(`in ${where} a new token that is refused too is not refreshed again`, async (t) => {
    let number = 0;
    const { client, count } = await world(t, { hidden, token: () => `old${number}`, refreshToken: () => void number++ });
    await refused(client.submit({ message: "Hello" }));
    assert.deepEqual([number, count("POST")], [1, 2]);
  });

  test(`in ${where} requests that are refused together share one refresh`, async (t) => {
    let current = "old";
    let calls = 0;
    const refreshToken = async () => {
      calls += 1;
      await new Promise((resolve) => setTimeout(resolve, 50));
      current = "new";
    };
    const { client, count } = await world(t, { hidden, token: () => current, refreshToken });
    await Promise.all(Array.from({ length: 5 }, () => client.submit({ message: "Hello" })));
    assert.deepEqual([calls, count("POST")], [1, 10]);
  });

  test(`in ${where} a token that was renewed meanwhile needs no refresh`, async (t) => {
    let asked = 0;
    const refreshToken = () => assert.fail("called");
    const { client } = await world(t, { hidden, token: () => (asked++ ? "new" : "old"), refreshToken });
    await client.submit({ message: "Hello" });
  });

  test(`in ${where} what the refresh hook throws reaches the caller`, async (t) => {
    const refreshToken = () => Promise.reject(new Error("signed out"));
    const { client } = await world(t, { hidden, token: () => "old", refreshToken });
    await assert.rejects(client.submit({ message: "Hello" }), { message: "signed out" });
  });

  test(`in ${where} a token that expires while a task is waited for is renewed, and the task goes on being held`, async (t) => {
    let current = "new";
    const waits = [];
    const answer = ({ method, query }) => {
      if (method === "POST") {
        current = "old";
        return ACCEPTED;
      }
      waits.push(query.wait);
      return { body: succeeded() };
    };
    const { client } = await world(t, { hidden, answer, token: () => current, refreshToken: () => void (current = "new") });
    await client.chat({ message: "Hello" });
    assert.deepEqual(waits, ["20"]);
  });
}

test("in a page an API that is gone is a lost network, and tried again", async (t) => {
  const { client, slept } = await world(t, { hidden: true, up: false, token: "old" });
  const error = await client.submit({ message: "Hello" }).catch((error) => error);
  assert.ok(error instanceof NetworkError);
  assert.equal(error.code, "network_error");
  assert.equal(slept.length, 6);
});

test("in a page a connection that is lost once is no refused token", async (t) => {
  const { client, count } = await world(t, {
    hidden: true,
    token: "new",
    answer: () => (count("POST") === 1 ? DROP : ACCEPTED),
  });
  assert.deepEqual(await client.submit({ message: "Hello" }), ACCEPTED.body);
});

test("in a page a response that breaks off again and again is no refused token", async (t) => {
  const broken = { body: [Buffer.from('{"task_id'), CUT] };
  const { client, count } = await world(t, {
    hidden: true,
    token: "new",
    answer: () => (count("POST") < 4 ? broken : ACCEPTED),
  });
  assert.deepEqual(await client.submit({ message: "Hello" }), ACCEPTED.body);
});

test("a page of the API's own origin sees the refusal and does not probe", async (t) => {
  const { url, requests } = await serve(t, (request, n) => (n === 0 ? DROP : ACCEPTED));
  pageAt(t, url);
  await createClient({ baseUrl: url, token: "t", clock: fakeClock() }).submit({ message: "Hello" });
  assert.deepEqual(requests.map(({ path }) => path), ["/chat", "/chat"]);
});

test("a refresh hook without a token function is a mistake that is told", () => {
  const options = { baseUrl: "https://api.example", token: "t", refreshToken() {} };
  assert.throws(() => createClient(options), { name: "TypeError", message: /^refreshToken needs `token` to be a function/ });
});
