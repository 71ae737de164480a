import { Events } from "./events.js";
import { Files } from "./files.js";
import { Http } from "./http.js";
import { Sockets } from "./sockets.js";
import { Uploads } from "./uploads.js";

export { GridcastError } from "./errors.js";
export { Upload } from "./upload.js";
export { Events, Files, Sockets, Uploads };

/** @typedef {import("./types.js").FileInfo} FileInfo */
/** @typedef {import("./types.js").FileName} FileName */
/** @typedef {import("./types.js").FilePage} FilePage */
/** @typedef {import("./types.js").FolderPage} FolderPage */
/** @typedef {import("./types.js").ListOptions} ListOptions */
/** @typedef {import("./types.js").Progress} Progress */
/** @typedef {import("./types.js").Playable} Playable */
/** @typedef {import("./types.js").EventData} EventData */
/** @typedef {import("./types.js").ConnectionState} ConnectionState */
/** @typedef {import("./types.js").Gap} Gap */
/** @typedef {import("./types.js").Subscription} Subscription */
/** @typedef {import("./types.js").SocketInfo} SocketInfo */
/** @typedef {import("./types.js").SocketPage} SocketPage */
/** @typedef {import("./types.js").PushMessage} PushMessage */
/** @typedef {import("./types.js").Receipt} Receipt */
/** @typedef {import("./types.js").ReplicaStatus} ReplicaStatus */
/** @typedef {import("./types.js").Status} Status */
/** @typedef {import("./types.js").TokenSource} TokenSource */
/** @typedef {import("./types.js").UploadState} UploadState */
/** @typedef {import("./types.js").UploadOptions} UploadOptions */
/** @typedef {import("./types.js").UploadSnapshot} UploadSnapshot */
/** @typedef {import("./types.js").UploadResult} UploadResult */
/** @typedef {import("./types.js").UnfinishedUpload} UnfinishedUpload */
/** @typedef {import("./types.js").ResumeStorage} ResumeStorage */
/** @typedef {import("./types.js").ClientOptions} ClientOptions */
/**
 * @template [Data=unknown]
 * @typedef {import("./types.js").CloudEvent<Data>} CloudEvent
 */
/**
 * @template {string} T
 * @typedef {import("./types.js").DataOf<T>} DataOf
 */

/** A client of one gateway: its files, uploads to it, events from it, the sockets of others. */
export class Gridcast {
  #http;

  /** @param {ClientOptions} [options] */
  constructor(options = {}) {
    const http = (this.#http = new Http(options));
    this.files = new Files(http);
    this.events = new Events(http, options);
    this.sockets = new Sockets(http);
    this.uploads = new Uploads(http, options, () => (this.events.state.state === "connected" ? this.events.sid : null));
  }

  /**
   * Readiness, versions and live figures of every process.
   * @param {AbortSignal} [signal]
   * @returns {Promise<import("./types.js").Status>}
   */
  status(signal) {
    return this.#http.read("/status", signal);
  }
}
