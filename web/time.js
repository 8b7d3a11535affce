/** The server's time, estimated from tasks, because the clock of this device may be wrong. */

let shortest = null; // from our clock to the server's, in ms

/** How far the server's clock is ahead of ours, in ms. */
export function ahead() {
  return shortest ?? 0;
}

export function now() {
  return Date.now() + ahead();
}

/** A message was sent at `sentAt` by our clock and recorded at the task's `created_at`, a little later. */
export function learn(sentAt, task) {
  const difference = Date.parse(task.created_at) - sentAt;
  if (shortest === null || difference < shortest) shortest = difference;
}
