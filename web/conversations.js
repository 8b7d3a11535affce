/**
 * The conversations that this browser knows of, for the API keeps no list of them: {id, title, role, at}, the latest
 * first, an owner's apart from another's. And the messages that are on their way, lest a reload loses one.
 */

import { remember, remembered, whenRememberedElsewhere } from "./storage.js";

const KEPT = 100;
const TITLE_CHARACTERS = 60;

export class Conversations extends EventTarget {
  #scope;

  /** Tells by the event "change" that the list has changed, and before it by "elsewhere" if another tab did that. */
  constructor(scope) {
    super();
    this.#scope = scope;
    whenRememberedElsewhere(
      () => this.#key,
      () => {
        this.dispatchEvent(new Event("elsewhere"));
        this.dispatchEvent(new Event("change"));
      },
    );
  }

  /** Turn to those of another owner. */
  set scope(scope) {
    this.#scope = scope;
    this.dispatchEvent(new Event("change"));
  }

  get #key() {
    return `conversations ${this.#scope}`;
  }

  get #outbox() {
    return `outbox ${this.#scope}`;
  }

  get all() {
    return remembered(this.#key, []);
  }

  get(id) {
    return this.all.find((each) => each.id === id) ?? null;
  }

  /** Something has happened in the conversation: it comes first. It is listed if it was not. */
  touch(id, { title = id, role } = {}) {
    const known = this.get(id) ?? { id, title: shortened(title) };
    const others = this.all.filter((each) => each.id !== id);
    this.#write([{ ...known, role: role ?? known.role, at: Date.now() }, ...others].slice(0, KEPT));
  }

  remove(id) {
    this.#write(this.all.filter((each) => each.id !== id));
  }

  #write(all) {
    remember(this.#key, all);
    this.dispatchEvent(new Event("change"));
  }

  /** The messages that were not acknowledged yet, in their order: {key, request, at}. */
  get unacknowledged() {
    return remembered(this.#outbox, []);
  }

  post(message) {
    this.acknowledge(message.key);
    remember(this.#outbox, [...this.unacknowledged, message]);
  }

  acknowledge(key) {
    remember(
      this.#outbox,
      this.unacknowledged.filter((each) => each.key !== key),
    );
  }
}

/** An id for a new conversation, as the API itself makes them: 128 random bits. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

function shortened(text) {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length > TITLE_CHARACTERS ? `${line.slice(0, TITLE_CHARACTERS - 1)}…` : line;
}
