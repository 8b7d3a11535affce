/**
 * The client of the Turnqueue API, for browsers and Node 20 or later: one module, no dependencies.
 *
 *     const client = createClient({ baseUrl: "https://…", token: async () => "…" });
 *     const answer = await client.chat({ message: "Hello" }, { onProgress: ({ partial }) => show(partial) });
 *
 * At the end are the functions of the replaced api.js: configure() once, then they work as they did.
 *
 * Errors, all of them exported:
 *
 *     TurnqueueError         status, code, problem, taskId, retryable, …
 *       ApiError             the API refused the request
 *       NetworkError         no answer came, or none that can be read
 *       TaskFailedError      the task ended as FAILURE
 *       TaskTimeoutError     we stopped waiting for the task; the task itself goes on
 *       UploadError          the storage did not take an image
 *
 * An aborted call rejects with the `reason` of its signal, as fetch does.
 */

const ATTEMPTS = 7; // over some 15 to 30 s
const REQUEST_TIMEOUT_MS = 40_000; // API Gateway itself gives up after 30 s
const UPLOAD_TIMEOUT_MS = 120_000; // 2 MB at 140 kbit/s
const FIRST_BACKOFF_MS = 500;
const LONGEST_BACKOFF_MS = 15_000;
const LONGEST_RETRY_AFTER_MS = 60_000; // who is told to wait longer than this is told so by an error

const SHORTEST_POLL_MS = 100;
const LONGEST_POLL_MS = 30_000;
const OWN_POLL_MS = 1_000; // where the server does not say
const JITTER = 0.2;
const LONGEST_TASK_MS = 20 * 60_000; // until the server has said when its task ends at the latest
const SLACK_MS = 30_000; // after that
const LAST_LOOK_MS = 5_000; // what a request may take beyond the time that there is for the task

// ---- Errors

export class TurnqueueError extends Error {
  constructor(message, { cause, ...members } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.status = null;
    this.code = "error";
    this.problem = null;
    this.taskId = null;
    this.retryable = false;
    this.retryAfterMs = null;
    this.response = null;
    Object.assign(this, members);
  }
}

export class ApiError extends TurnqueueError {}

export class NetworkError extends TurnqueueError {}

export class TaskFailedError extends TurnqueueError {}

export class TaskTimeoutError extends TurnqueueError {}

export class UploadError extends TurnqueueError {}

// In words and not from the class, whose name a minifier shortens.
TurnqueueError.prototype.name = "TurnqueueError";
ApiError.prototype.name = "ApiError";
NetworkError.prototype.name = "NetworkError";
TaskFailedError.prototype.name = "TaskFailedError";
TaskTimeoutError.prototype.name = "TaskTimeoutError";
UploadError.prototype.name = "UploadError";

// ---- The client

const systemClock = {
  now: () => performance.now(),
  random: Math.random,
  sleep: (ms, signal) =>
    new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const end = (settle, value) => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", aborted);
        globalThis.removeEventListener?.("online", awake);
        settle(value);
      };
      const aborted = () => end(reject, signal.reason);
      const awake = () => end(resolve); // back on the network: there is no use in waiting longer
      const timer = setTimeout(awake, ms);
      signal?.addEventListener("abort", aborted);
      globalThis.addEventListener?.("online", awake);
    }),
};

/**
 * A client of the API at `baseUrl`. `token` is the bearer token, or a function that returns it or a promise of it,
 * asked before every request. `attempts` bounds how often a request is sent. `clock` is for tests.
 */
export function createClient({
  baseUrl,
  token,
  fetch = (...request) => globalThis.fetch(...request),
  attempts = ATTEMPTS,
  requestTimeoutMs = REQUEST_TIMEOUT_MS,
  uploadTimeoutMs = UPLOAD_TIMEOUT_MS,
  clock = systemClock,
}) {
  const root = new URL(baseUrl, globalThis.location?.href).href.replace(/[?#].*$/, "").replace(/\/+$/, "");

  /** Send a request, again while its failure may pass. Resolves to {data, status, headers}. */
  async function send(method, path, { query = {}, body, headers = {}, signal, endsAt = Infinity } = {}) {
    const url = `${root}${path}${queryString(query)}`;
    for (let tries = 1; ; tries++) {
      try {
        const timeoutMs = Math.min(requestTimeoutMs, Math.max(endsAt - clock.now(), LAST_LOOK_MS));
        return await sendOnce(method, url, { body, headers, signal, timeoutMs });
      } catch (error) {
        if (!passing(error) || tries >= attempts || error.retryAfterMs > LONGEST_RETRY_AFTER_MS) throw error;
        const wait = Math.max(spread(error.retryAfterMs ?? 0), backoff(tries));
        if (clock.now() + wait > endsAt) throw error;
        await clock.sleep(wait, signal);
      }
    }
  }

  async function sendOnce(method, url, { body, headers, signal, timeoutMs }) {
    signal?.throwIfAborted();
    const sent = new Headers(headers);
    const bearer = bearerOf(typeof token === "function" ? await token() : token);
    if (bearer) sent.set("Authorization", `Bearer ${bearer}`);
    if (body !== undefined) sent.set("Content-Type", "application/json");
    const answer = await exchange(url, {
      method,
      headers: sent,
      body: body === undefined ? undefined : JSON.stringify(body),
      // Not of a message: fetch would say `Cache-Control: no-cache` then, and no reply that the API keeps were given.
      cache: method === "GET" ? "no-store" : "default",
      credentials: "omit",
      signal,
      timeoutMs,
    });
    if (answer.status >= 200 && answer.status < 300) {
      if (answer.data !== null && typeof answer.data === "object") return answer;
      throw new NetworkError("The API's answer could not be read.", {
        code: "unreadable_answer",
        status: answer.status,
        retryable: true,
      });
    }
    throw refusal(answer);
  }

  /** One exchange with the server, body and all, within the time for it. */
  async function exchange(url, { signal, timeoutMs, ...request }) {
    const controller = new AbortController();
    const aborted = () => controller.abort(signal.reason);
    const timer = setTimeout(() => controller.abort(), timeoutMs);
    signal?.addEventListener("abort", aborted);
    try {
      signal?.throwIfAborted();
      const response = await fetch(url, { ...request, signal: controller.signal });
      const headers = Object.fromEntries(response.headers);
      return { status: response.status, headers, data: parsed(await response.text()) };
    } catch (cause) {
      signal?.throwIfAborted();
      const late = controller.signal.aborted;
      throw new NetworkError(late ? "The API did not answer in time." : "The API could not be reached.", {
        code: late ? "request_timeout" : "network_error",
        retryable: true,
        cause,
      });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", aborted);
    }
  }

  /** Never less than the server wants, and not all clients at once. */
  function spread(ms) {
    return ms * (1 + JITTER * clock.random());
  }

  function backoff(tries) {
    const longest = Math.min(FIRST_BACKOFF_MS * 2 ** (tries - 1), LONGEST_BACKOFF_MS);
    return longest * (1 + clock.random()) * 0.5;
  }

  /** Send a chat. It may be sent again, for all its copies have one key and make one task. */
  function post(request, { asyncMode, idempotencyKey = newIdempotencyKey(), cacheControl, signal }) {
    return send("POST", "/chat/", {
      query: { async_mode: asyncMode },
      body: request,
      headers: { "Idempotency-Key": idempotencyKey, ...(cacheControl ? { "Cache-Control": cacheControl } : {}) },
      signal,
    }).catch((error) => {
      if (error instanceof TurnqueueError) error.idempotencyKey = idempotencyKey;
      throw error;
    });
  }

  /** Upload an image: ask the API for a form, and post it to the storage. Each try is a form, and an upload, of its own. */
  async function upload(file, { signal } = {}) {
    const body = { type: "image", content_type: file.type, size: file.size };
    for (let tries = 1; ; tries++) {
      const { data } = await send("POST", "/chat/media", { body, signal });
      try {
        await put(data, file, signal);
        return { type: "image", upload_id: data.upload_id };
      } catch (error) {
        if (!passing(error) || tries >= attempts) throw error;
        await clock.sleep(backoff(tries), signal);
      }
    }
  }

  async function put({ url, fields }, file, signal) {
    const form = new FormData();
    for (const [name, value] of Object.entries(fields)) form.append(name, value);
    form.append("file", file); // the last field: what comes behind it the storage ignores
    const request = { method: "POST", body: form, credentials: "omit", signal, timeoutMs: uploadTimeoutMs };
    const { status } = await exchange(url, request);
    if (status >= 200 && status < 300) return;
    throw new UploadError(`The storage did not take the image (status ${status}).`, {
      status,
      code: "upload_refused",
      retryable: status === 408 || status === 429 || status >= 500,
    });
  }

  /** Ask for a task, or with `action` do something to it. */
  function aboutTask(taskId, { method = "GET", action = "", wait, signal, endsAt } = {}) {
    const path = `/chat/task/${encodeURIComponent(taskId)}${action}`;
    return send(method, path, { query: { wait }, signal, endsAt }).catch((error) => {
      if (error instanceof TurnqueueError) error.taskId = taskId;
      throw error;
    });
  }

  /** Wait for the answer of a task, and before the first look for so long as `first` says. */
  async function watch(taskId, first, { signal, onProgress, timeoutMs = Infinity } = {}) {
    const began = clock.now();
    let endsAt = began + Math.min(timeoutMs, LONGEST_TASK_MS);
    if (first > 0) await clock.sleep(Math.min(first, timeoutMs), signal);
    for (;;) {
      const { data: task, headers } = await aboutTask(taskId, { signal, endsAt });
      onProgress?.({ status: task.status, progress: task.progress, partial: task.partial, task });
      if (task.status === "SUCCESS") return task.result;
      if (task.status === "FAILURE") throw taskFailed(task);

      // By the server's clock alone, for ours may be wrong: it cannot have longer from now on than it has in all.
      const life = Date.parse(task.deadline_at) - Date.parse(task.created_at);
      if (life >= 0) endsAt = began + Math.min(timeoutMs, life + SLACK_MS);
      const left = endsAt - clock.now();
      if (left <= 0) {
        throw new TaskTimeoutError("The task is not finished yet.", {
          code: "client_timeout",
          taskId,
          task,
          retryable: true,
        });
      }
      await clock.sleep(Math.min(pace(task, headers), left), signal);
    }
  }

  /** How long to wait before asking for the task again. */
  function pace(task, headers) {
    const told = Number.isFinite(task.poll_after_ms) ? task.poll_after_ms : retryAfter(headers);
    return spread(clamp(told ?? OWN_POLL_MS, SHORTEST_POLL_MS, LONGEST_POLL_MS));
  }

  /** Wait for the answer of a message that was accepted by a 202: it says when to look first, or that it is there. */
  function watchAccepted({ data, headers }, options) {
    const final = data.status === "SUCCESS" || data.status === "FAILURE";
    return watch(data.task_id, final ? 0 : pace(data, headers), options);
  }

  /** Wait for the answer of a task, with a first look at once. */
  function poll(taskId, options) {
    return watch(taskId, 0, options);
  }

  return {
    /** Send a message and wait for its answer. */
    async chat(request, { signal, cacheControl, onProgress, timeoutMs } = {}) {
      const accepted = await post(request, { asyncMode: true, cacheControl, signal });
      return watchAccepted(accepted, { signal, onProgress, timeoutMs });
    },

    /** Send a message. Resolves as soon as it is accepted, to the 202's {task_id, session_id, status, …}. */
    async submit(request, { signal, idempotencyKey, cacheControl } = {}) {
      return (await post(request, { asyncMode: true, idempotencyKey, cacheControl, signal })).data;
    },

    poll,

    /** The task as it stands; `wait` lets the server wait for its end, up to so many seconds. */
    async task(taskId, { wait, signal } = {}) {
      return (await aboutTask(taskId, { wait, signal })).data;
    },

    /**
     * Upload an image, a Blob or File. Resolves to {type, upload_id}, for the `media` of a message, or of several within
     * a week.
     */
    upload,

    /** Cancel a task. Resolves to it; if a worker has it, it is not FAILURE yet. */
    async cancel(taskId, { signal } = {}) {
      return (await aboutTask(taskId, { method: "POST", action: "/cancel", signal })).data;
    },

    /** Send the message of a failed task again. Resolves as submit does, and to the same task when it is repeated. */
    async retry(taskId, { signal } = {}) {
      return (await aboutTask(taskId, { method: "POST", action: "/retry", signal })).data;
    },

    /** A page of a conversation: {turns, next_cursor}. */
    async history(sessionId, { cursor, limit, signal } = {}) {
      return (await send("GET", `/chat/session/${encodeURIComponent(sessionId)}`, { query: { cursor, limit }, signal }))
        .data;
    },

    // As the functions of the replaced api.js, which answered as axios does.

    async sendChatMessage(data, asyncMode = false, { signal, onProgress, timeoutMs } = {}) {
      const response = await post(data, { asyncMode: Boolean(asyncMode), signal });
      if (asyncMode || response.status !== 202) return response;
      const answer = await watchAccepted(response, { signal, onProgress, timeoutMs });
      return { ...response, data: answer, status: 200 };
    },

    getChatTaskStatus: (taskId, { signal } = {}) => aboutTask(taskId, { signal }),

    pollChatTask: poll,
  };
}

/** Whether the same request may fare better soon. A task that failed stays failed under its key. */
function passing(error) {
  if (error instanceof NetworkError) return true;
  if (error instanceof UploadError) return error.retryable;
  return error instanceof ApiError && (error.status === 408 || error.status === 429 || error.status >= 500);
}

/** The error for an answer that is not a success. API Gateway's own have a `message` and no code. */
function refusal({ status, headers, data }) {
  const problem = data !== null && typeof data === "object" ? data : null;
  // A message that was not queued is a failed task too, but its key is free again: the next try is a new task.
  const failed = problem?.task_id && problem.code !== "enqueue_failed";
  return new (failed ? TaskFailedError : ApiError)(
    problem?.detail ?? problem?.message ?? `The API answered with status ${status}.`,
    {
      status,
      code: problem?.code ?? `http_${status}`,
      problem,
      taskId: problem?.task_id ?? null,
      retryable: problem?.retryable ?? (status === 408 || status === 429 || status >= 500),
      retryAfterMs: retryAfter(headers),
      response: { data, status, headers },
    },
  );
}

function taskFailed(task) {
  return new TaskFailedError(task.error ?? "The task failed.", {
    code: task.error_code ?? "task_failed",
    taskId: task.task_id,
    retryable: Boolean(task.retryable),
    task,
  });
}

/** Retry-After in milliseconds, from seconds or a date; null if there is none. */
function retryAfter(headers) {
  const value = headers["retry-after"]?.trim();
  if (!value) return null;
  const ms = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isFinite(ms) ? Math.max(ms, 0) : null;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** The token without white space around it. `Headers` would quote a token that it refuses in its error. */
function bearerOf(token) {
  if (!token) return "";
  const bearer = typeof token === "string" ? token.trim() : "";
  if (/^[!-~]+$/.test(bearer)) return bearer;
  throw new TurnqueueError("token: must be visible ASCII characters without spaces or line breaks.", {
    code: "invalid_token",
  });
}

function queryString(query) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

/** An Idempotency-Key: 128 random bits. Not randomUUID(), which a page that came by plain http does not have. */
export function newIdempotencyKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

// ---- The functions of the replaced api.js

let configured = null;

/** Say once where the API is and whose token to send: the options of createClient. */
export function configure(options) {
  configured = createClient(options);
}

function client() {
  if (!configured) throw new TurnqueueError("Call configure({ baseUrl, token }) first.", { code: "not_configured" });
  return configured;
}

/**
 * Send a message. With `asyncMode` it resolves once the message is accepted, and `response.data.task_id` is there to be
 * polled; without, once it is answered.
 */
export async function sendChatMessage(data, asyncMode = false, options = {}) {
  return client().sendChatMessage(data, asyncMode, options);
}

/** The task as it stands: `response.data.status` and so on. */
export async function getChatTaskStatus(taskId, options = {}) {
  return client().getChatTaskStatus(taskId, options);
}

/** Wait for the answer of a task: `result.message` and so on. */
export async function pollChatTask(taskId, options = {}) {
  return client().pollChatTask(taskId, options);
}
