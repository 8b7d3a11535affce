/** Draws the life of each task as a line: in the queue, waiting for the first words, writing, and the end. */

import { $, factList, h, setText, svg } from "./dom.js";
import { factsOf } from "./facts.js";
import * as time from "./time.js";
import { duration, stateOf } from "./words.js";

const WIDTH = 320;
const HEIGHT = 18;
const MARGIN = 7; // room for the mark at the end of a line
const SHOWN = 50;
const LIVE_MS = 250;

const LEGEND = { queued: "in queue", thinking: "waiting for the model", writing: "writing" };

export class Timelines {
  #rows = new Map();
  #turns = [];
  #ticking = null;

  constructor() {
    $("legend").append(...Object.entries(LEGEND).map(([kind, label]) => h("li", { class: kind }, label)));
  }

  /** Show the turns' tasks, the newest first. */
  show(turns) {
    this.#turns = turns.filter((turn) => turn.task).slice(-SHOWN).reverse();
    const list = $("timelines");
    for (const [taskId, row] of this.#rows) {
      if (!this.#turns.some((turn) => turn.taskId === taskId)) {
        row.element.remove();
        this.#rows.delete(taskId);
      }
    }
    this.#turns.forEach((turn, index) => {
      const row = this.#rows.get(turn.taskId) ?? new Row(turn);
      this.#rows.set(turn.taskId, row);
      row.show(turn);
      if (list.children[index] !== row.element) list.insertBefore(row.element, list.children[index] ?? null);
    });
    $("no-tasks").hidden = this.#turns.length > 0;
    $("legend").hidden = this.#turns.length === 0;
    this.#tick();
  }

  /** Redraw the lines of unfinished tasks again and again, because these lines grow. */
  #tick() {
    clearTimeout(this.#ticking);
    const living = this.#turns.filter((turn) => turn.state === "accepted");
    if (!living.length) return;
    this.#ticking = setTimeout(() => {
      for (const turn of living) this.#rows.get(turn.taskId)?.show(turn);
      this.#tick();
    }, LIVE_MS);
  }
}

class Row {
  constructor(turn) {
    this.state = h("span", { class: "chip" });
    this.total = h("span", { class: "total" });
    this.line = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "drawing" });
    this.steps = h("span", { class: "steps" });
    this.details = h("dl", { class: "details" });
    const name = h("span", { class: "name", dir: "auto" }, turn.request.message);
    this.element = h(
      "li",
      { "data-task": turn.taskId },
      h(
        "details",
        {},
        h("summary", {}, h("span", { class: "head" }, this.state, name, this.total), this.line, this.steps),
        this.details,
      ),
    );
  }

  show(turn) {
    if (turn.final && this.task === turn.task) return;
    const { kind, label } = stateOf(turn);
    const life = lifeOf(turn);
    this.state.className = `chip ${kind}`;
    setText(this.state, label);
    setText(this.total, duration(life.end - life.created));
    const steps = stepsOf(turn, life);
    setText(this.steps, steps.join(" · "));
    this.line.setAttribute("aria-label", `${label} after ${duration(life.end - life.created)}: ${steps.join(", ")}`);
    this.line.replaceChildren(...drawn(life, kind));
    if (this.task !== turn.task) {
      this.details.replaceChildren(...factList(factsOf(turn)));
      this.task = turn.task;
    }
  }
}

/**
 * The times of a turn in ms, each null if unknown or not reached. `steps` are the steps of its life, [{kind, at}]: a
 * step lasts until the next one begins.
 */
function lifeOf(turn) {
  const { task } = turn;
  const created = Date.parse(task.created_at);
  const started = task.started_at && Date.parse(task.started_at);
  const finished = task.finished_at && Date.parse(task.finished_at);
  const end = Math.max(finished ?? time.now(), created, started ?? 0);
  // `first_token_ms` counts from the start of the last attempt. The API reports the start of the first attempt only, so
  // use this number only for that attempt.
  const told = task.attempt === 1 && Number.isFinite(task.usage?.first_token_ms);
  const first = started && told ? started + task.usage.first_token_ms : turn.firstSeen;

  const steps = [{ kind: "queued", at: created }];
  if (started) steps.push({ kind: "thinking", at: started });
  for (const { status, attempt, at } of turn.seen) {
    if (status === "PENDING" && attempt) steps.push({ kind: "queued", at });
    if (status === "STARTED" && attempt > 1) steps.push({ kind: "thinking", at, again: true });
  }
  if (first) steps.push({ kind: "writing", at: first });
  for (const step of steps) step.at = Math.min(step.at, end);
  return { created, started, first, finished, end, steps: steps.sort((a, b) => a.at - b.at) };
}

function drawn({ created, finished, end, steps }, kind) {
  const span = Math.max(end - created, 1);
  const x = (at) => MARGIN + ((at - created) / span) * (WIDTH - 2 * MARGIN);
  const middle = HEIGHT / 2;
  const pieces = steps.map(({ kind, at }, index) => {
    const width = Math.max(x(steps[index + 1]?.at ?? end) - x(at), 1.5);
    return svg("rect", { class: `fill ${kind}`, x: x(at), width, y: middle - 4, height: 8, rx: 2 });
  });
  const again = steps
    .filter((step) => step.again)
    .map(({ at }) => svg("line", { class: "attempt", x1: x(at), x2: x(at), y1: 1, y2: HEIGHT - 1 }));
  const mark = svg("circle", { class: `mark ${kind}${finished ? "" : " open"}`, cx: x(end), cy: middle, r: 5 });
  return [...pieces, ...again, mark];
}

function stepsOf(turn, { created, started, first, end }) {
  const steps = [`${duration((started ?? end) - created)} in queue`];
  if (started && first) steps.push(`first words after ${duration(Math.min(first, end) - created)}`);
  if (turn.task.attempt > 1) steps.push(`attempt ${turn.task.attempt}`);
  return steps;
}
