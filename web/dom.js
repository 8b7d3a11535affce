/** Elements. Text stays text: nothing in this page makes HTML from a string. */

/** The element of the page with this id. */
export function $(id) {
  return document.getElementById(id);
}

/** A new element. Attributes that are functions listen ("onclick"); true is an empty attribute, false and null none. */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same, of SVG. */
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

/** Show the text. If it is shown already, leave it: a live region would be read out again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let lastAnnounced;

/** Copy the text, and say whether the browser let us. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text); // not there for a page that came by plain http
  } catch {
    const field = h("textarea", { class: "hidden", readonly: true });
    const focused = document.activeElement;
    field.value = text;
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    focused?.focus();
    if (!copied) {
      announce("The browser did not allow copying.");
      return;
    }
  }
  announce("Copied");
}

/** Let a screen reader say it. */
export function announce(text) {
  clearTimeout(lastAnnounced);
  const announcer = $("announcer");
  announcer.textContent = ""; // or the same text would not be said twice
  lastAnnounced = setTimeout(() => (announcer.textContent = text), 50);
}
