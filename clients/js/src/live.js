/** @import { LiveCreated, LiveEnded, LiveInfo, LiveOptions, LivePage, PublishOptions, PublishTarget } from "./types.js" */
/** @import { CloudEvent, LiveMessage, LiveMessagePage, MessageReceipt } from "./types.js" */
/** @import { Gridcast } from "./index.js" */
import { wait } from "./backoff.js";
import { Broadcast } from "./broadcast.js";
import { GridcastError } from "./errors.js";
import { httpOf } from "./http.js";
import { MessageTrack } from "./live_messages.js";

export { Broadcast };
export { chooseType } from "./recorder.js";

/** @typedef {import("./types.js").BroadcastSnapshot} BroadcastSnapshot */
/** @typedef {import("./types.js").BroadcastState} BroadcastState */

const ENDING = 15_000; // milliseconds that the server may take to end a stream whose last byte it has
const POLL = 250; // milliseconds

/** Live streams: making and ending them, sending one, and what becomes of it. A module of its own, so that others need not load it. */
export class Live {
  #http;
  #events;

  /** @param {Gridcast} client */
  constructor(client) {
    const http = httpOf.get(client);
    if (!http) throw new TypeError("not a client of this package");
    this.#http = http;
    this.#events = client.events;
  }

  /**
   * The events of the client, which `watch` listens to.
   * @internal
   */
  get events() {
    return this.#events;
  }

  /**
   * Make a stream. Its file's name is taken from then on; `publish_token` is told once.
   * @param {LiveOptions} options
   * @param {{ signal?: AbortSignal }} [request]
   * @returns {Promise<LiveCreated>}
   */
  async create(options, { signal } = {}) {
    const body = new Blob([JSON.stringify(options)]);
    return JSON.parse((await this.#http.request("POST", "/live", { headers: { "content-type": "application/json" }, body, signal })).text);
  }

  /**
   * What is known of a stream.
   * @param {string} id
   * @param {{ signal?: AbortSignal }} [request]
   * @returns {Promise<LiveInfo>}
   */
  state(id, { signal } = {}) {
    return this.#http.read(path(id), signal);
  }

  /**
   * One page of the streams of a state; of those that have not ended, where none is given.
   * @param {{ state?: LiveInfo["state"], after?: string | null | undefined, limit?: number | undefined, signal?: AbortSignal | undefined }} [options]
   * @returns {Promise<LivePage>}
   */
  list({ state, after, limit, signal } = {}) {
    const query = new URLSearchParams();
    if (state) query.set("state", state);
    if (after) query.set("after", after);
    if (limit) query.set("limit", String(limit));
    return this.#http.read(`/live${query.size ? `?${query}` : ""}`, signal);
  }

  /**
   * End a stream and keep its file.
   * @param {string} id
   * @returns {Promise<LiveEnded>}
   */
  async end(id) {
    return JSON.parse((await this.#http.request("POST", `${path(id)}/end`)).text);
  }

  /**
   * Throw a stream away, with what it has recorded.
   * @param {string} id
   */
  async remove(id) {
    await this.#http.request("DELETE", path(id));
  }

  /**
   * Send a stream: what a MediaStream shows, recorded as fragmented MP4, or a source of such bytes.
   * @param {PublishTarget} stream as `create` returned it
   * @param {PublishOptions} options
   * @throws {GridcastError} with status 0 where the browser can record no MP4
   */
  publish(stream, options) {
    const sid = () => (this.#events.state.state === "connected" ? this.#events.sid : null);
    return new Broadcast(this.#http, stream, options, { sid, finalState: () => this.#ended(stream.id) });
  }

  /**
   * Call `listener` with the state of a stream, at once and after each change, until it is removed (null). The events must be connected.
   * @param {string} id
   * @param {(state: LiveInfo | null) => void} listener
   * @param {(error: Error) => void} [onError] where the state cannot be read
   * @returns {() => void} ends it
   */
  watch(id, listener, onError = () => {}) {
    /** @type {LiveInfo | null} */
    let state = null;
    /** Events that came while the state was read, for each reading. @type {Set<CloudEvent<any>[]>} */
    const readings = new Set();
    const stopped = new AbortController();
    const read = async () => {
      /** @type {CloudEvent<any>[]} */
      const meanwhile = [];
      readings.add(meanwhile);
      try {
        const answer = await this.state(id, { signal: stopped.signal });
        state = meanwhile.reduce(applyEvent, state?.viewers === undefined ? answer : { viewers: state.viewers, ...answer });
        readings.delete(meanwhile);
        listener(state);
      } catch (error) {
        readings.delete(meanwhile);
        if (stopped.signal.aborted) return;
        if (error instanceof GridcastError && (error.status === 404 || error.status === 410)) listener(null);
        else onError(/** @type {Error} */ (error));
      }
    };
    const subscription = this.#events.subscribe(`live/${id}`, (/** @type {CloudEvent<any>} */ event) => {
      for (const meanwhile of readings) meanwhile.push(event);
      if (!state) return;
      state = applyEvent(state, event);
      listener(state);
    });
    subscription.ready.catch((error) => stopped.signal.aborted || onError(error));
    const removeGap = this.#events.onGap(() => void read());
    void read();
    return () => {
      stopped.abort();
      removeGap();
      subscription.unsubscribe();
    };
  }

  /**
   * Push an event to the topic of a stream that is live, and keep it with its media time. With the same `id` it is kept once.
   * @param {string} id
   * @param {string} type
   * @param {unknown} [data]
   * @param {{ at?: number, id?: string, signal?: AbortSignal }} [options] `at`: what its sender watches, in seconds of the stream
   * @returns {Promise<MessageReceipt>}
   */
  async pushMessage(id, type, data = null, { at, id: message, signal } = {}) {
    const body = new Blob([JSON.stringify({ type, data, id: message, at })]); // what is undefined is left out
    const headers = { "content-type": "application/json" };
    return JSON.parse((await this.#http.request("POST", `${path(id)}/messages`, { headers, body, signal })).text);
  }

  /**
   * A page of the messages of a stream, by their media time in seconds.
   * @param {string} id
   * @param {{ from?: number, to?: number, after?: string | null, limit?: number, signal?: AbortSignal }} [range] `to` is left out
   * @returns {Promise<LiveMessagePage>}
   */
  messages(id, { from, to, after, limit, signal } = {}) {
    const query = new URLSearchParams();
    if (from !== undefined) query.set("from", seconds(from));
    if (to !== undefined) query.set("to", seconds(to));
    if (after) query.set("after", after);
    if (limit) query.set("limit", String(limit));
    return this.#http.read(`${path(id)}/messages${query.size ? `?${query}` : ""}`, signal);
  }

  /**
   * Call `listener` with each message of a stream when a player comes to its time: live, behind, and in a replay. The events must be
   * connected for new ones.
   * @param {string} id
   * @param {() => number} time where the player is, as `() => video.currentTime`; NaN while that is not known
   * @param {(message: LiveMessage) => void} listener
   * @param {{ onSeek?: (time: number) => void, onError?: (error: Error) => void }} [options] `onSeek`: the player was moved; what is
   *   shown belongs to another place
   * @returns {() => void} ends it
   */
  onMessageAt(id, time, listener, options = {}) {
    const read = (/** @type {{ from: number, to: number, after: string | null, signal: AbortSignal }} */ range) => this.messages(id, range);
    const track = new MessageTrack(read, this.#events, `live/${id}`, time, { ...options, onMessage: listener });
    return () => track.close();
  }

  /**
   * The address of a stream's playlist: for players.
   * @param {{ id: string, playlist?: string }} stream
   */
  playlistAddress({ id, playlist = `${path(id)}/index.m3u8` }) {
    return this.#http.base + playlist;
  }

  /**
   * Asks for the state until the stream has ended: a publisher need not listen to the event of the end.
   * @param {string} id
   */
  async #ended(id) {
    const until = Date.now() + ENDING;
    for (;;) {
      const state = await this.state(id);
      if (state.state === "ended" || Date.now() > until) return state;
      await wait(POLL);
    }
  }
}

/** @param {string} id */
const path = (id) => `/live/${encodeURIComponent(id)}`;

/**
 * As the server reads times: no exponent.
 * @param {number} value
 */
const seconds = (value) => Math.max(0, value).toFixed(3);

/**
 * The state after an event of the stream's topic.
 * @param {LiveInfo} state
 * @param {CloudEvent<any>} event
 * @returns {LiveInfo}
 */
export function applyEvent(state, { type, data, time }) {
  switch (type) {
    case "live.started": {
      const { codecs, width, height } = data;
      return { ...state, state: "live", codecs, width, height, started_at: state.started_at ?? time };
    }
    case "live.interrupted":
      return { ...state, state: "interrupted", since: data.since };
    case "live.resumed":
      return { ...state, state: "live", since: null };
    case "live.viewers":
      return { ...state, viewers: data.viewers };
    case "live.ended":
      return { ...state, state: "ended", reason: data.reason, file: data.file ?? null, ...(data.files && { files: data.files }), ended_at: time };
    default:
      return state;
  }
}
