/** What the tests talk to: an HTTP server whose answers the test writes, and a clock that does not wait. */

import http from "node:http";

export const TASK_ID = "session_123.01M81JBBEJSNKKCARCWATXHY0A";

/**
 * A server on loopback until the test `t` ends. `answer(request, n)` is called for the n-th request, from 0, with
 * {method, path, query, headers, body} and returns {status, headers, body}; a `body` that is no string is sent as JSON.
 * A `body` that is an array of buffers is sent piece by piece; after the last one CUT breaks the connection. Returned DROP
 * closes the connection without an answer, and HANG never answers.
 */
export const DROP = Symbol("drop");
export const HANG = Symbol("hang");
export const CUT = Symbol("cut");

export async function serve(t, answer) {
  const requests = [];
  const server = http.createServer(async (incoming, outgoing) => {
    const pieces = [];
    for await (const piece of incoming) pieces.push(piece);
    const bytes = Buffer.concat(pieces);
    const isForm = incoming.headers["content-type"]?.startsWith("multipart/form-data");
    const url = new URL(incoming.url, "http://x");
    const request = {
      method: incoming.method,
      path: url.pathname,
      query: Object.fromEntries(url.searchParams),
      headers: incoming.headers,
      body: isForm ? bytes : bytes.length ? JSON.parse(bytes.toString()) : undefined,
    };
    requests.push(request);
    const response = await answer(request, requests.length - 1);
    if (response === HANG) return;
    if (response === DROP) {
      incoming.socket.destroy();
      return;
    }
    const { status = 200, headers = {}, body = {} } = response;
    outgoing.writeHead(status, { "Content-Type": "application/json", ...headers });
    if (Array.isArray(body)) {
      for (const piece of body) {
        if (piece === CUT) outgoing.destroy();
        else await new Promise((sent) => outgoing.write(piece, sent));
        await new Promise(setImmediate); // or the pieces would come as one
      }
      outgoing.end();
      return;
    }
    outgoing.end(typeof body === "string" ? body : JSON.stringify(body));
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${server.address().port}`, requests };
}

/** Time passes only by sleeping. `random` is the same each time. */
export function fakeClock({ random = 0 } = {}) {
  let time = 0;
  const slept = [];
  return {
    slept,
    now: () => time,
    random: () => random,
    async sleep(ms, signal) {
      signal?.throwIfAborted();
      slept.push(ms);
      time += ms;
    },
  };
}

/** A task as the API shows it. */
export function task(members = {}) {
  return {
    task_id: TASK_ID,
    status: "PENDING",
    result: null,
    error: null,
    progress: null,
    error_code: null,
    retryable: null,
    partial: null,
    attempt: 0,
    session_id: "session_123",
    created_at: "2026-11-22T12:00:00.000Z",
    started_at: null,
    finished_at: null,
    deadline_at: "2026-11-22T12:15:00.000Z",
    expires_at: "2026-11-29T12:00:00.000Z",
    poll_after_ms: 500,
    usage: null,
    ...members,
  };
}

export function running(members = {}) {
  return task({ status: "STARTED", attempt: 1, started_at: "2026-11-22T12:00:00.100Z", ...members });
}

export const RESULT = {
  session_id: "session_123",
  message: "I can help you with that haircut.",
  data: { complete: false },
  draft: { service: "haircut" },
  task_id: TASK_ID,
};

export function succeeded(members = {}) {
  return running({ status: "SUCCESS", progress: 1, result: RESULT, poll_after_ms: null, ...members });
}

export function failed(code, members = {}) {
  return running({
    status: "FAILURE",
    error: "The model declined to answer this message.",
    error_code: code,
    retryable: false,
    poll_after_ms: null,
    ...members,
  });
}

export const ACCEPTED = {
  status: 202,
  headers: { Location: `/chat/task/${TASK_ID}`, "Retry-After": "1" },
  body: {
    session_id: "session_123",
    message: "Processing...",
    data: null,
    draft: null,
    task_id: TASK_ID,
    status: "PENDING",
  },
};

export function problem(status, code, members = {}, headers = {}) {
  return {
    status,
    headers: { "Content-Type": "application/problem+json", ...headers },
    body: {
      type: `urn:turnqueue:problem:${code}`,
      title: "Title",
      status,
      detail: `This is ${code}.`,
      code,
      ...members,
      error: { message: `This is ${code}.`, type: "server_error", code, param: null },
    },
  };
}

/** Answers a submit with 202, and each look at the task with the next of `looks`, of which the last stays. */
export function answers(...looks) {
  let look = 0;
  return ({ method, path }) => {
    if (method === "POST" && path === "/chat") return ACCEPTED;
    const next = looks[Math.min(look++, looks.length - 1)];
    return typeof next === "symbol" || "body" in next ? next : { body: next };
  };
}

/** As if this were a page of that origin, until the test ends. */
export function pageAt(t, origin) {
  globalThis.location = { origin, href: `${origin}/` };
  t.after(() => delete globalThis.location);
}
