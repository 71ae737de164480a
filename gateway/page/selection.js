// The files that are selected, and what can be done with all of them.
import { files } from "./app.js";
import { confirm, toast } from "./dialogs.js";
import { el } from "./dom.js";
import { count, words } from "./format.js";
import { icon } from "./icons.js";
import { pathOf } from "./router.js";

const AT_ONCE = 4;

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
    if (!(await confirm(`Delete ${what}?`, "Everyone who uses this server loses it. This cannot be undone.", chosen.length === 1 ? "Delete" : `Delete ${chosen.length}`))) return;
    this.#busy = true;
    this.deleting.disabled = true;
    const waiting = [...chosen];
    const failed = [];
    const work = async () => {
      for (let file = waiting.shift(); file; file = waiting.shift()) {
        try {
          await files.remove(file);
          this.#files.delete(pathOf(file));
          this.onRemoved?.(file);
        } catch (error) {
          if (error.status === 404) this.onRemoved?.(file);
          else failed.push(error);
        }
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    this.#busy = false;
    this.deleting.disabled = false;
    this.#show();
    const done = chosen.length - failed.length;
    if (failed.length) toast(`${done ? `${done} of ${chosen.length} deleted. ` : "Nothing was deleted. "}${words(failed[0])}`, { error: true });
    else toast(chosen.length === 1 ? `${what} deleted.` : `${count(done, "file")} deleted.`);
  }
}
