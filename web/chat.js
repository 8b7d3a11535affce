/** Shows the messages of a conversation and their answers. */

import { $, announce, copyButton, factList, h, setText } from "./dom.js";
import { curlOf, factsOf } from "./facts.js";
import { sourceOf } from "./images.js";
import { Markdown } from "./markdown.js";
import * as time from "./time.js";
import { duration, sentence, shortened, stateOf, value, waitOf } from "./words.js";

const LIVE_MS = 250;
const NEAR_PX = 80;
const RETRACTED = "The previous attempt failed, so its text was removed. A new attempt starts from the beginning.";

export class Chat {
  #views = new Map(); // the shown elements, by their turns
  #conversation = null;
  #doing;
  #pinned = true; // whether the latest message is visible and should stay visible
  #ticking = null;

  /** `edit`: called with a turn whose message the user wants to change. `apiUrl`: returns the API's address. */
  constructor({ edit, apiUrl }) {
    this.#doing = { edit, apiUrl };
    const scroll = $("scroll");
    scroll.addEventListener("scroll", () => {
      this.#pinned = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR_PX;
      $("latest").hidden = this.#pinned;
      scroll.parentElement.classList.toggle("scrolled", scroll.scrollTop > 0);
    });
    $("latest").addEventListener("click", () => this.toLatest());
    new ResizeObserver(() => this.#pinned && this.toLatest()).observe($("turns"));
    new ResizeObserver(() => this.#pinned && this.toLatest()).observe(scroll);
  }

  /** Show a conversation in its present state. */
  show(conversation) {
    if (conversation !== this.#conversation) {
      this.#conversation = conversation;
      this.#views.clear();
      $("turns").replaceChildren();
      this.#pinned = true;
    }
    const { turns } = conversation;
    for (const [turn, view] of this.#views) {
      if (!turns.includes(turn)) {
        view.element.remove();
        this.#views.delete(turn);
      }
    }
    let before = null;
    turns.forEach((turn, index) => {
      const view = this.#views.get(turn) ?? new TurnView(turn, conversation, this.#doing);
      this.#views.set(turn, view);
      view.show(before);
      if ($("turns").children[index] !== view.element) {
        $("turns").insertBefore(view.element, $("turns").children[index] ?? null);
      }
      before = turn;
    });
    $("loading").hidden = !conversation.loading || turns.length > 0;
    $("empty").hidden = conversation.loading || turns.length > 0 || conversation.problem !== null;
    this.#tick();
  }

  /** Show the present state of a turn of the shown conversation. */
  showTurn(turn) {
    const { turns, loading } = this.#conversation;
    const view = this.#views.get(turn);
    if (!view) return;
    const index = turns.indexOf(turn);
    const said = view.show(turns[index - 1] ?? null);
    if (said && !loading) announce(said);
    // Also show the next turn again, because it can be waiting for this turn. And its draft marks the members that this
    // turn's draft does not have.
    this.#views.get(turns[index + 1])?.show(turn);
    this.#tick();
  }

  toLatest() {
    $("scroll").scrollTop = $("scroll").scrollHeight;
    this.#pinned = true;
  }

  #tick() {
    clearTimeout(this.#ticking);
    const living = [...this.#views].filter(([turn]) => turn.task && turn.state === "accepted");
    if (!living.length) return;
    this.#ticking = setTimeout(() => {
      for (const [, view] of living) view.showTime();
      this.#tick();
    }, LIVE_MS);
  }
}

class TurnView {
  #turn;
  #conversation;
  #label = null;
  #shownTask;
  #shownDraft;
  #shownImages;

  constructor(turn, conversation, { edit, apiUrl }) {
    this.#turn = turn;
    this.#conversation = conversation;
    this.text = h("div", { class: "text", dir: "auto" });
    this.markdown = new Markdown(this.text);
    this.cards = h("div", { class: "cards" });
    this.trouble = h("p", { class: "trouble", hidden: true });
    this.waiting = h("p", { class: "waiting", hidden: true });
    this.retracted = h("p", { class: "retracted", hidden: true }, RETRACTED);
    this.chip = h("span", { class: "chip" });
    this.time = h("span", { class: "hint" });
    this.progress = h("progress", { max: 1, "aria-label": "Progress of the answer", hidden: true });
    const button = (label, onclick) => h("button", { type: "button", class: "plain", hidden: true, onclick }, label);
    this.cancel = button("Cancel", () => conversation.cancel(turn));
    this.again = button("Send again", () => conversation.retry(turn));
    this.edit = button("Edit", () => {
      edit(turn);
      conversation.discard(turn);
    });
    this.discard = button("Discard", () => conversation.discard(turn));
    this.check = button("Check now", () => turn.wake());
    this.copy = copyButton("Copy", () => turn.answer);
    this.more = button("Details", () => this.#showDetails(this.details.hidden));
    const buttons = [this.cancel, this.check, this.again, this.edit, this.discard, this.copy, this.more];
    const state = h("div", { class: "state" }, this.chip, this.time, this.progress, ...buttons);
    this.facts = h("dl", { class: "details" });
    const place = () => ({ apiUrl: apiUrl(), sessionId: conversation.id });
    this.details = h(
      "div",
      { class: "facts", hidden: true },
      this.facts,
      copyButton("Copy the task ID", () => turn.taskId),
      copyButton("Copy as curl", () => curlOf(turn.request, place())),
    );
    this.#showDetails(false);
    const told = [this.retracted, this.text, this.cards, this.trouble, this.waiting];
    this.answer = h("div", { class: "answer" }, ...told, state, this.details);
    this.said = h("div", { class: "said" });
    this.element = h("article", { class: "turn" }, this.said, this.answer);
  }

  /**
   * Show the turn. `before` is the previous turn. Returns the new text for a screen reader, or null if there is no new
   * text.
   */
  show(before) {
    const turn = this.#turn;
    const { task } = turn;
    const { kind, label } = stateOf(turn);
    const failed = task?.status === "FAILURE";

    if (this.#shownImages !== turn.files) {
      this.said.replaceChildren(...saidOf(turn));
      this.#shownImages = turn.files;
    }
    this.element.dataset.state = kind;
    if (turn.taskId) this.element.dataset.task = turn.taskId;
    this.element.setAttribute("aria-label", `${shortened(turn.request.message, 60)}: ${label}`);
    this.answer.setAttribute("aria-busy", String(turn.busy && turn.state !== "lost"));
    this.chip.className = `chip ${kind}`;
    setText(this.chip, label);

    this.markdown.show(turn.answer, { unfinished: turn.busy });
    this.text.classList.toggle("unfinished", task?.status !== "SUCCESS");
    const draftBefore = before?.task?.result?.draft;
    if (this.#shownTask !== task || this.#shownDraft !== draftBefore) {
      this.cards.replaceChildren(...cardsOf(task?.result, draftBefore));
      if (task) this.facts.replaceChildren(...factList(factsOf(turn)));
      [this.#shownTask, this.#shownDraft] = [task, draftBefore];
    }

    const trouble = turn.error ? troubleOf(turn) : failed && kind !== "cancelled" ? task.error : "";
    setText(this.trouble, trouble);
    this.trouble.hidden = !trouble;
    const waiting = task?.status === "PENDING" && !trouble ? waitOf(task) : "";
    setText(this.waiting, waiting);
    this.waiting.hidden = !waiting;

    const retracted = turn.retracted && !turn.final;
    const takenBack = retracted && this.retracted.hidden;
    this.retracted.hidden = !retracted;
    this.progress.hidden = task?.status !== "STARTED";
    if (task?.progress) this.progress.value = task.progress;
    else this.progress.removeAttribute("value");
    const notSent = turn.state === "unsent";
    const unknown = turn.state === "lost" && turn.error?.status === 404;
    this.#offer(this.cancel, ["accepted", "lost"].includes(turn.state) && !turn.cancelling && !unknown);
    this.#offer(this.check, turn.state === "lost" && !unknown);
    this.#offer(this.again, notSent || (failed && !this.#conversation.retried(turn)));
    this.#offer(this.edit, notSent);
    this.#offer(this.discard, notSent);
    this.#offer(this.more, Boolean(task));
    this.#offer(this.copy, turn.final && Boolean(turn.answer));
    this.behind = Boolean(before?.taskId) && !before.final && task?.status === "PENDING" && !waiting;
    this.showTime();

    const news = label !== this.#label && this.#label !== null;
    this.#label = label;
    if (task?.status === "SUCCESS") return news ? `Answer: ${task.result.message}` : null;
    if (!news && !takenBack) return null;
    return [label, trouble || waiting, retracted && RETRACTED].filter(Boolean).join(". ");
  }

  showTime() {
    const { task } = this.#turn;
    if (!task) {
      setText(this.time, "");
      return;
    }
    const end = task.finished_at ? Date.parse(task.finished_at) : time.now();
    const parts = [duration(Math.max(0, end - Date.parse(task.created_at)))];
    if (this.behind) parts.push("behind the message before it");
    if (task.attempt > 1) parts.push(`attempt ${task.attempt}`);
    if (task.retry_of) parts.push("sent again");
    if (task.usage?.finish_reason === "length") parts.push("cut off at the model's limit");
    setText(this.time, parts.join(" · "));
  }

  #showDetails(shown) {
    this.details.hidden = !shown;
    this.more.setAttribute("aria-expanded", String(shown));
  }

  /** Show or hide a button. If the button has the focus and disappears, the message field gets the focus. */
  #offer(button, offered) {
    const focused = document.activeElement === button;
    button.hidden = !offered;
    if (focused && !offered) $("message").focus({ preventScroll: true });
  }
}

function troubleOf({ state, error }) {
  if (state !== "lost" || error.status === 404) return sentence(error);
  return `${sentence(error)} Your message is safe, and the service is still working on it. This page will check again soon.`;
}

function saidOf({ request: { message, role, media }, files }) {
  const images = (files.length ? files : (media ?? [])).map((image, index) => {
    const [src, alt] = [sourceOf(image), `Attached image ${index + 1}`];
    if (!src) return h("span", { class: "hint" }, `${alt} (uploaded)`);
    return h("img", { src, alt, referrerpolicy: "no-referrer" });
  });
  return [
    images.length ? h("div", { class: "images" }, ...images) : null,
    h("div", { class: "bubble", dir: "auto" }, message),
    role && role !== "general" ? h("span", { class: "hint" }, role) : null,
  ].filter(Boolean);
}

/**
 * Elements for the structured parts of the answer. Members of the draft that the previous answer's draft did not have
 * are marked as new.
 */
function cardsOf(result, draftBefore) {
  const cards = [];
  if (result?.draft) cards.push(card("Draft", result.draft, draftBefore ?? {}));
  if (result?.data) cards.push(card("Data", result.data, result.data));
  return cards;
}

function card(title, members, before) {
  const rows = Object.entries(members).flatMap(([name, it]) => {
    const shown = value(it);
    const fresh = shown !== null && shown !== value(before[name]);
    const mark = fresh ? h("span", { class: "new" }, "new") : null;
    return [
      h("dt", {}, name.replaceAll("_", " ")),
      shown === null
        ? h("dd", { class: "unknown" }, "not known yet")
        : h("dd", { class: fresh ? "fresh" : null, dir: "auto" }, shown, mark),
    ];
  });
  return h("section", { class: "card" }, h("h3", {}, title), h("dl", {}, ...rows));
}
