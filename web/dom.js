/** Makes and changes elements. A string always becomes text: only markdown.js makes HTML from a string. */

const SAID_MS = 2000;

/** The element of the page with this id. */
export function $(id) {
  return document.getElementById(id);
}

/** A new element. An attribute that is a function becomes a listener ("onclick"). True makes an empty attribute; false and null make none. */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** A new SVG element. The attributes are as in h(). */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** The children of a <dl> for [[name, text]]. */
export function factList(facts) {
  return facts.flatMap(([name, fact]) => [h("dt", {}, name), h("dd", {}, String(fact))]);
}

/**
 * Show the text in the element. If the element has this text already, change nothing, because a screen reader would
 * read the text again.
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let lastAnnounced;

/** A button that copies the result of `text()`, and shows whether the browser allowed it. */
export function copyButton(label, text) {
  let timer;
  const button = h("button", { type: "button", class: "plain" }, label);
  button.addEventListener("click", async () => {
    const said = (await copied(text())) ? "Copied" : "The browser did not allow copying";
    announce(said);
    setText(button, said);
    clearTimeout(timer);
    timer = setTimeout(() => setText(button, label), SAID_MS);
  });
  return button;
}

/** Copy the text to the clipboard. Resolves to true if the browser allowed this, and otherwise to false. */
export async function copied(text) {
  try {
    await navigator.clipboard.writeText(text); // a page that came by plain http has no clipboard
    return true;
  } catch {
    const field = h("textarea", { class: "hidden", readonly: true });
    const focused = document.activeElement;
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    focused?.focus();
    return done;
  }
}

/** Let a screen reader say the text. */
export function announce(text) {
  clearTimeout(lastAnnounced);
  const announcer = $("announcer");
  // Empty the element first. Otherwise a screen reader would not say the same text again.
  announcer.textContent = "";
  lastAnnounced = setTimeout(() => (announcer.textContent = text), 50);
}
