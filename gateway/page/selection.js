// The files that are selected, and what can be done with all of them.
import { files } from "./app.js";
import { confirm, toast } from "./dialogs.js";
import { el } from "./dom.js";
import { count, words } from "./format.js";
import { icon } from "./icons.js";
import { pathOf } from "./router.js";

const AT_ONCE = 4;
const BATCH = 100; // files of one request

export class Selection {
  /** path → file */
  #files = new Map();
  #changed;
  #anchor = -1;
  #busy = false;

  constructor(changed) {
    this.#changed = changed;
    this.label = el("strong", { role: "status" });
    this.deleting = el("button", { class: "button small danger", onclick: () => this.remove([...this.#files.values()]) }, icon("trash"), "Delete");
    this.clearing = el("button", { class: "button small", onclick: () => this.clear(), text: "Clear" });
    this.element = el("div", { class: "selection", role: "region", "aria-label": "Selection", hidden: true }, this.label, this.deleting, this.clearing);
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

  async #restore(removed) {
    const waiting = [...removed];
    const failed = [];
    const work = async () => {
      for (let file = waiting.shift(); file; file = waiting.shift()) await files.restore(file).catch((error) => failed.push(error));
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    const done = removed.length - failed.length;
    if (!failed.length) return toast(`${count(done, "file")} brought back.`);
    const why = failed[0].status === 410 ? "It is too late to bring it back." : words(failed[0]);
    return toast(`${done ? `${done} of ${removed.length} brought back. ` : ""}${why}`, { error: true });
  }
}
