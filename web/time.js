/** The server's time, as far as we can tell: tasks carry the server's, and the clock here may be wrong. */

let ahead = null; // how far the server's clock is ahead of ours, at most

export function now() {
  return Date.now() + (ahead ?? 0);
}

/** A message was sent at `sentAt` of our time and recorded at the task's `created_at`, a little later. */
export function learn(sentAt, task) {
  const difference = Date.parse(task.created_at) - sentAt;
  if (ahead === null || difference < ahead) ahead = difference;
}
