/** @import { UploadOptions, UploadResult, UploadSnapshot, UploadState } from "./types.js" */
/** @import { Http } from "./http.js" */
/** @import { ResumeStore } from "./resume_store.js" */
import { backoff, wait } from "./backoff.js";
import { GridcastError } from "./errors.js";
import { Listeners } from "./listeners.js";
import { reportsProgress } from "./transport.js";

const TUS = { "tus-resumable": "1.0.0" };
const BYTES = { "content-type": "application/offset+octet-stream" };
const DAY = 86_400_000;
const SMALL = 256 * 1024; // bytes: up to this, a file is sent with the request that creates its upload
const FETCH_CHUNK = 4 * 1024 * 1024; // bytes: without XMLHttpRequest there is no progress within a request
const RATE_INTERVAL = 500; // milliseconds
const LOCK_WAIT = 2000; // milliseconds: a page that is reloaded still has its lock for a moment

/** A change that ends every attempt: pausing and cancelling. */
const stop = new DOMException("the upload was stopped", "AbortError");

/**
 * One resumable upload (tus 1.0.0).
 *
 * Its bytes go up in as few requests as `chunkSize` permits. After a failure the server says how many of them it has, and the rest
 * follows. The file is stored when the server has confirmed the last byte.
 */
export class Upload {
  #http;
  #store;
  #file;
  #options;
  #queue;
  #id = "";
  #key = "";
  #asked = false;
  #uncertain = false;
  #stopped = new AbortController();
  /** @type {Promise<void> | null} */
  #running = null;
  /** @type {Listeners<UploadSnapshot>} */
  #listeners = new Listeners();
  /** @type {UploadState} */
  #state = "waiting";
  /** @type {Error | null} */
  #error = null;
  #sent = 0;
  #stored = 0;
  #rate = 0;
  #measured = { at: 0, sent: 0 };
  #outcome = createOutcome();

  /**
   * @internal
   * @param {Http} http
   * @param {ResumeStore} store
   * @param {Blob} file
   * @param {UploadOptions & { folder: string, filename: string, lastModified: number, metadata: Record<string, string> }} options
   * @param {{ chunkSize: number, giveUpAfter: number, sid: () => string | null, changed: (upload: Upload) => void }} queue
   */
  constructor(http, store, file, options, queue) {
    this.#http = http;
    this.#store = store;
    this.#file = file;
    this.#options = options;
    this.#queue = queue;
    this.folder = options.folder;
    this.filename = options.filename;
  }

  /** Resolves when the file is stored; rejects when the upload failed or was cancelled. After `resume` of a failed one there is another. */
  get done() {
    return this.#outcome.promise;
  }

  get state() {
    return this.#state;
  }

  get error() {
    return this.#error;
  }

  /**
   * Everything that there is to show.
   * @returns {UploadSnapshot}
   */
  get snapshot() {
    const { folder, filename } = this;
    const { size } = this.#file;
    const secondsLeft = this.#rate > 0 ? (size - this.#sent) / this.#rate : null;
    const shown = { state: this.#state, size, sent: this.#sent, stored: this.#stored, rate: this.#rate };
    return { folder, filename, ...shown, secondsLeft, error: this.#error };
  }

  /**
   * Call `listener` with every change.
   * @param {(snapshot: UploadSnapshot) => void} listener
   * @returns {() => void} removes it
   */
  onChange(listener) {
    return this.#listeners.add(listener);
  }

  /** Stop sending. What the server has stays there. */
  pause() {
    if (!["waiting", "sending", "retrying"].includes(this.#state)) return;
    this.#stopped.abort(stop);
    this.#set("paused");
  }

  /** Continue after `pause`, or after a failure. */
  resume() {
    if (this.#state !== "paused" && this.#state !== "failed") return;
    if (this.#state === "failed") this.#outcome = createOutcome();
    this.#sent = this.#stored;
    this.#set("waiting", null);
  }

  /** Give the upload up, here and on the server. */
  async cancel() {
    if (this.#state === "stored" || this.#state === "cancelled") return;
    this.#stopped.abort(stop);
    this.#set("cancelled");
    this.#outcome.reject(stop);
    await this.#running;
    await this.#prepare().catch(() => {});
    this.#store.remove(this.#key);
    if (this.#id) await terminate(this.#http, this.#path);
  }

  /**
   * Send until the file is stored, the upload failed, or it was stopped. The queue calls it.
   * @internal
   */
  async run() {
    await this.#running; // an attempt that was paused ends first
    if (this.#state !== "waiting") return;
    this.#stopped = new AbortController();
    this.#set("sending");
    const { signal } = this.#stopped;
    this.#running = this.#exclusively(signal).catch((error) => {
      if (signal.aborted) return;
      this.#set("failed", error);
      this.#outcome.reject(error);
    });
    await this.#running;
    this.#running = null;
  }

  /**
   * Send while no other window sends the same file: the server lets a newer request replace an older one, so that two would never end.
   * @param {AbortSignal} signal
   */
  async #exclusively(signal) {
    await this.#persist(signal, () => this.#prepare());
    const transfer = () => this.#persist(signal, () => this.#transfer(signal));
    const locks = globalThis.navigator?.locks;
    if (!locks) return transfer();
    let held = false;
    await locks
      .request(this.#key, { signal: AbortSignal.timeout(LOCK_WAIT) }, () => {
        held = true;
        return transfer();
      })
      .catch((error) => {
        throw held ? error : new GridcastError(0, "another window is uploading this file");
      });
  }

  /** Find out where the upload is on the server, if it was begun before. */
  async #prepare() {
    const { folder, filename, lastModified } = this.#options;
    const file = { folder, filename, lastModified, size: this.#file.size };
    this.#key = this.#store.key(this.#http.base, await this.#http.account(), file);
    this.#id ||= this.#store.get(this.#key)?.id ?? "";
    this.#asked = this.#id === "";
  }

  /**
   * Try until `attempt` succeeds, and give up when nothing was stored for `giveUpAfter`.
   * @param {AbortSignal} signal
   * @param {() => Promise<void>} attempt
   */
  async #persist(signal, attempt) {
    let [tries, restarts, since, stored] = [0, 0, Date.now(), -1];
    for (;;) {
      try {
        return await attempt();
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof GridcastError)) throw error;
        if (this.#stored > stored) [tries, since, stored] = [0, Date.now(), this.#stored];
        const complete = this.#sent === this.#file.size;
        if ((error.status === 404 || error.status === 410) && this.#id && !complete && restarts++ < 2) {
          // It has expired, or another upload took its name: creating it anew tells which.
          this.#forget();
        } else if (!(error.transient || (error.status === 409 && this.#id)) || Date.now() - since > this.#queue.giveUpAfter) {
          throw error;
        }
        await this.#checkReadable();
        this.#asked = this.#id === "";
        this.#set("retrying", error);
        await wait(backoff(tries++, error.retryAfter), signal);
        this.#set("sending");
      }
    }
  }

  /**
   * Send what the server does not have.
   * @param {AbortSignal} signal
   */
  async #transfer(signal) {
    if (!this.#asked) {
      const { header } = await this.#request("HEAD", signal);
      // Should the server have another upload under this id, the file begins anew.
      if (Number(header("upload-length")) !== this.#file.size) throw new GridcastError(404, "the upload is another one");
      this.#asked = true;
      if (this.#confirm(header)) return;
    }
    if (!this.#id && (await this.#create(signal))) return;
    for (;;) {
      const chunk = this.#file.slice(this.#stored, Math.min(this.#stored + this.#queue.chunkSize, this.#file.size));
      const headers = { ...BYTES, "upload-offset": String(this.#stored) };
      const { header } = await this.#request("PATCH", signal, chunk, headers);
      if (this.#confirm(header)) return;
    }
  }

  /**
   * Create the upload on the server; a small file goes with the request.
   * @param {AbortSignal} signal
   */
  async #create(signal) {
    const { filename, folder, contentType = this.#file.type, metadata, link } = this.#options;
    const sid = this.#queue.sid() ?? "";
    const name = link ? {} : { filename, folder }; // a link says it
    const pairs = Object.entries({ ...metadata, ...name, filetype: contentType, sid }).filter(([, value]) => value);
    const { size } = this.#file;
    // Where digests cannot be had, one could not tell whether a lost response was a success.
    const whole = size > 0 && size <= Math.min(SMALL, this.#queue.chunkSize) && globalThis.crypto?.subtle !== undefined;
    const headers = {
      ...(whole ? BYTES : {}),
      "upload-length": String(size),
      "upload-metadata": pairs.map(([key, value]) => `${key} ${base64(value)}`).join(","),
    };
    try {
      const { header } = await this.#request("POST", signal, whole ? this.#file : undefined, headers);
      const id = header("location")?.match(/([^/?#]+)(\?.*)?$/)?.[1];
      if (!id) throw new GridcastError(0, "the server did not say where the upload is");
      this.#id = id;
      return this.#confirm(header);
    } catch (error) {
      if (!(error instanceof GridcastError)) throw error;
      // An earlier attempt may have stored the file, though its response was lost.
      const conflict = error.status === 409 && this.#uncertain;
      this.#uncertain ||= error.transient;
      if (!conflict || this.#options.link || !(await this.#isStored(signal))) throw error;
      this.#finish(null);
      return true;
    }
  }

  /**
   * Whether the file under this name has these bytes.
   * @param {AbortSignal} signal
   */
  async #isStored(signal) {
    const { size } = this.#file;
    if (size > SMALL) return false; // such a file is never sent with the request that creates it
    const { folder, filename } = this.#options;
    const info = await this.#http.read(`/file/info?${new URLSearchParams({ filename, folder })}`, signal);
    if (info.length !== size || size === 0) return info.length === size;
    const digest = await crypto.subtle.digest("SHA-256", await this.#file.arrayBuffer());
    return info.sha256 === [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  get #path() {
    const { link } = this.#options;
    return `/file/tus${this.#id && `/${this.#id}`}${link ? `?${new URLSearchParams({ link })}` : ""}`;
  }

  /**
   * @param {string} method
   * @param {AbortSignal} signal
   * @param {Blob} [body]
   * @param {Record<string, string>} [headers]
   */
  #request(method, signal, body, headers = {}) {
    const before = this.#stored;
    const onProgress = (/** @type {number} */ sent) => this.#measure(Math.min(before + sent, this.#file.size));
    return this.#http.request(method, this.#path, { headers: { ...TUS, ...headers }, body, signal, onProgress });
  }

  /**
   * Take what the server has as what is stored; returns whether that is everything.
   * @param {(name: string) => string | null} header
   */
  #confirm(header) {
    const offset = Number(header("upload-offset") ?? NaN);
    const { size } = this.#file;
    if (!(offset >= 0 && offset <= size)) throw new GridcastError(0, "the server did not say what it has");
    this.#stored = this.#sent = offset;
    this.#measured = { at: Date.now(), sent: offset };
    if (offset === size) {
      this.#finish(header("etag"));
      return true;
    }
    const { folder, filename, lastModified } = this.#options;
    const expires = Date.parse(header("upload-expires") ?? "") || Date.now() + DAY;
    this.#store.set(this.#key, { id: this.#id, folder, filename, size, lastModified, expires });
    this.#set("sending", null);
    return false;
  }

  /** @param {string | null} etag */
  #finish(etag) {
    const { folder, filename } = this;
    const { size } = this.#file;
    this.#store.remove(this.#key);
    this.#sent = this.#stored = size;
    this.#set("stored", null);
    this.#outcome.resolve({ folder, filename, size, etag });
  }

  /** @param {number} sent */
  #measure(sent) {
    const now = Date.now();
    const { at, sent: before } = this.#measured;
    this.#sent = sent;
    if (now - at >= RATE_INTERVAL) {
      const latest = ((sent - before) / (now - at)) * 1000;
      this.#rate = this.#rate ? (this.#rate + latest) / 2 : latest;
      this.#measured = { at: now, sent };
    }
    this.#listeners.tell(this.snapshot);
  }

  /**
   * @param {UploadState} state
   * @param {Error | null} [error]
   */
  #set(state, error = this.#error) {
    if (this.#state === "cancelled" || (this.#state === state && this.#error === error)) return;
    this.#state = state;
    this.#error = error;
    if (state !== "sending") this.#rate = 0;
    this.#listeners.tell(this.snapshot);
    this.#queue.changed(this);
  }

  /** Throws where the file was changed or removed since it was chosen: the browser then only says that the connection was lost. */
  async #checkReadable() {
    try {
      await this.#file.slice(0, 1).arrayBuffer();
    } catch (cause) {
      this.#forget();
      throw new GridcastError(0, "the file was changed or removed since it was chosen: choose it again", { cause });
    }
  }

  #forget() {
    this.#store.remove(this.#key);
    this.#id = "";
    this.#sent = this.#stored = 0;
  }
}

function createOutcome() {
  /** @type {(result: UploadResult) => void} */
  let resolve = () => {};
  /** @type {(error: Error) => void} */
  let reject = () => {};
  /** @type {Promise<UploadResult>} */
  const promise = new Promise((...settle) => {
    [resolve, reject] = settle;
  });
  promise.catch(() => {}); // not everyone waits for it
  return { promise, resolve, reject };
}

/**
 * Delete an unfinished upload on the server. What cannot be deleted now expires by itself.
 * @param {Http} http
 * @param {string} path
 */
export async function terminate(http, path) {
  await http.request("DELETE", path, { headers: TUS }).catch(() => {});
}

/** The size of a request where none was asked for. */
export const defaultChunkSize = () => (reportsProgress() ? Infinity : FETCH_CHUNK);

/** @param {string} text */
function base64(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}
