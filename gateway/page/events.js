// Live events over one WebSocket that reconnects without end and resumes its session.

const BASE_DELAY = 500; // milliseconds until the next attempt, doubled each time
const MAX_DELAY = 30_000;

export class Events extends EventTarget {
  sid = null;
  #resume = null;
  #sequence = null;
  #tries = 0;

  /** Opens the socket. Fires `state` (detail: text) and `message` (detail: the event's object). */
  open() {
    const query = new URLSearchParams();
    if (this.#resume) query.set("resume", this.#resume);
    if (this.#resume && this.#sequence) query.set("after", this.#sequence);
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}/ws${query.size ? `?${query}` : ""}`);
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = ({ code }) => {
      // The secret works once: if the last attempt with it failed, the next one starts a new session.
      if (this.#tries > 0) this.#resume = null;
      const wait = Math.random() * Math.min(MAX_DELAY, BASE_DELAY * 2 ** this.#tries++);
      this.#fire("state", `not connected (${code})`);
      setTimeout(() => this.open(), wait);
    };
  }

  #receive(message) {
    if (message.sid && !message.specversion) {
      this.sid = message.sid;
      this.#resume = message.resume ?? null;
      this.#tries = 0;
      this.#fire("state", `connected as ${message.sid.slice(0, 8)}…`);
      if (message.recovered === false) this.#fire("fresh");
    }
    if (message.sequence) this.#sequence = message.sequence;
    if (message.specversion) this.#fire("message", message);
  }

  #fire(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
