// The folders that hold files, and the way to the present one.
import { events, files } from "./app.js";
import { el } from "./dom.js";
import { count } from "./format.js";
import { icon } from "./icons.js";
import { link } from "./router.js";

const SHOWN = 12;
const SHOWN_ON_PHONES = 4;
const phone = matchMedia("(max-width: 47.99rem)");
const MAX = 5_000;

/** All folders by name, read once and kept in step by events. */
export class Folders {
  #names = new Set();
  #changed;
  complete = true;

  constructor(changed) {
    this.#changed = changed;
    const add = ({ data }) => {
      if (data.folder && !this.#names.has(data.folder)) {
        this.#names.add(data.folder);
        changed();
      }
    };
    events.on("file.created", add);
    events.on("file.replaced", add);
  }

  async read() {
    const names = new Set();
    let after = null;
    do {
      const page = await files.folders({ after, limit: 200 });
      for (const name of page.folders) if (name) names.add(name);
      after = page.next;
    } while (after !== null && names.size < MAX);
    this.complete = after === null;
    this.#names = names;
    this.#changed();
  }

  /** Of all folders that hold files, by name. */
  get names() {
    return [...this.#names].sort((one, other) => one.localeCompare(other, "en", { numeric: true }));
  }

  /** The folders directly below one. */
  below(folder) {
    const begin = folder ? `${folder}/` : "";
    const found = new Set();
    for (const name of this.#names) if (name.startsWith(begin)) found.add(name.slice(begin.length).split("/", 1)[0]);
    found.delete("");
    return [...found].sort((one, other) => one.localeCompare(other, "en", { numeric: true }));
  }
}

/** The way to a folder, as links. */
export function breadcrumbs(folder, search) {
  const parts = folder && !search ? folder.split("/") : []; // a search is in all folders
  const steps = [["All files", ""], ...parts.map((part, index) => [part, parts.slice(0, index + 1).join("/")])];
  const items = steps.map(([name, path], index) => {
    const last = index === steps.length - 1 && !search;
    return el("li", {}, index ? icon("next") : null, el("a", { href: link("files", path), text: name, "aria-current": last ? "page" : null }));
  });
  if (search) items.push(el("li", {}, icon("next"), el("span", { text: `“${search}”` })));
  return el("nav", { class: "crumbs", "aria-label": "Folder" }, el("ol", {}, items));
}

/** The folders below one, as tiles; many of them begin folded. The last tile makes another one. */
export function folderTiles(names, folder, all, showAll, create) {
  const shown = phone.matches ? SHOWN_ON_PHONES : SHOWN;
  const tiles = (all ? names : names.slice(0, shown)).map((name) =>
    el("li", {}, el("a", { class: "folder", href: link("files", folder ? `${folder}/${name}` : name) }, icon("folder"), el("span", { text: name }))),
  );
  const more = names.length - shown;
  if (more > 0) tiles.push(el("li", {}, el("button", { class: "folder more", onclick: showAll, "aria-expanded": all, "aria-label": all ? "Show fewer folders" : `Show ${count(more, "more folder")}`, text: all ? "Show fewer" : `${more.toLocaleString("en")} more` })));
  tiles.push(el("li", {}, el("button", { class: "folder more", onclick: create }, icon("plus"), el("span", { text: "New folder" }))));
  return tiles;
}
