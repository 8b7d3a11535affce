/** Shows and stores the settings: the owner, the API and the colours. */

import { $, h } from "./dom.js";
import { everywhere } from "./storage.js";

const OWN = "";

export class Settings {
  #connection;
  #chosen;

  /** `chosen` is called after the connection has changed. */
  constructor(connection, chosen) {
    this.#connection = connection;
    this.#chosen = chosen;
    for (const id of ["connection", "notice-settings"]) $(id).addEventListener("click", () => this.open());
    $("settings-cancel").addEventListener("click", () => $("settings").close());
    $("settings-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#save();
    });
    $("theme").value = everywhere.get("theme", "");
    $("theme").addEventListener("change", () => {
      everywhere.set("theme", $("theme").value);
      showTheme();
    });
    showTheme();
  }

  open() {
    const { owners, chosen } = this.#connection;
    $("owners").hidden = !owners.length;
    $("owner-choices").replaceChildren(
      ...[...owners, OWN].map((owner) =>
        h(
          "label",
          { class: "choice" },
          h("input", {
            type: "radio",
            name: "owner",
            value: owner,
            checked: (chosen.as ?? OWN) === owner,
            onchange: () => this.#showOwn(),
          }),
          owner === OWN ? "Another API or token" : owner,
        ),
      ),
    );
    $("api-url").value = chosen.apiUrl ?? this.#connection.apiUrl;
    $("token").value = chosen.token ?? "";
    this.#complain("");
    this.#showOwn();
    $("settings").showModal();
  }

  get #owner() {
    return $("settings-form").querySelector("input[name=owner]:checked")?.value ?? OWN;
  }

  #showOwn() {
    $("own").hidden = this.#owner !== OWN;
  }

  #save() {
    const owner = this.#owner;
    const own = { apiUrl: $("api-url").value.trim(), token: $("token").value.trim() };
    try {
      if (owner === OWN && !own.token) throw new Error("Enter a token.");
      this.#connection.choose(owner === OWN ? own : { as: owner });
    } catch (error) {
      this.#complain(error.message);
      return;
    }
    $("settings").close();
    this.#chosen();
  }

  #complain(text) {
    $("settings-error").textContent = text;
    $("settings-error").hidden = !text;
  }
}

function showTheme() {
  document.documentElement.dataset.theme = everywhere.get("theme", "");
}
