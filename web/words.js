/** Makes the words for states, durations and errors. */

import { NetworkError } from "../clients/javascript/turnqueue.js";
import * as time from "./time.js";

/** The state of a turn as {kind, label}: `kind` decides the colour, and `label` is the word that the user reads. */
export function stateOf(turn) {
  const { task } = turn;
  if (turn.state === "preparing") return state("queued", "Uploading");
  if (turn.state === "sending") return state("queued", "Sending");
  if (turn.state === "unsent") return state("failed", "Not sent");
  if (!task) return state("queued", "Queued");
  if (task.status === "SUCCESS") return state("done", "Done");
  if (task.status === "FAILURE") {
    return task.error_code === "cancelled" ? state("cancelled", "Cancelled") : state("failed", "Failed");
  }
  if (turn.cancelling) return state("running", "Cancelling");
  if (task.status === "STARTED") return state("running", turn.answer ? "Answering" : "Running");
  const refused = task.waiting_for === "model_unavailable" || task.waiting_for === "rate_limit";
  return task.attempt || refused ? state("queued", "Waiting to try again") : state("queued", "Queued");
}

function state(kind, label) {
  return { kind, label };
}

const REASONS = {
  turn_before: "Waiting for the message before it.",
  model_unavailable: "The model is not available.",
  rate_limit: "The model is receiving too many requests.",
};

/** Why a task waits: "The model is not available. Trying again at 14:05." Empty if the API does not say. */
export function waitOf({ waiting_for: reason, next_try_at: next }) {
  if (!REASONS[reason]) return "";
  const at = Date.parse(next ?? "") - time.ahead();
  if (Number.isNaN(at)) return REASONS[reason];
  const again = at > Date.now() ? `Trying again at ${hourAndMinute(at)}.` : "Trying again now.";
  return `${REASONS[reason]} ${again}`;
}

export const KINDS = { queued: "Queued", running: "Running", done: "Done", failed: "Failed", cancelled: "Cancelled" };

const graphemes = Intl.Segmenter ? new Intl.Segmenter() : null;

/**
 * The text in one line of at most `length` characters. Characters are counted as people count them, so no emoji is cut
 * in two.
 */
export function shortened(text, length) {
  const line = text.trim().replace(/\s+/g, " ");
  const characters = graphemes ? Array.from(graphemes.segment(line), ({ segment }) => segment) : [...line];
  return characters.length > length ? `${characters.slice(0, length - 1).join("")}…` : line;
}

export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 10_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 60_000) return `${Math.round(ms / 1000)} s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

export function clockTime(ms) {
  return new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

function hourAndMinute(ms) {
  return new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

/** The time of day of `ms` if it is today, otherwise the date. */
export function when(ms) {
  const date = new Date(ms);
  const today = date.toDateString() === new Date().toDateString();
  return today
    ? hourAndMinute(ms)
    : date.toLocaleDateString([], { day: "numeric", month: "short" });
}

export const TOKEN_REFUSED = "The API refused your token: it is missing, wrong or expired. Change it in the settings.";

/** The error as a sentence that says what to do. */
export function sentence(error) {
  if (error instanceof NetworkError) {
    if (!navigator.onLine) return "You are offline.";
    return error.code === "request_timeout"
      ? "The API did not answer in time."
      : "The API cannot be reached. Check its URL, whether it is up, and whether it allows requests from this page.";
  }
  if (error.status === 401 || error.status === 403) {
    return TOKEN_REFUSED;
  }
  if (error.code === "session_not_found") return "This conversation does not exist, or has expired.";
  if (error.code === "task_not_found") return "This task has expired: tasks are kept for 7 days.";
  if (error.status === 429) return "You have sent too many requests. Please wait a moment.";
  if (error.status === 413) return "The message is too large. Shorten it, or remove an image.";
  return finished(error.message || "Something went wrong.");
}

function finished(text) {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(begun) ? begun : `${begun}.`;
}

/** The text for a value of `draft` or `data`. Null if there is no text to show. */
export function value(it) {
  if (it === null || it === undefined || it === "") return null;
  if (typeof it === "boolean") return it ? "yes" : "no";
  if (Array.isArray(it)) return it.length ? it.map((each) => value(each) ?? "–").join(", ") : "none";
  return typeof it === "object" ? JSON.stringify(it) : String(it);
}
