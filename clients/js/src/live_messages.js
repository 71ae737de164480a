/** @import { CloudEvent, LiveMessage, LiveMessagePage, MessageTrackOptions, Subscription } from "./types.js" */
/** @import { Events } from "./events.js" */

const AHEAD = 60; // seconds of messages that are read before they are shown
const NEAR = 15; // seconds before the end of what was read at which more is read
const JUMP = 5; // seconds: a player that goes on by more has been moved, as one that goes back
const LATE = 30; // seconds
const TICK = 250; // milliseconds
const RETRY = 4_000; // milliseconds
const KEPT = 5_000; // messages in memory: beyond, all are read anew

/**
 * The messages of a stream at the time that a player plays: those of a range are read before they are needed, new ones come by events.
 * Each is given once, in the order of their times, until the player is moved.
 */
export class MessageTrack {
  #read;
  #time;
  #options;
  #timer;
  #subscription;
  #removeGap;
  /** By time, then as they came. @type {LiveMessage[]} */
  #messages = [];
  #known = new Set();
  #start = NaN; // from where on messages were read
  #end = NaN; // up to where
  #place = NaN; // of the player, at the last look
  #next = 0; // the first message that is not given yet
  #reading = false;
  #retryAt = 0;
  #closed = new AbortController();

  /**
   * @param {(range: { from: number, to: number, after: string | null, signal: AbortSignal }) => Promise<LiveMessagePage>} read
   * @param {Events} events
   * @param {string} topic
   * @param {() => number} time where the player is, in seconds of the stream; NaN while that is not known
   * @param {MessageTrackOptions} options
   */
  constructor(read, events, topic, time, options) {
    this.#read = read;
    this.#time = time;
    this.#options = options;
    /** @type {Subscription} */
    this.#subscription = events.subscribe(topic, (/** @type {CloudEvent<any>} */ event) => this.#hear(event));
    this.#subscription.ready.catch((error) => this.#closed.signal.aborted || options.onError?.(error));
    this.#removeGap = events.onGap(() => this.#forget());
    this.#timer = setInterval(() => this.look(), TICK);
    this.look();
  }

  /** Give what the player has come to since the last look. It is called by a timer, and may be called after a seek. */
  look() {
    const now = this.#time();
    if (!Number.isFinite(now) || this.#closed.signal.aborted) return;
    if (!(now >= this.#place && now <= this.#place + JUMP)) this.#move(now);
    this.#place = now;
    if (!(now >= this.#start && now < this.#end - NEAR)) void this.#fill(now);
    if (!(now >= this.#start)) return;
    for (let message; (message = this.#messages[this.#next]) && message.time <= now; ) {
      if (message.time > this.#end) break; // older ones may not be read yet
      this.#next++;
      this.#options.onMessage(message);
    }
  }

  close() {
    clearInterval(this.#timer);
    this.#closed.abort();
    this.#removeGap();
    this.#subscription.unsubscribe();
  }

  /** The player was moved: what comes next is what is said from there on. @param {number} now */
  #move(now) {
    const first = Number.isNaN(this.#place);
    if (!(now >= this.#start && now <= this.#end)) this.#forget();
    const next = this.#messages.findIndex(({ time }) => time >= now);
    this.#next = next < 0 ? this.#messages.length : next;
    if (!first) this.#options.onSeek?.(now);
  }

  #forget() {
    this.#messages = [];
    this.#known.clear();
    this.#start = this.#end = NaN;
    this.#next = 0;
  }

  /** Read the messages behind those that are there. @param {number} now */
  async #fill(now) {
    if (this.#reading || Date.now() < this.#retryAt) return;
    if (this.#messages.length > KEPT) this.#forget();
    const goesOn = now >= this.#start && now <= this.#end;
    const from = goesOn ? this.#end : now;
    const to = now + AHEAD;
    const { signal } = this.#closed;
    this.#reading = true;
    try {
      /** @type {LiveMessage[]} */
      const found = [];
      for (let after = null; ; ) {
        const page = await this.#read({ from, to, after, signal });
        found.push(...page.messages);
        after = page.next;
        if (after === null || found.length > KEPT) break;
      }
      if (goesOn ? this.#end !== from : !(this.#place >= from && this.#place <= to)) return; // moved meanwhile
      if (!goesOn) this.#start = from;
      this.#end = found.length > KEPT ? /** @type {LiveMessage} */ (found.at(-1)).time : to;
      for (const message of found) this.#add(message);
    } catch (error) {
      if (signal.aborted) return;
      this.#retryAt = Date.now() + RETRY;
      this.#options.onError?.(/** @type {Error} */ (error));
    } finally {
      this.#reading = false;
    }
  }

  /**
   * One that belongs shortly before what the player shows is given at once: who wrote it was watching a little earlier.
   * @param {CloudEvent<any>} event
   */
  #hear({ type, data }) {
    if (type !== "live.message") return;
    const { id: _stream, ...message } = data;
    if (this.#add(message) && message.time > this.#place - LATE) this.#options.onMessage(message);
  }

  /**
   * Keep a message in its place, and return whether the player has passed that.
   * @param {LiveMessage} message
   */
  #add(message) {
    if (this.#known.has(message.message)) return false;
    this.#known.add(message.message);
    let at = this.#messages.length;
    while (at > 0 && /** @type {LiveMessage} */ (this.#messages[at - 1]).time > message.time) at--;
    this.#messages.splice(at, 0, message);
    if (at >= this.#next) return false;
    this.#next++;
    return true;
  }
}
