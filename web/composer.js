/** The message that is being written, with its images and its role. */

import { $, h } from "./dom.js";
import { MAX_IMAGES, mediaOf } from "./images.js";

const TYPED = "turnqueue:typed"; // survives a reload
const touch = matchMedia("(pointer: coarse)");

export class Composer {
  #files = [];
  #send;
  #upload;

  /** `send` is called with {message, role, media}, `upload` before it with each file that is large. */
  constructor(send, upload) {
    this.#send = send;
    this.#upload = upload;
    const message = $("message");
    message.value ||= sessionStorage.getItem(TYPED) ?? ""; // who writes before this script has come loses nothing
    message.addEventListener("input", () => this.#typed());
    message.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || touch.matches) return;
      event.preventDefault();
      $("composer").requestSubmit();
    });
    message.addEventListener("paste", (event) => this.#take(event, event.clipboardData));
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    $("attach").addEventListener("click", () => $("files").click());
    $("files").addEventListener("change", () => {
      this.#attach([...$("files").files]);
      $("files").value = "";
    });
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      this.#take(event, event.dataTransfer);
    });
    this.#typed();
  }

  /** Let the next message have one of these roles, and the one that is chosen already. */
  offer(roles) {
    const chosen = $("role").value;
    $("role").replaceChildren(...roles.map((role) => h("option", {}, role)));
    if (chosen) this.role = chosen;
  }

  /** The role of the next message. One that is not offered yet is added. */
  set role(role) {
    if (![...$("role").options].some((option) => option.value === role)) $("role").append(h("option", {}, role));
    $("role").value = role;
  }

  /** Write this, to be changed or sent. */
  write(text) {
    $("message").value = text;
    this.#typed();
    $("message").focus();
  }

  #typed() {
    const message = $("message");
    sessionStorage.setItem(TYPED, message.value);
    $("send").disabled = !message.value.trim();
    message.style.height = "auto";
    message.style.height = `${message.scrollHeight + 2}px`;
  }

  async #submit() {
    const message = $("message").value.trim();
    if (!message) return;
    const files = this.#files;
    this.#files = [];
    this.#showFiles();
    this.write("");
    this.#complain("");
    try {
      const media = await mediaOf(files, this.#upload);
      this.#send({ message, role: $("role").value, ...(media.length ? { media } : {}) });
    } catch (error) {
      this.#files = files;
      this.#showFiles();
      this.write(message);
      this.#complain(error.message);
    }
  }

  /** Images that are pasted or dropped. */
  #take(event, transfer) {
    const files = [...(transfer?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    this.#attach(files);
  }

  #attach(files) {
    const images = files.filter((file) => file.type.startsWith("image/"));
    this.#complain(images.length < files.length ? "Only images can be attached." : "");
    const all = [...this.#files, ...images];
    if (all.length > MAX_IMAGES) this.#complain(`A message can have ${MAX_IMAGES} images at most.`);
    this.#files = all.slice(0, MAX_IMAGES);
    this.#showFiles();
  }

  #showFiles() {
    for (const image of $("attached").querySelectorAll("img")) URL.revokeObjectURL(image.src);
    $("attached").replaceChildren(...this.#files.map((file) => this.#shown(file)));
    $("attached").hidden = !this.#files.length;
  }

  #shown(file) {
    const remove = () => {
      this.#files = this.#files.filter((each) => each !== file);
      this.#showFiles();
      $("message").focus();
    };
    return h(
      "li",
      {},
      h("img", { src: URL.createObjectURL(file), alt: file.name }),
      h("button", { type: "button", "aria-label": `Remove ${file.name}`, onclick: remove }, "×"),
    );
  }

  #complain(text) {
    $("composer-error").textContent = text;
    $("composer-error").hidden = !text;
  }
}
