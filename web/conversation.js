/** A conversation: reads its turns from the API, sends turns, watches them to their end, cancels and retries them. */

import { ApiError, NetworkError, newIdempotencyKey, TurnqueueError } from "../clients/javascript/turnqueue.js";
import { mediaOf } from "./images.js";
import { alone, pause } from "./pause.js";
import * as time from "./time.js";
import { Turn } from "./turn.js";

const PAGE = 100; // the maximum number of turns that the API returns in a page
const CHECK_AGAIN_MS = 15_000;
const KEEP_MS = 3000; // ms: the longest time that a message waits until the browser's database has stored its images
// ms after which an unsent message needs the user's consent, because the user may no longer want to send it
const RESEND_WITHIN_MS = 3600_000;

export class Conversation extends EventTarget {
  turns = [];
  loading = false;
  /** The error that kept the page from reading the history. Null if there was none. */
  problem = null;

  #client;
  #conversations;
  #outbox;
  #closed = new AbortController();
  #sending = Promise.resolve(); // settles when the API has accepted or refused the previous turn
  #watched = new Set(); // the watched turns
  #lastPage; // the cursor of the last page that was read
  #reading = false;

  /**
   * `conversations` is the list of conversations. `outbox` stores messages that the API has not acknowledged. The event
   * "turns" reports added or removed turns, and the event "turn" a change of the turn in its `detail`.
   */
  constructor(id, { client, conversations, outbox }) {
    super();
    this.id = id;
    this.#client = client;
    this.#conversations = conversations;
    this.#outbox = outbox;
    addEventListener("online", () => this.#online(), { signal: this.#closed.signal });
  }

  /** Whether a turn is being sent or answered. */
  get busy() {
    return this.turns.some((turn) => turn.busy);
  }

  /** Whether the page is sending a message to the API. */
  get sending() {
    return this.turns.some(({ state }) => state === "preparing" || state === "sending");
  }

  /** Whether a message would be lost if the page closed now. */
  get fragile() {
    return this.turns.some((turn) => turn.key && !turn.taskId && !turn.kept);
  }

  /** Read the conversation from the API, send unacknowledged messages, and watch unfinished tasks. */
  async open() {
    this.loading = true;
    for (const { key, request, at, images } of this.#outbox.all) {
      if (request.session_id !== this.id) continue;
      const turn = this.#add(Turn.written({ key, request, images }));
      if (Date.now() - at < RESEND_WITHIN_MS) this.#send(turn, { mayBeSent: true });
      else turn.failed(new TurnqueueError("This message may or may not have been sent. Sending it again may repeat it."));
    }
    this.#tell("turns");
    await this.refresh();
    this.loading = false;
    const [first] = this.turns;
    // The list lacks this conversation if, for example, the user has opened it by its address.
    if (first?.taskId && !this.#conversations.get(this.id)) {
      this.#conversations.touch(this.id, { title: first.request.message, role: first.request.role });
    }
    this.#tell("turns");
  }

  /** Read the new turns: the last known page and the pages after it. Tries again until the API answers. */
  async refresh() {
    const { signal } = this.#closed;
    try {
      let page;
      do {
        page = await this.#client.history(this.id, { limit: PAGE, cursor: this.#lastPage, signal });
        for (const told of page.turns) this.#learn(told);
        this.#lastPage = page.next_cursor ?? this.#lastPage;
        this.#sort();
      } while (page.next_cursor);
      this.problem = null;
    } catch (error) {
      if (signal.aborted) return;
      const unknown = error instanceof ApiError && error.status === 404;
      // A 404 is no problem before the API has accepted the conversation's first message.
      this.problem = unknown && this.turns.length ? null : error;
      if (!unknown) this.#readAgain();
    }
    this.#tell("turns");
  }

  async #readAgain() {
    if (this.#reading) return;
    this.#reading = true;
    await pause(CHECK_AGAIN_MS, { signal: this.#closed.signal, target: this });
    this.#reading = false;
    if (this.problem && !this.#closed.signal.aborted) this.refresh();
  }

  /** Stop sending and watching. Unacknowledged messages stay in the outbox. */
  close() {
    this.#closed.abort();
  }

  /** Send a message: its text, its role, and images, which are files. */
  send({ message, role, files }) {
    const request = { message, role, session_id: this.id, stream: true };
    const turn = this.#add(Turn.written({ key: newIdempotencyKey(), request, files }));
    this.#tell("turns");
    this.#post(turn);
  }

  /** Send the turn again: the same turn if it is unsent, or a new turn if it has failed. */
  retry(turn) {
    if (turn.state === "unsent") {
      turn.resend();
      if (turn.retryOf) this.#send(turn);
      else this.#post(turn);
      return;
    }
    const again = this.#add(Turn.again(turn));
    this.#tell("turns");
    this.#send(again);
  }

  /** Whether the message of a failed turn was sent again, by a later turn. */
  retried(turn) {
    return this.turns.some((each) => turn.taskId && (each.retryOf ?? each.task?.retry_of) === turn.taskId);
  }

  /** Remove a turn from the page, if the API does not have it, or if the list has it twice. */
  discard(turn) {
    if (turn.key) this.#outbox.remove(turn.key);
    this.turns = this.turns.filter((each) => each !== turn);
    this.#tell("turns");
  }

  async cancel(turn) {
    turn.cancel();
    try {
      turn.see(await this.#client.cancel(turn.taskId, { signal: this.#closed.signal }));
    } catch (error) {
      if (!this.#closed.signal.aborted) turn.cancelFailed(error);
    }
  }

  #add(turn) {
    turn.addEventListener("change", () => this.#tell("turn", turn));
    this.turns.push(turn);
    return turn;
  }

  /** Store the user's message, and send it. */
  #post(turn) {
    const { key, files, images } = turn;
    const { media, ...request } = turn.request; // the outbox stores the images separately
    const adding = this.#outbox.add({ key, request, at: Date.now(), images }, files.length ? { files, media } : null);
    adding.then((kept) => (turn.kept = kept));
    this.#conversations.touch(this.id, { title: request.message, role: request.role });
    this.#send(turn, { after: Promise.race([adding, pause(KEEP_MS, { signal: this.#closed.signal, target: turn })]) });
  }

  /**
   * Submit a turn after the earlier turns, because the API keeps the order in which it accepts them. The images are
   * prepared as soon as `after` settles, even if earlier turns are not submitted yet. With `mayBeSent`, another tab may
   * be sending the message. In this case, submit the turn only if the outbox still has the message.
   */
  #send(turn, { after, mayBeSent = false } = {}) {
    const { signal } = this.#closed;
    const before = this.#sending;
    const sent = alone(turn.key ?? turn.retryOf, signal, async () => {
      if (mayBeSent && !this.#outbox.get(turn.key)) {
        this.discard(turn);
        await this.refresh();
        return;
      }
      await after;
      if (turn.state === "preparing") turn.uploaded(await this.#media(turn));
      await before;
      if (signal.aborted || !this.turns.includes(turn)) return; // the user has removed the turn in the meantime
      const sentAt = Date.now();
      const { task_id } = turn.retryOf
        ? await this.#client.retry(turn.retryOf, { signal })
        : await this.#client.submit(turn.request, { idempotencyKey: turn.key, signal });
      this.#accepted(turn, task_id, sentAt);
    });
    this.#sending = sent.catch((error) => {
      if (!signal.aborted) turn.failed(error);
    });
  }

  /**
   * The images in the API's form. They must not change later, because all tries with one Idempotency-Key need the same
   * body.
   */
  async #media(turn) {
    const { files, media } = (turn.files.length ? turn : await this.#outbox.images(turn.key)) ?? {};
    if (!files) {
      throw new TurnqueueError("This browser did not keep the images of this message. Edit it to attach them again.");
    }
    turn.files = files;
    this.#tell("turn", turn); // from now on the page can show the images
    if (media) return media;
    const prepared = await mediaOf(files, (file) => this.#client.upload(file, { signal: this.#closed.signal }));
    this.#closed.signal.throwIfAborted();
    await this.#outbox.keepImages(turn.key, { files, media: prepared });
    return prepared;
  }

  #online() {
    for (const turn of this.turns) {
      if (turn.state === "unsent" && turn.error instanceof NetworkError) this.retry(turn);
    }
  }

  #accepted(turn, taskId, sentAt) {
    this.#conversations.touch(this.id); // tells other tabs to read the new turn
    if (this.turns.some((each) => each.taskId === taskId)) {
      this.discard(turn); // the page has already read this turn from the history
      return;
    }
    turn.accepted(taskId, sentAt);
    this.#sort();
    this.#tell("turns");
    this.#watch(turn);
  }

  /** Add or update a turn from the history. */
  #learn({ message, role, media, ...task }) {
    let turn = this.turns.find((each) => each.taskId === task.task_id);
    if (turn) this.#see(turn, task);
    else turn = this.#add(Turn.recorded({ message, role, media }, task));
    if (!turn.final) this.#watch(turn);
  }

  /** Watch a turn to its end, even if the network or the API is down for long. */
  async #watch(turn) {
    if (this.#watched.has(turn)) return;
    this.#watched.add(turn);
    const { signal } = this.#closed;
    while (!turn.final && !signal.aborted) {
      const over = new AbortController();
      const until = AbortSignal.any([signal, over.signal]);
      this.#follow(turn, until).finally(() => turn.final && over.abort());
      try {
        await this.#client.poll(turn.taskId, { signal: until, onProgress: ({ task }) => this.#see(turn, task) });
      } catch (error) {
        if (turn.final || signal.aborted) break;
        turn.lost(error);
        if (error.code === "task_not_found") break;
        await pause(CHECK_AGAIN_MS, { signal, target: turn });
      } finally {
        over.abort();
      }
    }
    this.#watched.delete(turn);
  }

  /** Show the text of the answer while it grows. All other changes, and errors, come from polls of the task. */
  async #follow(turn, signal) {
    const look = () => this.#client.task(turn.taskId, { signal }).then((task) => this.#see(turn, task), () => {});
    const onDelta = (words, event) => {
      if (event.task) this.#see(turn, event.task);
      if (event.type !== "done") turn.grow(words, event);
      // read the task now, because the next poll can be seconds away
      if (event.type === "start" || event.type === "retract") look();
    };
    try {
      await this.#client.poll(turn.taskId, { signal, onDelta });
    } catch {
      if (!signal.aborted) turn.grow(null, {}); // from now on the text comes from the polls
    }
  }

  #see(turn, task) {
    // the message is safe: a reload would find the turn in the history
    if (!turn.task && turn.key) this.#outbox.remove(turn.key);
    if (!turn.task && turn.sentAt) time.learn(turn.sentAt, task);
    turn.see(task);
  }

  /** Sort in the API's order, which is the order of the ids. Turns that the API does not have come last. */
  #sort() {
    const rank = (turn) => turn.taskId?.slice(turn.taskId.lastIndexOf(".") + 1) ?? "~";
    this.turns.sort((a, b) => (rank(a) < rank(b) ? -1 : rank(a) > rank(b) ? 1 : 0));
  }

  #tell(what, turn) {
    this.dispatchEvent(new CustomEvent(what, { detail: turn }));
  }
}
