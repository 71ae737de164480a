/** @import { FileInfo, FileName, FilePage, FolderPage, ListOptions, RemoveResult } from "./types.js" */
/** @import { Http } from "./http.js" */

/** The stored files. */
export class Files {
  #http;

  /** @param {Http} http */
  constructor(http) {
    this.#http = http;
  }

  /**
   * One page, newest first or as `sort` says.
   * @param {ListOptions} [options]
   * @returns {Promise<FilePage>}
   */
  list({ folder, search, after, limit, sort, signal } = {}) {
    return this.#http.read(`/file${query({ folder, q: search, after, limit, sort })}`, signal);
  }

  /**
   * All files, newest first or as `sort` says; pages are read as they are needed.
   * @param {Omit<ListOptions, "after">} [options]
   * @returns {AsyncGenerator<FileInfo, void, undefined>}
   */
  async *all(options) {
    /** @type {string | null} */
    let after = null;
    do {
      const page = await this.list({ ...options, after });
      yield* page.files;
      after = page.next;
    } while (after !== null);
  }

  /**
   * One page of the folders that hold files, by name.
   * @param {Pick<ListOptions, "after" | "limit" | "signal"> & { totals?: boolean }} [options] totals: files and bytes of each
   * @returns {Promise<FolderPage>}
   */
  folders({ after, limit, totals, signal } = {}) {
    return this.#http.read(`/file/folders${query({ after, limit, totals: totals || null })}`, signal);
  }

  /**
   * What is known of one file.
   * @param {FileName} file
   * @param {{ signal?: AbortSignal }} [options]
   * @returns {Promise<FileInfo>}
   */
  info(file, { signal } = {}) {
    return this.#http.read(`/file/info${name(file)}`, signal);
  }

  /**
   * Delete a file.
   * @param {FileName} file
   * @param {{ ifMatch?: string, signal?: AbortSignal }} [options] ifMatch: only the version with this ETag, else 412
   */
  async remove(file, { ifMatch, signal } = {}) {
    await this.#http.request("DELETE", `/file/stream${name(file)}`, { headers: matching(ifMatch), signal });
  }

  /**
   * Delete up to 100 files, each judged by itself: `status` of its result is 204, or that of its refusal.
   * @param {(FileName & { etag?: string })[]} files etag: only that version
   * @param {{ signal?: AbortSignal }} [options]
   * @returns {Promise<RemoveResult[]>}
   */
  async removeAll(files, { signal } = {}) {
    const wanted = files.map(({ folder = "", filename, etag }) => ({ folder, filename, etag }));
    return (await this.#send("POST", "/file/delete", { files: wanted }, {}, signal)).results;
  }

  /**
   * Rename a file, or move it: what `to` does not name stays, and so do its id and its bytes. 409 where the new name is taken.
   * @param {FileName} file
   * @param {Partial<FileName>} to
   * @param {{ ifMatch?: string, signal?: AbortSignal }} [options] ifMatch: only the version with this ETag, else 412
   * @returns {Promise<FileInfo>}
   */
  move(file, { folder, filename }, { ifMatch, signal } = {}) {
    return this.#send("PATCH", `/file${name(file)}`, { folder, filename }, matching(ifMatch), signal);
  }

  /**
   * Undo the last deletion of a name. 410 where it was too long ago, 409 where the name is taken.
   * @param {FileName} file
   * @param {{ signal?: AbortSignal }} [options]
   * @returns {Promise<FileInfo>}
   */
  async restore(file, { signal } = {}) {
    return JSON.parse((await this.#http.request("POST", `/file/restore${name(file)}`, { signal })).text);
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {unknown} value
   * @param {Record<string, string>} headers
   * @param {AbortSignal} [signal]
   * @returns {Promise<any>}
   */
  async #send(method, path, value, headers, signal) {
    const body = new Blob([JSON.stringify(value)]);
    headers = { ...headers, "content-type": "application/json" };
    return JSON.parse((await this.#http.request(method, path, { headers, body, signal })).text);
  }

  /**
   * Set the poster of a file, or remove it (null): a JPEG, PNG, GIF, WebP or AVIF of at most 1 MiB.
   * @param {FileName} file
   * @param {Blob | null} picture
   * @param {{ ifMatch?: string, signal?: AbortSignal }} [options] ifMatch: only for the version with this ETag, else 412
   */
  async setPoster(file, picture, { ifMatch, signal } = {}) {
    const request = { headers: matching(ifMatch), body: picture ?? undefined, signal };
    await this.#http.request(picture ? "PUT" : "DELETE", `/file/poster${name(file)}`, request);
  }

  /**
   * The address of a file's poster. With `poster` of the description a browser keeps the picture.
   * @param {FileName & { poster?: string | null }} file
   */
  posterAddress({ folder = "", filename, poster }) {
    return `${this.#http.base}/file/poster${query({ filename, folder, etag: poster })}`;
  }

  /**
   * The address of a file's bytes: for players, images and downloads.
   * @param {FileName} file
   */
  address(file) {
    return `${this.#http.base}/file/stream${name(file)}`;
  }
}

/** @param {string} [etag] @returns {Record<string, string>} */
const matching = (etag) => (etag === undefined ? {} : { "if-match": etag });

/** @param {FileName} file */
const name = ({ folder = "", filename }) => query({ filename, folder });

/** @param {Record<string, string | number | boolean | null | undefined>} fields */
function query(fields) {
  const given = Object.entries(fields).flatMap(([key, value]) => (value == null ? [] : [[key, String(value)]]));
  return given.length ? `?${new URLSearchParams(given)}` : "";
}
