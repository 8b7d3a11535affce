/**
 * Shows an answer in Markdown while it grows. marked makes HTML from the Markdown, and DOMPurify allows only text
 * elements. HTML in the answer is shown as text, and an image as a link, because loading the image would tell the
 * image's server that somebody reads the answer.
 */

import { announce, copied, h } from "./dom.js";
import { Lexer, Marked } from "./vendor/marked.js";
import DOMPurify from "./vendor/purify.js";
import remend from "./vendor/remend.js";

// characters: in a longer text, some patterns take too long (quadratic time, 0.3 s for this length), so show it plain
const LONGEST_INLINE = 10_000;
const MOST_BLOCKS = 2000; // the maximum number of blocks, for which the parser needs 0.5 s
// a nesting of 100 levels: the parser would copy the text for each level
const DEEP = /^(?:[ \t]*(?:>|[-*+][ \t]|\d{1,9}[.)][ \t])){100}/m;
const SLOW_MS = 200; // ms: an answer that takes longer becomes plain text, so that it cannot block the page
const COPIED_MS = 2000;

/**
 * remend closes the unfinished marks of a growing text, but not these kinds: they would look different in the finished
 * text.
 */
const CLOSED = { images: false, katex: false, htmlTags: false, comparisonOperators: false, singleTilde: false };

const ALLOWED = {
  ALLOWED_TAGS: [
    ...["p", "br", "hr", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "em", "strong", "del", "a"],
    ...["table", "thead", "tbody", "tr", "th", "td"],
  ],
  ALLOWED_ATTR: ["href", "start", "align"],
  ADD_URI_SAFE_ATTR: ["start", "align"], // do not check the values of these attributes as URLs
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?:\/\/|mailto:)/i,
  RETURN_DOM_FRAGMENT: true,
};

const marked = new Marked({
  breaks: true,
  renderer: {
    html: ({ text, block }) => (block ? `<p>${escaped(text)}</p>` : escaped(text)),
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || href)}</a>`,
    code: ({ text }) => `<pre><code>${escaped(text)}</code></pre>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    heading({ tokens, depth }) {
      const tag = `h${Math.min(depth + 2, 6)}`; // the headings of an answer are below the page's headings
      return `<${tag}>${this.parser.parseInline(tokens)}</${tag}>`;
    },
  },
});

class BoundedLexer extends Lexer {
  inline(source, tokens = []) {
    if (source.length <= LONGEST_INLINE) return super.inline(source, tokens);
    tokens.push({ type: "text", raw: source, text: source, escaped: false });
    return tokens;
  }
}

export class Markdown {
  #blocks = []; // the shown blocks, [{html, element}], in document order
  #shown = null;
  #plain = false;

  /** Shows answers inside `element`. */
  constructor(element) {
    this.element = element;
    element.addEventListener("click", ({ target }) => {
      if (target.matches("button.copy")) copyCode(target);
    });
  }

  /**
   * Show `text`. `unfinished` says whether more text will come. Changes only the differing parts, so that a selection,
   * the focus and scroll positions stay.
   */
  show(text, { unfinished = false } = {}) {
    const shown = `${unfinished} ${text}`;
    if (shown === this.#shown) return;
    this.#shown = shown;
    const began = performance.now();
    let blocks = null;
    try {
      if (!this.#plain) blocks = rendered(unfinished ? remend(text.trimEnd(), CLOSED) : text);
    } catch {
      this.#plain = true; // the parser fails if the text is nested too deeply
    }
    if (!blocks || blocks.length > MOST_BLOCKS) blocks = [`<p>${escaped(text)}</p>`];
    blocks.forEach((html, index) => {
      const block = this.#blocks[index] ?? this.#added();
      if (block.html === html) return;
      block.html = html;
      patch(block.element, sanitized(html));
    });
    for (const { element } of this.#blocks.splice(blocks.length)) element.remove();
    if (performance.now() - began > SLOW_MS) this.#plain = true;
  }

  #added() {
    const block = { html: "", element: h("div", { class: "block" }) };
    this.#blocks.push(block);
    this.element.append(block.element);
    return block;
  }
}

/** The HTML of each block of the text, not sanitized yet. Null if the text is nested too deeply. */
function rendered(text) {
  if (DEEP.test(text)) return null;
  const tokens = new BoundedLexer(marked.defaults).lex(text);
  // Render each item of a list as in a loose list. Otherwise a later item could make the list loose, which would change
  // all earlier items.
  marked.walkTokens(tokens, (token) => {
    if (token.type !== "list_item") return;
    for (const part of token.tokens) if (part.type === "text") part.type = "paragraph";
    const [box, first] = token.tokens;
    if (box?.type === "checkbox" && first?.type === "paragraph") {
      token.tokens.shift();
      first.tokens.unshift(box);
    }
  });
  return tokens.map((token) => marked.parser([token])).filter(Boolean);
}

/** The elements of the HTML, without elements that a text must not have. */
function sanitized(html) {
  const fragment = DOMPurify.sanitize(html, ALLOWED);
  for (const link of fragment.querySelectorAll("a[href]")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const pre of fragment.querySelectorAll("pre")) {
    pre.tabIndex = 0; // this makes it possible to scroll the element with the keyboard
    const code = h("div", { class: "code", dir: "ltr" });
    pre.replaceWith(code);
    code.append(pre, h("button", { type: "button", class: "plain copy", "aria-label": "Copy this code" }));
  }
  for (const table of fragment.querySelectorAll("table")) {
    const frame = h("div", { class: "table", tabindex: 0 });
    table.replaceWith(frame);
    frame.append(table);
  }
  return fragment;
}

/** Give `element` the children of `source`. Equal children stay unchanged. */
function patch(element, source) {
  const before = [...element.childNodes];
  const after = [...source.childNodes];
  after.forEach((wanted, index) => {
    const node = before[index];
    if (!node) element.append(wanted);
    else if (node.nodeName !== wanted.nodeName) node.replaceWith(wanted);
    else if (node.nodeType === Node.TEXT_NODE) setData(node, wanted.data);
    else if (node.nodeName !== "BUTTON") {
      for (const { name } of [...node.attributes]) if (!wanted.hasAttribute(name)) node.removeAttribute(name);
      for (const { name, value } of wanted.attributes) if (node.getAttribute(name) !== value) node.setAttribute(name, value);
      patch(node, wanted);
    }
  });
  for (const node of before.slice(after.length)) node.remove();
}

/** Change only the differing end, so that a selection before this end stays. */
function setData(node, data) {
  let same = 0;
  while (same < data.length && data[same] === node.data[same]) same++;
  if (same < node.length || same < data.length) node.replaceData(same, node.length - same, data.slice(same));
}

async function copyCode(button) {
  const said = (await copied(button.parentElement.querySelector("code").textContent)) ? "Copied" : "The browser did not allow copying";
  announce(said);
  button.dataset.said = said; // The style sheet shows this label, so that it is not a part of the answer's text.
  setTimeout(() => delete button.dataset.said, COPIED_MS);
}

function escaped(text) {
  const entities = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  return text.replace(/[&<>"']/g, (character) => entities[character]);
}
