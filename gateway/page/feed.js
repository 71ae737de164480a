// The events that come to this page: by type, with search, folded progress, and a pause that loses none of the last.
import { events } from "./app.js";
import { el, perFrame, setText } from "./dom.js";
import { icon } from "./icons.js";

const KEPT = 500;
const SHOWN = 100;

export class Feed {
  /** Newest first. @type {{ event: object, count: number, key: string }[]} */
  #entries = [];
  #types = new Map();
  #off = new Set();
  #paused = null; // the entries that are shown while the feed stands still
  #search = "";
  #rows = new Map();

  constructor() {
    this.render = perFrame(() => this.#show());
    this.chips = el("div", { class: "chips", role: "group", "aria-label": "Types of events" });
    const input = el("input", { class: "input", type: "search", placeholder: "Search events", "aria-label": "Search events" });
    input.addEventListener("input", () => {
      this.#search = input.value.toLowerCase();
      this.render();
    });
    this.pause = el("button", { class: "button small", "aria-pressed": "false", onclick: () => this.#toggle() }, icon("pause"), el("span", { text: "Pause" }));
    const clear = el("button", { class: "button small", text: "Clear", onclick: () => this.#clear() });
    this.list = el("ol", { class: "feed-list" });
    this.none = el("p", { class: "soft feed-none" });
    this.element = el("section", { class: "card feed", "aria-labelledby": "feed-title" }, el("h2", { id: "feed-title", text: "Events to this page" }), el("div", { class: "feed-tools" }, el("div", { class: "search" }, icon("search"), input), this.pause, clear), this.chips, this.none, this.list);
    events.onEvent((event) => this.#take(event));
    this.render();
  }

  #take(event) {
    if (!/^(file|socket)\./.test(event.type)) events.ack(event); // its sender may wait for that
    const folded = event.type === "file.progress";
    const key = folded ? `progress ${event.data?.filename}` : `${event.source} ${event.id} ${event.topic ?? ""} ${event.sequence}`;
    const last = folded ? this.#entries.findIndex((entry) => entry.key === key) : -1;
    const [before] = last >= 0 ? this.#entries.splice(last, 1) : [];
    this.#entries.unshift({ event, key, count: (before?.count ?? 0) + 1 });
    this.#entries.length = Math.min(this.#entries.length, KEPT);
    this.#types.set(event.type, (this.#types.get(event.type) ?? 0) + 1);
    if (this.element.isConnected) this.render();
  }

  #toggle() {
    this.#paused = this.#paused ? null : [...this.#entries];
    this.pause.setAttribute("aria-pressed", String(Boolean(this.#paused)));
    this.pause.replaceChildren(icon(this.#paused ? "play" : "pause"), el("span", { text: this.#paused ? "Go on" : "Pause" }));
    this.render();
  }

  #clear() {
    this.#entries = [];
    if (this.#paused) this.#paused = [];
    this.#types.clear();
    this.render();
  }

  #show() {
    for (const type of this.#types.keys()) {
      if (this.chips.querySelector(`[data-type="${CSS.escape(type)}"]`)) continue;
      const chip = el("button", { class: "chip", "aria-pressed": "true", data: { type }, onclick: () => this.#filter(type, chip) }, el("span", { text: type }), el("b"));
      this.chips.append(chip);
    }
    for (const chip of [...this.chips.children]) {
      const number = this.#types.get(chip.dataset.type);
      if (number === undefined) chip.remove();
      else setText(chip.querySelector("b"), String(number));
    }
    const found = (this.#paused ?? this.#entries).filter(({ event }) => !this.#off.has(event.type) && (!this.#search || JSON.stringify(event).toLowerCase().includes(this.#search)));
    const shown = found.slice(0, SHOWN);
    this.none.hidden = shown.length > 0;
    setText(this.none, this.#entries.length ? "No event matches. Change the search or the types." : "Nothing has happened yet. Upload a file or push an event, and it appears here at once.");
    const rows = new Map(shown.map((entry) => [entry.key, this.#rows.get(entry.key) ?? this.#row()]));
    for (const [key, row] of this.#rows) if (!rows.has(key)) row.remove();
    let cursor = this.list.firstElementChild;
    for (const entry of shown) {
      const row = rows.get(entry.key);
      this.#update(row, entry);
      if (row === cursor) cursor = cursor.nextElementSibling;
      else this.list.insertBefore(row, cursor);
    }
    this.#rows = rows;
  }

  #row() {
    const json = el("pre", { tabindex: 0 });
    const details = el("details", {}, el("summary", {}, el("time", { class: "mono soft" }), el("strong"), el("span", { class: "feed-text soft" })), json);
    details.addEventListener("toggle", () => details.open && setText(json, JSON.stringify(details.event, null, 2)));
    return el("li", {}, details);
  }

  #update(row, { event, count }) {
    const details = row.firstElementChild;
    if (details.event === event) return;
    details.event = event;
    const [time, type, text] = details.firstElementChild.children;
    setText(time, new Date(event.time ?? Date.now()).toLocaleTimeString("en", { hour12: false }));
    setText(type, event.type);
    setText(text, `${event.topic ? `${event.topic} · ` : ""}${brief(event)}${count > 1 ? ` · ${count} times` : ""}`);
    if (details.open) setText(details.lastElementChild, JSON.stringify(event, null, 2));
  }

  #filter(type, chip) {
    if (!this.#off.delete(type)) this.#off.add(type);
    chip.setAttribute("aria-pressed", String(!this.#off.has(type)));
    this.render();
  }
}

function brief({ type, data }) {
  if (type === "file.progress") return `${data.filename} ${data.total ? `${Math.floor((data.received / data.total) * 100)} %` : ""} ${data.state}`;
  if (type.startsWith("file.")) return [data.folder, data.filename].filter(Boolean).join("/");
  const text = JSON.stringify(data ?? null);
  return text.length > 160 ? `${text.slice(0, 160)}…` : text;
}
