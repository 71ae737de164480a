/** @import { FileInfo, FileName, FilePage, FolderPage, ListOptions } from "./types.js" */
/** @import { Http } from "./http.js" */

/** The stored files. */
export class Files {
  #http;

  /** @param {Http} http */
  constructor(http) {
    this.#http = http;
  }

  /**
   * One page, newest first.
   * @param {ListOptions} [options]
   * @returns {Promise<FilePage>}
   */
  list({ folder, search, after, limit, signal } = {}) {
    return this.#http.read(`/file${query({ folder, q: search, after, limit })}`, signal);
  }

  /**
   * All files, newest first; pages are read as they are needed.
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
   * @param {Pick<ListOptions, "after" | "limit" | "signal">} [options]
   * @returns {Promise<FolderPage>}
   */
  folders({ after, limit, signal } = {}) {
    return this.#http.read(`/file/folders${query({ after, limit })}`, signal);
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
    const headers = ifMatch === undefined ? {} : { "if-match": ifMatch };
    await this.#http.request("DELETE", `/file/stream${name(file)}`, { headers, signal });
  }

  /**
   * The address of a file's bytes: for players, images and downloads.
   * @param {FileName} file
   */
  address(file) {
    return `${this.#http.base}/file/stream${name(file)}`;
  }
}

/** @param {FileName} file */
const name = ({ folder = "", filename }) => query({ filename, folder });

/** @param {Record<string, string | number | null | undefined>} fields */
function query(fields) {
  const given = Object.entries(fields).flatMap(([key, value]) => (value == null ? [] : [[key, String(value)]]));
  return given.length ? `?${new URLSearchParams(given)}` : "";
}
