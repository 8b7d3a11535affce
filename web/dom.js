/** Elements. Whatever text they get is text: nothing here, or anywhere in this page, makes HTML of a string. */

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

/** Show the text, or nothing if it is what is shown already: a live region would say it again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let lastAnnounced;

/** Let a screen reader say it. */
export function announce(text) {
  clearTimeout(lastAnnounced);
  const announcer = $("announcer");
  announcer.textContent = ""; // or the same text would not be said twice
  lastAnnounced = setTimeout(() => (announcer.textContent = text), 50);
}
