/**
 * Knows the address of the API and the user. `make run` serves a config.json with the API and a token for each
 * development owner. On other servers, the user enters the address and a token in the settings. The browser keeps this
 * token for this tab only.
 */

import { ApiError, createClient, NetworkError } from "../clients/javascript/turnqueue.js";
import { everywhere, inThisTab } from "./storage.js";

const CHOSEN = "connection";
const ASK_AGAIN_MS = 1000; // ms between two requests while the stack starts, which takes up to half a minute

export class Connection extends EventTarget {
  /** "unknown", "ok", "unreachable", or "refused" (401 or 403). The event "health" reports each change. */
  health = "unknown";
  #config = null;
  #own = null;
  #as = null;
  #rolesKnown = false;

  /** Find the API's address and the token. */
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

  /** The owners for development, whose tokens `make run` provides. */
  get owners() {
    return Object.keys(this.#config?.tokens ?? {});
  }

  /** The chosen connection: {as} for a development owner, or {apiUrl, token}. */
  get chosen() {
    return this.#own ?? { as: this.#as };
  }

  get apiUrl() {
    return this.#own ? this.#own.apiUrl : this.#config.api_url;
  }

  /** Whether the API can be called with these settings. */
  get complete() {
    return this.client !== null;
  }

  /** The owner: a development owner, or the `sub` of the token ("someone" if the token has none). */
  get owner() {
    return this.#own ? String(claims(this.#own.token).sub ?? "someone") : this.#as;
  }

  /** The key under which this browser stores the owner's data. Each pair of API and owner has a separate key. */
  get scope() {
    return `${this.apiUrl} ${this.owner}`;
  }

  /** Use this connection and store it. Throws an Error for the user if the page cannot call an API at this URL. */
  choose(chosen) {
    if (chosen.apiUrl !== undefined && !callable(chosen.apiUrl)) {
      throw new Error("The API URL must begin with https://, or with http:// for an API on this computer.");
    }
    this.#own = chosen.apiUrl === undefined ? null : { apiUrl: chosen.apiUrl, token: chosen.token };
    this.#as = chosen.as ?? this.#as;
    inThisTab.set(CHOSEN, this.chosen);
    everywhere.set(CHOSEN, { ...this.chosen, token: undefined });
    this.#connect();
  }

  #connect() {
    this.client = null;
    this.#rolesKnown = false;
    this.#become("unknown");
    if (!callable(this.apiUrl) || (this.#own && !this.#own.token)) return;
    const client = createClient({
      baseUrl: this.apiUrl,
      token: () => (this.#own ? this.#own.token : this.#config.tokens[this.#as]),
      // Perhaps the stack was restarted, or the token has expired after 12 hours. So read config.json again.
      refreshToken: async () => (this.#config &&= (await readConfig()) ?? this.#config),
      fetch: (url, init) => this.#fetch(url, init),
    });
    // skip `stream`, because it returns no promise
    const calls = Object.entries(client).filter(([name]) => name !== "stream");
    this.client = Object.fromEntries(calls.map(([name, call]) => [name, this.#watched(call)]));
    this.#readRoles();
  }

  /** Wraps a method of the client: if `call` fails, `health` shows this. */
  #watched(call) {
    return async (...options) => {
      try {
        return await call(...options);
      } catch (error) {
        if (error instanceof NetworkError) this.#become("unreachable");
        if (error instanceof ApiError && (error.status === 401 || error.status === 403)) this.#become("refused");
        throw error;
      }
    };
  }

  /**
   * The `fetch` of the client, which keeps `health` up to date. If a request gets no response, the client asks for
   * /health, because the browser may have hidden a refusal. Only a failure of /health shows that the API is down.
   */
  async #fetch(url, init) {
    const probe = url.endsWith("/health");
    try {
      const response = await fetch(url, init);
      const refused = response.status === 401 || response.status === 403;
      if (!probe && !refused) this.#become("ok");
      return response;
    } catch (error) {
      if (probe && !init.signal?.aborted) this.#become("unreachable");
      throw error;
    }
  }

  /** Read the roles from /health, which needs no token. The event "roles" has them as its detail. */
  async #readRoles() {
    const { client, apiUrl } = this;
    const url = `${apiUrl.replace(/\/+$/, "")}/health`;
    const told = fetch(url, { cache: "no-store" }).then((response) => (response.ok ? response.json() : null));
    const health = await told.catch(() => null);
    if (client !== this.client) return; // the user has chosen another connection meanwhile
    if (health?.roles) {
      this.#rolesKnown = true;
      this.dispatchEvent(new CustomEvent("roles", { detail: health.roles }));
    }
    if (this.health === "unknown") this.#become(health ? "ok" : "unreachable");
  }

  #become(health) {
    if (health === this.health) return;
    this.health = health;
    if (health === "ok" && !this.#rolesKnown) this.#readRoles();
    this.dispatchEvent(new Event("health"));
  }
}

/** Whether the policy of this page (index.html) lets it call the URL. */
function callable(url) {
  try {
    const { protocol, hostname, origin } = new URL(url);
    const local = protocol === "http:" && ["127.0.0.1", "localhost"].includes(hostname);
    return protocol === "https:" || local || origin === location.origin;
  } catch {
    return false;
  }
}

/**
 * The config.json of the server that sent this page. Null if the server has no such file. While its stack starts, the
 * server answers 503.
 */
async function readConfig() {
  try {
    for (;;) {
      const response = await fetch("config.json", { cache: "no-store" });
      if (response.status !== 503) return response.ok ? await response.json() : null;
      await new Promise((resolve) => setTimeout(resolve, ASK_AGAIN_MS));
    }
  } catch {
    return null;
  }
}

/** The claims of a token. They are not verified, because they only keep the stored data of different owners apart. */
function claims(token) {
  try {
    const base64 = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return {};
  }
}
