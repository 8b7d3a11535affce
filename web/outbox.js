/**
 * Stores an owner's messages until the API has acknowledged them, so that no reload loses one. The text is in
 * localStorage, because a write there is complete before the page can close. The images are in IndexedDB, because they
 * are too large for localStorage.
 */

import { everywhere } from "./storage.js";

const DATABASE = "turnqueue";
const STORE = "images";

export class Outbox {
  #key;
  // the images by their messages' keys, in memory because the browser's database can be full
  #unkept = new Map();

  constructor(scope) {
    this.#key = `outbox ${scope}`;
  }

  /**
   * The stored messages in the order in which the user sent them: [{key, request, at, images}]. `images` is the number
   * of a message's images.
   */
  get all() {
    return everywhere.get(this.#key, []);
  }

  get(key) {
    return this.all.find((each) => each.key === key) ?? null;
  }

  /**
   * Store a message. Resolves to true if a reload does not lose the message. `images` has the form that keepImages()
   * takes, or is null.
   */
  async add(entry, images) {
    const kept = everywhere.set(this.#key, [...this.all.filter(({ key }) => key !== entry.key), entry]);
    return (!images || (await this.keepImages(entry.key, images))) && kept;
  }

  /**
   * Store the images of a message: {files, media}. `files` are the images as files. `media` has them in the API's form,
   * once they are prepared. Resolves like add().
   */
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

/**
 * The result of the request that `ask` makes. Undefined if the browser has no database, or if the database has no room.
 */
async function inDatabase(mode, ask) {
  try {
    const database = await opened();
    const transaction = database.transaction(STORE, mode);
    const request = ask(transaction.objectStore(STORE));
    transaction.commit(); // commit now, because the page may close at any moment
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
