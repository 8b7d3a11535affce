/** The client of the Turnqueue API. What is sent and received has the names that it has on the wire. */

export type Status = "PENDING" | "STARTED" | "SUCCESS" | "FAILURE";

/** An image by one of the two. */
export interface Attachment {
  type: "image";
  /** https, or a data URL; the data URLs of a message have up to 200,000 characters together. */
  url?: string;
  /** As upload() gave it; the uploads of a message have up to 2 MiB together. */
  upload_id?: string;
}

export interface ChatRequest {
  /** 1 to 32,000 characters. */
  message: string;
  /** The conversation; made if absent. */
  session_id?: string;
  role?: string;
  media?: Attachment[];
  metadata?: Record<string, string>;
}

export interface ChatResponse {
  session_id: string;
  message: string;
  data: Record<string, unknown> | null;
  draft: Record<string, unknown> | null;
  task_id: string;
}

/** A message that is accepted and not answered yet. */
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
  /** Whether a count is an estimate from bytes, because the model's server sent none. */
  estimated: boolean | null;
  finish_reason: string;
  first_token_ms: number | null;
  /** Whether it is the reply that an equal message had got. */
  cached: boolean;
  attempts: number | null;
  queue_ms: number | null;
  total_ms: number | null;
  cost_usd: number | null;
  persona: string | null;
  persona_version: string | null;
}

/** A task as it stands. Times are RFC 3339, in UTC. */
export interface TaskStatus {
  task_id: string;
  status: Status;
  /** Set when the status is SUCCESS. */
  result: ChatResponse | null;
  /** Set when the status is FAILURE: a sentence that may be shown. */
  error: string | null;
  /** 0 to 1, an estimate. */
  progress: number | null;
  error_code: string | null;
  retryable: boolean | null;
  /** The answer as far as it has come. */
  partial: string | null;
  attempt: number;
  session_id: string;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
  deadline_at: string;
  expires_at: string;
  poll_after_ms: number | null;
  usage: Usage | null;
  /** The failed task whose message this one sends again. */
  retry_of: string | null;
}

/** A message of a conversation, with its task. */
export interface SessionTurn extends TaskStatus {
  message: string;
  role: string;
  media: Attachment[];
  metadata: Record<string, string>;
}

export interface SessionPage {
  session_id: string;
  turns: SessionTurn[];
  /** The `cursor` of the next page; null on the last. */
  next_cursor: string | null;
}

/** RFC 9457. API Gateway's own refusals have nothing but a `message`. */
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

/** As axios answers. The names of `headers` are in lower case. */
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

export interface CallOptions {
  /** Ends the waiting, not the task: for that there is cancel(). */
  signal?: AbortSignal;
}

export interface SendOptions {
  /** "no-cache": an answer of the model, whatever is kept of an equal message; "no-store": and keep nothing of this one. */
  cacheControl?: string;
}

export interface PollOptions extends CallOptions {
  /** Called after every look at the task, the last one too. */
  onProgress?: (progress: Progress) => void;
  /** How long to wait for the task at most; it is never waited for longer than the task itself may take. */
  timeoutMs?: number;
}

export interface ClientOptions {
  /** Where the API is. */
  baseUrl: string | URL;
  /** The bearer token, or a function that gives it, asked before every request. */
  token?: string | null | (() => string | null | undefined | Promise<string | null | undefined>);
  fetch?: typeof globalThis.fetch;
  /** How often a request is sent at most, while its failure may pass. 7 if not given. */
  attempts?: number;
  /** How long one request may take. 40 s if not given. */
  requestTimeoutMs?: number;
  /** How long the upload of an image may take. 2 min if not given. */
  uploadTimeoutMs?: number;
  /** For tests. */
  clock?: {
    now(): number;
    random(): number;
    sleep(ms: number, signal?: AbortSignal): Promise<void>;
  };
}

export interface Client {
  /** Send a message and wait for its answer. The first look at the task comes when the API says, after about a second. */
  chat(request: ChatRequest, options?: PollOptions & SendOptions): Promise<ChatResponse>;
  /**
   * Send a message; resolves as soon as it is accepted. It is repeated only under its Idempotency-Key, so that it makes
   * one task; under the same `idempotencyKey` it can be sent again after an error, or after a restart.
   */
  submit(request: ChatRequest, options?: CallOptions & SendOptions & { idempotencyKey?: string }): Promise<Accepted>;
  /** Wait for the answer of a task, with a first look at once. Rejects with TaskFailedError when the task ends as FAILURE. */
  poll(taskId: string, options?: PollOptions): Promise<ChatResponse>;
  /** The task as it stands; with `wait`, when it is final or so many seconds (up to 20) are over. */
  task(taskId: string, options?: CallOptions & { wait?: number }): Promise<TaskStatus>;
  /**
   * Upload an image: PNG, JPEG, GIF or WebP, up to 2 MiB. Resolves to what a message's `media` names it by. Rejects with
   * UploadError when the storage does not take it; what the API refuses (too large, another type) is an ApiError.
   */
  upload(file: Blob, options?: CallOptions): Promise<Attachment & { upload_id: string }>;
  /** Cancel a task. While a worker has it, it is FAILURE only a moment later: poll it. */
  cancel(taskId: string, options?: CallOptions): Promise<TaskStatus>;
  /** Send the message of a failed task again, as a new task; all who do so within 24 hours get the same one. */
  retry(taskId: string, options?: CallOptions): Promise<Accepted>;
  /** A page of a conversation, oldest first. */
  history(sessionId: string, options?: CallOptions & { cursor?: string; limit?: number }): Promise<SessionPage>;

  sendChatMessage: typeof sendChatMessage;
  getChatTaskStatus: typeof getChatTaskStatus;
  pollChatTask: typeof pollChatTask;
}

export function createClient(options: ClientOptions): Client;

/** A key for submit(), to be kept before it is used. Without one submit() makes its own. */
export function newIdempotencyKey(): string;

// The functions of the replaced api.js

/** Say once where the API is and whose token to send; the functions below need it. */
export function configure(options: ClientOptions): void;

/** Resolves when the message is accepted: `response.data.task_id` is the task to poll. */
export function sendChatMessage(data: ChatRequest, asyncMode: true, options?: PollOptions): Promise<Response<Accepted>>;
/** Resolves when the message is answered: `response.data.message` is the answer. */
export function sendChatMessage(
  data: ChatRequest,
  asyncMode?: false,
  options?: PollOptions,
): Promise<Response<ChatResponse>>;
export function sendChatMessage(
  data: ChatRequest,
  asyncMode?: boolean,
  options?: PollOptions,
): Promise<Response<Accepted | ChatResponse>>;

export function getChatTaskStatus(taskId: string, options?: CallOptions): Promise<Response<TaskStatus>>;

export function pollChatTask(taskId: string, options?: PollOptions): Promise<ChatResponse>;

// Errors

export class TurnqueueError extends Error {
  constructor(message: string, members?: Record<string, unknown>);
  /** The HTTP status; null if the error is not an answer of the API. */
  status: number | null;
  /** For programs: the problem's code, the task's error_code, or one of ours. */
  code: string;
  problem: Problem | null;
  taskId: string | null;
  /** Whether the same may succeed later. */
  retryable: boolean;
  /** What the server asked to wait. */
  retryAfterMs: number | null;
  response: Response<unknown> | null;
  /** Of a message that was sent: the key that it was sent with. */
  idempotencyKey?: string;
}

/** The API refused the request. */
export class ApiError extends TurnqueueError {
  status: number;
}

/** No answer came (`network_error`, `request_timeout`), or none that can be read (`unreadable_answer`). */
export class NetworkError extends TurnqueueError {}

/** The task ended as FAILURE. */
export class TaskFailedError extends TurnqueueError {
  taskId: string;
  /** The task, if it was polled; what was said of it by a request that waited is in `problem`. */
  task?: TaskStatus;
}

/** We stopped waiting for the task. The task itself goes on. */
export class TaskTimeoutError extends TurnqueueError {
  taskId: string;
  task: TaskStatus;
}

/** The storage did not take an image (`upload_refused`). */
export class UploadError extends TurnqueueError {
  status: number;
}
