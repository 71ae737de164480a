// The files that are selected, and what can be done with all of them.
import { files } from "./app.js";
import { confirm, toast } from "./dialogs.js";
import { el } from "./dom.js";
import { count, words } from "./format.js";
import { icon } from "./icons.js";
import { askForFolder } from "./move_dialog.js";
import { pathOf } from "./router.js";

const AT_ONCE = 4;
const BATCH = 100; // files of one request

export class Selection {
  /** path → file */
  #files = new Map();
  #changed;
  #anchor = -1;
  #busy = false;
  #folders;

  /**
   * @param {() => void} changed
   * @param {() => string[]} folders that files may be moved to, as suggestions
   */
  constructor(changed, folders) {
    this.#changed = changed;
    this.#folders = folders;
    this.label = el("strong", { role: "status" });
    this.deleting = el("button", { class: "button small danger", onclick: () => this.remove([...this.#files.values()]) }, icon("trash"), "Delete");
    this.moving = el("button", { class: "button small", onclick: () => this.#move([...this.#files.values()]) }, icon("folder"), "Move");
    this.clearing = el("button", { class: "icon-button", "aria-label": "Clear the selection", title: "Clear the selection", onclick: () => this.clear() }, icon("close"));
    this.element = el("div", { class: "selection", role: "region", "aria-label": "Selection", hidden: true }, this.label, this.moving, this.deleting, this.clearing);
  }

  get size() {
    return this.#files.size;
  }

  has(path) {
    return this.#files.has(path);
  }

  /** Select or deselect one; with `range` all between it and the last one. */
  toggle(index, at, range) {
    const file = at(index);
    if (!file) return;
    const on = !this.#files.has(pathOf(file));
    const from = range && this.#anchor >= 0 ? this.#anchor : index;
    for (let place = Math.min(from, index); place <= Math.max(from, index); place++) {
      const one = at(place);
      if (one && on) this.#files.set(pathOf(one), one);
      else if (one) this.#files.delete(pathOf(one));
    }
    this.#anchor = index;
    this.#show();
  }

  clear() {
    this.#files.clear();
    this.#anchor = -1;
    this.#show();
  }

  forget(path) {
    if (this.#files.delete(path)) this.#show();
  }

  #show() {
    this.element.hidden = this.size === 0;
    this.label.textContent = this.size ? `${this.size} selected` : "";
    this.#changed();
  }

  /** Delete files after a question. */
  async remove(chosen) {
    if (this.#busy || !chosen.length) return;
    const what = chosen.length === 1 ? `“${chosen[0].filename}”` : count(chosen.length, "file");
    if (!(await confirm(`Delete ${what}?`, "It is gone for everyone who uses this server. You can undo this for a while.", chosen.length === 1 ? "Delete" : `Delete ${chosen.length}`))) return;
    this.#busy = true;
    this.deleting.disabled = true;
    const [removed, failed] = [[], []];
    for (let from = 0; from < chosen.length; from += BATCH) {
      const some = chosen.slice(from, from + BATCH);
      const results = await files.removeAll(some).catch((error) => some.map(() => ({ status: error.status, detail: error.message })));
      for (const [index, { status, detail }] of results.entries()) {
        const file = some[index];
        if (status !== 204 && status !== 404) failed.push({ status, message: detail });
        else {
          if (status === 204) removed.push(file);
          this.#files.delete(pathOf(file));
          this.onRemoved?.(file);
        }
      }
    }
    this.#busy = false;
    this.deleting.disabled = false;
    this.#show();
    const done = removed.length;
    const action = done ? { label: "Undo", run: () => void this.#restore(removed) } : undefined;
    if (failed.length) toast(`${done ? `${done} of ${chosen.length} deleted. ` : "Nothing was deleted. "}${words(failed[0])}`, { error: true, action });
    else toast(done === 1 ? `“${chosen[0].filename}” deleted.` : `${count(done, "file")} deleted.`, { action });
  }

  /** Move files into a folder after asking which; the message can undo it. */
  async #move(chosen) {
    if (this.#busy || !chosen.length) return;
    const folder = await askForFolder(chosen, this.#folders());
    const leaving = chosen.filter((file) => file.folder !== folder);
    if (folder === null || !leaving.length) return;
    this.#busy = true;
    this.moving.disabled = true;
    const moved = [];
    const failed = await each(leaving, async (file) => {
      moved.push({ from: file.folder, file: await files.move(file, { folder }, { ifMatch: file.etag }) });
      this.#files.delete(pathOf(file));
    });
    this.#busy = false;
    this.moving.disabled = false;
    this.#show();
    const action = moved.length ? { label: "Undo", run: () => void this.#moveBack(moved) } : undefined;
    const where = folder || "All files";
    if (failed.length) toast(`${moved.length ? `${moved.length} of ${leaving.length} moved. ` : "Nothing was moved. "}${words(failed[0])}`, { error: true, action });
    else toast(`${count(moved.length, "file")} moved to ${where}.`, { action });
  }

  async #moveBack(moved) {
    const failed = await each(moved, ({ file, from }) => files.move(file, { folder: from }));
    if (failed.length < moved.length) this.onBroughtBack?.();
    if (failed.length) toast(`${moved.length - failed.length} of ${moved.length} moved back. ${words(failed[0])}`, { error: true });
    else toast(`${count(moved.length, "file")} moved back.`);
  }

  async #restore(removed) {
    const failed = await each(removed, (file) => files.restore(file));
    const done = removed.length - failed.length;
    if (done) this.onBroughtBack?.();
    if (!failed.length) return toast(`${count(done, "file")} brought back.`);
    const why = failed[0].status === 410 ? "It is too late to bring it back." : words(failed[0]);
    return toast(`${done ? `${done} of ${removed.length} brought back. ` : ""}${why}`, { error: true });
  }
}

/** Do something with each, a few at a time; returns the errors. */
async function each(all, work) {
  const waiting = [...all];
  const failed = [];
  const next = async () => {
    for (let one = waiting.shift(); one; one = waiting.shift()) await work(one).catch((error) => failed.push(error));
  };
  await Promise.all(Array.from({ length: AT_ONCE }, next));
  return failed;
}
