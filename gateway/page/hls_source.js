// Plays HLS by Media Source Extensions: follows the list, appends what is needed around the place that is played, and forgets the rest.
import { baseTime, timescales } from "./fmp4.js";
import { parseIndex, parseList, reloadAddress, segmentAt } from "./hls_list.js";

const AHEAD = 20; // seconds that are loaded before they are needed
const BEHIND = 60; // seconds that stay; what is older is loaded again when someone goes back
const REMOVE_STEP = 5; // seconds: not each segment removes a moment
const SEAM = 5; // seconds, or a tenth of the time: media that lies so near to where its list says keeps its own times
const DRIFT = 0.05; // seconds that a segment may begin behind the place it is loaded for
const GAP = 1.5; // seconds without media that are stepped over
const TIMEOUT = 15_000; // milliseconds of one request: a list is held for three target durations at most
const LONGEST_WAIT = 4_000; // milliseconds between two attempts
const CHECK = 500; // milliseconds
const INITS = 4; // initialisation segments that are kept

const aborted = (signal) => new Promise((resolve) => (signal.aborted ? resolve() : signal.addEventListener("abort", resolve, { once: true })));
const backoff = (tries) => Math.min(LONGEST_WAIT, 250 * 2 ** tries) * (0.5 + Math.random() / 2);

export class HlsSource {
  /** @type {import("./hls_list.js").List | null} */
  list = null;
  #video;
  #options;
  #closed = new AbortController();
  #reload = new AbortController();
  #move = new AbortController(); // ends what is loaded for a place that was left
  #media;
  #buffer = null;
  #address;
  #index;
  #loadedAt = 0;
  #next = -1; // number of the segment to append next; -1 before the first one
  #placed = false;
  #inits = new Map();
  #map = ""; // of the initialisation segment that was appended last
  #offsets = new Map(); // by epoch
  #offset = 0;
  #have = new Map(); // by number of the segments that are in the buffer: whether all tracks were there from start to end
  #drift = 0; // seconds by which the media is ahead of its list: lengths in lists leave out what a sender skipped
  #target = null; // the place that someone went to, until its segment is there
  #wake = () => {};

  /**
   * @param {HTMLVideoElement} video
   * @param {string} address of the multivariant playlist
   * @param {{ headers?: () => Record<string, string>, changed?: () => void, failed?: (error: Error) => void, start?: number }} [options]
   *   `start`: where to begin, in seconds; at the live edge if missing
   */
  constructor(video, address, options = {}) {
    this.#video = video;
    this.#index = this.#address = address;
    this.#options = options;
    const Media = globalThis.ManagedMediaSource ?? MediaSource;
    if (globalThis.ManagedMediaSource) video.disableRemotePlayback = true;
    this.#media = new Media();
    const url = URL.createObjectURL(this.#media);
    const { signal } = this.#closed;
    this.#media.addEventListener("sourceopen", () => URL.revokeObjectURL(url), { once: true });
    video.addEventListener("seeking", () => this.#seek(), { signal });
    video.addEventListener("timeupdate", () => this.#wake(), { signal });
    const timer = setInterval(() => this.#step(), CHECK);
    signal.addEventListener("abort", () => (clearInterval(timer), this.#wake()));
    const opened = new Promise((resolve) => this.#media.addEventListener("sourceopen", resolve, { once: true }));
    video.src = url;
    this.#run(opened, signal).catch((error) => signal.aborted || this.#fail(error));
  }

  /** What can be played, in the times of the media; null before there is a list. */
  get range() {
    const { list } = this;
    if (!list?.segments.length) return null;
    const { duration } = this.#video;
    return { start: list.start, end: list.ended && Number.isFinite(duration) ? duration : list.end + this.#drift, ended: list.ended };
  }

  /** Where the live edge is: as near to the end as may be played without waiting. */
  get edge() {
    const { range } = this;
    return range ? Math.max(range.start, range.ended ? range.end : range.end - this.list.hold) : 0;
  }

  /** Ask for the list at once: something happened to the stream. */
  restart() {
    this.#reload.abort();
  }

  close() {
    this.#closed.abort();
    this.#reload.abort();
    this.#move.abort();
  }

  #fail(error) {
    this.close();
    this.#options.failed?.(error);
  }

  async #run(opened, signal) {
    await this.#readIndex(signal);
    await opened;
    signal.throwIfAborted();
    await Promise.all([this.#follow(signal), this.#fill(signal)]);
  }

  /** Wait until there are enough segments for a list, and make a buffer for its codecs. */
  async #readIndex(signal) {
    for (let tries = 0; ; tries++) {
      try {
        const response = await this.#get(this.#index, signal);
        const { address, codecs } = parseIndex(await response.text(), response.url);
        this.#address = address;
        const type = `${/avc|hvc|hev|vp0|av01/.test(codecs) ? "video" : "audio"}/mp4; codecs="${codecs}"`;
        if (!this.#media.constructor.isTypeSupported(type)) throw Object.assign(new Error(`this browser cannot play ${codecs || "this stream"}`), { final: true });
        this.type = type;
        return;
      } catch (error) {
        signal.throwIfAborted();
        if (error.final || [401, 403, 410].includes(error.status)) throw error;
        await this.#rest(error.status === 404 ? 1000 : backoff(tries), signal);
      }
    }
  }

  async #follow(signal) {
    for (let tries = 0; ; ) {
      this.#reload = new AbortController();
      const either = AbortSignal.any([signal, this.#reload.signal]);
      try {
        const before = this.list?.segments.at(-1)?.number;
        const age = Date.now() - this.#loadedAt;
        const asked = this.list ? reloadAddress(this.#address, this.list, age) : this.#address;
        const response = await this.#get(asked, either);
        this.list = parseList(await response.text(), response.url, this.list);
        this.#loadedAt = Date.now();
        tries = 0;
        this.#showDuration();
        this.#options.changed?.();
        this.#wake();
        if (this.list.ended) return;
        const fresh = this.list.segments.at(-1)?.number !== before;
        if (!fresh || !this.list.blocking) await this.#rest((this.list.target / (fresh ? 1 : 2)) * 1000, either);
      } catch (error) {
        signal.throwIfAborted();
        if (this.#reload.signal.aborted) continue;
        if ([401, 403, 410].includes(error.status) || (error.status === 404 && this.list)) throw error;
        this.#loadedAt = 0; // whole, next time
        await this.#rest(backoff(tries++), either);
      }
    }
  }

  async #fill(signal) {
    for (let tries = 0; ; ) {
      signal.throwIfAborted();
      const segment = this.#wanted();
      if (!segment) {
        await new Promise((resolve) => (this.#wake = resolve));
        continue;
      }
      const move = this.#move;
      const either = AbortSignal.any([signal, move.signal]);
      try {
        const earlier = await this.#append(segment, either);
        if (!move.signal.aborted) this.#next = earlier ?? this.#missing(segment.number + 1);
        tries = 0;
        if (!this.#placed) this.#place();
        await this.#forget();
      } catch (error) {
        signal.throwIfAborted();
        if (move.signal.aborted) continue;
        if ([401, 403].includes(error.status) || error.final) throw error;
        if (error.status === 404 && tries > 2) this.#next = segment.number + 1; // a hole, which is stepped over
        await this.#rest(backoff(tries++), either);
      }
    }
  }

  /** The segment to append now, if one is needed. */
  #wanted() {
    const { list } = this;
    if (!list?.segments.length) return null;
    if (this.#next < 0) this.#next = segmentAt(list, this.#options.start ?? (list.ended ? list.start : this.edge)).number;
    const first = list.segments[0].number;
    this.#next = Math.max(this.#next, first);
    const segment = list.segments[this.#next - first];
    if (!segment) {
      if (list.ended && this.#media.readyState === "open" && this.#buffer && !this.#buffer.updating) this.#media.endOfStream();
      return null;
    }
    const ready = this.#placed ? this.#video.currentTime - this.#drift : segment.start;
    return segment.start > ready + AHEAD && !this.#atPause() ? null : segment;
  }

  /** The first segment from a number on that is not in the buffer. */
  #missing(number) {
    let missing = number;
    while (this.#have.has(missing)) missing++;
    return missing;
  }

  /** Append a segment. Where it begins behind the place that someone went to, returns the number of an earlier one that is needed. */
  async #append(segment, signal) {
    this.#buffer ??= this.#media.addSourceBuffer(this.type);
    const media = this.#get(segment.address, signal).then((response) => response.arrayBuffer());
    const [{ init, scales }, bytes] = await Promise.all([this.#initOf(segment.map, signal), media]);
    signal.throwIfAborted();
    const time = baseTime(bytes, scales);
    const offset = this.#offsetOf(segment, time);
    const start = time === null ? segment.start : time + offset;
    if (this.#target !== null && start > this.#target + DRIFT && segment.number > this.list.segments[0].number) {
      return Math.min(segment.number - 1, segmentAt(this.list, this.#target - (start - segment.start)).number);
    }
    this.#target = null;
    this.#drift = start - segment.start;
    if (this.#map !== segment.map) {
      await this.#update(() => this.#buffer.appendBuffer(init));
      this.#map = segment.map;
    }
    if (this.#buffer.timestampOffset !== offset) this.#buffer.timestampOffset = offset;
    try {
      await this.#update(() => this.#buffer.appendBuffer(bytes));
    } catch (error) {
      if (error.name !== "QuotaExceededError") throw error;
      await this.#forget(BEHIND / 6);
      await this.#update(() => this.#buffer.appendBuffer(bytes));
    }
    this.#have.set(segment.number, this.#isWhole(start, start + segment.duration));
    return null;
  }

  /** An initialisation segment, and the time scales of its tracks. */
  async #initOf(address, signal) {
    if (!this.#inits.has(address)) {
      const init = await (await this.#get(address, signal)).arrayBuffer();
      if (this.#inits.size >= INITS) this.#inits.delete(this.#inits.keys().next().value);
      this.#inits.set(address, { init, scales: timescales(init) });
    }
    return this.#inits.get(address);
  }

  /** What to add to the media's own times, so that it lies where the list says. */
  #offsetOf({ epoch, start }, time) {
    if (!this.#offsets.has(epoch)) {
      const exact = time === null ? 0 : start - time;
      const away = Math.abs(this.#offset - exact);
      // Media that count from the start of their epoch are of another file: their sender has gone on with another picture.
      const begin = this.list.segments.find((one) => one.epoch === epoch)?.start ?? 0;
      const fits = away < Math.max(SEAM, start / 10) && away <= Math.abs(begin - exact);
      this.#offsets.set(epoch, fits ? this.#offset : exact);
    }
    return (this.#offset = this.#offsets.get(epoch));
  }

  /** Run one operation of the buffer to its end. */
  async #update(operation) {
    const buffer = this.#buffer;
    const ended = new Promise((resolve, reject) => {
      buffer.onupdateend = resolve;
      buffer.onerror = () => reject(Object.assign(new Error("this browser cannot play what was sent"), { final: true }));
    });
    operation();
    await ended;
    buffer.onupdateend = buffer.onerror = null;
    this.#showDuration();
  }

  /** Begin to play at the place that was asked for, or at the edge. */
  #place() {
    const { buffered } = this.#buffer;
    if (!buffered.length) return;
    this.#placed = true;
    const wanted = this.#options.start ?? (this.list.ended ? 0 : this.edge);
    this.#video.currentTime = Math.min(Math.max(wanted, buffered.start(0)), buffered.end(buffered.length - 1));
  }

  /** Remove what is far from the place that is played. */
  async #forget(behind = BEHIND) {
    const now = this.#video.currentTime;
    const ranges = () => Array.from({ length: this.#buffer.buffered.length }, (_, index) => [this.#buffer.buffered.start(index), this.#buffer.buffered.end(index)]);
    const [first, last] = [ranges()[0], ranges().at(-1)];
    if (!this.#placed || !first) return;
    if (first[0] < now - behind - REMOVE_STEP) await this.#remove(0, now - behind);
    const far = now + 2 * AHEAD + REMOVE_STEP;
    if (last[1] > far && last[0] > now) await this.#remove(Math.max(far, last[0]), Infinity);
  }

  async #remove(begin, end) {
    await this.#update(() => this.#buffer.remove(begin, end));
    for (const number of this.#have.keys()) {
      const segment = this.list.segments[number - this.list.segments[0].number];
      const [from, to] = segment ? [segment.start, segment.start + segment.duration] : [0, 0];
      if (!segment || (from - SEAM < end && to + SEAM > begin)) this.#have.delete(number); // those at the seam are loaded again
    }
  }

  /** Someone went to another place: load from there, unless it is here already. */
  #seek() {
    if (!this.#placed || !this.list) return;
    const now = this.#video.currentTime;
    const { number } = segmentAt(this.list, now - this.#drift);
    if (this.#buffered(now) || this.#have.get(number) === false) {
      this.#target = null;
      this.#next = this.#missing(number);
    } else {
      this.#target = now;
      this.#next = segmentAt(this.list, now).number; // the drift is that of another place
      this.#have.delete(this.#next);
    }
    this.#move.abort();
    this.#move = new AbortController();
    this.#wake();
  }

  #buffered(time) {
    const { buffered } = this.#video;
    return Array.from({ length: buffered.length }, (_, index) => index).some((index) => buffered.start(index) - 0.1 <= time && time < buffered.end(index));
  }

  /** Whether playing has come to where nothing is shown although the segments are here: a track pauses, for however long. */
  #atPause() {
    const now = this.#video.currentTime;
    if (!this.#placed || this.#target !== null || this.#buffered(now + 0.05)) return false;
    const numberAt = (time) => segmentAt(this.list, time - this.#drift).number;
    // Chromium plays the other track for 3 s more, and waits then: what was there is further back. To load a segment again is no way out:
    // the next one would be shown from its first key frame on.
    const begun = this.#buffered(now - 2 * CHECK / 1000) || this.#have.get(numberAt(now)) === false;
    return begun && this.#have.has(numberAt(now + CHECK / 1000));
  }

  /** Whether all tracks are there between two times, but for what they differ by at the seams. */
  #isWhole(begin, end) {
    const { buffered } = this.#buffer;
    const seam = CHECK / 1000;
    return Array.from({ length: buffered.length }, (_, index) => index).some((index) => buffered.start(index) <= begin + seam && end - seam <= buffered.end(index));
  }

  /** Step over a hole in the media, where playing has come to one. */
  #step() {
    this.#wake();
    const video = this.#video;
    if (!this.#placed || this.#target !== null || this.#buffered(video.currentTime + 0.05)) return;
    // Someone who paused for longer than a sliding window goes on at its start: what came next has left the list.
    const start = this.list.start + this.#drift;
    const left = !video.paused && video.currentTime < start - DRIFT;
    const pauses = this.#atPause();
    for (let index = 0; index < video.buffered.length; index++) {
      const begin = video.buffered.start(index);
      if (begin > video.currentTime && (left || pauses || begin - video.currentTime < GAP)) {
        video.currentTime = begin + 0.01;
        return;
      }
    }
    if (left) {
      video.currentTime = start + 0.01;
      return;
    }
    if (pauses || this.#buffered(video.currentTime - 2 * CHECK / 1000)) return; // waits for what comes next
    // The browser has dropped something by itself: load it again.
    const { number } = segmentAt(this.list, video.currentTime - this.#drift);
    if (this.#have.has(number) && this.#next > number) this.#seek();
  }

  /** While the stream is live there is no end: one can go to every place that the list has. */
  #showDuration() {
    const { list } = this;
    if (!list || this.#media.readyState !== "open" || this.#buffer?.updating) return;
    if (!list.ended) {
      if (this.#media.duration !== Infinity) this.#media.duration = Infinity;
      this.#media.setLiveSeekableRange?.(list.start, Math.max(list.start, list.end + this.#drift));
    } else if (this.#media.duration === Infinity) {
      const { buffered } = this.#video;
      this.#media.duration = Math.max(list.end, buffered.length ? buffered.end(buffered.length - 1) : 0);
    }
  }

  async #get(address, signal) {
    const response = await fetch(address, { headers: this.#options.headers?.() ?? {}, signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT)]) });
    if (response.ok) return response;
    const problem = await response.json().catch(() => ({}));
    throw Object.assign(new Error(problem.detail ?? `the server answered ${response.status}`), { status: response.status });
  }

  async #rest(milliseconds, signal) {
    let timer;
    await Promise.race([new Promise((resolve) => (timer = setTimeout(resolve, milliseconds))), aborted(signal)]);
    clearTimeout(timer);
  }
}
