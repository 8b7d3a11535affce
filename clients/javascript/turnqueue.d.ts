/** The client of the Turnqueue API. Members have the same names as in the API's JSON. */

export type Status = "PENDING" | "STARTED" | "SUCCESS" | "FAILURE";

/** An image, given by its `url` or by its `upload_id`. */
export type Attachment = ImageUrl | ImageUpload;

export interface ImageUrl {
  type: "image";
  /** An https or data URL. The data URLs of a message have at most 200,000 characters together. */
  url: string;
  upload_id?: null | undefined;
}

export interface ImageUpload {
  type: "image";
  url?: null | undefined;
  /** The `upload_id` that upload() returned. The uploads of a message have at most 2 MiB together. */
  upload_id: string;
}

/** A function that the application can run when the model asks for it. */
export interface Tool {
  type: "function";
  name: string;
  description?: string | null | undefined;
  /** A JSON Schema of the function's arguments. */
  parameters?: Record<string, unknown> | null | undefined;
  strict?: boolean | null | undefined;
}

/** A function that the model asks for. `arguments` is a JSON document that the model wrote, so check it. */
export interface ToolCall {
  call_id: string;
  name: string;
  arguments: string;
}

/** The result of a function. `call_id` is the id of its `ToolCall`. */
export interface ToolOutput {
  call_id: string;
  output: string;
}

/** A message, or the results of the functions that the last answer asks for, or both. */
export type ChatRequest = MessageRequest | ToolOutputsRequest;

export interface MessageRequest extends RequestMembers {
  /** The text of the message: 1 to 32,000 characters. */
  message: string;
  tool_outputs?: null | undefined;
}

export interface ToolOutputsRequest extends RequestMembers {
  message?: string | undefined;
  /**
   * One result for each of an answer's `tool_calls`. The answer is in the conversation `session_id`. The API accepts
   * the results only once.
   */
  tool_outputs: readonly ToolOutput[];
}

interface RequestMembers {
  /** The id of the conversation. If absent, the API makes a new conversation. */
  session_id?: string | null | undefined;
  role?: string | undefined;
  media?: readonly Attachment[] | null | undefined;
  metadata?: Record<string, string> | null | undefined;
  /** The seconds from the submission to the task's deadline. If absent, the deployment's default applies. */
  deadline_seconds?: number | null | undefined;
  /**
   * Whether the answer is streamed. Text then comes up to four times a second instead of once a second. The default in
   * chat() and submit() is true. With false, the API writes less often to its event log, which costs less.
   */
  stream?: boolean | null | undefined;
  /** Functions that the model may ask for. If it asks, its answer has `tool_calls`. */
  tools?: readonly Tool[] | null | undefined;
  tool_choice?: "auto" | "none" | "required" | { type: "function"; name: string } | null | undefined;
  parallel_tool_calls?: boolean | null | undefined;
}

/** A limit of the caller and its state, from the header fields RateLimit-Policy and RateLimit. */
export interface RateLimit {
  /** The name of the limit: "messages", "uploads" or "tokens". */
  policy: string;
  /** The quota: the requests that may come together, or the tokens that may be used in `window_seconds`. */
  quota: number | null;
  /** The unit of the quota: "requests" or "tokens". */
  unit: string;
  window_seconds: number | null;
  remaining: number | null;
  /** The seconds until the whole quota is available again. */
  reset_seconds: number | null;
}

/**
 * The API's document, with the caller's limits. `rateLimit` is null if the API sent no limits. The member is not
 * enumerable, so JSON.stringify leaves it out.
 */
export type Result<Document> = Document & { readonly rateLimit: RateLimit[] | null };

export interface ChatResponse {
  session_id: string;
  message: string;
  data: Record<string, unknown> | null;
  draft: Record<string, unknown> | null;
  task_id: string;
  /** Present if the model asks for functions. Send their results with the next message, as `tool_outputs`. */
  tool_calls?: ToolCall[];
}

/** The API's response to a message that is accepted, but not answered yet. */
export interface Accepted {
  session_id: string;
  message: "Processing...";
  data: null;
  draft: null;
  task_id: string;
  status: Status;
}

export interface Usage {
  model: string;
  prompt_tokens: number | null;
  completion_tokens: number | null;
  cached_tokens: number | null;
  /** Whether a count is an estimate from bytes, because the model's server reported no count. */
  estimated: boolean | null;
  finish_reason: string;
  first_token_ms: number | null;
  /** The reply came from the cache. No model was called, and the token counts are 0. */
  cached: boolean;
  attempts: number | null;
  queue_ms: number | null;
  total_ms: number | null;
  cost_usd: number | null;
  persona: string | null;
  persona_version: string | null;
}

/** The members of every task. Times are RFC 3339, in UTC. */
interface TaskMembers {
  task_id: string;
  /** The estimated progress of the answer, from 0 to 1. Null before the first text. */
  progress: number | null;
  /** The text of the answer so far. */
  partial: string | null;
  attempt: number;
  session_id: string;
  created_at: string;
  started_at: string | null;
  deadline_at: string;
  expires_at: string;
  usage: Usage | null;
  /** The failed task whose message this task sends again. */
  retry_of: string | null;
  /** The reason why the task waits. Null if it does not wait. */
  waiting_for?: "turn_before" | "model_unavailable" | "rate_limit" | null;
  /** The time of the task's next attempt. Null if unknown. */
  next_try_at?: string | null;
}

interface UnfinishedTask extends TaskMembers {
  result: null;
  error: null;
  error_code: null;
  retryable: null;
  finished_at: null;
  /** The milliseconds after which to poll the task again. Null if the task is final. */
  poll_after_ms: number;
}

/** The task waits for its first or next attempt. */
export interface PendingTask extends UnfinishedTask {
  status: "PENDING";
}

/** A worker is answering the message. */
export interface StartedTask extends UnfinishedTask {
  status: "STARTED";
  started_at: string;
}

/** The message is answered. Final. */
export interface SucceededTask extends TaskMembers {
  status: "SUCCESS";
  result: ChatResponse;
  error: null;
  error_code: null;
  retryable: null;
  progress: number;
  finished_at: string;
  poll_after_ms: null;
}

/** The task has failed or was cancelled. Final. */
export interface FailedTask extends TaskMembers {
  status: "FAILURE";
  result: null;
  /** A sentence for the user. */
  error: string;
  /** A stable code for programs. */
  error_code: string;
  /** Whether the same message may succeed later. Null if the API no longer knows the code. */
  retryable: boolean | null;
  finished_at: string;
  poll_after_ms: null;
}

/** A task in its present state. `status` says which members are set. */
export type TaskStatus = PendingTask | StartedTask | SucceededTask | FailedTask;

/** A message of a conversation, with its task. */
export type SessionTurn = TaskStatus & {
  message: string;
  role: string;
  media: Attachment[];
  metadata: Record<string, string>;
  /** Present if the client sent results of functions. */
  tool_outputs?: ToolOutput[];
};

export interface SessionPage {
  session_id: string;
  turns: SessionTurn[];
  /** Pass it as `cursor` to get the next page. Null on the last page. */
  next_cursor: string | null;
}

/** The caller's usage of a day. It counts every attempt, however the attempt ended. */
export interface UsageDay {
  /** The day as YYYY-MM-DD, in UTC. */
  day: string;
  answers: number;
  prompt_tokens: number;
  completion_tokens: number;
  cached_tokens: number;
  /**
   * The part of the prompt and completion tokens that is an estimate, because the model's server did not report the
   * tokens.
   */
  estimated_tokens: number;
  /** Tokens reserved for unanswered messages, if the caller has a token limit: an estimate. */
  reserved_tokens: number;
  /** An estimate in dollars; null if the deployer set no prices. */
  cost_usd: number | null;
}

/** A problem document (RFC 9457). Refusals by API Gateway have only a `message`. */
export interface Problem {
  type?: string;
  title?: string;
  status?: number;
  detail?: string;
  code?: string;
  task_id?: string;
  session_id?: string;
  retryable?: boolean;
  errors?: { field: string; code: string; detail: string }[];
  error?: { message: string; type: string; code: string; param: string | null };
  message?: string;
  [member: string]: unknown;
}

/** A response in the form of axios. The names of `headers` are in lower case. */
export interface Response<Data> {
  data: Data;
  status: number;
  headers: Record<string, string>;
}

export interface Progress {
  status: Status;
  progress: number | null;
  partial: string | null;
  task: TaskStatus;
}

/**
 * An event of a growing answer. A `snapshot` or a `retract` has the whole text to show. A `delta` has text to append.
 * The task of `done` has the final text: in `result`, or in `partial` if the task failed.
 */
export type StreamEvent =
  /**
   * The state of the answer: the first event of a stream without `after`. Another snapshot comes if an operator has
   * replayed the task.
   */
  | { type: "snapshot"; id: number | null; task: TaskStatus; attempt: number; text: string }
  /** Comes before the first text. */
  | { type: "start"; id: number | null; attempt: number }
  | { type: "delta"; id: number | null; attempt: number; text: string }
  /** Another attempt has begun. Its `text` replaces the shown text. */
  | { type: "retract"; id: number | null; attempt: number; text: string }
  /** The final task. A failed task ends the stream normally too. */
  | { type: "done"; id: number | null; task: SucceededTask | FailedTask };

export interface StreamOptions extends CallOptions {
  /** The `id` of the last known event. Without it, the first event is a `snapshot`, or `done`. */
  after?: number | null | undefined;
}

export interface CallOptions {
  /** If this signal aborts, the call rejects with an AbortError. The task continues; cancel() ends the task. */
  signal?: AbortSignal | null | undefined;
  /** The milliseconds that the whole call may take. By default there is no limit. */
  timeoutMs?: number | null | undefined;
}

/** The options of chat() and submit(), which send a message. */
export interface SendOptions extends CallOptions {
  /**
   * If a message is sent again with the same key within 24 hours, it makes no second task. By default each call makes a
   * new key. The errors of the call have the key as `idempotencyKey`.
   */
  idempotencyKey?: string | undefined;
  /** With "no-cache" the API does not answer from its cache. With "no-store" it also does not cache the new answer. */
  cacheControl?: string | undefined;
}

/**
 * Options of calls that wait for a task. Such a call waits at most until the task's deadline, even without a network.
 */
export interface PollOptions extends CallOptions {
  /** The client calls this function after every poll of the task, also after the last poll. */
  onProgress?: ((progress: Progress) => void) | undefined;
  /**
   * The client calls this function with the answer so far, after each event, also after `retract` and `done`. With
   * onDelta, the client calls onProgress only after the first and the last poll.
   */
  onDelta?: ((textSoFar: string, event: StreamEvent) => void) | undefined;
  /**
   * The seconds of one long poll, 0 to 20; overrides the client's `wait`. With onProgress, a long poll is shorter: it
   * ends after the usual pause between two polls. The client changes to short polls if the task is still queued after a
   * minute, or if a long poll has failed or returned early.
   */
  wait?: number | undefined;
}

export interface ChatOptions extends SendOptions, PollOptions {
  /**
   * The client calls this function with the task when the API has accepted the message. Store the `task_id` here if a
   * reload must find the task.
   */
  onAccepted?: ((accepted: Result<Accepted>) => void) | undefined;
}

export interface ClientOptions {
  /** The address of the API: an absolute http(s) URL. */
  baseUrl: string | URL;
  /** The bearer token, or a function that returns the token. The client calls the function before every request. */
  token?: string | null | undefined | (() => string | null | undefined | Promise<string | null | undefined>);
  /**
   * The client calls this function when the API refuses the token. After that the client calls the function `token`. If
   * `token` returns another token, the client sends the request once more. Requests that are refused at the same time
   * share one call.
   */
  refreshToken?: (() => unknown) | undefined;
  fetch?: typeof globalThis.fetch | undefined;
  /**
   * The maximum number of tries of a request after temporary errors; 7 by default. This does not limit polls: the
   * client polls a known task until its deadline.
   */
  attempts?: number | undefined;
  /** The milliseconds that one request may take; 40,000 by default. */
  requestTimeoutMs?: number | undefined;
  /** The milliseconds that the upload of an image may take; 120,000 by default. */
  uploadTimeoutMs?: number | undefined;
  /**
   * The seconds of one long poll, 0 to 20; 20 by default. A long poll is billed as Lambda time and occupies a Lambda
   * execution. With 0 the client uses short polls at the API's pace. An answer then appears up to 6 s late, or 18 s if
   * the answer takes longer than a minute.
   */
  wait?: number | undefined;
  /** A replacement for the clock, in tests. */
  clock?:
    | {
        now(): number;
        random(): number;
        sleep(ms: number, signal: AbortSignal): Promise<void>;
      }
    | undefined;
}

export interface Client {
  /** Send a message and wait for its answer. `timeoutMs` limits the whole time. */
  chat(request: ChatRequest, options?: ChatOptions): Promise<Result<ChatResponse>>;
  /**
   * Send a message. Resolves when the API has accepted the message. All tries of one call have the same
   * Idempotency-Key, so they make only one task. With the same `idempotencyKey` you can send the message again after an
   * error or a restart.
   */
  submit(request: ChatRequest, options?: SendOptions): Promise<Result<Accepted>>;
  /** Wait for the answer of a task. The first poll comes at once. Rejects with TaskFailedError when the task ends as FAILURE. */
  poll(taskId: string, options?: PollOptions): Promise<Result<ChatResponse>>;
  /**
   * The events of a growing answer, after the event with the id `after`. Without `after`, the first event is a
   * snapshot. The stream resumes after the network was lost, and ends with `done`. If the API has no events, the client
   * polls the task, and each `id` is null.
   */
  stream(taskId: string, options?: StreamOptions): AsyncGenerator<StreamEvent, void, void>;
  /** The task in its present state. With `wait` (seconds, up to 20) it resolves when the task is final or the wait ends. */
  task(taskId: string, options?: CallOptions & { wait?: number | undefined }): Promise<Result<TaskStatus>>;
  /**
   * Upload an image: PNG, JPEG, GIF or WebP, up to 2 MiB. Resolves to the object to put into a message's `media`.
   * Rejects with UploadError if S3 refuses the image, and with ApiError if the API refuses it (too large, another
   * type).
   */
  upload(file: Blob, options?: CallOptions): Promise<Result<ImageUpload>>;
  /**
   * Cancel a task. If a worker is answering the task, the task becomes FAILURE only a moment later. So poll the task.
   */
  cancel(taskId: string, options?: CallOptions): Promise<Result<TaskStatus>>;
  /**
   * Send the message of a failed task again, as a new task. Within 24 hours all retries of a task get the same new
   * task. Another `idempotencyKey` makes another retry.
   */
  retry(taskId: string, options?: CallOptions & { idempotencyKey?: string | undefined }): Promise<Result<Accepted>>;
  /** A page of a conversation, the oldest turn first. */
  history(
    sessionId: string,
    options?: CallOptions & { cursor?: string | null | undefined; limit?: number | null | undefined },
  ): Promise<Result<SessionPage>>;
  /** The caller's usage of a day, YYYY-MM-DD in UTC; today by default. */
  usage(options?: CallOptions & { day?: string | null | undefined }): Promise<Result<UsageDay>>;

  sendChatMessage: typeof sendChatMessage;
  getChatTaskStatus: typeof getChatTaskStatus;
  pollChatTask: typeof pollChatTask;
}

export function createClient(options: ClientOptions): Client;

/** A new Idempotency-Key for submit() and chat(). Store the key before the call. */
export function newIdempotencyKey(): string;

// The functions of the replaced api.js

/** Set the API's address and the token once. The functions below need them. */
export function configure(options: ClientOptions): void;

/** Send a message. Resolves when the message is accepted. Poll the task `response.data.task_id`. */
export function sendChatMessage(data: ChatRequest, asyncMode: true, options?: SendOptions): Promise<Response<Accepted>>;
/** Send a message. Resolves when the message is answered. `response.data.message` is the answer. */
export function sendChatMessage(
  data: ChatRequest,
  asyncMode?: false,
  options?: SendOptions & PollOptions,
): Promise<Response<ChatResponse>>;
export function sendChatMessage(
  data: ChatRequest,
  asyncMode?: boolean,
  options?: SendOptions & PollOptions,
): Promise<Response<Accepted | ChatResponse>>;

export function getChatTaskStatus(taskId: string, options?: CallOptions): Promise<Response<TaskStatus>>;

export function pollChatTask(taskId: string, options?: PollOptions): Promise<ChatResponse>;

// Errors

export class TurnqueueError extends Error {
  constructor(message: string, members?: Record<string, unknown>);
  /** The HTTP status of the API's response. Null if the error is not a response of the API. */
  status: number | null;
  /** A stable code: the problem's code, the task's error_code, or a code of the client. */
  code: string;
  problem: Problem | null;
  taskId: string | null;
  /** Whether the same call may succeed later. */
  retryable: boolean;
  /** The milliseconds that the server asked the client to wait. */
  retryAfterMs: number | null;
  /** The caller's limits, if the API sent them. */
  rateLimit: RateLimit[] | null;
  response: Response<unknown> | null;
  /** The Idempotency-Key, if the call sent a message. */
  idempotencyKey?: string;
}

/**
 * The API refused the request. A 401 by API Gateway can lack CORS headers, so that a browser hides it. If /health then
 * answers, the client assumes that the hidden response was a 401, and uses the code `unauthorized`.
 */
export class ApiError extends TurnqueueError {
  status: number;
}

/** No answer came (`network_error`, `request_timeout`), or the answer was unreadable (`unreadable_answer`). */
export class NetworkError extends TurnqueueError {}

/** The task ended as FAILURE. */
export class TaskFailedError extends TurnqueueError {
  taskId: string;
  /**
   * The task, if the client polled it. If the response to another request reported the failure, `problem` has that
   * response.
   */
  task?: TaskStatus;
}

/** The client stopped waiting for the task. The task continues. */
export class TaskTimeoutError extends TurnqueueError {
  taskId: string;
  task: TaskStatus;
}

/** S3 refused an image (`upload_refused`). */
export class UploadError extends TurnqueueError {
  status: number;
}

/**
 * The caller's signal ended the call (`aborted`). `cause` is the signal's reason. If the API has accepted the message,
 * its task continues.
 */
export class AbortError extends TurnqueueError {}
