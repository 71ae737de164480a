/** @import { PushMessage, Receipt, SocketPage } from "./types.js" */
/** @import { Http } from "./http.js" */

/** The sockets that are connected, and events to them. */
export class Sockets {
  #http;

  /** @param {Http} http */
  constructor(http) {
    this.#http = http;
  }

  /**
   * One page of the sockets of all replicas.
   * @param {{ after?: string | null | undefined, limit?: number | undefined, signal?: AbortSignal | undefined }} [options] limit: at most 1,000
   * @returns {Promise<SocketPage>}
   */
  list({ after, limit, signal } = {}) {
    const query = new URLSearchParams();
    if (after) query.set("after", after);
    if (limit) query.set("limit", String(limit));
    return this.#http.read(`/sockets?${query}`, signal);
  }

  /**
   * Push an event to one socket.
   * @param {string} sid
   * @param {PushMessage} message
   * @param {{ wait?: number }} [options] wait: seconds to wait for the client's ack
   * @returns {Promise<Receipt>}
   */
  send(sid, message, { wait = 0 } = {}) {
    return this.#push(`/sockets/${encodeURIComponent(sid)}/messages${wait ? `?wait=${wait}` : ""}`, message);
  }

  /**
   * Push an event to all sockets that subscribe to a topic, or to all there are.
   * @param {PushMessage} message
   * @param {{ topic?: string | undefined }} [options]
   * @returns {Promise<Receipt>}
   */
  publish(message, { topic } = {}) {
    return this.#push(`/sockets/messages${topic === undefined ? "" : `?${new URLSearchParams({ topic })}`}`, message);
  }

  /**
   * Close a socket, so that its session cannot be resumed.
   * @param {string} sid
   */
  async close(sid) {
    await this.#http.request("DELETE", `/sockets/${encodeURIComponent(sid)}`);
  }

  /**
   * @param {string} path
   * @param {PushMessage} message
   * @returns {Promise<Receipt>}
   */
  async #push(path, message) {
    const body = new Blob([JSON.stringify(message)]);
    const { text } = await this.#http.request("POST", path, { headers: { "content-type": "application/json" }, body });
    return JSON.parse(text);
  }
}
