// The queue of uploads, as a card in the corner: what the server has of each file, how fast, how long; pause, resume, cancel, retry.
import { events, files, uploads } from "./app.js";
import { confirm, copy, toast } from "./dialogs.js";
import { el, perFrame, setAttribute, setText } from "./dom.js";
import { count, rate, size, span, words } from "./format.js";
import { mayHaveCover } from "./covers.js";
import { frameOf, smallCover } from "./frames.js";
import { icon } from "./icons.js";
import { pathOf } from "./router.js";
import { share } from "./share_dialog.js";
import { canRename, editName, partsOf } from "./upload_name.js";
import { ACTIVE, asks, createUploadRow, updateUploadRow } from "./upload_row.js";

const LISTED = 100; // rows of a queue that may be long
const POSTER_EDGE = 640; // pixels
const DONE = 8_000; // milliseconds after which the card folds, when all is stored and no one looks at it

export class UploadPanel {
  /** @type {Map<object, { upload: object, file: File, row: HTMLElement | null, received: number, verifying: boolean, address: string, endNaming: (() => void) | null, keepBoth: () => void, rename: () => void }>} */
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
    this.#more = el("p", { class: "small soft upload-more", hidden: true });
    this.#said = el("p", { class: "sr", role: "status" });
    this.#all = this.#createAll();
    const header = el("header", {}, el("div", {}, this.#title, this.#summary), this.#toggle, this.#dismiss);
    const acts = el("div", { class: "upload-all", role: "group", "aria-label": "All uploads" }, Object.values(this.#all));
    this.element = el("section", { class: "uploads", "aria-labelledby": "uploads-title", hidden: true }, header, acts, this.#list, this.#more, this.#said);
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
  #more;
  #said;
  #all;
  #render;

  #folding;
  /** Fold the card a while after the last upload, so that it does not cover the list. */
  #foldLater(isDone) {
    clearTimeout(this.#folding);
    if (!isDone || this.#collapsed) return;
    this.#folding = setTimeout(() => (this.element.matches(":hover, :focus-within") ? this.#foldLater(true) : this.#fold()), DONE);
  }

  /** What is done with many at once; each button is there while it has something to do. */
  #createAll() {
    const act = (text, work) => el("button", { class: "button small", type: "button", text, hidden: true, onclick: () => (work(), this.#show()) });
    const those = (test) => [...this.#items.values()].filter(({ upload }) => test(upload));
    return {
      pause: act("Pause all", () => those(({ state }) => ACTIVE.includes(state)).forEach(({ upload }) => upload.pause())),
      resume: act("Resume all", () => those(({ state }) => state === "paused").forEach(({ upload }) => upload.resume())),
      retry: act("Retry all", () => those((upload) => upload.state === "failed" && !asks(upload.snapshot)).forEach(({ upload }) => upload.resume())),
      keep: act("Keep all", () => those((upload) => asks(upload.snapshot)).forEach((item) => item.keepBoth())),
      skip: act("Skip all", () => those((upload) => asks(upload.snapshot)).forEach(({ upload }) => this.#forget(upload))),
      cancel: act("Cancel all", () => void this.#cancelAll()),
    };
  }

  async #cancelAll() {
    const open = () => [...this.#items.keys()].filter(({ state }) => ACTIVE.includes(state) || state === "paused");
    if (!(await confirm(`Cancel ${count(open().length, "upload")}?`, "What was sent of them is thrown away. Files that are stored stay.", "Cancel them"))) return;
    for (const upload of open()) void upload.cancel();
    this.#show();
  }

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
    if (this.#items.has(upload)) return this.#items.get(upload);
    const added = { upload, file, row: null, received: 0, verifying: false, address: "", endNaming: null, keepBoth: () => this.#keepBoth(added), rename: () => this.#rename(added) };
    this.#items.set(upload, added);
    upload.onChange((snapshot) => {
      const item = this.#items.get(upload);
      if (item && snapshot.state !== "sending") item.verifying = false;
      if (item?.endNaming && !canRename(snapshot)) item.endNaming();
      if (snapshot.state === "stored") {
        this.#said.textContent = `${snapshot.filename} is stored.`;
        void makePoster(file, snapshot);
      }
      if (snapshot.state === "failed") this.#said.textContent = `${snapshot.filename} was not uploaded. ${words(snapshot.error)}`;
      this.#render();
    });
    return added;
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

  #createRow(item) {
    const { upload, file } = item;
    const act = (work) => () => (work(), this.#show());
    return createUploadRow(file, { rename: item.rename, pause: act(() => upload.pause()), resume: act(() => upload.resume()), retry: act(() => upload.resume()), share: act(() => this.#share(item)), cancel: act(() => this.#cancel(upload)) });
  }

  #share({ upload, address }) {
    if (upload.state === "stored") share(upload.snapshot);
    else void copy(new URL(address, location.href).href, "Link that plays while the upload goes on");
  }

  #keepBoth(item) {
    const [stem, extension] = partsOf(item.upload.filename);
    const number = Number(/ \((\d+)\)$/.exec(stem)?.[1] ?? 1) + 1;
    this.#replace(item, `${stem.replace(/ \(\d+\)$/, "")} (${number})${extension}`);
    this.#show();
  }

  /** Ask for another name. What waits for its turn stays where it is until there is an answer. */
  #rename(item) {
    const { upload, row } = item;
    if (item.endNaming || !canRename(upload.snapshot)) return;
    const waited = upload.state === "waiting";
    if (waited) upload.pause();
    this.#show();
    item.endNaming = editName(row, upload.filename, (name) => {
      item.endNaming = null;
      if (name === null && waited) upload.resume();
      const stays = !waited && upload.state === "paused"; // a person has paused it
      const shown = name === null ? item : this.#replace(item, name);
      if (stays) shown.upload.pause();
      this.#show();
      shown.row?.querySelector(".upload-buttons button:not([hidden]), .upload-state button")?.focus();
    });
  }

  /** Upload the same file under another name; its row stays where it was. */
  #replace(item, filename) {
    const { upload, file, row } = item;
    const after = row?.nextSibling ?? null;
    this.#forget(upload);
    const added = this.#add(file, { folder: upload.folder, filename });
    added.row ??= this.#createRow(added);
    this.#list.insertBefore(added.row, after?.parentElement === this.#list ? after : null);
    return added;
  }

  #cancel(upload) {
    const { state } = upload;
    void upload.cancel();
    if (state === "failed") this.#forget(upload);
  }

  #forget(upload) {
    this.#items.get(upload)?.row?.remove();
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

  /** The server can play an upload before its end, for everyone with its address. */
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
    const asking = all.filter(({ upload }) => asks(upload.snapshot)).length;
    for (const { upload } of all) {
      const { state, sent: up, size: bytes, rate: now } = upload.snapshot;
      by[state] = (by[state] ?? 0) + 1;
      if (state === "cancelled" || state === "failed") continue;
      sent += up;
      total += bytes;
      speed += now;
    }
    const active = ACTIVE.reduce((sum, state) => sum + (by[state] ?? 0), 0);
    const { failed = 0, paused = 0, stored = 0 } = by;
    const title = active ? `Uploading ${count(active, "file")}` : asking && asking === failed && !paused ? `${count(asking, "name")} already there` : failed > asking ? `${count(failed - asking, "upload")} failed` : paused ? `${count(paused, "upload")} paused` : all.length ? `${count(stored, "file")} uploaded` : "Unfinished uploads";
    setText(this.#title, title);
    const parts = [all.length > 1 ? `${stored} of ${count(all.length, "file")}` : "", total ? `${Math.floor((sent / total) * 100)} %` : "", speed ? rate(speed) : "", speed ? `${span((total - sent) / speed)} left` : ""];
    setText(this.#summary, active ? parts.filter(Boolean).join(" · ") : "");
    const open = active + paused;
    const useful = { pause: active > 1, resume: paused > 1, retry: failed - asking > 1, keep: asking > 1, skip: asking > 1, cancel: open > 1 };
    for (const [name, button] of Object.entries(this.#all)) button.hidden = this.#collapsed || !useful[name];
    this.#dismiss.hidden = active > 0 || all.length === 0;
    this.#foldLater(stored > 0 && !active && !failed && !paused && this.#unfinished.size === 0);
    this.#list.hidden = this.#collapsed;
    setAttribute(this.#toggle, "aria-expanded", String(!this.#collapsed));
    setAttribute(this.#toggle, "aria-label", this.#collapsed ? "Unfold the uploads" : "Fold the uploads");
    this.element.classList.toggle("folded", this.#collapsed);
    if (!this.#collapsed) this.#showRows(all);
    const hidden = all.length - LISTED;
    this.#more.hidden = this.#collapsed || hidden <= 0;
    setText(this.#more, hidden > 0 ? `and ${count(hidden, "more file")}` : "");
  }

  /** Rows of what goes on and of what failed; then of what is over, as far as there is room. */
  #showRows(all) {
    const isOver = ({ upload }) => upload.state === "stored" || upload.state === "cancelled";
    const rank = (item) => (item.upload.state === "failed" ? 0 : isOver(item) ? 2 : 1);
    let listed = all;
    if (all.length > LISTED) listed = [0, 1, 2].flatMap((wanted) => all.filter((item) => rank(item) === wanted)).slice(0, LISTED);
    const wanted = new Set(listed);
    for (const item of all) {
      if (wanted.has(item) || !item.row) continue;
      item.row.remove();
      item.row = null;
    }
    const over = this.#list.querySelector('[data-state="stored"], [data-state="cancelled"]'); // what goes on stands above
    for (const item of listed) {
      if (!item.row) {
        item.row = this.#createRow(item);
        this.#list.insertBefore(item.row, isOver(item) ? null : over);
      }
      updateUploadRow(item.row, item.upload.snapshot, item);
    }
  }
}

/** Store a frame of a video, or the cover of a sound, beside it, so that no other browser has to draw one. Where that fails it has none. */
async function makePoster(file, name) {
  if (!file.size) return; // in an empty file a player finds no range, and says so in the console
  try {
    const picture = await (file.type.startsWith("video/") ? frame(file) : mayHaveCover(file.type) ? smallCover(reader(file), file.size, POSTER_EDGE) : null);
    if (picture) await files.setPoster(name, picture);
  } catch {
    // a codec that this browser does not have, or a right that the token lacks
  }
}

const reader = (file) => async (first, length) => new Uint8Array(await file.slice(first, first + length).arrayBuffer());

async function frame(file) {
  const address = URL.createObjectURL(file);
  try {
    return await frameOf(address, POSTER_EDGE);
  } finally {
    URL.revokeObjectURL(address);
  }
}
