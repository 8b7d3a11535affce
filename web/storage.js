/**
 * Stores values as JSON: in localStorage for all tabs, in sessionStorage for this tab. If the browser forbids these
 * stores or has no room, values last until the page closes.
 */

const PREFIX = "turnqueue:";

class Store {
  #name;
  #notKept = new Map();
  /** Whether the browser has refused to store a value. */
  failed = false;

  constructor(name) {
    this.#name = name;
  }

  get(key, otherwise) {
    try {
      // Even reading `globalThis.localStorage` throws if the browser blocks cookies.
      const text = this.#notKept.get(key) ?? globalThis[this.#name].getItem(PREFIX + key);
      return text === null ? otherwise : JSON.parse(text);
    } catch {
      return otherwise;
    }
  }

  /** Store the value. Returns false if the value lasts only until the page closes. */
  set(key, value) {
    const text = JSON.stringify(value);
    try {
      globalThis[this.#name].setItem(PREFIX + key, text);
      this.#notKept.delete(key);
      return true;
    } catch {
      this.#notKept.set(key, text);
      this.failed = true;
      return false;
    }
  }
}

export const everywhere = new Store("localStorage");
export const inThisTab = new Store("sessionStorage");

/** Call `changed` when another tab has changed the value of `key()` in localStorage. */
export function whenChangedElsewhere(key, changed) {
  addEventListener("storage", (event) => {
    if (event.key === PREFIX + key() || event.key === null) changed();
  });
}
