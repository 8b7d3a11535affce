/**
 * An owner's tasks that this browser has seen. The page's charts show these tasks.
 *
 * Each task is stored as {id, status, code, created, started, finished, deadline, attempt}, with times in ms by the
 * server's clock. No text of a message or an answer is stored.
 */

import { everywhere, whenChangedElsewhere } from "./storage.js";
import * as time from "./time.js";

const KEPT = 200;

export class Tasks extends EventTarget {
  #scope;

  /** The event "change" reports each change of the tasks. */
  constructor(scope) {
    super();
    this.#scope = scope;
    whenChangedElsewhere(
      () => this.#key,
      () => this.dispatchEvent(new Event("change")),
    );
  }

  /** Show the tasks of another owner. */
  set scope(scope) {
    this.#scope = scope;
    this.dispatchEvent(new Event("change"));
  }

  get #key() {
    return `tasks ${this.#scope}`;
  }

  /**
   * The tasks, the newest last. Leaves out a task whose deadline has passed, if this browser did not see the task's
   * end.
   */
  get all() {
    return everywhere.get(this.#key, []).filter(({ finished, deadline }) => finished || time.now() < deadline);
  }

  /** Store tasks in the form of the API. */
  note(tasks) {
    const before = everywhere.get(this.#key, []);
    const all = new Map(before.map((each) => [each.id, each]));
    for (const task of tasks) {
      if (!all.get(task.task_id)?.finished) all.set(task.task_id, noted(task));
    }
    const after = [...all.values()].sort((a, b) => a.created - b.created).slice(-KEPT);
    if (JSON.stringify(after) === JSON.stringify(before)) return;
    everywhere.set(this.#key, after);
    this.dispatchEvent(new Event("change"));
  }

  /** The ids of conversations that have unfinished tasks, as far as this browser knows. */
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
    deadline: Date.parse(task.deadline_at),
    attempt: task.attempt,
  };
}

/** The state of a task, as the page counts and shows it. */
export function kindOf({ status, code }) {
  if (status === "SUCCESS") return "done";
  if (status === "FAILURE") return code === "cancelled" ? "cancelled" : "failed";
  return status === "STARTED" ? "running" : "queued";
}

/** The percentile of the values for `share` (nearest rank); null without values. */
export function percentile(values, share) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}
