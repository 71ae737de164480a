// Live events over one WebSocket that reconnects without end and resumes its session.

const BASE_DELAY = 500; // milliseconds until the next attempt, doubled each time
const MAX_DELAY = 30_000;
const HEARTBEAT = 20_000; // milliseconds between two pings of ours; a browser does not show those of the protocol
const SILENCE = 2.5 * HEARTBEAT; // after this long without any frame the server is taken for frozen

export class Events extends EventTarget {
  sid = null;
  token = "";
  #resume = null;
  #sequence = null;
  #tries = 0;
  #socket = null;
  #pings = null;
  #heard = 0;

  /** Opens the socket. Fires `state` (detail: text) and `message` (detail: the event's object). */
  open() {
    if (this.#socket) return;
    const query = new URLSearchParams();
    if (this.#resume) query.set("resume", this.#resume);
    if (this.#resume && this.#sequence) query.set("after", this.#sequence);
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}/ws${query.size ? `?${query}` : ""}`, this.#subprotocols());
    this.#socket = socket;
    this.#heard = Date.now();
    socket.onmessage = ({ data }) => socket === this.#socket && this.#receive(JSON.parse(data));
    socket.onclose = ({ code, reason }) => socket === this.#socket && this.#lost(code, reason);
    this.#pings = setInterval(() => this.#ping(socket), HEARTBEAT);
  }

  // A page cannot set header fields of a handshake: the token is a subprotocol, which the server does not select.
  #subprotocols() {
    return this.token ? ["cloudevents.json", `bearer.${this.token}`] : ["cloudevents.json"];
  }

  /** Uses another token: renews that of the open connection, or connects. */
  renew(token) {
    this.token = token;
    if (this.#socket?.readyState === WebSocket.OPEN && token) this.#socket.send(JSON.stringify({ type: "token", token }));
    else this.open();
  }

  #ping(socket) {
    if (Date.now() - this.#heard > SILENCE) {
      this.#lost(1006, "no answer"); // the closing handshake would wait for the frozen server
      socket.close();
    } else if (socket.readyState === WebSocket.OPEN) {
      socket.send('{"type":"ping"}');
    }
  }

  #lost(code, reason) {
    this.#socket = null;
    clearInterval(this.#pings);
    if (reason === "session resumed elsewhere") {
      this.#fire("state", "not connected: another tab has resumed this session");
      return;
    }
    // A refused attempt does not change the session: its secret is valid until the server has sent another one.
    if (reason === "closed by an operator") this.#resume = this.#sequence = null;
    const wait = Math.random() * Math.min(MAX_DELAY, BASE_DELAY * 2 ** this.#tries++);
    this.#fire("state", `not connected (${code})`);
    setTimeout(() => this.open(), wait);
  }

  #receive(message) {
    this.#heard = Date.now();
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
