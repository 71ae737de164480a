/** @import { FileLink, LinkOptions } from "./types.js" */
/** @import { Http } from "./http.js" */

/** Signed links: addresses that let their holder read one file, or upload one, without a token. Made with the right `link`. */
export class Links {
  #http;

  /** @param {Http} http */
  constructor(http) {
    this.#http = http;
  }

  /**
   * Make up to 100 links, all or none. 409 where authentication is off: then no request needs one.
   * @param {LinkOptions[]} wanted
   * @param {{ signal?: AbortSignal }} [options]
   * @returns {Promise<FileLink[]>}
   */
  async make(wanted, { signal } = {}) {
    const links = wanted.map(({ kind, folder = "", filename, expiresIn, follow, maxSize, mediaTypes }) => ({
      kind, folder, filename, expires_in: expiresIn, follow, max_size: maxSize, media_types: mediaTypes,
    }));
    const { value, now } = await this.#send("POST", "/file/link", { links }, signal);
    return value.links.map((/** @type {FileLink} */ link) => ({ ...link, life: link.expires_at - now }));
  }

  /**
   * Let a link that reads live on, before or after its end: its address stays the same.
   * @param {FileLink} link
   * @param {{ expiresIn?: number, signal?: AbortSignal }} [options] expiresIn: seconds from now
   * @returns {Promise<FileLink>}
   */
  async prolong({ id, link }, { expiresIn, signal } = {}) {
    const path = `/file/link/${encodeURIComponent(id)}`;
    const { value, now } = await this.#send("PATCH", path, { link, expires_in: expiresIn }, signal);
    return { ...value, life: value.expires_at - now };
  }

  /**
   * Revoke a link: within two seconds it is refused, and what plays by it is cut.
   * @param {{ id: string }} link
   * @param {{ signal?: AbortSignal }} [options]
   */
  async revoke({ id }, { signal } = {}) {
    await this.#http.request("DELETE", `/file/link/${encodeURIComponent(id)}`, { signal });
  }

  /**
   * The address of what a link reads, or the endpoint of tus that it uploads to.
   * @param {FileLink} link
   */
  address({ url }) {
    return this.#http.base + url;
  }

  /**
   * The address of the poster of the file that a link reads.
   * @param {FileLink} link
   * @param {string | null} [poster] of the file's description: with it a browser keeps the picture
   */
  posterAddress({ folder, filename, link }, poster) {
    const query = new URLSearchParams({ filename, folder, ...(poster ? { etag: poster } : {}), link });
    return `${this.#http.base}/file/poster?${query}`;
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {unknown} body
   * @param {AbortSignal} [signal]
   * @returns {Promise<{ value: any, now: number }>} now: of the server in seconds, where its `Date` can be read
   */
  async #send(method, path, body, signal) {
    const headers = { "content-type": "application/json" };
    const { text, header } = await this.#http.request(method, path, { headers, body: new Blob([JSON.stringify(body)]), signal });
    return { value: JSON.parse(text), now: (Date.parse(header("date") ?? "") || Date.now()) / 1000 };
  }
}
