/**
 * An owner's conversations that this browser knows. The API has no list of conversations.
 */

import { everywhere, whenChangedElsewhere } from "./storage.js";
import { shortened } from "./words.js";

const KEPT = 100;
const TITLE_LENGTH = 60;

export class Conversations extends EventTarget {
  #scope;

  /**
   * The event "change" reports a change of the list. If another tab made the change, the event "elsewhere" comes first.
   */
  constructor(scope) {
    super();
    this.#scope = scope;
    whenChangedElsewhere(
      () => this.#key,
      () => {
        this.dispatchEvent(new Event("elsewhere"));
        this.dispatchEvent(new Event("change"));
      },
    );
  }

  /** Show the conversations of another owner. */
  set scope(scope) {
    this.#scope = scope;
    this.dispatchEvent(new Event("change"));
  }

  get #key() {
    return `conversations ${this.#scope}`;
  }

  /** The conversations, the latest first: [{id, title, role, at}]. */
  get all() {
    return everywhere.get(this.#key, []);
  }

  get(id) {
    return this.all.find((each) => each.id === id) ?? null;
  }

  /** Note that the conversation has changed: move it to the top of the list, or add it there. */
  touch(id, { title = id, role } = {}) {
    const known = this.get(id) ?? { id, title: shortened(title, TITLE_LENGTH) };
    const others = this.all.filter((each) => each.id !== id);
    this.#write([{ ...known, role: role ?? known.role, at: Date.now() }, ...others].slice(0, KEPT));
  }

  remove(id) {
    this.#write(this.all.filter((each) => each.id !== id));
  }

  #write(all) {
    everywhere.set(this.#key, all);
    this.dispatchEvent(new Event("change"));
  }
}

/** A new conversation's id. It is made like the API's ids, from 128 random bits. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
