/**
 * A turn of a conversation: a message of the user and its answer.
 *
 * The states of a turn, and the calls that change them:
 *
 * - preparing: the page reads and uploads the images. uploaded() → sending, failed() → unsent.
 * - sending: the page submits the turn, or waits until the previous turn has been submitted. accepted() → accepted, failed()
 *   → unsent.
 * - unsent: the API does not have the turn. resend() → preparing or sending.
 * - accepted: the API has the turn, and the page watches its task. see() → accepted or final, lost() → lost.
 * - lost: the API has the turn, but the page cannot read its task. see() → accepted or final.
 * - final: the turn is answered, failed or cancelled.
 *
 * The other calls change no state. Each change sends the event "change". FROM lists the states in which a call is
 * allowed. In another state the call throws.
 */

import * as time from "./time.js";

/** The states in which each call is possible. */
const FROM = {
  uploaded: ["preparing"],
  failed: ["preparing", "sending"],
  resend: ["unsent"],
  accepted: ["sending"],
  see: ["accepted", "lost", "final"],
  grow: ["accepted", "lost"],
  lost: ["accepted", "lost"],
  cancel: ["accepted", "lost"],
};

export class Turn extends EventTarget {
  taskId = null;
  /** The last known task; null before the first response. */
  task = null;
  /** Why the turn is unsent or lost, or could not be cancelled. Null if there was no such error. */
  error = null;
  /** Whether the user has asked to cancel the turn, and the turn is not final yet. */
  cancelling = false;
  /** When the turn was submitted, in ms by this device's clock. Null if this page did not submit the turn. */
  sentAt = null;
  /** The server's time in ms at which the first text came. Null if this page did not see the text come. */
  firstSeen = null;
  /** The text of the answer from events. Null if there were no events. */
  words = null;
  /** Whether shown text was removed, because another attempt began. */
  retracted = false;
  /** The changes of the task that this page saw, with the server's time: [{status, attempt, at}]. */
  seen = [];
  #state;

  /** `request` is the message in the API's form: {message, role, session_id, media}. */
  constructor(state, request) {
    super();
    this.#state = state;
    this.request = request;
    /** The message's images as files, if this browser still has them. `images` is their number. */
    this.files = [];
    this.images = request.media?.length ?? 0;
    /** The Idempotency-Key of the turn's submit. Null for a retry, and for a turn from the history. */
    this.key = null;
    /** The id of the failed task whose message this turn sends again. Null for a new message. */
    this.retryOf = null;
    /** Whether this browser has stored the message, so that a reload does not lose it. */
    this.kept = true;
  }

  /** A message that the user has sent, with its images: their `files`, or only their number. */
  static written({ key, request, files = [], images = files.length }) {
    const turn = new Turn(images ? "preparing" : "sending", request);
    return Object.assign(turn, { key, files, images, kept: !files.length });
  }

  /** Make a new turn that sends the message of a failed turn again. */
  static again(failed) {
    return Object.assign(new Turn("sending", failed.request), { retryOf: failed.taskId });
  }

  /** Make a turn from the history. */
  static recorded(request, task) {
    return Object.assign(new Turn(isFinal(task) ? "final" : "accepted", request), { taskId: task.task_id, task });
  }

  get state() {
    return this.#state;
  }

  get final() {
    return this.#state === "final";
  }

  /** Whether the turn is not final and the page still works on it. */
  get busy() {
    return this.#state !== "final" && this.#state !== "unsent";
  }

  uploaded(media) {
    this.#become("uploaded", "sending", { request: { ...this.request, media } });
  }

  failed(error) {
    this.#become("failed", "unsent", { error });
  }

  resend() {
    const prepared = !this.images || Boolean(this.request.media);
    this.#become("resend", prepared ? "sending" : "preparing", { error: null });
  }

  /**
   * Store that the API has accepted the turn as this task. `sentAt`: when the page sent it, in ms by this device's
   * clock.
   */
  accepted(taskId, sentAt) {
    this.#become("accepted", "accepted", { taskId, sentAt });
  }

  /** Store the task, in the API's form. A final task stays final: an earlier state that arrives late is ignored. */
  see(task) {
    const before = this.task;
    const final = isFinal(task);
    if (this.final && (!final || task.status !== before.status)) return;
    if (before && (task.status !== before.status || task.attempt !== before.attempt)) {
      this.seen.push({ status: task.status, attempt: task.attempt, at: time.now() });
      if (task.attempt !== before.attempt) this.firstSeen = null;
    }
    if (task.partial && task.status === "STARTED") this.firstSeen ??= time.now();
    const error = final || this.#state === "lost" ? null : this.error;
    this.#become("see", final ? "final" : "accepted", { task, error, cancelling: this.cancelling && !final });
  }

  /** Store the answer so far, from an event. */
  grow(words, { type }) {
    if (this.final) return;
    const retracted = this.retracted || (type === "retract" && Boolean(this.words));
    if (type === "retract") this.firstSeen = null;
    if (words) this.firstSeen ??= time.now();
    this.#become("grow", this.#state, { words, retracted });
  }

  /** The known text of the answer, in Markdown. */
  get answer() {
    const { task } = this;
    return task?.result?.message ?? (this.final ? task.partial : (this.words ?? task?.partial)) ?? "";
  }

  lost(error) {
    this.#become("lost", "lost", { error });
  }

  cancel() {
    this.#become("cancel", this.#state, { cancelling: true, error: null });
  }

  /** Store that the cancellation failed. Ignored if the task is final by now. */
  cancelFailed(error) {
    if (!this.final) this.#become("cancel", this.#state, { cancelling: false, error });
  }

  /** End the pause before the next poll of a lost turn. */
  wake() {
    this.dispatchEvent(new Event("wake"));
  }

  #become(transition, state, members) {
    if (!FROM[transition].includes(this.#state)) throw new Error(`${transition}: not possible in state ${this.#state}`);
    this.#state = state;
    Object.assign(this, members);
    this.dispatchEvent(new Event("change"));
  }
}

function isFinal({ status }) {
  return status === "SUCCESS" || status === "FAILURE";
}
