/** The server's time, estimated from tasks, because the clock of this device can be wrong. */

// The smallest measured difference of the clocks in ms. The network's delay makes each difference too large, so the
// smallest is the best.
let shortest = null;

/** The milliseconds by which the server's clock is ahead of this device's. */
export function ahead() {
  return shortest ?? 0;
}

export function now() {
  return Date.now() + ahead();
}

/**
 * Estimate the difference of the clocks from a message: this page sent it at `sentAt` by this device's clock, and the
 * server recorded it a little later, at the task's `created_at`.
 */
export function learn(sentAt, task) {
  const difference = Date.parse(task.created_at) - sentAt;
  if (shortest === null || difference < shortest) shortest = difference;
}
