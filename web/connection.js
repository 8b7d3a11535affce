/**
 * Where the API is and who is asking. `make run` serves a config.json with the API and a token for each development
 * owner; elsewhere the user gives both in the settings. A token given there is kept for this tab only.
 */

import { ApiError, createClient } from "../clients/javascript/turnqueue.js";
import { everywhere, inThisTab } from "./storage.js";

const CHOSEN = "connection";

export class Connection extends EventTarget {
  /**
   * "unknown", "ok", "unreachable", "refused" (401 or 403); and "hidden": the API is up, but the browser does not show
   * us its answers, which is how a refusal looks that has no CORS headers. Each change is told by the event "health".
   */
  health = "unknown";
  #config = null;
  #own = null;
  #as = null;

  /** Find out what there is to connect to. */
  static async open() {
    const connection = new Connection();
    connection.#config = await readConfig();
    const chosen = inThisTab.get(CHOSEN, null) ?? everywhere.get(CHOSEN, {});
    const { apiUrl = "", token = "" } = chosen;
    if (apiUrl || !connection.#config) connection.#own = { apiUrl, token };
    connection.#as = connection.owners.includes(chosen.as) ? chosen.as : (connection.owners[0] ?? null);
    connection.#connect();
    return connection;
  }

  /** The development owners that can be chosen. */
  get owners() {
    return Object.keys(this.#config?.tokens ?? {});
  }

  /** What is chosen: {as} of the owners, or {apiUrl, token}. */
  get chosen() {
    return this.#own ?? { as: this.#as };
  }

  get apiUrl() {
    return this.#own ? this.#own.apiUrl : this.#config.api_url;
  }

  /** Whether there is enough to ask the API with. */
  get complete() {
    return this.client !== null;
  }

  /** Who is asking, as far as a token tells it. */
  get owner() {
    return this.#own ? String(claims(this.#own.token).sub ?? "someone") : this.#as;
  }

  /** A name for what belongs to this owner at this API. */
  get scope() {
    return `${this.apiUrl} ${this.owner}`;
  }

  /** Throws TypeError if the URL is none. */
  choose(chosen) {
    if (chosen.apiUrl !== undefined) new URL(chosen.apiUrl);
    this.#own = chosen.apiUrl === undefined ? null : { apiUrl: chosen.apiUrl, token: chosen.token };
    this.#as = chosen.as ?? this.#as;
    inThisTab.set(CHOSEN, this.chosen);
    everywhere.set(CHOSEN, { ...this.chosen, token: undefined });
    this.#connect();
  }

  #connect() {
    this.client = null;
    this.#become("unknown");
    if (!this.apiUrl || (this.#own && !this.#own.token)) return;
    this.client = createClient({
      baseUrl: this.apiUrl,
      token: () => this.#token(),
      // The client's own probe of /health tells nothing of the token.
      fetch: (url, init) => (url.endsWith("/health") ? fetch(url, init) : this.#fetch(url, init)),
    });
    this.#probe();
  }

  async #token() {
    if (this.#own) {
      const expires = claims(this.#own.token).exp * 1000;
      if (expires < Date.now()) throw new ApiError("The token is out of date.", { status: 401, code: "token_expired" });
      return this.#own.token;
    }
    this.#config = (this.#config.stale ? await readConfig() : null) ?? this.#config;
    return this.#config.tokens[this.#as];
  }

  async #fetch(...request) {
    try {
      const response = await fetch(...request);
      const refused = response.status === 401 || response.status === 403;
      this.#become(refused ? "refused" : "ok");
      return response;
    } catch (error) {
      if (!request[1]?.signal?.aborted) {
        if (this.health !== "hidden") this.#become("unreachable");
        this.#probe();
      }
      throw error;
    }
  }

  /**
   * Is it the API that is out of reach, or only its answers? /health needs no token, and tells the roles that there are:
   * the event "roles", whose detail they are.
   */
  async #probe() {
    const before = this.health;
    const url = `${this.apiUrl.replace(/\/+$/, "")}/health`;
    const told = fetch(url, { cache: "no-store" }).then((response) => (response.ok ? response.json() : null));
    const up = await told.catch(() => null);
    if (up?.roles) this.dispatchEvent(new CustomEvent("roles", { detail: up.roles }));
    if (this.health !== before) return; // a request has told more
    if (before === "unknown") this.#become(up ? "ok" : "unreachable");
    else this.#become(up ? "hidden" : "unreachable");
  }

  #become(health) {
    if (health === this.health) return;
    this.health = health;
    // Of a refused token of config.json: the stack was started anew, or its 12 hours are over.
    if (this.#config && (health === "refused" || health === "hidden")) this.#config.stale = true;
    this.dispatchEvent(new Event("health"));
  }
}

async function readConfig() {
  try {
    const response = await fetch("config.json", { cache: "no-store" });
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

/** What a token says. Read and not verified: it only tells apart what this browser remembers of each owner. */
function claims(token) {
  try {
    const base64 = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return {};
  }
}
