/**
 * A conversation as it stands: its turns are read from the API, sent, watched to their end, cancelled, sent again.
 *
 * A turn:
 *   key         the Idempotency-Key of its submit; null of a turn that was read from the history, and of a retry
 *   retryOf     the id of the failed task that it sends again, until it is accepted itself
 *   sentAt      our time when it was sent; null of a turn that was not sent since the page was loaded
 *   request     what the user said: {message, role, media, …}
 *   taskId      null until it is accepted
 *   task        the task as last seen; null until it was seen
 *   problem     the error that kept it from being sent, or from being cancelled
 *   lost        the error for which it is not watched at the moment
 *   cancelling  whether the user wants it cancelled and it is not yet
 *   firstSeen   the server's time when we first saw words of its answer; null if we did not see them come
 *   seen        the changes of its task that we saw, by the server's time: [{status, attempt, at}]
 *   watched     whether it is being watched; `wake` ends the pause of a watch that was lost
 */

import {
  ApiError,
  NetworkError,
  newIdempotencyKey,
  TaskFailedError,
  TurnqueueError,
} from "../clients/javascript/turnqueue.js";
import * as time from "./time.js";

const PAGE = 100;
const CHECK_AGAIN_MS = 15_000;
const CHECKS = 80; // over 20 min; a task is over after 15
const RESEND_WITHIN_MS = 3600_000; // an Idempotency-Key is good for 24 h

export class Conversation extends EventTarget {
  turns = [];
  loading = false;
  /** The error for which the history could not be read. */
  problem = null;

  #client;
  #conversations;
  #abort = new AbortController();
  #sending = Promise.resolve();
  #lastPage; // the cursor that it was read with
  #failures = 0; // to read it, in a row

  /**
   * `conversations` is where it is listed. Tells of turns that come or go by the event "turns", of a change of one by
   * "turn", with the turn as its `detail`.
   */
  constructor(id, client, conversations) {
    super();
    this.id = id;
    this.#client = client;
    this.#conversations = conversations;
  }

  /** Whether something is under way. */
  get busy() {
    return this.turns.some((turn) => !isFinal(turn) && !turn.problem);
  }

  /** Read it from the API, send what was not acknowledged, and watch what is unfinished. */
  async open() {
    this.loading = true;
    for (const { key, request, at } of this.#conversations.unacknowledged) {
      if (request.session_id !== this.id) continue;
      const turn = newTurn({ key, request });
      this.turns.push(turn);
      if (Date.now() - at < RESEND_WITHIN_MS) this.#submit(turn);
      else turn.problem = new TurnqueueError("It is not known whether this message was sent.");
    }
    this.#tell("turns");
    await this.refresh();
    this.loading = false;
    const [first] = this.turns;
    if (first?.taskId && !this.#conversations.get(this.id)) { // it was come to by its address
      this.#conversations.touch(this.id, { title: first.request.message, role: first.request.role });
    }
    this.#tell("turns");
  }

  /** Read what is new: the page that was the last one, and those after it. */
  async refresh() {
    try {
      let page;
      do {
        page = await this.#client.history(this.id, { limit: PAGE, cursor: this.#lastPage, signal: this.#abort.signal });
        for (const told of page.turns) this.#learn(told);
        this.#lastPage = page.next_cursor ?? this.#lastPage;
        this.#sort();
      } while (page.next_cursor);
      this.problem = null;
      this.#failures = 0;
    } catch (error) {
      if (this.#abort.signal.aborted) return;
      const unknown = error instanceof ApiError && error.status === 404;
      // One in which nothing was accepted yet is not known to the API, and need not be.
      this.problem = unknown && this.turns.length ? null : error;
      if (!unknown && this.#failures++ < CHECKS) {
        setTimeout(() => this.problem === error && this.refresh(), CHECK_AGAIN_MS);
      }
    }
    this.#tell("turns");
  }

  /** Stop watching. */
  close() {
    this.#abort.abort();
  }

  /** Send a message: {message, role, media}. */
  send(message) {
    const request = { ...message, session_id: this.id };
    const turn = newTurn({ key: newIdempotencyKey(), request, sentAt: Date.now() });
    this.turns.push(turn);
    this.#tell("turns");
    this.#post(turn);
  }

  /** Send it again: a turn that was not accepted as what it is, a failed one as a new turn. */
  retry(turn) {
    if (turn.taskId) {
      const again = newTurn({ retryOf: turn.taskId, request: turn.request, sentAt: Date.now() });
      this.turns.push(again);
      this.#tell("turns");
      this.#submit(again);
      return;
    }
    turn.problem = null;
    this.#tell("turn", turn);
    if (turn.retryOf) this.#submit(turn);
    else this.#post(turn);
  }

  /** Whether a failed turn was sent again. */
  retried(turn) {
    return this.turns.some((each) => turn.taskId && (each.retryOf ?? each.task?.retry_of) === turn.taskId);
  }

  /** Forget a turn that was not accepted, or is here twice. */
  discard(turn) {
    this.#conversations.acknowledge(turn.key);
    this.#drop(turn);
  }

  async cancel(turn) {
    turn.cancelling = true;
    turn.problem = null;
    this.#tell("turn", turn);
    try {
      this.#see(turn, await this.#client.cancel(turn.taskId, { signal: this.#abort.signal }));
    } catch (error) {
      turn.cancelling = false;
      turn.problem = error;
    }
    this.#tell("turn", turn);
  }

  /** Watch a turn whose watch was lost. */
  check(turn) {
    turn.wake?.();
  }

  #post(turn) {
    this.#conversations.post({ key: turn.key, request: turn.request, at: Date.now() });
    this.#conversations.touch(this.id, { title: turn.request.message, role: turn.request.role });
    this.#submit(turn);
  }

  /** One at a time: the API keeps the order in which messages were accepted. */
  #submit(turn) {
    this.#sending = this.#sending.then(async () => {
      if (!this.turns.includes(turn)) return; // discarded meanwhile
      try {
        const { signal } = this.#abort;
        const { task_id } = turn.retryOf
          ? await this.#client.retry(turn.retryOf, { signal })
          : await this.#client.submit(turn.request, { idempotencyKey: turn.key, signal });
        this.#accepted(turn, task_id);
      } catch (error) {
        if (this.#abort.signal.aborted) return;
        turn.problem = error;
        if (error instanceof NetworkError) addEventListener("online", () => this.#sendWhenBack(turn), { once: true });
        this.#tell("turn", turn);
      }
    });
  }

  #sendWhenBack(turn) {
    if (turn.problem && !turn.taskId && this.turns.includes(turn) && !this.#abort.signal.aborted) this.retry(turn);
  }

  #accepted(turn, taskId) {
    this.#conversations.touch(this.id); // what another tab waits for
    if (this.turns.some((each) => each.taskId === taskId)) {
      this.discard(turn); // the history was faster than the answer to the submit
      return;
    }
    turn.taskId = taskId;
    this.#sort();
    this.#tell("turns");
    this.#watch(turn);
  }

  /** Take in a turn of the history. */
  #learn(told) {
    const { message, role, media, ...task } = told;
    let turn = this.turns.find((each) => each.taskId === task.task_id);
    if (turn) this.#see(turn, task);
    else {
      turn = newTurn({ taskId: task.task_id, request: { message, role, media }, task });
      this.turns.push(turn);
    }
    if (!isFinal(turn)) this.#watch(turn);
  }

  /** Watch a turn to its end, through the loss of the network and of the API. */
  async #watch(turn) {
    if (turn.watched) return;
    turn.watched = true;
    const { signal } = this.#abort;
    for (let checks = 0; checks < CHECKS && !signal.aborted; checks++) {
      try {
        await this.#client.poll(turn.taskId, { signal, onProgress: ({ task }) => this.#see(turn, task) });
        break;
      } catch (error) {
        if (error instanceof TaskFailedError || signal.aborted) break;
        turn.lost = error;
        this.#tell("turn", turn);
        if (error.code === "task_not_found") break;
        await new Promise((resolve) => {
          turn.wake = resolve;
          addEventListener("online", resolve, { once: true });
          setTimeout(resolve, CHECK_AGAIN_MS);
        });
      }
    }
    turn.watched = false;
  }

  /** Note what the API says of a task now. */
  #see(turn, task) {
    if (isFinal(turn) && task.status !== turn.task.status) return; // older than what we know: final is final
    if (!turn.task && turn.key) this.#conversations.acknowledge(turn.key); // now a reload finds it by itself
    if (!turn.task && turn.sentAt) time.learn(turn.sentAt, task);
    const { status, attempt } = task;
    if (turn.task && (status !== turn.task.status || attempt !== turn.task.attempt)) {
      turn.seen.push({ status, attempt, at: time.now() });
      if (attempt !== turn.task.attempt) turn.firstSeen = null;
    }
    if (task.partial && task.status === "STARTED") turn.firstSeen ??= time.now();
    turn.task = task;
    turn.lost = null;
    if (isFinal(turn)) Object.assign(turn, { cancelling: false, problem: null });
    this.#tell("turn", turn);
  }

  #drop(turn) {
    this.turns = this.turns.filter((each) => each !== turn);
    this.#tell("turns");
  }

  /** In the order of the API, which the ids are in; behind them what it does not know yet. */
  #sort() {
    const rank = (turn) => turn.taskId?.slice(turn.taskId.lastIndexOf(".") + 1) ?? "~";
    this.turns.sort((a, b) => (rank(a) < rank(b) ? -1 : rank(a) > rank(b) ? 1 : 0));
  }

  #tell(what, turn) {
    this.dispatchEvent(new CustomEvent(what, { detail: turn }));
  }
}

export function isFinal(turn) {
  return turn.task?.status === "SUCCESS" || turn.task?.status === "FAILURE";
}

function newTurn(members) {
  return {
    key: null,
    retryOf: null,
    sentAt: null,
    taskId: null,
    task: null,
    problem: null,
    lost: null,
    cancelling: false,
    firstSeen: null,
    seen: [],
    watched: false,
    wake: null,
    ...members,
  };
}
