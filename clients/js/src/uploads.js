/** @import { ClientOptions, UnfinishedUpload, UploadOptions } from "./types.js" */
/** @import { Http } from "./http.js" */
import { Listeners } from "./listeners.js";
import { ResumeStore } from "./resume_store.js";
import { defaultChunkSize, terminate, Upload } from "./upload.js";

const CONCURRENCY = 3;
const GIVE_UP_AFTER = 600_000; // milliseconds

/** The uploads of this client: several at a time, the others wait. */
export class Uploads {
  #http;
  #store;
  #concurrency;
  #hooks;
  /** Uploads that are not stored and not cancelled, by name. @type {Map<string, Upload>} */
  #items = new Map();
  /** @type {Set<Upload>} */
  #running = new Set();
  /** @type {Listeners<Upload>} */
  #listeners = new Listeners();

  /**
   * @param {Http} http
   * @param {Pick<ClientOptions, "concurrency" | "chunkSize" | "giveUpAfter" | "storage">} options
   * @param {() => string | null} sid the socket that the server reports progress to
   */
  constructor(http, { concurrency = CONCURRENCY, chunkSize = defaultChunkSize(), giveUpAfter = GIVE_UP_AFTER, storage }, sid) {
    this.#http = http;
    this.#store = new ResumeStore(storage);
    this.#concurrency = concurrency;
    this.#hooks = { chunkSize, giveUpAfter, sid, changed: (/** @type {Upload} */ upload) => this.#changed(upload) };
  }

  /** The uploads that are not over, failed ones among them, in the order in which they were added. */
  get items() {
    return [...this.#items.values()];
  }

  /**
   * Upload a file; it begins at once, or when another one has ended. A file that is being uploaded already is not sent twice: its
   * upload is returned. One that was begun before the page was loaded continues.
   * @param {Blob} file
   * @param {UploadOptions} [options]
   */
  add(file, options = {}) {
    const known = /** @type {Partial<File>} */ (file);
    const { filename = known.name, folder = "", metadata = {}, lastModified = known.lastModified ?? 0 } = options;
    if (!filename) throw new TypeError("`filename` is missing: a Blob has none");
    const key = JSON.stringify([folder, filename, file.size, lastModified]);
    const present = this.#items.get(key);
    if (present) {
      present.resume();
      return present;
    }
    const complete = { ...options, filename, folder, metadata, lastModified };
    const upload = new Upload(this.#http, this.#store, file, complete, this.#hooks);
    this.#items.set(key, upload);
    this.#changed(upload);
    return upload;
  }

  /**
   * Call `listener` with each upload that was added or changed its state. For progress: `Upload.onChange`.
   * @param {(upload: Upload) => void} listener
   * @returns {() => void} removes it
   */
  onChange(listener) {
    return this.#listeners.add(listener);
  }

  /**
   * Uploads of this account to this server that were begun before, and continue when their file is added again.
   * @returns {Promise<UnfinishedUpload[]>}
   */
  async unfinished() {
    const stored = this.#store.all(this.#http.base, await this.#http.account());
    return [...stored.values()].map(({ id: _, ...upload }) => upload);
  }

  /**
   * Give up an upload that was begun before, here and on the server.
   * @param {UnfinishedUpload} upload
   */
  async discard(upload) {
    const key = this.#store.key(this.#http.base, await this.#http.account(), upload);
    const id = this.#store.get(key)?.id;
    this.#store.remove(key);
    if (id) await terminate(this.#http, `/file/tus/${id}`);
  }

  /** @param {Upload} upload */
  #changed(upload) {
    if (upload.state === "stored" || upload.state === "cancelled") {
      for (const [key, item] of this.#items) if (item === upload) this.#items.delete(key);
    }
    this.#listeners.tell(upload);
    queueMicrotask(() => this.#start());
  }

  #start() {
    for (const upload of this.#items.values()) {
      if (this.#running.size >= this.#concurrency) return;
      if (upload.state !== "waiting" || this.#running.has(upload)) continue;
      this.#running.add(upload);
      void upload.run().finally(() => {
        this.#running.delete(upload);
        this.#start();
      });
    }
  }
}
