/**
 * The client of the Turnqueue API for browsers and Node 20 or later. It needs no other package.
 *
 *     const client = createClient({ baseUrl: "https://…", token: async () => "…" });
 *     const answer = await client.chat({ message: "Hello" }, { onDelta: (textSoFar) => show(textSoFar) });
 *
 * The functions of the replaced api.js are at the end. Call configure() once, and these functions work as before.
 *
 * Errors, all of them exported:
 *
 *     TurnqueueError         status, code, problem, taskId, retryable, …
 *       ApiError             the API refused the request
 *       NetworkError         no answer came, or the answer cannot be read
 *       TaskFailedError      the task ended as FAILURE
 *       TaskTimeoutError     the client stopped waiting; the task continues
 *       UploadError          S3 did not take an image
 *       AbortError           the caller's signal ended the call; `cause` is the signal's reason
 */

import { createParser } from "./vendor/eventsource-parser/parse.js";

const ATTEMPTS = 7; // tries, which take 15 to 30 s with the pauses between them
const REQUEST_TIMEOUT_MS = 40_000; // more than the 30 s after which API Gateway gives up
const UPLOAD_TIMEOUT_MS = 120_000; // enough for 2 MB at 140 kbit/s
const PROBE_TIMEOUT_MS = 5_000; // enough: /health reads no table, and its cold start takes about 1 s
const FIRST_BACKOFF_MS = 500;
const LONGEST_BACKOFF_MS = 15_000;
// If the server asks for a longer pause, the call fails and the caller decides. Only a poll of a known task waits
// longer.
const LONGEST_RETRY_AFTER_MS = 60_000;

const WAIT_SECONDS = 20; // the longest wait that the API allows
const HELD_SLACK_MS = 10_000; // the answer to a long poll can come this long after the end of the poll's wait
const EVENTS_TIMEOUT_MS = 10_000; // short, because the API returns the present events without a wait
// After this time in the queue, a task gets short polls, because each long poll keeps a Lambda busy.
const QUEUED_MS = 60_000;
const SHORTEST_POLL_MS = 100;
const LONGEST_POLL_MS = 30_000;
const OWN_POLL_MS = 1_000; // the pause between polls, if the response does not have one
const JITTER = 0.2;
const SLACK_MS = 30_000; // a task can still be open for this time after its deadline
const LONGEST_TASK_MS = 12 * 3_600_000 + SLACK_MS; // the longest wait for a task whose deadline is not known
const LAST_LOOK_MS = 1_000; // the time for one last poll when the caller's time is over
const LONGEST_TIMER_MS = 2 ** 31 - 1; // a longer setTimeout fires at once

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
    this.rateLimit = null;
    this.response = null;
    Object.assign(this, members);
  }
}

export class ApiError extends TurnqueueError {}

export class NetworkError extends TurnqueueError {}

export class TaskFailedError extends TurnqueueError {}

export class TaskTimeoutError extends TurnqueueError {}

export class UploadError extends TurnqueueError {}

export class AbortError extends TurnqueueError {}

// Store the error's name as text, because a minifier shortens the name of a class.
TurnqueueError.prototype.name = "TurnqueueError";
ApiError.prototype.name = "ApiError";
NetworkError.prototype.name = "NetworkError";
TaskFailedError.prototype.name = "TaskFailedError";
TaskTimeoutError.prototype.name = "TaskTimeoutError";
UploadError.prototype.name = "UploadError";
AbortError.prototype.name = "AbortError";

// ---- Time

const systemClock = {
  now: () => performance.now(),
  random: Math.random,
  sleep: (ms, signal) =>
    new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", end);
        globalThis.removeEventListener?.("online", end);
        resolve();
      };
      const timer = setTimeout(end, ms);
      signal.addEventListener("abort", end);
      globalThis.addEventListener?.("online", end); // The network is back, so end the pause.
    }),
};

/**
 * Resolves to the outcome of `work(signal)`. Rejects with AbortError as soon as the caller's `signal` aborts, and with
 * NetworkError after `timeoutMs`, even if `work` never settles. In both cases, the signal that was passed to `work`
 * aborts.
 */
function bounded(work, { signal, timeoutMs = Infinity }) {
  return new Promise((resolve, reject) => {
    const controller = new AbortController();
    let timer;
    const settle = (how, value) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", aborted);
      how(value);
    };
    const stop = (error) => {
      settle(reject, error);
      controller.abort(error);
    };
    const aborted = () => stop(new AbortError("The call was aborted.", { code: "aborted", cause: signal.reason }));
    if (signal?.aborted) {
      aborted();
      return;
    }
    signal?.addEventListener("abort", aborted);
    if (timeoutMs !== Infinity) {
      const late = { code: "request_timeout", retryable: true };
      const expired = () => stop(new NetworkError("The API did not answer in time.", late));
      timer = setTimeout(expired, Math.min(timeoutMs, LONGEST_TIMER_MS));
    }
    new Promise((begin) => begin(work(controller.signal))).then(
      (value) => settle(resolve, value),
      (error) => settle(reject, error),
    );
  });
}

// ---- The client

/**
 * A client of the API at `baseUrl`, an absolute URL. `token` is the bearer token, or a function that returns the token
 * or a promise. The client calls the function before every request. The client calls `refreshToken` once when the API
 * refuses the token. `attempts` is the maximum number of tries of a request. `wait` is the seconds of a long poll.
 * `clock` is for tests.
 */
export function createClient(options) {
  const { baseUrl, token, refreshToken } = options ?? {};
  const fetch = options?.fetch ?? ((...request) => globalThis.fetch(...request));
  const attempts = options?.attempts ?? ATTEMPTS;
  const requestTimeoutMs = options?.requestTimeoutMs ?? REQUEST_TIMEOUT_MS;
  const uploadTimeoutMs = options?.uploadTimeoutMs ?? UPLOAD_TIMEOUT_MS;
  const clock = options?.clock ?? systemClock;
  const usualWait = options?.wait ?? WAIT_SECONDS;
  const root = rootOf(baseUrl);
  if (refreshToken && typeof token !== "function") {
    throw new TypeError("refreshToken needs `token` to be a function: it is called again for the new token.");
  }
  const origin = globalThis.location?.origin;
  // A browser hides only responses of another origin.
  const crossOrigin = origin !== undefined && origin !== new URL(root).origin;
  let refreshing = null;

  /** The limits of a call: the caller's `signal`, and `endsAt` by this device's clock. */
  function limitOf({ signal, timeoutMs }) {
    return { signal, endsAt: clock.now() + (timeoutMs ?? Infinity) };
  }

  function within(work, { signal, endsAt }, timeoutMs) {
    const left = endsAt - clock.now();
    return bounded(work, { signal, timeoutMs: Math.min(timeoutMs, left > 0 ? left : LAST_LOOK_MS) });
  }

  function sleep(ms, { signal }) {
    return bounded((stopped) => clock.sleep(ms, stopped), { signal });
  }

  /**
   * Send a request, and retry after temporary errors. With `persist`, this function retries until the limit, and
   * otherwise it tries at most `attempts` times. Retries use the query `repeatQuery`. Resolves to {data, status,
   * headers, failures}.
   */
  async function send(method, path, request = {}) {
    const { query = {}, repeatQuery = query, limit, persist = false, ...content } = request;
    let failures = 0;
    let renewed = false;
    for (;;) {
      const url = `${root}${path}${queryString(failures ? repeatQuery : query)}`;
      const sent = { bearer: undefined };
      try {
        return { ...(await sendOnce(method, url, content, limit, sent)), failures };
      } catch (failure) {
        const error = await explained(failure, limit);
        const unseen = error !== failure;
        if (unseen || (error.status === 401 && error.response)) {
          if (renewed || !(await renew(sent.bearer, unseen, limit))) throw error;
          renewed = true;
          continue;
        }
        failures += 1;
        if (!passing(error)) throw error;
        if (!persist && (failures >= attempts || error.retryAfterMs > LONGEST_RETRY_AFTER_MS)) throw error;
        let wait = Math.max(spread(error.retryAfterMs ?? 0), backoff(failures));
        const left = limit.endsAt - clock.now();
        if (persist && left > 0) wait = Math.min(wait, left);
        if (wait > left) throw error;
        await sleep(wait, limit);
      }
    }
  }

  async function sendOnce(method, url, content, limit, sent) {
    const { body, headers = {}, timeoutMs = requestTimeoutMs, read } = content;
    const send = async (signal) => {
      const fields = new Headers(headers);
      sent.bearer = await bearer();
      if (sent.bearer) fields.set("Authorization", `Bearer ${sent.bearer}`);
      if (body !== undefined) fields.set("Content-Type", "application/json");
      const request = {
        method,
        headers: fields,
        body: body === undefined ? undefined : JSON.stringify(body),
        // For a POST, "no-store" would add `Cache-Control: no-cache`, and the API would not answer from its cache.
        cache: method === "GET" ? "no-store" : "default",
        credentials: "omit",
        signal,
      };
      return exchange(url, request, read);
    };
    const answer = await within(send, limit, timeoutMs);
    if (answer.status < 200 || answer.status >= 300) throw refusal(answer);
    if (answer.data !== null && typeof answer.data === "object") return answer;
    throw unreadable(answer.status);
  }

  /** Sends one request to a server, and reads the whole response. */
  async function exchange(url, request, read = readJson) {
    let response = null;
    try {
      response = await fetch(url, request);
      const headers = Object.fromEntries(response.headers);
      return { status: response.status, headers, data: await read(response) };
    } catch (cause) {
      if (cause instanceof TurnqueueError) throw cause;
      if (response) throw unreadable(response.status, cause); // the connection was lost in the middle of the body
      throw new NetworkError("The API could not be reached.", { code: "network_error", retryable: true, cause });
    }
  }

  async function bearer() {
    return bearerOf(typeof token === "function" ? await token() : token);
  }

  /**
   * Returns `error`, or an ApiError if a hidden 401 has caused it. API Gateway's 401 can lack CORS headers, and a
   * browser then reports a lost connection. If /health answers, the API is up, so the cause was probably a 401.
   */
  async function explained(error, limit) {
    if (!crossOrigin || error.code !== "network_error" || !(await isUp(limit))) return error;
    return new ApiError(
      "The API is up, but the browser hides its answer: most likely it refuses the token, which is missing, wrong or expired.",
      { status: 401, code: "unauthorized", cause: error },
    );
  }

  async function isUp(limit) {
    const ask = (signal) => fetch(`${root}/health`, { cache: "no-store", credentials: "omit", signal });
    try {
      return (await within(ask, limit, PROBE_TIMEOUT_MS)).ok;
    } catch (error) {
      if (error instanceof AbortError) throw error;
      return false;
    }
  }

  /**
   * Whether to send the request once more after a 401: true if there is another token now. Also true if the client only
   * guesses the 401 (`unseen`), because the connection can have been lost instead.
   */
  async function renew(refused, unseen, limit) {
    if (typeof token === "function") {
      const ask = async () => {
        if ((await bearer()) !== refused) return true;
        if (!refreshToken) return false;
        // Requests that are refused at the same time share one refresh.
        refreshing ??= new Promise((begin) => begin(refreshToken())).finally(() => (refreshing = null));
        await refreshing;
        return (await bearer()) !== refused;
      };
      if (await within(ask, limit, requestTimeoutMs)) return true;
    }
    if (!unseen) return false;
    // Perhaps the API did not refuse the request, and the connection was lost. So pause before the retry.
    await sleep(backoff(1), limit);
    return true;
  }

  /** A random pause of at least `ms`, so that clients with the same pause do not all ask at the same time. */
  function spread(ms) {
    return ms * (1 + JITTER * clock.random());
  }

  function backoff(failures) {
    const longest = Math.min(FIRST_BACKOFF_MS * 2 ** (failures - 1), LONGEST_BACKOFF_MS);
    return longest * (1 + clock.random()) * 0.5;
  }

  /** Send a chat. The request is safe to repeat, because all tries have the same key and make one task. */
  function post(body, { asyncMode, idempotencyKey, cacheControl }, limit) {
    const submit = (body) =>
      send("POST", "/chat", {
        query: { async_mode: asyncMode },
        body,
        headers: { "Idempotency-Key": idempotencyKey, ...(cacheControl ? { "Cache-Control": cacheControl } : {}) },
        limit,
      });
    return submit(body).catch((error) => {
      const unknown = error.status === 422 && error.problem?.errors?.some(({ field }) => field === "stream");
      if (!unknown || body.stream !== true) throw error;
      // The API is older than the client's version 0.3, and does not know `stream`.
      return submit({ ...body, stream: undefined });
    });
  }

  /** Resolves to the result of `work(key)`. Its errors have the key, so that the caller can send the same message again. */
  async function withKey({ idempotencyKey }, work) {
    const key = idempotencyKey ?? newIdempotencyKey();
    return work(key).catch((error) => {
      if (error instanceof TurnqueueError) error.idempotencyKey = key;
      throw error;
    });
  }

  /** Upload an image: get a form from the API, and post it to S3. Each try has a new form and a new upload. */
  async function upload(file, options = {}) {
    const limit = limitOf(options);
    const body = { type: "image", content_type: file.type, size: file.size };
    for (let tries = 1; ; tries++) {
      const offer = await send("POST", "/chat/media", { body, limit });
      try {
        await put(offer.data, file, limit);
        return result({ ...offer, data: { type: "image", upload_id: offer.data.upload_id } });
      } catch (error) {
        const wait = backoff(tries);
        if (!passing(error) || tries >= attempts || clock.now() + wait > limit.endsAt) throw error;
        await sleep(wait, limit);
      }
    }
  }

  async function put({ url, fields }, file, limit) {
    const form = new FormData();
    for (const [name, value] of Object.entries(fields)) form.append(name, value);
    form.append("file", file); // `file` is the last field, because S3 ignores the fields after it
    const request = { method: "POST", body: form, credentials: "omit" };
    const { status } = await within((signal) => exchange(url, { ...request, signal }), limit, uploadTimeoutMs);
    if (status >= 200 && status < 300) return;
    throw new UploadError(`S3 refused the image (status ${status}).`, {
      status,
      code: "upload_refused",
      retryable: status === 408 || status === 429 || status >= 500,
    });
  }

  /** Send a request about a task: get the task, or call its `action`, which is /cancel, /retry or /events. */
  function aboutTask(taskId, { method = "GET", action = "", wait, ...request }) {
    const path = `/chat/task/${encodeURIComponent(taskId)}${action}`;
    return send(method, path, { query: { wait }, ...request }).catch((error) => {
      if (error instanceof TurnqueueError) error.taskId = taskId;
      throw error;
    });
  }

  /**
   * Wait for the answer of a task. `accepted` is the API's 202 for the task, or null. Each long poll ends when the task
   * is final, or after `wait` seconds. With onProgress, it lasts at most as long as the pause between two polls.
   */
  async function watch(taskId, { onProgress, onDelta, wait }, limit, accepted = null) {
    if (onDelta) return grown(taskId, { onProgress, onDelta }, limit);
    const began = clock.now();
    let endsAt = giveUpAt(null, began, limit);
    let task = accepted?.data ?? null;
    let pause = accepted && !isFinal(task) ? pace(task, accepted.headers) : 0;
    // A long poll takes at most half of a request's timeout, so that it does not look like a lost request.
    let longest = clamp(wait ?? usualWait, 0, Math.min(WAIT_SECONDS, requestTimeoutMs / 2000));

    /** The seconds of the next long poll of the task; 0 for a short poll. */
    const held = () => {
      if (task?.status === "PENDING" && clock.now() - began > QUEUED_MS) return 0;
      const progress = task === null ? 0 : Math.max(1, Math.ceil(pause / 1000));
      const left = Math.floor((endsAt - clock.now()) / 1000) - 1;
      return Math.max(0, Math.floor(Math.min(longest, left, onProgress ? progress : Infinity)));
    };

    if (pause && !held()) await sleepForTask(taskId, Math.min(pause, endsAt - clock.now()), limit);
    for (;;) {
      const asked = clock.now();
      const seconds = held();
      const answer = await aboutTask(taskId, {
        ...(seconds ? { wait: seconds, timeoutMs: Math.min(requestTimeoutMs, seconds * 1000 + HELD_SLACK_MS) } : {}),
        repeatQuery: {},
        limit: { ...limit, endsAt },
        persist: task !== null,
      });
      // Perhaps a proxy breaks long requests, or no Lambda is free. So use short polls from now on.
      if (answer.failures) longest = 0;
      task = answer.data;
      onProgress?.(progressOf(task));
      if (isFinal(task)) return outcome(task);
      endsAt = giveUpAt(task, began, limit);
      const left = timeLeft(taskId, task, endsAt);
      // The long poll returned early, perhaps because the caller has reached the rate limit for long polls. So use
      // short polls from now on, because each long poll costs the API a write.
      if (clock.now() - asked < seconds * 500) longest = 0;
      pause = pace(task, answer.headers);
      const rest = seconds ? pause - (clock.now() - asked) : pause;
      if (rest > 0) await sleepForTask(taskId, Math.min(rest, left), limit);
    }
  }

  /** Wait for the answer of a task, and report its text while it grows. */
  async function grown(taskId, { onProgress, onDelta }, limit) {
    let text = "";
    for await (const event of eventsOf(taskId, {}, limit)) {
      text = textAfter(text, event);
      if (event.task) onProgress?.(progressOf(event.task));
      onDelta(text, event);
      if (event.type === "done") return outcome(event.task);
    }
    return watch(taskId, { onProgress }, limit); // the stream has ended without `done`, so poll the task
  }

  /** The events of a task after the event with the id `after`, until the stream ends. */
  async function* eventsOf(taskId, { after = null }, limit) {
    const began = clock.now();
    let endsAt = giveUpAt(null, began, limit);
    let last = after;
    let task = null;
    let started = false;
    for (;;) {
      const look = aboutTask(taskId, {
        action: "/events",
        headers: { Accept: "text/event-stream", ...(last === null ? {} : { "Last-Event-ID": String(last) }) },
        read: readEvents,
        timeoutMs: Math.min(requestTimeoutMs, EVENTS_TIMEOUT_MS),
        limit: { ...limit, endsAt },
        persist: last !== null,
      });
      const answer = await look.catch((error) => {
        if ([404, 405, 501].includes(error.status) && error.code !== "task_not_found") return null;
        throw error;
      });
      if (!answer) { // the API is too old to have this route, so poll the task
        yield* looksOf(taskId, limit);
        return;
      }
      for (const event of answer.data.events) {
        const again = event.type === "start" ? started : event.type !== "snapshot" && last !== null && event.id <= last;
        if (again) continue; // ignore an event that came before: a proxy has repeated it
        last = event.id;
        started ||= event.type === "start" || event.type === "delta";
        task = event.task ?? task;
        if (EVENTS.has(event.type)) yield event;
        if (event.type === "done") return;
      }
      if (answer.status === 204) return;
      if (task) endsAt = giveUpAt(task, began, limit);
      const pause = spread(clamp(answer.data.pauseMs ?? OWN_POLL_MS, SHORTEST_POLL_MS, LONGEST_POLL_MS));
      await sleepForTask(taskId, Math.min(pause, timeLeft(taskId, task, endsAt)), limit);
    }
  }

  /**
   * The events of a task, made from polls of the task, for an API without the route /events. The events have no ids.
   */
  async function* looksOf(taskId, limit) {
    const began = clock.now();
    let endsAt = giveUpAt(null, began, limit);
    let shown = null;
    for (;;) {
      const { data: task, headers } = await aboutTask(taskId, { limit: { ...limit, endsAt }, persist: shown !== null });
      if (isFinal(task)) {
        yield { type: "done", id: null, task };
        return;
      }
      const { attempt } = task;
      const text = task.partial ?? "";
      if (!shown) {
        yield { type: "snapshot", id: null, task, attempt, text };
      } else {
        const goesOn = attempt === shown.attempt && text.startsWith(shown.text);
        if (!goesOn && shown.text) yield { type: "retract", id: null, attempt, text: "" };
        const fresh = goesOn ? text.slice(shown.text.length) : text;
        if (fresh) yield { type: "delta", id: null, attempt, text: fresh };
      }
      shown = { attempt, text };
      endsAt = giveUpAt(task, began, limit);
      await sleepForTask(taskId, Math.min(pace(task, headers), timeLeft(taskId, task, endsAt)), limit);
    }
  }

  /**
   * The time, by this device's clock, at which the task must have ended. `began`: when the client began to watch it.
   * `task`: null if unknown.
   */
  function giveUpAt(task, began, limit) {
    // Use only the difference of two times of the server, because this device's clock can be wrong. The task was
    // submitted before `began`, so it ends before `began` plus this difference.
    const life = task ? Date.parse(task.deadline_at) - Date.parse(task.created_at) : NaN;
    return Math.min(limit.endsAt, began + (life >= 0 ? life + SLACK_MS : LONGEST_TASK_MS));
  }

  function timeLeft(taskId, task, endsAt) {
    const left = endsAt - clock.now();
    if (left > 0) return left;
    const members = { code: "client_timeout", taskId, task, retryable: true };
    throw new TaskTimeoutError("The task is not finished yet. It continues: ask for it again by its taskId.", members);
  }

  async function sleepForTask(taskId, ms, limit) {
    return sleep(ms, limit).catch((error) => {
      if (error instanceof TurnqueueError) error.taskId = taskId;
      throw error;
    });
  }

  /** The milliseconds to wait before the next request for the task. */
  function pace(task, headers) {
    const told = Number.isFinite(task.poll_after_ms) ? task.poll_after_ms : retryAfter(headers);
    return spread(clamp(told ?? OWN_POLL_MS, SHORTEST_POLL_MS, LONGEST_POLL_MS));
  }

  return {
    /** Send a message and wait for its answer. */
    chat(request, options = {}) {
      const limit = limitOf(options);
      return withKey(options, async (idempotencyKey) => {
        const accepted = await post(streamed(request), { ...options, asyncMode: true, idempotencyKey }, limit);
        options.onAccepted?.(result(accepted));
        const data = await watch(accepted.data.task_id, options, limit, accepted);
        return result({ ...accepted, data });
      });
    },

    /** Send a message. Resolves to {task_id, session_id, status, …} when the API has accepted the message. */
    submit(request, options = {}) {
      return withKey(options, async (idempotencyKey) => {
        const sent = { asyncMode: true, idempotencyKey, cacheControl: options.cacheControl };
        return result(await post(streamed(request), sent, limitOf(options)));
      });
    },

    /** Wait for the answer of a task. The first poll comes at once. */
    async poll(taskId, options = {}) {
      const data = await watch(taskId, options, limitOf(options));
      return result({ data, headers: {} });
    },

    /**
     * The events of a task's answer, as an async iterator of {type, id, …}. It begins after the event `after`, or else
     * with a snapshot. It resumes after the network was lost, and ends with `done`.
     */
    stream(taskId, options = {}) {
      return eventsOf(taskId, options, limitOf(options));
    },

    /** The task in its present state. With `wait`, the API answers when the task is final, or after `wait` seconds. */
    async task(taskId, options = {}) {
      return result(await aboutTask(taskId, { wait: options.wait, limit: limitOf(options) }));
    },

    /**
     * Upload an image, a Blob or File. Resolves to {type, upload_id}. For a week, the `media` of messages can contain
     * this object.
     */
    upload,

    /** Cancel a task. Resolves to the task, which is not FAILURE yet if a worker is answering it. */
    async cancel(taskId, options = {}) {
      return result(await aboutTask(taskId, { method: "POST", action: "/cancel", limit: limitOf(options) }));
    },

    /**
     * Send the message of a failed task again. Resolves to the new task, like submit(). A repeated call resolves to the
     * same new task.
     */
    async retry(taskId, options = {}) {
      const headers = options.idempotencyKey ? { "Idempotency-Key": options.idempotencyKey } : {};
      return result(await aboutTask(taskId, { method: "POST", action: "/retry", headers, limit: limitOf(options) }));
    },

    /** A page of a conversation: {turns, next_cursor}. */
    async history(sessionId, options = {}) {
      const query = { cursor: options.cursor, limit: options.limit };
      const path = `/chat/session/${encodeURIComponent(sessionId)}`;
      return result(await send("GET", path, { query, limit: limitOf(options) }));
    },

    /** The answers, tokens and cost of a day: `day` is YYYY-MM-DD in UTC, or today if absent. */
    async usage(options = {}) {
      return result(await send("GET", "/chat/usage", { query: { day: options.day }, limit: limitOf(options) }));
    },

    // The response in the form of axios, which the replaced api.js returned.

    sendChatMessage(data, asyncMode, options = {}) {
      const limit = limitOf(options);
      return withKey(options, async (idempotencyKey) => {
        const body = options.onDelta ? streamed(data) : data;
        const response = asAxios(await post(body, { ...options, asyncMode: Boolean(asyncMode), idempotencyKey }, limit));
        if (asyncMode || response.status !== 202) return response;
        const answer = await watch(response.data.task_id, options, limit, response);
        return { ...response, data: answer, status: 200 };
      });
    },

    async getChatTaskStatus(taskId, options = {}) {
      return asAxios(await aboutTask(taskId, { limit: limitOf(options) }));
    },

    pollChatTask: async (taskId, options = {}) => watch(taskId, options, limitOf(options)),
  };
}

/** The message with `stream: true` as the default, so that text comes more often. */
function streamed(request) {
  return { ...request, stream: request?.stream ?? true };
}

function asAxios({ data, status, headers }) {
  return { data, status, headers };
}

/** The URL without a slash at its end. Throws TypeError if it is not an absolute http(s) URL. */
function rootOf(baseUrl) {
  let url = null;
  try {
    url = new URL(baseUrl);
  } catch {
    // ignore the error: the check below tells the caller the reason
  }
  if (!/^https?:$/.test(url?.protocol)) {
    const found = baseUrl === undefined || baseUrl === null || baseUrl === "" ? "is missing" : `is ${JSON.stringify(`${baseUrl}`)}`;
    throw new TypeError(`baseUrl ${found}; it must be an absolute URL, such as https://abc123.execute-api.us-east-1.amazonaws.com.`);
  }
  return url.href.replace(/[?#].*$/, "").replace(/\/+$/, "");
}

/**
 * The document of an answer, with the caller's limits as `rateLimit`. `rateLimit` is not enumerable, so that a copy or
 * comparison of the document leaves it out.
 */
function result({ data, headers }) {
  return Object.defineProperty(data, "rateLimit", { value: rateLimit(headers), configurable: true });
}

/**
 * The caller's limits from RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-10); null if the API
 * sent none.
 */
function rateLimit(headers) {
  const policies = items(headers["ratelimit-policy"]);
  const states = items(headers["ratelimit"]);
  if (!policies.size && !states.size) return null;
  return Array.from(new Set([...policies.keys(), ...states.keys()]), (policy) => ({
    policy,
    quota: number(policies.get(policy)?.q),
    unit: policies.get(policy)?.qu ?? "requests",
    window_seconds: number(policies.get(policy)?.w),
    remaining: number(states.get(policy)?.r),
    reset_seconds: number(states.get(policy)?.t),
  }));
}

/**
 * Parses a header field that is a structured list: `"name";a=1;b="c", …`. Returns the items' parameters by the items'
 * names.
 */
function items(field) {
  const found = new Map();
  for (const [, name, parameters] of (field ?? "").matchAll(/"([^"]*)"((?:\s*;\s*[a-z]+=(?:"[^"]*"|[^\s;,]+))*)/g)) {
    const pairs = parameters.matchAll(/([a-z]+)=(?:"([^"]*)"|([^\s;,]+))/g);
    found.set(name, Object.fromEntries(Array.from(pairs, ([, key, quoted, bare]) => [key, quoted ?? bare])));
  }
  return found;
}

function number(text) {
  return text === undefined || !Number.isFinite(Number(text)) ? null : Number(text);
}

function isFinal({ status }) {
  return status === "SUCCESS" || status === "FAILURE";
}

/** The result of a final task. Throws TaskFailedError if the task has no result. */
function outcome(task) {
  if (task.status === "SUCCESS") return task.result;
  throw taskFailed(task);
}

function progressOf(task) {
  return { status: task.status, progress: task.progress, partial: task.partial, task };
}

// ---- Events

const EVENTS = new Set(["snapshot", "start", "delta", "retract", "done"]);

/** The text of an answer after an event. `text`: the text of the answer before the event. */
function textAfter(text, event) {
  if (event.type === "delta") return text + event.text;
  if (event.type === "done") return event.task.result?.message ?? event.task.partial ?? text;
  return event.type === "start" ? text : event.text;
}

/**
 * Reads {events, pauseMs} from a response: Server-Sent Events or JSON. If the body ends too early, this returns the
 * complete events, and the next request reads the other events.
 */
async function readEvents(response) {
  const events = [];
  let pauseMs = null;
  if (response.status === 204) return { events, pauseMs };
  if (!/^text\/event-stream/i.test(response.headers.get("content-type") ?? "")) return eventsOfJson(response);
  const parser = createParser({
    onEvent: ({ event, id, data }) => {
      const members = parsed(data);
      if (members === null || typeof members !== "object") throw unreadable(response.status);
      events.push({ type: event, id: Number(id), ...members });
    },
    onRetry: (ms) => (pauseMs = ms),
  });
  try {
    if (response.body) for await (const piece of pieces(response.body)) parser.feed(piece);
    else parser.feed(await response.text()); // React Native has no streams
  } catch (error) {
    if (!events.length) throw error;
  }
  return { events, pauseMs };
}

/** The text of a stream of bytes. Characters may be split between chunks. */
async function* pieces(stream) {
  const reader = stream.getReader(); // Safari cannot iterate over a stream
  const decoder = new TextDecoder();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield decoder.decode(value, { stream: true });
  }
}

/** Reads {events, pauseMs} from a response in JSON, which the API or a proxy sent. Returns a refusal unchanged. */
async function eventsOfJson(response) {
  const data = await readJson(response);
  if (!response.ok) return data;
  if (!Array.isArray(data?.events)) throw unreadable(response.status);
  return { events: data.events.map(({ event, ...members }) => ({ type: event, ...members })), pauseMs: data.poll_after_ms };
}

async function readJson(response) {
  return parsed(await response.text());
}

function unreadable(status, cause) {
  const members = { code: "unreadable_answer", status, retryable: true, cause };
  return new NetworkError("The API's answer could not be read.", members);
}

// ---- Refusals

/** Whether the same request can succeed soon. False for a failed task, because its Idempotency-Key makes no new task. */
function passing(error) {
  if (error instanceof NetworkError) return true;
  if (error instanceof UploadError) return error.retryable;
  return error instanceof ApiError && (error.status === 408 || error.status === 429 || error.status >= 500);
}

/** The error for a refusal. Refusals by API Gateway have a `message` and no code. */
function refusal({ status, headers, data }) {
  const problem = data !== null && typeof data === "object" ? data : null;
  // A message that could not be queued is a failed task too. But its Idempotency-Key is free again, so the next try
  // makes a new task.
  const failed = problem?.task_id && problem.code !== "enqueue_failed";
  return new (failed ? TaskFailedError : ApiError)(
    problem?.detail ?? problem?.message ?? `The API answered with status ${status}.`,
    {
      status,
      code: problem?.code ?? (status === 401 ? "unauthorized" : `http_${status}`),
      problem,
      taskId: problem?.task_id ?? null,
      retryable: problem?.retryable ?? (status === 408 || status === 429 || status >= 500),
      retryAfterMs: retryAfter(headers),
      rateLimit: rateLimit(headers),
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

/** Retry-After in milliseconds. The header has seconds or a date. Null without the header. */
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

/**
 * The token without white space around it. Throws an error for a malformed token. This error does not quote the
 * token, but the error of `Headers` would.
 */
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

/** An Idempotency-Key: 128 random bits. randomUUID() is not used, because a page on plain http does not have it. */
export function newIdempotencyKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

// ---- The functions of the replaced api.js

let configured = null;

/** Store the API's address and the token: `options` are those of createClient. Call this function once. */
export function configure(options) {
  configured = createClient(options);
}

function client() {
  if (!configured) throw new TurnqueueError("Call configure({ baseUrl, token }) first.", { code: "not_configured" });
  return configured;
}

/**
 * Send a message. With `asyncMode` it resolves when the message is accepted, and `response.data.task_id` is the task to
 * poll. Otherwise it resolves when the message is answered.
 */
export async function sendChatMessage(data, asyncMode = false, options = {}) {
  return client().sendChatMessage(data, asyncMode, options);
}

/** The task in its present state. Resolves to a response in the form of axios, whose `data` is the task. */
export async function getChatTaskStatus(taskId, options = {}) {
  return client().getChatTaskStatus(taskId, options);
}

/** Wait for the answer of a task. Resolves to the answer: `message`, `data` and so on. */
export async function pollChatTask(taskId, options = {}) {
  return client().pollChatTask(taskId, options);
}
