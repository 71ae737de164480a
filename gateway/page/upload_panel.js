// The queue of uploads, as a card in the corner: what the server has of each file, how fast, how long; pause, resume, cancel, retry.
import { events, files, uploads } from "./app.js";
import { copy, toast } from "./dialogs.js";
import { el, perFrame, setAttribute, setText } from "./dom.js";
import { count, rate, size, span, words } from "./format.js";
import { frameOf } from "./frames.js";
import { icon } from "./icons.js";
import { link, pathOf } from "./router.js";

const LISTED = 200; // of a queue that may be long

const POSTER_EDGE = 640; // pixels

const ACTIVE = ["waiting", "sending", "retrying"];

export class UploadPanel {
  /** @type {Map<object, { upload: object, file: File, row: HTMLElement, received: number, verifying: boolean, address: string }>} */
  #items = new Map();
  /** Begun before this page was loaded, by path. */
  #unfinished = new Map();
  #collapsed = false;

  constructor() {
    this.#title = el("h2", { id: "uploads-title" });
    this.#summary = el("p", { class: "soft small" });
    this.#toggle = el("button", { class: "icon-button", "aria-expanded": "true", "aria-label": "Fold the uploads", onclick: () => this.#fold() }, icon("down"));
    this.#dismiss = el("button", { class: "icon-button", "aria-label": "Clear the finished uploads", title: "Clear", onclick: () => this.#clear() }, icon("close"));
    this.#list = el("ul", { class: "upload-list" });
    this.#said = el("p", { class: "sr", role: "status" });
    this.element = el("section", { class: "uploads", "aria-labelledby": "uploads-title", hidden: true }, el("header", {}, el("div", {}, this.#title, this.#summary), this.#toggle, this.#dismiss), this.#list, this.#said);
    this.#render = perFrame(() => this.#show());
    events.on("file.progress", ({ data }) => this.#progress(data));
    events.on("file.playable", ({ data }) => this.#playable(data));
    addEventListener("beforeunload", (event) => {
      // What the server has of a large file stays there, but the rest needs the file to be chosen again.
      if (this.#active().length) event.preventDefault();
    });
  }

  #title;
  #summary;
  #toggle;
  #dismiss;
  #list;
  #said;
  #render;

  /** Add files to the queue. `folder`: of each that has none of its own. */
  add(entries) {
    for (const { file, folder, filename } of entries) this.#add(file, { folder, ...(filename ? { filename } : {}) });
    this.#collapsed = false;
    this.#show();
  }

  /** Show what was begun before the page was loaded. */
  async restore() {
    const found = await uploads.unfinished().catch(() => []);
    this.#unfinished = new Map(found.map((one) => [`${pathOf(one)} ${one.size}`, one]));
    for (const [key, one] of this.#unfinished) this.#offer(key, one);
    this.#show();
  }

  #add(file, options) {
    const known = this.#match(file);
    const upload = uploads.add(file, known ? { ...options, folder: known.folder, filename: known.filename } : options);
    if (this.#items.has(upload)) return;
    const item = { upload, file, row: this.#createRow(), received: 0, verifying: false, address: "" };
    this.#items.set(upload, item);
    const over = this.#list.querySelector('[data-state="stored"], [data-state="cancelled"]'); // what goes on stands above
    if (this.#list.childElementCount < LISTED) this.#list.insertBefore(item.row, over);
    this.#bind(item);
    upload.onChange((snapshot) => {
      if (snapshot.state !== "sending") item.verifying = false;
      if (snapshot.state === "stored") {
        this.#said.textContent = `${snapshot.filename} is stored.`;
        void makePoster(file, snapshot);
      }
      if (snapshot.state === "failed") this.#said.textContent = `${snapshot.filename} was not uploaded. ${words(snapshot.error)}`;
      this.#render();
    });
  }

  /** The upload of before that a chosen file continues. */
  #match(file) {
    for (const [key, one] of this.#unfinished) {
      if (one.filename !== file.name || one.size !== file.size || one.lastModified !== file.lastModified) continue;
      this.#unfinished.delete(key);
      this.#list.querySelector(`[data-offer="${CSS.escape(key)}"]`)?.remove();
      return one;
    }
    return undefined;
  }

  #offer(key, one) {
    const choose = el("input", { type: "file", class: "sr", tabindex: -1, "aria-hidden": true });
    choose.onchange = () => {
      const [file] = choose.files;
      if (!file) return;
      if (file.size !== one.size || file.lastModified !== one.lastModified || file.name !== one.filename) {
        toast(`This is not the same file: it must be ${one.filename}, unchanged, of ${size(one.size)}.`, { error: true });
        choose.value = "";
      } else this.#add(file, { folder: one.folder });
      this.#show();
    };
    const discard = async (event) => {
      event.currentTarget.disabled = true;
      await uploads.discard(one).catch(() => {});
      this.#unfinished.delete(key);
      row.remove();
      this.#show();
    };
    const row = el(
      "li",
      { class: "upload", data: { offer: key } },
      el("div", { class: "upload-head" }, el("span", { class: "upload-name", text: one.filename, title: pathOf(one) }), choose),
      el("p", { class: "small soft", text: `Was interrupted. Choose the same file again (${size(one.size)}${one.folder ? `, to ${one.folder}` : ""}) and it goes on where it stopped.` }),
      el("div", { class: "inline" }, el("button", { class: "button small", text: "Choose the file", onclick: () => choose.click() }), el("button", { class: "button small danger", text: "Discard", onclick: discard })),
    );
    this.#list.append(row);
  }

  #createRow() {
    const button = (name) => el("button", { class: "icon-button", hidden: true, data: { act: name } }, icon({ share: "link", pause: "pause", resume: "play", retry: "retry", cancel: "close" }[name]));
    return el(
      "li",
      { class: "upload" },
      el("div", { class: "upload-head" }, el("span", { class: "upload-icon" }), el("span", { class: "upload-name" }), el("span", { class: "upload-buttons" }, button("pause"), button("resume"), button("retry"), button("share"), button("cancel"))),
      el("div", { class: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, el("i", { class: "bar-sent" }), el("i", { class: "bar-stored" })),
      el("p", { class: "small soft upload-state" }),
    );
  }

  #bind(item) {
    const { row, upload, file } = item;
    const acts = { share: () => copy(new URL(item.address, location.href).href, "Link that plays while the upload goes on"), pause: () => upload.pause(), resume: () => upload.resume(), retry: () => upload.resume(), cancel: () => this.#cancel(upload) };
    for (const [name, act] of Object.entries(acts)) {
      row.querySelector(`[data-act=${name}]`).addEventListener("click", () => {
        act();
        this.#show();
        row.querySelector(".upload-buttons button:not([hidden])")?.focus();
      });
    }
    row.keepBoth = () => {
      const [, stem, extension] = /^(.*?)(\.[^.]*)?$/s.exec(upload.filename);
      const number = Number(/ \((\d+)\)$/.exec(stem)?.[1] ?? 1) + 1;
      this.#forget(upload);
      this.#add(file, { folder: upload.folder, filename: `${stem.replace(/ \(\d+\)$/, "")} (${number})${extension ?? ""}` });
    };
  }

  #cancel(upload) {
    const { state } = upload;
    void upload.cancel();
    if (state === "failed") this.#forget(upload);
  }

  #forget(upload) {
    this.#items.get(upload)?.row.remove();
    this.#items.delete(upload);
    if (upload.state !== "stored") void upload.cancel();
    this.#show();
  }

  #progress({ filename, received, state }) {
    for (const item of this.#items.values()) {
      if (item.upload.filename !== filename || !ACTIVE.includes(item.upload.state)) continue;
      item.received = received;
      item.verifying = state === "verifying";
      this.#render();
      return;
    }
  }

  /** The server can play an upload before its end, for those who have its address. */
  #playable({ filename, playable, address }) {
    const item = [...this.#items.values()].find(({ upload }) => upload.filename === filename && ACTIVE.includes(upload.state));
    if (!item || !playable || !address) return;
    item.address = address;
    this.#render();
  }

  #active() {
    return [...this.#items.keys()].filter((upload) => ACTIVE.includes(upload.state));
  }

  #clear() {
    for (const upload of [...this.#items.keys()]) if (["stored", "cancelled", "failed"].includes(upload.state)) this.#forget(upload);
    this.#show();
  }

  #fold() {
    this.#collapsed = !this.#collapsed;
    this.#show();
  }

  #show() {
    const all = [...this.#items.values()];
    this.element.hidden = all.length === 0 && this.#unfinished.size === 0;
    document.body.classList.toggle("has-uploads", !this.element.hidden);
    if (this.element.hidden) return;
    let [sent, total, speed] = [0, 0, 0];
    const by = {};
    for (const { upload } of all) {
      const { state, sent: up, size: bytes, rate: now } = upload.snapshot;
      by[state] = (by[state] ?? 0) + 1;
      if (state === "cancelled") continue;
      sent += up;
      total += bytes;
      speed += now;
    }
    const active = ACTIVE.reduce((sum, state) => sum + (by[state] ?? 0), 0);
    const done = by.stored ?? 0;
    const { failed = 0, paused = 0 } = by;
    setText(this.#title, active ? `Uploading ${count(active, "file")}` : failed ? `${count(failed, "upload")} failed` : paused ? `${count(paused, "upload")} paused` : all.length ? `${count(done, "file")} uploaded` : "Unfinished uploads");
    const left = speed ? `${rate(speed)} · ${span((total - sent) / speed)} left` : "";
    setText(this.#summary, active ? [total ? `${Math.floor((sent / total) * 100)} %` : "", left].filter(Boolean).join(" · ") : "");
    this.#dismiss.hidden = active > 0 || all.length === 0;
    this.#list.hidden = this.#collapsed;
    setAttribute(this.#toggle, "aria-expanded", String(!this.#collapsed));
    setAttribute(this.#toggle, "aria-label", this.#collapsed ? "Unfold the uploads" : "Fold the uploads");
    this.element.classList.toggle("folded", this.#collapsed);
    if (!this.#collapsed) for (const item of all) if (item.row.isConnected) this.#showRow(item);
  }

  #showRow({ row, upload, received, verifying, address }) {
    const { state, sent, stored, size: bytes, rate: speed, secondsLeft, error, folder, filename } = upload.snapshot;
    const find = (selector) => row.querySelector(selector);
    const name = find(".upload-name");
    setText(name, filename);
    name.title = folder ? `${folder}/${filename}` : filename;
    if (row.dataset.state !== state) {
      row.dataset.state = state;
      find(".upload-icon").replaceChildren(icon({ stored: "check", failed: "warning", cancelled: "close", paused: "pause" }[state] ?? "upload"));
      for (const [act, states] of [["pause", ACTIVE], ["resume", ["paused"]], ["retry", ["failed"]], ["cancel", [...ACTIVE, "paused", "failed"]]]) {
        const button = find(`[data-act=${act}]`);
        button.hidden = !states.includes(state) || (act === "retry" && error?.status === 409);
        setAttribute(button, "aria-label", `${act[0].toUpperCase()}${act.slice(1)} ${filename}`);
        button.title = act[0].toUpperCase() + act.slice(1);
      }
    }
    const share = find("[data-act=share]");
    share.hidden = !address || ![...ACTIVE, "paused"].includes(state);
    setAttribute(share, "aria-label", `Copy a link that plays ${filename} already`);
    share.title = "Copy a link that plays already";
    const has = Math.max(received, stored);
    const bar = find(".bar");
    bar.hidden = state === "stored" || state === "cancelled" || (state === "failed" && error?.status === 409);
    const part = (value) => (bytes ? value / bytes : 1);
    find(".bar-sent").style.transform = `scaleX(${part(Math.max(sent, has))})`;
    find(".bar-stored").style.transform = `scaleX(${part(Math.min(has, bytes))})`;
    setAttribute(bar, "aria-valuenow", Math.floor(part(Math.max(sent, has)) * 100));
    setAttribute(bar, "aria-label", `Upload of ${filename}`);
    const place = folder ? ` in ${folder}` : "";
    const texts = {
      waiting: "Waits for the others",
      sending: verifying ? `${size(bytes)} received, being stored safely` : [`${size(Math.max(sent, has))} of ${size(bytes)}`, speed ? rate(speed) : "", secondsLeft === null ? "" : `${span(secondsLeft)} left`].filter(Boolean).join(" · "),
      retrying: `Waits for the network, then goes on. The server has ${size(has)} of ${size(bytes)}`,
      paused: `Paused. The server has ${size(has)} of ${size(bytes)}`,
      stored: `Stored${place} · ${size(bytes)}`,
      cancelled: "Cancelled",
      failed: error ? words(error) : "",
    };
    const shown = find(".upload-state");
    if (state === "failed" && error?.status === 409) {
      if (shown.dataset.asks) return;
      shown.dataset.asks = "yes";
      shown.replaceChildren(`“${filename}” is already there${place}. `, el("button", { class: "link-button", text: "Keep both", onclick: () => row.keepBoth() }), " ", el("a", { class: "small", href: link("files", folder, { info: pathOf({ folder, filename }) }), text: "Show it" }));
    } else {
      delete shown.dataset.asks;
      setText(shown, texts[state]);
    }
  }
}

/** Store a frame of a video beside it, so that no other browser has to draw one. Where that fails the video has none. */
async function makePoster(file, name) {
  if (!file.type.startsWith("video/")) return;
  const address = URL.createObjectURL(file);
  try {
    const picture = await frameOf(address, POSTER_EDGE);
    if (picture) await files.setPoster(name, picture);
  } catch {
    // a codec that this browser does not have, or a right that the token lacks
  } finally {
    URL.revokeObjectURL(address);
  }
}
