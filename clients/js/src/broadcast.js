/** @import { BroadcastSnapshot, BroadcastState, LiveInfo, PublishOptions, PublishTarget } from "./types.js" */
/** @import { Http } from "./http.js" */
import { backoff, wait } from "./backoff.js";
import { GridcastError } from "./errors.js";
import { problemOf } from "./http.js";
import { Listeners } from "./listeners.js";
import { record } from "./recorder.js";
import { SendBuffer } from "./send_buffer.js";
import { send } from "./transport.js";

const TUS = { "tus-resumable": "1.0.0" };
const BYTES = { "content-type": "application/offset+octet-stream" };
const TIMESLICE = 500; // milliseconds
const CHUNK = 2 * 1024 * 1024; // bytes of one request
const MAX_BUFFERED = 32 * 1024 * 1024; // bytes
const BEHIND = 4_000; // milliseconds that a byte has waited
const STALLED = 5_000; // milliseconds without anything to send
const TICK = 1_000; // milliseconds
const SILENCE = 15_000; // milliseconds without a byte sent, or without an answer: another replica may have it
const LONGEST_TRY = 3; // attempts after which the time between two no longer grows: the viewers wait
const CONFLICT = 45_000; // milliseconds: so long another sender, or a writer that died, may hold the stream

const cancelled = new DOMException("the broadcast was cancelled", "AbortError");

/**
 * Sends one live stream: fragmented MP4 by tus with a deferred length.
 *
 * After a cut it asks for the durable offset and goes on at that byte, at any replica. What is not confirmed waits in a bounded buffer;
 * where that is full the recorder is paused, and a source is not read.
 */
export class Broadcast {
  #http;
  #target;
  #finalState;
  #sid;
  #options;
  #buffer = new SendBuffer();
  #stopped = new AbortController();
  /** @type {Listeners<BroadcastSnapshot>} */
  #listeners = new Listeners();
  /** @type {BroadcastState} */
  #state = "starting";
  /** @type {Error | null} */
  #error = null;
  /** @type {ReturnType<typeof record> | null} */
  #recorder = null;
  #source = ""; // the query that names this source, once the server knows of it
  #known = false; // we know what the server has
  #lengthSent = false;
  #full = false;
  #stalled = false;
  #heard = Date.now();
  #startedAt = 0;
  #endedAt = 0;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #timer;

  /**
   * @internal
   * @param {Http} http
   * @param {PublishTarget} target
   * @param {PublishOptions} options
   * @param {{ sid: () => string | null, finalState: () => Promise<LiveInfo> }} hooks
   */
  constructor(http, target, options, { sid, finalState }) {
    this.#http = http;
    this.#target = target;
    this.#finalState = finalState;
    this.#sid = sid;
    this.#options = { timeslice: TIMESLICE, chunkSize: CHUNK, maxBuffered: MAX_BUFFERED, stalledAfter: STALLED, ...options };
    const { mediaStream, source } = options;
    if (!mediaStream === !source) throw new TypeError("either `mediaStream` or `source` is needed");
    if (mediaStream) this.#record(mediaStream);
    else if (source) void this.#read(source);
    this.#timer = setInterval(() => this.#tick(), TICK);
    /** Resolves with the stream's last state when it has ended and everything was sent; rejects when that failed or was cancelled. */
    this.done = this.#run(this.#stopped.signal);
    this.done.catch(() => {}); // not everyone waits for it
  }

  get id() {
    return this.#target.id;
  }

  get state() {
    return this.#state;
  }

  /**
   * Everything that there is to show.
   * @returns {BroadcastSnapshot}
   */
  get snapshot() {
    const { begin, end, size } = this.#buffer;
    const elapsed = this.#startedAt ? (this.#endedAt || Date.now()) - this.#startedAt : 0;
    return {
      id: this.id,
      state: this.#state,
      type: this.#recorder?.mimeType ?? null,
      produced: end,
      durable: begin,
      buffered: size,
      elapsed,
      behind: !this.#over && this.#buffer.age(Date.now()) > BEHIND,
      paused: this.#full,
      stalled: this.#stalled,
      error: this.#error,
    };
  }

  /**
   * Call `listener` with every change.
   * @param {(snapshot: BroadcastSnapshot) => void} listener
   * @returns {() => void} removes it
   */
  onChange(listener) {
    return this.#listeners.add(listener);
  }

  /** Stop recording, send the rest and end the stream: `done` then has its last state. A source is read no further. */
  stop() {
    if (this.#over || this.#buffer.closed) return this.done;
    if (this.#recorder) this.#recorder.stop();
    else this.#close(null);
    return this.done;
  }

  /** Stop at once. The stream stays as it is: it is interrupted, and ends when its grace is over. */
  cancel() {
    if (this.#over) return;
    this.#stopped.abort(cancelled);
    this.#recorder?.stop();
    this.#notify();
  }

  get #over() {
    return ["ended", "failed", "cancelled"].includes(this.#state);
  }

  /** @param {MediaStream} mediaStream */
  #record(mediaStream) {
    this.#recorder = record(mediaStream, this.#options, {
      onBlob: (blob) => {
        if (!this.#over && !this.#buffer.closed) this.#take(blob);
      },
      onEnd: (error) => this.#close(error),
    });
  }

  /** @param {NonNullable<PublishOptions["source"]>} source */
  async #read(source) {
    try {
      for await (const part of iterate(source)) {
        if (this.#over || this.#buffer.closed) return;
        this.#take(part instanceof Blob ? part : new Blob([part]));
        while (this.#full && !this.#over) await this.#changed();
      }
      this.#close(null);
    } catch (cause) {
      this.#close(new GridcastError(0, "the source could not be read", { cause }));
    }
  }

  /** @param {Blob} blob */
  #take(blob) {
    if (!blob.size) return;
    this.#heard = Date.now();
    this.#startedAt ||= this.#heard;
    this.#stalled = false;
    this.#buffer.push(blob, this.#heard);
    if (this.#buffer.size >= this.#options.maxBuffered) {
      this.#full = true;
      this.#recorder?.pause();
    }
    this.#notify();
  }

  /** @param {Error | null} error */
  #close(error) {
    if (this.#buffer.closed) return;
    this.#buffer.close();
    this.#endedAt = Date.now();
    this.#stalled = false;
    if (!this.#over) this.#set("ending", error ?? this.#error);
    this.#notify();
  }

  /** @type {Set<() => void>} */
  #waiting = new Set();

  /** @returns {Promise<void>} */
  #changed() {
    return new Promise((resolve) => void this.#waiting.add(resolve));
  }

  #notify() {
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const resolve of waiting) resolve();
    this.#listeners.tell(this.snapshot);
  }

  /** A hidden page or a closed lid stops the recorder without a word, so the time since the last bytes is looked at. */
  #tick() {
    const silent = !this.#buffer.closed && !this.#full && this.#recorder !== null;
    this.#stalled = silent && Date.now() - this.#heard > this.#options.stalledAfter;
    if (!this.#over) this.#listeners.tell(this.snapshot);
  }

  /**
   * @param {AbortSignal} signal
   * @returns {Promise<LiveInfo>}
   */
  async #run(signal) {
    try {
      await this.#sendAll(signal);
      const state = await this.#finalState();
      this.#set("ended", this.#error);
      return state;
    } catch (error) {
      this.#set(signal.aborted ? "cancelled" : "failed", signal.aborted ? null : /** @type {Error} */ (error));
      throw error;
    } finally {
      clearInterval(this.#timer);
      this.#endedAt ||= Date.now();
      this.#recorder?.stop();
      this.#notify();
    }
  }

  /** @param {AbortSignal} signal */
  async #sendAll(signal) {
    let [tries, conflictSince] = [0, 0];
    for (;;) {
      const before = this.#buffer.begin;
      try {
        if (!this.#known && (await this.#ask(signal))) return;
        if (!this.#buffer.size && !this.#buffer.closed) {
          await this.#changed();
          signal.throwIfAborted();
          continue;
        }
        if (await this.#patch(signal)) return;
        [tries, conflictSince] = [0, 0];
        this.#set(this.#buffer.closed ? "ending" : "sending");
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof GridcastError)) throw error;
        if (error.status === 410) {
          // It has ended: by us, where the answer to the last bytes was lost, or by someone else.
          if (!this.#lengthSent) this.#error = error;
          return;
        }
        if (this.#buffer.begin > before) [tries, conflictSince] = [0, 0];
        if (error.status === 409) conflictSince ||= Date.now();
        const held = error.status === 409 && Date.now() - conflictSince < CONFLICT;
        if (!error.transient && !held) throw error;
        this.#known = false;
        this.#set(this.#buffer.closed ? "ending" : "retrying", error);
        await wait(backoff(Math.min(tries++, LONGEST_TRY), error.retryAfter), signal);
      }
    }
  }

  /**
   * Find out what the server has of this source; the first time, begin it as a new one. Returns whether it has all of it.
   * @param {AbortSignal} signal
   */
  async #ask(signal) {
    if (!this.#source) {
      const { header } = await this.#request("POST", signal, undefined, { "upload-defer-length": "1" });
      this.#source = header("location")?.match(/\?source=\d+$/)?.[0] ?? "";
      if (!this.#source) throw new GridcastError(0, "the server did not say where the source is");
      this.#known = true;
      return false;
    }
    const { header } = await this.#request("HEAD", signal);
    this.#confirm(header("upload-offset"));
    this.#known = true;
    return this.#buffer.closed && header("upload-length") !== null && this.#buffer.size === 0;
  }

  /**
   * Send what there is, at most a chunk. Returns whether it was the end.
   * @param {AbortSignal} signal
   */
  async #patch(signal) {
    const { begin, end, closed } = this.#buffer;
    const chunk = this.#buffer.slice(begin, this.#options.chunkSize);
    const last = closed && begin + chunk.size === end;
    const headers = { ...BYTES, "upload-offset": String(begin), ...(last ? { "upload-length": String(end) } : {}) };
    this.#lengthSent ||= last;
    const { header } = await this.#request("PATCH", signal, chunk, headers);
    this.#confirm(header("upload-offset"));
    return last && this.#buffer.size === 0;
  }

  /** @param {string | null} offset */
  #confirm(offset) {
    try {
      this.#buffer.confirm(offset === null ? NaN : Number(offset));
    } catch (cause) {
      throw new GridcastError(400, "the server has other bytes of this stream: another sender may have taken it over", { cause });
    }
    this.#set(this.#buffer.closed ? "ending" : "sending", this.#buffer.closed ? this.#error : null);
    if (this.#full && this.#buffer.size <= this.#options.maxBuffered / 2) {
      this.#full = false;
      this.#heard = Date.now();
      this.#recorder?.resume();
    }
    this.#notify();
  }

  /**
   * @param {string} method
   * @param {AbortSignal} signal
   * @param {Blob} [body]
   * @param {Record<string, string>} [more]
   */
  async #request(method, signal, body, more = {}) {
    const silent = new AbortController();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const expect = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silent.abort(new GridcastError(0, "the server does not answer")), SILENCE);
    };
    expect();
    const sid = this.#sid();
    const headers = { ...TUS, ...more, ...(sid ? { "x-sid": sid } : {}), authorization: `Bearer ${this.#target.publish_token}` };
    try {
      const either = AbortSignal.any([signal, silent.signal]);
      const answer = await send(method, this.#http.base + this.#target.tus + this.#source, { headers, body, signal: either, onProgress: expect });
      if (answer.status < 200 || answer.status > 299) throw problemOf(answer);
      return answer;
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * @param {BroadcastState} state
   * @param {Error | null} [error]
   */
  #set(state, error = this.#error) {
    if (this.#over || (this.#state === state && this.#error === error)) return;
    this.#state = state;
    this.#error = error;
    this.#listeners.tell(this.snapshot);
  }
}

/**
 * @param {NonNullable<PublishOptions["source"]>} source
 * @returns {AsyncIterable<Blob | Uint8Array<ArrayBuffer>>}
 */
async function* iterate(source) {
  if (source instanceof Blob) {
    for (let offset = 0; offset < source.size; offset += CHUNK) yield source.slice(offset, offset + CHUNK);
  } else if (source instanceof ReadableStream) {
    const reader = source.getReader();
    try {
      for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
    } finally {
      void reader.cancel().catch(() => {});
    }
  } else yield* source;
}
