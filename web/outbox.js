/**
 * Stores an owner's messages until the API has acknowledged them, so that no reload loses one. The text is in
 * localStorage, because that write ends before the page can close. The images are in IndexedDB, because they are large.
 */

import { everywhere } from "./storage.js";

const DATABASE = "turnqueue";
const STORE = "images";

export class Outbox {
  #key;
  #unkept = new Map(); // this page's images by key, because IndexedDB may have no room for them

  constructor(scope) {
    this.#key = `outbox ${scope}`;
  }

  /** In the order in which they were sent: [{key, request, at, images}], with the number of their images. */
  get all() {
    return everywhere.get(this.#key, []);
  }

  get(key) {
    return this.all.find((each) => each.key === key) ?? null;
  }

  /** Resolves to whether the message survives a reload. `images` as for keepImages(), null for none. */
  async add(entry, images) {
    const kept = everywhere.set(this.#key, [...this.all.filter(({ key }) => key !== entry.key), entry]);
    return (!images || (await this.keepImages(entry.key, images))) && kept;
  }

  /** Store {files, media}: images as files, and in the API's form when they are prepared. Resolves like add(). */
  async keepImages(key, images) {
    this.#unkept.set(key, images);
    return (await inDatabase("readwrite", (store) => store.put(images, key))) !== undefined;
  }

  /** {files, media} of a message; null if this browser could not store them. */
  async images(key) {
    return this.#unkept.get(key) ?? (await inDatabase("readonly", (store) => store.get(key))) ?? null;
  }

  remove(key) {
    const { images } = this.get(key) ?? {};
    everywhere.set(this.#key, this.all.filter((each) => each.key !== key));
    this.#unkept.delete(key);
    if (images) inDatabase("readwrite", (store) => store.delete(key));
  }
}

/** The result of the request that `ask` makes; undefined if the browser has no database or no room. */
async function inDatabase(mode, ask) {
  try {
    const database = await opened();
    const transaction = database.transaction(STORE, mode);
    const request = ask(transaction.objectStore(STORE));
    transaction.commit(); // does not wait for this page, which may be about to close
    await new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = transaction.onerror = () => reject(transaction.error);
    });
    database.close();
    return request.result;
  } catch {
    return undefined;
  }
}

function opened() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
