/** What this browser remembers: JSON in localStorage. Where that is full or forbidden, it lasts as long as the page. */

const PREFIX = "turnqueue:";
const notKept = new Map();

export function remembered(key, otherwise) {
  try {
    const text = notKept.get(key) ?? localStorage.getItem(PREFIX + key);
    return text === null ? otherwise : JSON.parse(text);
  } catch {
    return otherwise;
  }
}

export function remember(key, value) {
  const text = JSON.stringify(value);
  try {
    localStorage.setItem(PREFIX + key, text);
    notKept.delete(key);
  } catch {
    notKept.set(key, text);
  }
}

/** Call `changed` when another tab has changed what is remembered under `key()`. */
export function whenRememberedElsewhere(key, changed) {
  addEventListener("storage", (event) => {
    if (event.key === PREFIX + key() || event.key === null) changed();
  });
}
