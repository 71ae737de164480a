/** @import { ClientOptions, CloudEvent, ConnectionState, DataOf, Gap, Subscription } from "./types.js" */
/** @import { Http } from "./http.js" */
import { backoff, wait } from "./backoff.js";
import { GridcastError } from "./errors.js";
import { Listeners } from "./listeners.js";

const HEARTBEAT = 20_000; // milliseconds between two pings of ours: a browser does not show those of the protocol
const UNANSWERED = 1.5; // heartbeats after which a ping without an answer means a frozen server, or a network that drops everything
const STABLE = 5_000; // milliseconds: a connection that lasted so long lets the next attempts begin without delay
const PENALTY = 5_000; // milliseconds to wait after the server closed for a reason
const REMEMBERED = 1_000; // events: the server may publish one again, with its id
const PROOF = 5_000; // milliseconds for an answer after the network or the page came back
const QUERY_TOPICS = { names: 50, characters: 4_000 }; // in the URL; the others follow in frames
const TOPIC = /^[A-Za-z0-9._~:/@%+=-]{1,200}$/;

const TOKEN = Symbol("token"); // stands for the command that renews the token

/** Codes after which the same client would be closed again, and reasons for which it must stay away. */
const FINAL_CODES = [1002, 1007, 1009];
const SUPERSEDED = "session resumed elsewhere";
const CLOSED_BY_OPERATOR = "closed by an operator";

/**
 * @typedef {{
 *   listeners: Listeners<CloudEvent<any>>, ready: Promise<void>, resolve: () => void, reject: (error: Error) => void,
 * }} Topic
 */

/** Events from the server, over one WebSocket that connects again without end and resumes its session. */
export class Events {
  #http;
  #options;
  #WebSocket;
  /** @type {ConnectionState} */
  #state = { state: "closed", sid: null };
  /** @type {WebSocket | null} */
  #socket = null;
  #wanted = false;
  #resume = "";
  #sequence = "";
  #tries = 0;
  #connectedAt = 0;
  #heard = 0;
  #pinged = 0;
  #lost = () => {};
  #stopped = new AbortController();
  /** Topics that someone listens to. @type {Map<string, Topic>} */
  #topics = new Map();
  /** Topics that the session has on the server. @type {Set<string>} */
  #joined = new Set();
  /** Commands that the server has not answered, in their order. @type {(Topic | typeof TOKEN | null)[]} */
  #commands = [];
  /** @type {Set<string>} */
  #seen = new Set();
  /** @type {Map<string, Listeners<CloudEvent<any>>>} */
  #byType = new Map();
  /** @type {Listeners<CloudEvent>} */
  #all = new Listeners();
  /** @type {Listeners<ConnectionState>} */
  #states = new Listeners();
  /** @type {Listeners<Gap>} */
  #gaps = new Listeners();

  /**
   * @param {Http} http
   * @param {Pick<ClientOptions, "topics" | "meta" | "heartbeat" | "WebSocket">} options
   */
  constructor(http, options) {
    this.#http = http;
    this.#options = options;
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket;
    for (const topic of options.topics ?? []) this.subscribe(topic, () => {});
  }

  /** The address of this client; others push to it. null before the first connection. */
  get sid() {
    return this.#state.sid;
  }

  get state() {
    return this.#state;
  }

  /** Connect, and stay connected until `close`. */
  connect() {
    if (this.#wanted) return;
    this.#wanted = true;
    this.#tries = 0;
    this.#stopped = new AbortController();
    const { signal } = this.#stopped;
    globalThis.addEventListener?.("online", () => this.#check(), { signal });
    globalThis.document?.addEventListener("visibilitychange", () => document.hidden || this.#check(), { signal });
    void this.#run(signal);
  }

  /** Disconnect. A later `connect` resumes the session, if it comes within two minutes. */
  close() {
    this.#end({});
  }

  /**
   * Call `listener` with each event of a type.
   * @template {string} T
   * @template [D=DataOf<T>]
   * @param {T} type
   * @param {(event: CloudEvent<D>) => void} listener
   * @returns {() => void} removes it
   */
  on(type, listener) {
    const listeners = this.#byType.get(type) ?? new Listeners();
    this.#byType.set(type, listeners);
    const remove = listeners.add(listener);
    return () => {
      remove();
      if (!listeners.size && this.#byType.get(type) === listeners) this.#byType.delete(type);
    };
  }

  /**
   * Call `listener` with each event, of any type.
   * @param {(event: CloudEvent) => void} listener
   * @returns {() => void} removes it
   */
  onEvent(listener) {
    return this.#all.add(listener);
  }

  /**
   * Call `listener` when the state of the connection changes.
   * @param {(state: ConnectionState) => void} listener
   * @returns {() => void} removes it
   */
  onState(listener) {
    return this.#states.add(listener);
  }

  /**
   * Call `listener` whenever events may be missing, so that the application reads its state again over HTTP. The first connection is
   * such a moment too: a state that is read then misses nothing that follows.
   * @param {(gap: Gap) => void} listener
   * @returns {() => void} removes it
   */
  onGap(listener) {
    return this.#gaps.add(listener);
  }

  /**
   * Call `listener` with each event of a topic. The topic is left with the last of its listeners.
   * @template [D=unknown]
   * @param {string} name 1 to 200 ASCII letters, digits and . _ ~ : / @ % + = -
   * @param {(event: CloudEvent<D>) => void} listener
   * @returns {Subscription}
   */
  subscribe(name, listener) {
    if (!TOPIC.test(name)) throw new TypeError(`not a topic: ${name}`);
    let topic = this.#topics.get(name);
    if (!topic) {
      topic = createTopic();
      this.#topics.set(name, topic);
      if (this.#state.state === "connected") this.#join(name, topic);
    }
    const { listeners, ready, reject } = topic;
    const remove = listeners.add(listener);
    const unsubscribe = () => {
      remove();
      if (listeners.size || this.#topics.get(name)?.listeners !== listeners) return;
      this.#topics.delete(name);
      reject(new GridcastError(0, "the topic was left"));
      if (this.#joined.has(name)) this.#leave(name);
    };
    return { ready, unsubscribe };
  }

  /**
   * Confirm an event to its sender, who waits for that.
   * @param {{ id: string }} event
   */
  ack({ id }) {
    this.#send({ type: "ack", id });
  }

  /** @param {AbortSignal} signal */
  async #run(signal) {
    while (!signal.aborted) {
      try {
        this.#set({ state: "connecting" });
        const { code, reason } = await this.#hold(signal);
        if (signal.aborted) return;
        // Other ends leave the session as it is: its secret is valid until the server has sent another one.
        if (reason === SUPERSEDED || reason === CLOSED_BY_OPERATOR) this.#resume = this.#sequence = "";
        if (reason === SUPERSEDED || FINAL_CODES.includes(code)) return this.#end({ code, reason });
        if (this.#connectedAt && Date.now() - this.#connectedAt >= STABLE) this.#tries = 0;
        const retryIn = backoff(this.#tries++, code === 1008 ? PENALTY : 0);
        this.#set({ state: "waiting", code, reason, retryIn });
        await wait(retryIn, signal);
      } catch (error) {
        if (signal.aborted) return;
        const retryIn = backoff(this.#tries++);
        this.#set({ state: "waiting", code: 1006, reason: String(error), retryIn });
        await wait(retryIn, signal).catch(() => {});
      }
    }
  }

  /**
   * Hold one connection until it ends.
   * @param {AbortSignal} signal
   * @returns {Promise<{ code: number, reason: string }>}
   */
  async #hold(signal) {
    const token = await this.#http.token();
    signal.throwIfAborted();
    const asked = this.#chooseQueryTopics();
    const socket = new this.#WebSocket(this.#url(asked), token ? ["cloudevents.json", `bearer.${token}`] : []);
    this.#socket = socket;
    this.#connectedAt = 0;
    this.#commands = [];
    this.#heard = this.#pinged = Date.now();
    const pings = setInterval(() => this.#ping(), this.#heartbeat);
    const ended = await new Promise((resolve) => {
      this.#lost = () => resolve({ code: 1006, reason: "no answer" });
      socket.onmessage = ({ data }) => this.#receive(JSON.parse(data), asked);
      socket.onclose = resolve;
      socket.onerror = () => {}; // `close` follows
      signal.addEventListener("abort", this.#lost, { once: true });
    });
    clearInterval(pings);
    signal.removeEventListener("abort", this.#lost);
    if (this.#socket === socket) this.#socket = null;
    socket.onmessage = socket.onclose = null;
    socket.close(); // of a frozen server: its closing handshake would take too long to wait for
    return ended;
  }

  get #heartbeat() {
    return this.#options.heartbeat ?? HEARTBEAT;
  }

  #chooseQueryTopics() {
    let length = 0;
    const names = [...this.#topics.keys()].slice(0, QUERY_TOPICS.names);
    return new Set(names.filter((name) => (length += name.length + 1) <= QUERY_TOPICS.characters));
  }

  /** @param {Set<string>} asked */
  #url(asked) {
    const query = new URLSearchParams();
    if (asked.size) query.set("topics", [...asked].join(","));
    if (this.#options.meta !== undefined) query.set("meta", JSON.stringify(this.#options.meta));
    if (this.#resume) query.set("resume", this.#resume);
    if (this.#resume && this.#sequence) query.set("after", this.#sequence);
    return `${this.#http.base.replace(/^http/, "ws")}/ws${query.size ? `?${query}` : ""}`;
  }

  /**
   * Send a ping, unless the last one has gone without an answer for too long. Timers of a hidden page are late, so the unanswered
   * ping counts and not the time since the last frame.
   */
  #ping() {
    if (this.#pinged <= this.#heard) this.#pinged = Date.now();
    else if (Date.now() - this.#pinged >= UNANSWERED * this.#heartbeat) return this.#lost();
    this.#send({ type: "ping" });
  }

  /** The network is back, or the page visible: ask at once whether the connection still exists. */
  #check() {
    if (this.#state.state !== "connected") return;
    const [lost, heard] = [this.#lost, this.#heard];
    this.#send({ type: "ping" });
    setTimeout(() => this.#heard === heard && lost(), PROOF);
  }

  /**
   * @param {any} frame
   * @param {Set<string>} asked
   */
  #receive(frame, asked) {
    this.#heard = Date.now();
    if (frame.specversion) this.#deliver(frame);
    else if (frame.resume) this.#welcome(frame, asked);
    else if (frame.type) this.#answered(frame);
  }

  /**
   * @param {{ sid: string, resume: string, sequence: string, recovered: boolean }} frame
   * @param {Set<string>} asked
   */
  #welcome({ sid, resume, sequence, recovered }, asked) {
    if (!recovered) this.#joined.clear();
    for (const name of asked) this.#joined.add(name);
    [this.#resume, this.#sequence, this.#connectedAt] = [resume, sequence, Date.now()];
    this.#set({ state: "connected", sid, recovered });
    for (const [name, topic] of this.#topics) {
      if (asked.has(name)) topic.resolve();
      else this.#join(name, topic);
    }
    for (const name of this.#joined) if (!this.#topics.has(name)) this.#leave(name);
    if (!recovered) this.#gaps.tell({ reason: "a new session" });
  }

  /** @param {CloudEvent} event */
  #deliver(event) {
    this.#sequence = event.sequence;
    if (event.type !== "file.progress" && this.#isRepeated(`${event.source} ${event.id} ${event.topic}`)) return;
    if (event.topic !== undefined) this.#topics.get(event.topic)?.listeners.tell(event);
    this.#byType.get(event.type)?.tell(event);
    this.#all.tell(event);
    if (event.type === "socket.expiring") void this.#renew();
    if (event.type === "socket.resync") this.#gaps.tell(/** @type {Gap} */ (event.data));
  }

  /** The token of this connection ends in a minute: hand over another one, if the application has one. */
  async #renew() {
    const socket = this.#socket;
    // Where there is none, the connection ends in time, and the next one asks again.
    const token = await this.#http.renewed().catch(() => "");
    if (!token || this.#socket !== socket) return;
    this.#commands.push(TOKEN);
    this.#send({ type: "token", token });
  }

  /** @param {string} key */
  #isRepeated(key) {
    if (this.#seen.has(key)) return true;
    this.#seen.add(key);
    for (const oldest of this.#seen) {
      if (this.#seen.size <= REMEMBERED) break;
      this.#seen.delete(oldest);
    }
    return false;
  }

  /** @param {{ type: string, detail?: string, topic?: string }} frame */
  #answered({ type, detail, topic: name = "" }) {
    if (type === "unsubscribed" && this.#commands[0] === TOKEN) {
      // The server has unsubscribed it: the new token has no right to the topic, and the next handshake with its name would be refused.
      this.#topics.delete(name);
      this.#joined.delete(name);
      return this.#gaps.tell({ reason: `the token does not cover the topic ${name}` });
    }
    const topic = this.#commands.shift();
    if (topic === TOKEN) return;
    if (type === "subscribed") topic?.resolve();
    else if (type === "error") topic?.reject(new GridcastError(0, detail ?? "the command was refused"));
  }

  /**
   * @param {string} name
   * @param {Topic} topic
   */
  #join(name, topic) {
    this.#joined.add(name);
    this.#commands.push(topic);
    this.#send({ type: "subscribe", topic: name });
  }

  /** @param {string} name */
  #leave(name) {
    if (this.#state.state !== "connected") return; // after the next first frame
    this.#joined.delete(name);
    this.#commands.push(null);
    this.#send({ type: "unsubscribe", topic: name });
  }

  /** @param {object} command */
  #send(command) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(command));
  }

  /** @param {{ code?: number, reason?: string }} why */
  #end(why) {
    this.#wanted = false;
    this.#stopped.abort();
    this.#set({ state: "closed", ...why });
  }

  /** @param {Omit<ConnectionState, "sid"> & { sid?: string }} state */
  #set(state) {
    this.#state = { sid: this.#state.sid, ...state };
    this.#states.tell(this.#state);
  }
}

/** @returns {Topic} */
function createTopic() {
  let [resolve, reject] = [() => {}, (/** @type {Error} */ _) => {}];
  /** @type {Promise<void>} */
  const ready = new Promise((...settle) => {
    [resolve, reject] = settle;
  });
  ready.catch(() => {}); // not everyone waits for it
  return { listeners: new Listeners(), ready, resolve, reject };
}
