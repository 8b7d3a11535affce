/** The message that the user is writing. Each conversation has an unsent message: its text, its images and its role. */

import { $, h } from "./dom.js";
import { checkImage, MAX_IMAGES, sourceOf } from "./images.js";
import { inThisTab } from "./storage.js";

const MAX_CHARACTERS = 32_000; // the API's limit for the characters of a message
const TEXTS = "texts"; // the unsent texts by conversation id; they survive a reload
const touch = matchMedia("(pointer: coarse)");

export class Composer {
  #id = null; // the id of the conversation; "" for a new one
  #files = []; // the attached files
  #others = new Map(); // the files and roles of the other conversations, {files, role} by their ids
  #unchecked = new Set(); // the files whose type is not known yet
  #composing = false; // whether an input method is composing text
  #send;

  /** `send`: gets {message, role, files}, and returns whether it has accepted the message. */
  constructor(send) {
    this.#send = send;
    const message = $("message");
    message.addEventListener("input", () => this.#typed());
    message.addEventListener("compositionstart", () => (this.#composing = true));
    message.addEventListener("compositionend", () => (this.#composing = false));
    message.addEventListener("keydown", (event) => this.#key(event));
    message.addEventListener("paste", (event) => this.#paste(event));
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    $("attach").addEventListener("click", () => $("files").click());
    $("files").addEventListener("change", () => {
      this.#attach([...$("files").files]);
      $("files").value = "";
    });
    this.#takeDrops();
    touch.addEventListener("change", () => this.#showKeys());
    this.#showKeys();
    this.#typed();
  }

  /**
   * Show the unsent message of the conversation with this id. "" stands for a new conversation. `role` is the
   * conversation's role so far.
   */
  open(id, role) {
    if (id === this.#id) return;
    const message = $("message");
    const texts = inThisTab.get(TEXTS, {});
    // the user can have written text before this script was loaded
    if (this.#id === null) message.value ||= texts[id] ?? "";
    else message.value = texts[id] ?? "";
    this.#others.set(this.#id, { files: this.#files, role: $("role").value });
    const other = this.#others.get(id) ?? { files: [], role };
    this.#files = other.files;
    this.role = other.role;
    this.#id = id;
    this.#complain("");
    this.#showFiles();
    this.#typed();
  }

  /** Call this when the new conversation gets its id. */
  named(id) {
    const { [this.#id]: moved, ...others } = inThisTab.get(TEXTS, {});
    inThisTab.set(TEXTS, others);
    this.#id = id;
  }

  /** Offer these roles, and always the chosen role. */
  offer(roles) {
    const chosen = $("role").value;
    $("role").replaceChildren(...roles.map((role) => h("option", {}, role)));
    if (chosen) this.role = chosen;
  }

  /** The role of the next message. Setting an unknown role adds it. */
  set role(role) {
    if (![...$("role").options].some((option) => option.value === role)) $("role").append(h("option", {}, role));
    $("role").value = role;
  }

  /** Insert a message before the present text. The user can undo this. */
  write({ message, role, files = [] }) {
    const field = $("message");
    field.focus();
    field.setSelectionRange(0, 0);
    const text = field.value ? `${message}\n` : message;
    // insertText, because the user can undo it, unlike a change of `value`
    if (!document.execCommand("insertText", false, text)) field.setRangeText(text, 0, 0, "end");
    if (role) this.role = role;
    if (files.length) this.#attach(files);
    this.#typed();
  }

  /**
   * Enter sends the message. Shift and Enter, or Enter on a screen keyboard, begins a new line. Control or Command with
   * Enter always sends.
   */
  #key(event) {
    if (event.key !== "Enter" || event.shiftKey) return;
    // This Enter confirms text of an input method, so it must not send. In Safari, only the key code 229 shows that.
    if (event.isComposing || event.keyCode === 229) return;
    if (touch.matches && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    $("composer").requestSubmit();
  }

  #showKeys() {
    $("message").enterKeyHint = touch.matches ? "enter" : "send";
    $("composer-hint").textContent = touch.matches ? "" : "Enter sends. Shift and Enter start a new line.";
  }

  #typed() {
    const message = $("message");
    if (this.#id !== null) {
      const { [this.#id]: before, ...others } = inThisTab.get(TEXTS, {});
      inThisTab.set(TEXTS, message.value ? { ...others, [this.#id]: message.value } : others);
    }
    const characters = message.value.length > MAX_CHARACTERS ? [...message.value].length : 0;
    const long = characters > MAX_CHARACTERS;
    if (long || $("composer-error").dataset.about === "length") {
      const [limit, count] = [MAX_CHARACTERS, characters].map((number) => number.toLocaleString("en"));
      this.#complain(long ? `A message has at most ${limit} characters. This one has ${count}.` : "", "length");
    }
    $("send").disabled = long || !message.value.trim();
    message.style.height = "auto";
    message.style.height = `${message.scrollHeight + 2}px`;
  }

  #submit() {
    const field = $("message");
    if (this.#composing) field.blur(); // otherwise the input method would write its text into the empty field again
    // Keep spaces at the beginning, because the first line can be code.
    const message = field.value.replace(/^(\s*\n)+/, "").trimEnd();
    if ($("send").disabled || !message) return;
    if (!this.#send({ message, role: $("role").value, files: this.#files })) return;
    field.value = "";
    this.#files = [];
    this.#showFiles();
    this.#complain("");
    this.#typed();
    field.focus();
  }

  /**
   * Attach an image of the clipboard. Ignore the image if the clipboard also has text, as after a copy from a
   * spreadsheet.
   */
  #paste(event) {
    const { clipboardData } = event;
    const files = [...(clipboardData?.files ?? [])];
    const text = clipboardData?.getData("text/plain").trim() ?? "";
    // But do not ignore a file if the text is only its name: file managers copy the file and its name.
    if (!files.length || (text && !files.some(({ name }) => text.includes(name)))) return;
    event.preventDefault();
    this.#attach(files);
  }

  /** Attach files that the user drops anywhere on the page. Text may be dropped only into text fields. */
  #takeDrops() {
    const brings = ({ dataTransfer }) => dataTransfer.types.includes("Files") && !$("settings").open;
    const showTarget = (shown) => $("composer").classList.toggle("target", shown);
    addEventListener("dragover", (event) => {
      showTarget(brings(event));
      // Without preventDefault, the browser would leave the page and open the dropped file or link.
      if (brings(event) || !event.target.matches?.("textarea, input")) event.preventDefault();
    });
    addEventListener("dragleave", (event) => event.relatedTarget || showTarget(false));
    addEventListener("drop", (event) => {
      showTarget(false);
      if (!brings(event) && event.target.matches?.("textarea, input")) return;
      event.preventDefault();
      if (brings(event)) this.#attach([...event.dataTransfer.files]);
    });
  }

  #attach(files) {
    const attached = files.slice(0, MAX_IMAGES - this.#files.length);
    this.#complain(attached.length < files.length ? `A message can have at most ${MAX_IMAGES} images.` : "");
    this.#files = [...this.#files, ...attached];
    for (const file of attached) this.#check(file);
    this.#showFiles();
  }

  async #check(file) {
    this.#unchecked.add(file);
    try {
      await checkImage(file);
    } catch (error) {
      this.#detach(file, error.message);
    } finally {
      this.#unchecked.delete(file);
      this.#showFiles();
    }
  }

  /**
   * Remove a file from the message, and show the reason. Does nothing if the message was already sent, because the
   * message's turn then shows an error.
   */
  #detach(file, reason = "") {
    if (!this.#files.includes(file)) return;
    this.#files = this.#files.filter((each) => each !== file);
    this.#showFiles();
    this.#complain(reason);
  }

  #showFiles() {
    $("attached").replaceChildren(...this.#files.map((file) => this.#shown(file)));
    $("attached").hidden = !this.#files.length;
  }

  #shown(file) {
    const remove = () => {
      this.#detach(file);
      $("message").focus();
    };
    return h(
      "li",
      { "aria-busy": String(this.#unchecked.has(file)) },
      h("img", { src: sourceOf(file), alt: file.name }),
      h("button", { type: "button", "aria-label": `Remove ${file.name}`, onclick: remove }, "×"),
    );
  }

  #complain(text, about = "") {
    $("composer-error").textContent = text;
    $("composer-error").hidden = !text;
    $("composer-error").dataset.about = about;
  }
}
