/**
 * The tasks that this browser has seen of an owner, for the figures. What is kept of a task: {id, status, code,
 * created, started, finished, attempt}, with its times in ms of the server's clock. No word of what was said.
 */

import { remember, remembered, whenRememberedElsewhere } from "./storage.js";
import * as time from "./time.js";

const KEPT = 200;
const LONGEST_MS = 16 * 60_000; // a task is over after 15 min, whether we saw it or not

export class Tasks extends EventTarget {
  #scope;

  /** Tells of each change by the event "change". */
  constructor(scope) {
    super();
    this.#scope = scope;
    whenRememberedElsewhere(
      () => this.#key,
      () => this.dispatchEvent(new Event("change")),
    );
  }

  /** Turn to those of another owner. */
  set scope(scope) {
    this.#scope = scope;
    this.dispatchEvent(new Event("change"));
  }

  get #key() {
    return `tasks ${this.#scope}`;
  }

  /** The newest last. Those that were left unfinished so long ago that nobody knows their end are not among them. */
  get all() {
    return remembered(this.#key, []).filter((each) => each.finished || time.now() - each.created < LONGEST_MS);
  }

  /** Note tasks as the API shows them. */
  note(tasks) {
    const before = remembered(this.#key, []);
    const all = new Map(before.map((each) => [each.id, each]));
    for (const task of tasks) {
      if (!all.get(task.task_id)?.finished) all.set(task.task_id, noted(task));
    }
    const after = [...all.values()].sort((a, b) => a.created - b.created).slice(-KEPT);
    if (JSON.stringify(after) === JSON.stringify(before)) return;
    remember(this.#key, after);
    this.dispatchEvent(new Event("change"));
  }

  /** The conversations with tasks that are not finished, as far as we know. */
  get unfinishedSessions() {
    const unfinished = this.all.filter((each) => !each.finished);
    return [...new Set(unfinished.map(({ id }) => id.slice(0, id.lastIndexOf("."))))];
  }
}

function noted(task) {
  return {
    id: task.task_id,
    status: task.status,
    code: task.error_code,
    created: Date.parse(task.created_at),
    started: task.started_at && Date.parse(task.started_at),
    finished: task.finished_at && Date.parse(task.finished_at),
    attempt: task.attempt,
  };
}

/** What a task is counted as. */
export function kindOf({ status, code }) {
  if (status === "SUCCESS") return "done";
  if (status === "FAILURE") return code === "cancelled" ? "cancelled" : "failed";
  return status === "STARTED" ? "running" : "queued";
}

/** The value that a share of the values does not exceed (nearest rank); null of none. */
export function percentile(values, share) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}
