/** @import { ClientOptions } from "./types.js" */
import { backoff, parseRetryAfter, wait } from "./backoff.js";
import { GridcastError } from "./errors.js";
import { send } from "./transport.js";

const TRIES = 4;

/** What a client sends its requests by, for entries that are not loaded with it. @type {WeakMap<object, Http>} */
export const httpOf = new WeakMap();

/** Requests to one gateway: its address, the token, errors. */
export class Http {
  #token;
  #account;

  /** @param {ClientOptions} options */
  constructor({ url = globalThis.location?.origin, token = "", account }) {
    if (!url) throw new TypeError("`url` is missing: there is no page whose origin could be meant");
    /** The address of the gateway, without a slash at its end. */
    this.base = String(new URL(url, globalThis.location?.href)).replace(/\/+$/, "");
    this.#token = token;
    this.#account = account;
  }

  /** The present token, empty where there is none. */
  async token(rejected = false) {
    try {
      return (typeof this.#token === "function" ? await this.#token({ rejected }) : this.#token) ?? "";
    } catch (cause) {
      throw new GridcastError(0, "there is no token", { cause });
    }
  }

  /** Another token from the callback, empty where there is no callback. */
  async renewed() {
    return typeof this.#token === "function" ? this.token(true) : "";
  }

  /** Who the uploads belong to: the subject of the token, where that is a JWT. */
  async account() {
    if (this.#account !== undefined) return this.#account;
    const [, claims = ""] = (await this.token()).split(".");
    try {
      return String(JSON.parse(atob(claims.replace(/-/g, "+").replace(/_/g, "/"))).sub);
    } catch {
      return "";
    }
  }

  /**
   * Send one request. A refused token is asked for once more.
   * @param {string} method
   * @param {string} path
   * @param {{
   *   headers?: Record<string, string>, body?: Blob | undefined, signal?: AbortSignal | undefined,
   *   onProgress?: (sent: number) => void,
   * }} [request]
   * @returns {Promise<import("./transport.js").Answer>}
   * @throws {GridcastError} for every status but 2xx
   */
  async request(method, path, { headers = {}, ...more } = {}) {
    for (let rejected = false; ; rejected = true) {
      const token = await this.token(rejected);
      const authorization = token ? { authorization: `Bearer ${token}` } : {};
      const answer = await send(method, this.base + path, { ...more, headers: { ...headers, ...authorization } });
      if (answer.status === 401 && !rejected && typeof this.#token === "function") continue;
      if (answer.status < 200 || answer.status > 299) throw problemOf(answer);
      return answer;
    }
  }

  /**
   * Read JSON; repeats what failed in passing.
   * @param {string} path
   * @param {AbortSignal} [signal]
   * @returns {Promise<any>}
   */
  async read(path, signal) {
    for (let tries = 0; ; tries++) {
      try {
        return JSON.parse((await this.request("GET", path, { signal })).text);
      } catch (error) {
        if (tries + 1 >= TRIES || signal?.aborted || !(error instanceof GridcastError && error.transient)) throw error;
        await wait(backoff(tries, error.retryAfter), signal);
      }
    }
  }
}

/**
 * The error of an answer that is none of 2xx.
 * @param {import("./transport.js").Answer} answer
 */
export function problemOf({ status, text, header }) {
  let detail = `the server answered ${status}`;
  try {
    detail = JSON.parse(text).detail ?? detail; // RFC 9457
  } catch {
    // the page of a proxy
  }
  const retryAfter = parseRetryAfter(header("retry-after"));
  return new GridcastError(status, detail, { retryAfter, requestId: header("x-request-id") });
}
