/**
 * What this browser remembers, as JSON: in localStorage for all tabs, in sessionStorage for this one. A browser may
 * forbid both, or have no room left: then it lasts as long as the page.
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
      // Even to name the storage throws where cookies are blocked.
      const text = this.#notKept.get(key) ?? globalThis[this.#name].getItem(PREFIX + key);
      return text === null ? otherwise : JSON.parse(text);
    } catch {
      return otherwise;
    }
  }

  /** Returns whether the value outlasts the page. */
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

/** Call `changed` when another tab has changed what is stored everywhere under `key()`. */
export function whenChangedElsewhere(key, changed) {
  addEventListener("storage", (event) => {
    if (event.key === PREFIX + key() || event.key === null) changed();
  });
}
