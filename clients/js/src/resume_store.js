/** @import { ResumeStorage, UnfinishedUpload } from "./types.js" */

/** @typedef {UnfinishedUpload & { id: string }} Stored id: the server's */

const PREFIX = "gridcast:upload:";

/** Remembers where unfinished uploads are on the server. A storage that is full or forbidden remembers nothing. */
export class ResumeStore {
  #storage;

  /** @param {ResumeStorage | null} [storage] */
  constructor(storage) {
    this.#storage = storage === undefined ? browserStorage() : storage;
  }

  /**
   * The key of a file: the same for the same file, target, server and account.
   * @param {string} base
   * @param {string} account
   * @param {{ folder: string, filename: string, size: number, lastModified: number }} file
   */
  key(base, account, { folder, filename, size, lastModified }) {
    return PREFIX + JSON.stringify([base, account, folder, filename, size, lastModified]);
  }

  /**
   * @param {string} key
   * @returns {Stored | null}
   */
  get(key) {
    try {
      const stored = JSON.parse(this.#storage?.getItem(key) ?? "null");
      if (stored?.expires > Date.now()) return stored;
      this.remove(key);
    } catch {
      // forbidden, or not of this version
    }
    return null;
  }

  /**
   * @param {string} key
   * @param {Stored} stored
   */
  set(key, stored) {
    try {
      this.#storage?.setItem(key, JSON.stringify(stored));
    } catch {
      // full or forbidden: the upload does not continue after a reload
    }
  }

  /** @param {string} key */
  remove(key) {
    try {
      this.#storage?.removeItem(key);
    } catch {
      // forbidden
    }
  }

  /**
   * What is stored for a server and an account, by key.
   * @param {string} base
   * @param {string} account
   * @returns {Map<string, Stored>}
   */
  all(base, account) {
    const begin = `${PREFIX}${JSON.stringify([base, account]).slice(0, -1)},`;
    /** @type {string[]} */
    const keys = [];
    try {
      for (let index = 0; index < (this.#storage?.length ?? 0); index++) keys.push(this.#storage?.key(index) ?? "");
    } catch {
      // forbidden
    }
    const found = keys.filter((key) => key.startsWith(begin)).map((key) => [key, this.get(key)]);
    return new Map(/** @type {[string, Stored][]} */ (found.filter(([, stored]) => stored)));
  }
}

function browserStorage() {
  try {
    return globalThis.document ? localStorage : null;
  } catch {
    return null; // forbidden by the browser's settings
  }
}
