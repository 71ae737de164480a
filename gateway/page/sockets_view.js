// Who is connected, pushes to them, and the events that come to this page.
import { events, sockets, tokenListeners } from "./app.js";
import { confirm, copy, toast } from "./dialogs.js";
import { el, setText } from "./dom.js";
import { Feed } from "./feed.js";
import { count, span, words } from "./format.js";
import { icon } from "./icons.js";
import { PushForm } from "./push_form.js";

const INTERVAL = 4_000; // milliseconds
const PAGE = 100;

export class SocketsView {
  #shown = false;
  #timer;
  #rows = new Map();
  #pages = 1;
  #reading = false;

  constructor() {
    this.feed = new Feed();
    this.push = new PushForm();
    this.sid = el("code", { class: "sid" });
    this.copy = el("button", { class: "icon-button", "aria-label": "Copy the sid of this page", title: "Copy", onclick: () => copy(events.sid, "Sid") }, icon("copy"));
    this.sum = el("span", { class: "chip" });
    this.state = el("div");
    this.list = el("ul", { class: "socket-list" });
    this.more = el("button", { class: "button small", hidden: true, text: "Show more", onclick: () => (this.#pages++, this.#read()) });
    const connected = el("section", { class: "card", "aria-labelledby": "sockets-title" }, el("h2", { id: "sockets-title" }, "Connected", this.sum), this.state, this.list, this.more);
    const own = el("section", { class: "card own", "aria-labelledby": "own-title" }, el("h2", { id: "own-title", text: "This page" }), el("p", { class: "small soft", text: "Others push to this page by its sid." }), el("div", { class: "copied" }, this.sid, this.copy));
    this.element = el("section", { class: "view" }, el("h1", { text: "Sockets" }), el("div", { class: "sockets-grid" }, el("div", { class: "stack" }, connected, this.feed.element), el("div", { class: "stack" }, own, this.push.element)));
    events.onState(({ state }) => {
      this.#showSid();
      if (state === "connected") this.#schedule(300);
    });
    tokenListeners.add(() => this.#shown && this.#read());
    document.addEventListener("visibilitychange", () => this.#schedule(0));
  }

  show() {
    document.title = "Sockets · Gridcast";
    this.#shown = true;
    this.#showSid();
    this.feed.render();
    void this.#read();
  }

  hide() {
    this.#shown = false;
    clearTimeout(this.#timer);
  }

  #schedule(milliseconds) {
    clearTimeout(this.#timer);
    if (this.#shown && !document.hidden) this.#timer = setTimeout(() => this.#read(), milliseconds);
  }

  #showSid() {
    setText(this.sid, events.sid ?? "not connected");
    this.copy.disabled = !events.sid;
  }

  async #read() {
    if (this.#reading) return;
    this.#reading = true;
    try {
      const found = [];
      let after = null;
      for (let page = 0; page < this.#pages; page++) {
        const answer = await sockets.list({ after, limit: PAGE });
        found.push(...answer.sockets);
        after = answer.next;
        if (after === null) break;
      }
      this.more.hidden = after === null;
      this.#show(found, after !== null);
    } catch (error) {
      this.list.replaceChildren();
      this.#rows.clear();
      this.sum.textContent = "";
      this.state.replaceChildren(el("p", { class: "notice error", role: "alert", text: error.status === 403 ? "Your token does not let you see the sockets of others: it needs the right “sockets”. The events to this page are below." : words(error) }));
    }
    this.#reading = false;
    this.#schedule(INTERVAL);
  }

  #show(found, partial) {
    const online = found.filter(({ state }) => state === "online").length;
    setText(this.sum, `${online}${partial ? "+" : ""} online${found.length > online ? `, ${found.length - online} away` : ""}`);
    this.state.replaceChildren(...(found.length ? [] : [el("p", { class: "soft", text: "No one is connected. Open this page in a second window, and it appears here." })]));
    // This page first, then who is online, then by the time at which they came.
    const rank = ({ sid, state }) => (sid === events.sid ? 0 : state === "online" ? 1 : 2);
    found.sort((one, other) => rank(one) - rank(other) || other.since - one.since);
    const rows = new Map(found.map((socket) => [socket.sid, this.#rows.get(socket.sid) ?? this.#row(socket)]));
    for (const [sid, row] of this.#rows) if (!rows.has(sid)) row.remove();
    let cursor = this.list.firstElementChild;
    for (const socket of found) {
      const row = rows.get(socket.sid);
      this.#update(row, socket);
      if (row === cursor) cursor = cursor.nextElementSibling;
      else this.list.insertBefore(row, cursor);
    }
    this.#rows = rows;
  }

  #row({ sid }) {
    const short = `${sid.slice(0, 8)}…`;
    const button = (name, label, act) => el("button", { class: "icon-button", "aria-label": `${label} ${short}`, title: label, onclick: act }, icon(name));
    return el(
      "li",
      { class: "socket" },
      el("span", { class: "dot" }),
      el("div", { class: "socket-text" }, el("div", { class: "inline" }, el("code", { text: short, title: sid }), el("span", { class: "chip you", text: "this page", hidden: true })), el("p", { class: "small soft" }), el("p", { class: "topics" }), el("details", { class: "small" }, el("summary", { text: "Meta" }), el("pre", { tabindex: 0 }))),
      el("span", { class: "socket-acts" }, button("send", "Push to", () => this.push.aim(sid)), button("copy", "Copy the sid of", () => copy(sid, "Sid")), button("close", "Disconnect", () => this.#close(sid))),
    );
  }

  #update(row, { sid, state, replica, since, left, topics, meta }) {
    const now = Date.now() / 1000;
    row.querySelector(".dot").className = `dot ${state === "online" ? "good" : "busy"}`;
    row.querySelector(".you").hidden = sid !== events.sid;
    setText(row.querySelector("p.soft"), state === "online" ? `online for ${span(now - since)} · replica ${replica || "unknown"}` : `away${left ? ` for ${span(now - left)}` : ""}, may come back within two minutes`);
    const place = row.querySelector(".topics");
    if (place.dataset.all !== topics.join()) {
      place.dataset.all = topics.join();
      place.replaceChildren(...topics.slice(0, 12).map((topic) => el("span", { class: "chip", text: topic })), topics.length > 12 ? el("span", { class: "small soft", text: count(topics.length - 12, "more topic") }) : "");
    }
    const details = row.querySelector("details");
    details.hidden = meta === null || meta === undefined;
    setText(details.lastElementChild, JSON.stringify(meta, null, 2) ?? "");
  }

  async #close(sid) {
    const own = sid === events.sid;
    if (!(await confirm(own ? "Disconnect this page?" : "Disconnect this socket?", own ? "It connects again at once, as a new session." : "Its session ends, and events that wait for it are lost. Most clients connect again as a new one.", "Disconnect"))) return;
    try {
      await sockets.close(sid);
      toast("Disconnected.");
    } catch (error) {
      toast(error.status === 404 ? "It had left already." : words(error), { error: error.status !== 404 });
    }
    void this.#read();
  }
}
