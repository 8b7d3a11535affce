/** The console: conversations on the left, and their tasks on the right. */

import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { Conversation } from "./conversation.js";
import { Conversations, newId } from "./conversations.js";
import { $, h, setText } from "./dom.js";
import { showFigures } from "./figures.js";
import { Outbox } from "./outbox.js";
import { Settings } from "./settings.js";
import { everywhere } from "./storage.js";
import { Tasks } from "./tasks.js";
import { Timelines } from "./timelines.js";
import { sentence, TOKEN_REFUSED, when } from "./words.js";

const EXAMPLES = [
  { message: "I need a haircut tomorrow at 3pm.", role: "booking" },
  { message: "What is a queue good for?", role: "general" },
];
const SESSION_ID = /^[A-Za-z0-9_-]{1,64}$/;

const connection = await Connection.open();
const conversations = new Conversations(connection.scope);
const tasks = new Tasks(connection.scope);
const timelines = new Timelines();
const composer = new Composer((message) => send(message));
const chat = new Chat({
  edit: ({ request, files }) => composer.write({ ...request, files }),
  apiUrl: () => connection.apiUrl,
});
const settings = new Settings(connection, connect);

let outbox = new Outbox(connection.scope);
let opened = new Map(); // the conversations that are read and watched, by their ids
let current = null;

// ---- Conversations

/** The conversation with this id. Its turns are read from the API, unless `fresh` says that it is new. */
function conversation(id, { fresh = false } = {}) {
  if (opened.has(id)) return opened.get(id);
  const it = new Conversation(id, { client: connection.client, conversations, outbox });
  opened.set(id, it);
  it.addEventListener("turn", ({ detail: turn }) => {
    if (turn.task) tasks.note([turn.task]);
    if (it === current) {
      chat.showTurn(turn);
      timelines.show(it.turns);
    }
    showBusy();
  });
  it.addEventListener("turns", () => {
    tasks.note(it.turns.map(({ task }) => task).filter(Boolean));
    showBusy();
    if (it !== current) return;
    chat.show(it);
    timelines.show(it.turns);
    showNotice();
  });
  if (!fresh) it.open();
  return it;
}

/** Show the conversation whose id is in the address, or a new conversation. */
function navigate() {
  if (!connection.complete) return;
  const id = location.hash.slice(1);
  const known = SESSION_ID.test(id);
  // Forget the shown conversation if it has no messages, because the list of conversations leaves it out.
  if (current && !current.turns.length && current.id !== id) close(current);
  current = conversation(known ? id : newId(), { fresh: !known });
  composer.open(known ? id : "", conversations.get(id)?.role ?? "general");
  chat.show(current);
  timelines.show(current.turns);
  showConversations();
  showNotice();
  showPane("chat");
  chat.toLatest();
}

/** Send {message, role, files} in the shown conversation. Returns whether the message could be sent. */
function send(message) {
  if (!connection.complete) {
    settings.open();
    return false;
  }
  current.send(message);
  if (location.hash.slice(1) !== current.id) {
    // The conversation now has a message. Put its id into the address, so that the browser can return to it.
    history.pushState(null, "", `#${current.id}`);
    composer.named(current.id);
  }
  showConversations();
  chat.toLatest();
  return true;
}

function showConversations() {
  const all = conversations.all;
  $("no-conversations").hidden = all.length > 0;
  $("conversation-list").replaceChildren(
    ...all.map(({ id, title, at }) => {
      const here = id === current?.id ? "page" : null;
      const link = { href: `#${id}`, "aria-current": here, onclick: () => showPane("chat") };
      const button = { class: "remove", "aria-label": `Remove “${title}” from this list`, onclick: () => remove(id) };
      return h(
        "li",
        { "data-session": id },
        h("a", link, h("span", { class: "name", dir: "auto" }, title), h("span", { class: "hint" }, when(at))),
        h("button", { type: "button", ...button }, "×"),
      );
    }),
  );
  const title = conversations.get(current?.id)?.title ?? "New conversation";
  setText($("title"), title);
  document.title = `${title} – Turnqueue`;
  showBusy();
}

function showBusy() {
  for (const item of $("conversation-list").children) {
    item.classList.toggle("busy", Boolean(opened.get(item.dataset.session)?.busy));
  }
}

function close(it) {
  it.close();
  opened.delete(it.id);
}

/** Show a new conversation. */
function leave() {
  history.pushState(null, "", location.pathname);
  navigate();
}

function remove(id) {
  if (opened.has(id) && !opened.get(id).sending) close(opened.get(id));
  conversations.remove(id);
  if (id === current.id) leave();
  $("new").focus();
}

// ---- The connection

/** Reconnect with the current settings. */
function connect() {
  for (const each of opened.values()) each.close();
  opened = new Map();
  outbox = new Outbox(connection.scope);
  conversations.scope = connection.scope;
  tasks.scope = connection.scope;
  showConnection();
  if (!connection.complete) {
    settings.open();
    return;
  }
  // Send the messages in the outbox, and watch the unfinished tasks.
  const unfinished = tasks.unfinishedSessions.filter((id) => conversations.get(id));
  const begun = [...outbox.all.map(({ request }) => request.session_id), ...unfinished];
  for (const id of begun) conversation(id);
  navigate();
}

function showConnection() {
  const { health, owner, apiUrl, complete } = connection;
  const offline = !navigator.onLine;
  $("connection").dataset.health = offline ? "unreachable" : health;
  const trouble = { unreachable: "API cannot be reached", refused: "token refused" }[health];
  const where = complete ? `${owner} at ${new URL(apiUrl).host}` : "Not connected";
  setText($("connection-text"), offline ? "Offline" : [where, trouble].filter(Boolean).join(": "));
  $("connection").setAttribute("aria-label", `Settings. ${$("connection-text").textContent}`);
}

/** Show an error that concerns the whole page. */
function showNotice() {
  const problem = current?.problem;
  let text = "";
  if (everywhere.failed) text = "This browser does not let this page store data. A reload loses the list of conversations.";
  if (problem) text = sentence(problem);
  if (connection.health === "refused") text = TOKEN_REFUSED;
  if (!navigator.onLine) text = "You are offline. Messages that you send now go out when you are back online.";
  setText($("notice-text"), text);
  $("notice").hidden = !text;
  const settingsHelp = connection.health === "refused" || (problem && problem.status !== 404);
  $("notice-settings").hidden = !navigator.onLine || !settingsHelp;
}

// ---- The page

function showPane(pane) {
  document.body.dataset.pane = pane;
  for (const button of document.querySelectorAll(".panes button")) {
    button.setAttribute("aria-pressed", String(button.dataset.pane === pane));
  }
}

for (const button of document.querySelectorAll(".panes button")) {
  button.addEventListener("click", () => showPane(button.dataset.pane));
}
$("examples").append(
  ...EXAMPLES.map(({ message, role }) =>
    h("button", { type: "button", onclick: () => composer.write({ message, role }) }, message),
  ),
);
$("new").addEventListener("click", () => {
  leave();
  $("message").focus();
});
addEventListener("hashchange", navigate);
addEventListener("beforeunload", (event) => {
  // Ask before the page closes, if the browser could not store an unsent message.
  if ([...opened.values()].some(({ fragile }) => fragile)) event.preventDefault();
});
conversations.addEventListener("change", showConversations);
conversations.addEventListener("elsewhere", () => {
  // another tab has sent a message, maybe in the shown conversation
  if (conversations.get(current?.id)) current.refresh();
});
tasks.addEventListener("change", () => showFigures(tasks));
connection.addEventListener("roles", ({ detail: roles }) => composer.offer(roles));
connection.addEventListener("health", () => {
  showConnection();
  showNotice();
});
for (const name of ["online", "offline"]) {
  addEventListener(name, () => {
    showConnection();
    showNotice();
  });
}

showFigures(tasks);
connect();
