import { Events } from "./events.js";
import { Files } from "./files.js";
import { Http } from "./http.js";
import { Uploads } from "./uploads.js";

export { GridcastError } from "./errors.js";
export { Upload } from "./upload.js";
export { Events, Files, Uploads };

/** @typedef {import("./types.js").FileInfo} FileInfo */
/** @typedef {import("./types.js").FileName} FileName */
/** @typedef {import("./types.js").FilePage} FilePage */
/** @typedef {import("./types.js").FolderPage} FolderPage */
/** @typedef {import("./types.js").ListOptions} ListOptions */
/** @typedef {import("./types.js").Progress} Progress */
/** @typedef {import("./types.js").EventData} EventData */
/** @typedef {import("./types.js").ConnectionState} ConnectionState */
/** @typedef {import("./types.js").Gap} Gap */
/** @typedef {import("./types.js").Subscription} Subscription */
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

/** A client of one gateway: its files, uploads to it, events from it. */
export class Gridcast {
  /** @param {ClientOptions} [options] */
  constructor(options = {}) {
    const http = new Http(options);
    this.files = new Files(http);
    this.events = new Events(http, options);
    this.uploads = new Uploads(http, options, () => (this.events.state.state === "connected" ? this.events.sid : null));
  }
}
