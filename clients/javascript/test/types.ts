/** turnqueue.d.ts as an application uses it; tests/contracts/test_client_types.py lets tsc check it. It never runs. */

import {
  AbortError,
  ApiError,
  type Attachment,
  type ChatOptions,
  type ChatRequest,
  type Client,
  type ClientOptions,
  configure,
  createClient,
  sendChatMessage,
  type SessionTurn,
  type StreamEvent,
  TaskFailedError,
  type TaskStatus,
} from "../turnqueue.js";

// Members that the server takes as null or absent may be null, undefined or absent.
const request: ChatRequest = { message: "Hello", session_id: null, media: null, metadata: undefined, role: undefined };
declare const maybe: { session?: string; key?: string; signal?: AbortSignal; day?: string; token?: string };
const options: ChatOptions = { idempotencyKey: maybe.key, signal: maybe.signal, timeoutMs: undefined, wait: undefined };
const settings: ClientOptions = { baseUrl: new URL("https://api.example"), token: maybe.token, wait: 0, attempts: undefined };
export const withNull: ClientOptions = { baseUrl: "https://api.example", token: async () => null, refreshToken: async () => {} };

// @ts-expect-error: the server refuses a role that is null
export const nullRole: ChatRequest = { message: "Hello", role: null };
// @ts-expect-error: no message
export const empty: ChatRequest = {};
const outputs = [{ call_id: "call_1", output: "4" }];
export const continuation: ChatRequest = { session_id: "s", tool_outputs: outputs };
// @ts-expect-error: by url or by upload_id
export const both: Attachment = { type: "image", url: "https://example.com/a.png", upload_id: "01" };
// @ts-expect-error: by one of them
export const neither: Attachment = { type: "image" };
// @ts-expect-error: where the API is
createClient({ token: "t" });

const client: Client = createClient(settings);

export async function use(): Promise<string> {
  const answer = await client.chat(
    { ...request, session_id: maybe.session, media: [await client.upload(new Blob([]), { signal: null })] },
    {
      ...options,
      onAccepted: ({ task_id, status }) => console.log(task_id, status),
      onProgress: ({ partial, task }) => console.log(partial, task.attempt),
    },
  );
  const [limit] = answer.rateLimit ?? [];
  if (limit?.remaining === 0) console.log(limit.policy, limit.reset_seconds);
  const day = await client.usage({ day: maybe.day });
  console.log(day.answers, day.rateLimit);
  await client.history("s", { cursor: (await client.history("s")).next_cursor });
  return answer.message;
}

export async function follow(client: Client, taskId: string, after: number | null): Promise<string> {
  let text = "";
  for await (const event of client.stream(taskId, { after, signal: undefined })) {
    switch (event.type) {
      case "snapshot":
      case "retract":
        text = event.text;
        break;
      case "delta":
        text += event.text;
        break;
      case "start":
        console.log(event.attempt, event.id);
        break;
      case "done":
        return event.task.status === "SUCCESS" ? event.task.result.message : (event.task.partial ?? event.task.error);
      default:
        event satisfies never;
    }
  }
  await client.chat({ message: "Hello", stream: true }, { onDelta: (textSoFar, { type }) => console.log(type, textSoFar.length) });
  return text;
}

// @ts-expect-error: a retraction has no task
export const none = (event: StreamEvent): TaskStatus => (event.type === "retract" ? event.task : never);

// The status tells which members are set.
export function show(task: TaskStatus | SessionTurn): string {
  switch (task.status) {
    case "PENDING":
      return `${task.waiting_for ?? "queued"} ${task.poll_after_ms / 1000}`;
    case "STARTED":
      return task.partial ?? task.started_at;
    case "SUCCESS":
      return task.result.message + task.finished_at;
    case "FAILURE":
      return `${task.error} ${task.error_code.length} ${task.retryable ? "again" : ""}`;
    default:
      return task satisfies never;
  }
}

// @ts-expect-error: a task that is not final has no result
export const early = (task: TaskStatus): string => (task.status === "STARTED" ? task.result.message : "");

export function explain(error: unknown): string {
  if (error instanceof AbortError) return `${error.taskId} ${error.cause}`;
  if (error instanceof TaskFailedError) return error.taskId.concat(error.task?.error ?? "");
  if (error instanceof ApiError && error.code === "unauthorized") return `${error.status.toFixed()} ${error.rateLimit?.length}`;
  return String(error);
}

// As users of the replaced api.js wrote it.
configure(settings);
export const id = async (): Promise<string> => (await sendChatMessage({ message: "Hello" }, true)).data.task_id;
export const text = async (): Promise<string> => (await sendChatMessage({ message: "Hello" })).data.message;
