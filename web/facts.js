/** Makes the facts of a task, and a shell command that sends its message again. */

import { clockTime, duration } from "./words.js";

/** The known facts of a turn's task, as [name, text]. */
export function factsOf({ task, request }) {
  const { usage } = task;
  const created = Date.parse(task.created_at);
  const after = (iso) => iso && `after ${duration(Date.parse(iso) - created)}`;
  const firstWords = usage?.first_token_ms;
  return Object.entries({
    Task: task.task_id,
    Role: request.role,
    Queued: clockTime(created),
    Started: after(task.started_at),
    Finished: after(task.finished_at),
    Attempts: task.attempt || null,
    Error: task.error_code,
    Model: usage?.model,
    Tokens: usage && `${usage.prompt_tokens ?? "?"} in, ${usage.completion_tokens ?? "?"} out`,
    Cost: Number.isFinite(usage?.cost_usd) ? `about $${usage.cost_usd.toFixed(6)}` : null,
    "First words": Number.isFinite(firstWords) ? `${duration(firstWords)} after the call` : null,
    Answer: usage?.cached ? "from the cache" : null,
  }).filter(([, fact]) => fact);
}

/** A shell command that sends the message to the API again. It reads the token from $TOKEN. */
export function curlOf({ message, role, media }, { apiUrl, sessionId }) {
  const url = `${apiUrl.replace(/\/+$/, "")}/chat?async_mode=false`;
  const body = { message, session_id: sessionId, role, ...(media?.length ? { media } : {}) };
  // The body comes from standard input, because images are too long for an argument. The JSON is one line that begins
  // with a brace, so it never equals the line that ends the input.
  return [
    `curl -sS ${quoted(url)} \\`,
    `  -H "Authorization: Bearer $TOKEN" \\`,
    `  -H 'Content-Type: application/json' \\`,
    `  --data-binary @- <<'JSON'`,
    JSON.stringify(body),
    "JSON",
    "",
  ].join("\n");
}

/** The text as one argument of a POSIX shell. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
