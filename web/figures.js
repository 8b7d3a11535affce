/** Draws the charts: tasks by state, time in queue and time to answer. */

import { $, h, setText, svg } from "./dom.js";
import { kindOf, percentile } from "./tasks.js";
import { duration, KINDS } from "./words.js";

const WIDTH = 320;
const HEIGHT = 64;
const SHOWN = 40; // a chart has one bar for each of the newest tasks, up to this number
const LEFT = 40; // room for the labels of the vertical axis
const BELOW = 14; // room for the labels of the horizontal axis
const BAR = (WIDTH - LEFT) / SHOWN;

export function showFigures(tasks) {
  const all = tasks.all;
  const number = all.length > 1 ? `the last ${all.length} tasks` : "the tasks";
  setText($("figures-of"), `From ${number} that this browser has seen.`);
  const answered = all.filter(({ status }) => status === "SUCCESS");
  $("figures").replaceChildren(
    byState(all),
    times("Time in queue", "queued", all.filter(({ started }) => started), ({ created, started }) => started - created),
    times("Time to answer", "done", answered, ({ created, finished }) => finished - created),
  );
}

function byState(all) {
  const counts = Object.fromEntries(Object.keys(KINDS).map((kind) => [kind, 0]));
  for (const task of all) counts[kindOf(task)]++;
  const said = Object.entries(KINDS).map(([kind, label]) => `${counts[kind]} ${label.toLowerCase()}`);
  const bar = drawing(10, `Tasks by state: ${said.join(", ")}`);
  bar.append(svg("rect", { class: "track", width: WIDTH, height: 10, rx: 5 }));
  let x = 0;
  const shown = Object.keys(KINDS).filter((kind) => counts[kind]);
  for (const kind of shown) {
    // Each state with tasks gets at least 6 units of the width, so that it stays visible.
    const width = 6 + (counts[kind] / all.length) * (WIDTH - 6 * shown.length);
    bar.append(svg("rect", { class: `fill ${kind}`, x, width: Math.max(width - 2, 2), height: 10, rx: 3 }));
    x += width;
  }
  const counted = Object.entries(KINDS).map(([kind, label]) =>
    h("li", { class: kind }, h("b", {}, String(counts[kind])), ` ${label.toLowerCase()}`),
  );
  return h("figure", {}, h("figcaption", {}, "Tasks by state"), bar, h("ul", { class: "counts" }, ...counted));
}

function times(title, kind, tasks, measure) {
  const values = tasks.map((task) => Math.max(0, measure(task)));
  if (!values.length) {
    const none = h("p", { class: "hint" }, "None yet.");
    return h("figure", {}, h("figcaption", {}, title), none);
  }
  const [p50, p95] = [percentile(values, 0.5), percentile(values, 0.95)];
  const shown = values.slice(-SHOWN);
  const top = Math.max(...shown, p95, 1);
  const y = (ms) => HEIGHT - 2 - (ms / top) * (HEIGHT - 6);
  const shares = `half within ${duration(p50)}, 95 % within ${duration(p95)}`;
  const chart = drawing(HEIGHT + BELOW, `${title}, the last ${shown.length} tasks: ${shares}`);
  shown.forEach((ms, index) => {
    const x = LEFT + (SHOWN - shown.length + index) * BAR;
    chart.append(svg("rect", { class: `fill ${kind}`, x, y: y(ms), width: BAR - 2, height: HEIGHT - y(ms), rx: 1.5 }));
  });
  chart.append(svg("line", { class: "base", x1: LEFT, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }));
  chart.append(svg("line", { class: "base", x1: LEFT, x2: LEFT, y1: y(top), y2: HEIGHT }));
  for (const [ms, name] of [[p50, "p50"], [p95, "p95"]]) {
    chart.append(svg("line", { class: `rule ${name}`, x1: LEFT, x2: WIDTH, y1: y(ms), y2: y(ms) }));
  }
  const label = (text, x, at, anchor) => svg("text", { class: "axis", x, y: at, "text-anchor": anchor }, text);
  chart.append(label(duration(top), LEFT - 5, y(top) + 8, "end"), label("0", LEFT - 5, HEIGHT, "end"));
  const bottom = HEIGHT + BELOW - 2;
  chart.append(label("older tasks", LEFT, bottom, "start"), label("newest", WIDTH, bottom, "end"));
  const caption = h(
    "figcaption",
    {},
    h("span", { class: "title" }, title),
    h("span", { class: "percentiles p50" }, "p50 ", h("b", {}, duration(p50))),
    h("span", { class: "percentiles p95" }, "p95 ", h("b", {}, duration(p95))),
  );
  return h("figure", {}, caption, chart);
}

function drawing(height, label) {
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label, class: "drawing" });
}
