// The view of the files: the way to the folder, search, folders, the list. Events change single rows.
import { events, files, tokenListeners } from "./app.js";
import { createCameraButton } from "./camera_button.js";
import { createAskButton } from "./ask_button.js";
import { choices, debounced, el, perFrame, setText } from "./dom.js";
import { FileModel } from "./file_model.js";
import { createRow, updateRow } from "./file_row.js";
import { breadcrumbs, Folders, folderTiles } from "./folders.js";
import { count, size, words } from "./format.js";
import { icon } from "./icons.js";
import { maxFileSize } from "./limits.js";
import { askForNewFolder } from "./move_dialog.js";
import { change, link, pathOf } from "./router.js";
import { Selection } from "./selection.js";
import { toast } from "./dialogs.js";
import { WindowList } from "./window_list.js";

const TYPING = 180; // milliseconds after the last key
const SORTS = { "-time": "Newest", time: "Oldest", name: "Name", "-size": "Largest", size: "Smallest" };
const AHEAD = 100; // files: the next page is read before one gets there

export class FilesView {
  #folder = "";
  #search = "";
  #grid = choices.get("layout") === "grid";
  #allFolders = false;

  /** @param {{ choose: () => void, chooseFolder: () => void, take: (file: File) => void }} upload */
  constructor(upload) {
    this.model = new FileModel(files, () => this.#show());
    this.folders = new Folders(() => this.#showFolders());
    this.selection = new Selection(() => this.#rows.render(), () => this.folders.names);
    this.selection.onRemoved = (file) => this.#removed(file);
    this.selection.onBroughtBack = () => void this.#open(); // each to its place in the order
    this.#build(upload);
    this.#listen();
  }

  /** Show the folder and the search of a route. */
  show({ folder, query }) {
    const search = query.get("q") ?? "";
    const same = this.#opened && folder === this.#folder && search === this.#search;
    document.title = `${folder || "Files"} · Gridcast`;
    if (same) return this.#rows.render();
    const moved = folder !== this.#folder;
    [this.#folder, this.#search, this.#opened] = [folder, search, true];
    if (document.activeElement !== this.input) this.input.value = search;
    this.#allFolders &&= !moved;
    this.#crumbs.replaceChildren(breadcrumbs(folder, search));
    this.#showFolders();
    this.selection.clear();
    scrollTo(0, 0);
    void this.#open();
  }

  focusSearch() {
    this.input.focus();
    this.input.select();
  }

  get folder() {
    return this.#folder;
  }

  /** The files around one in the list. */
  neighbours(path) {
    const index = this.model.indexOf(path);
    return { previous: index > 0 ? this.model.at(index - 1) : undefined, next: index >= 0 ? this.model.at(index + 1) : undefined };
  }

  #opened = false;
  #rows;
  #crumbs = el("div", { class: "crumbs-place" });
  #list = el("ul", { class: "files", "aria-label": "Files" });
  #tiles = el("ul", { class: "folders", "aria-label": "Folders" });
  #state = el("div", { class: "list-state" });
  #count = el("p", { class: "soft small", role: "status" });
  #fresh = el("button", { class: "button primary small fresh", hidden: true, onclick: () => this.#showFresh() });

  #build({ choose, chooseFolder, take }) {
    this.input = el("input", { class: "input", type: "search", placeholder: "Search all files", "aria-label": "Search all files", autocomplete: "off", spellcheck: false, maxlength: 255 });
    const type = debounced(() => change({ q: this.input.value }, { replace: true }), TYPING);
    this.input.addEventListener("input", type);
    const layout = (name, label) =>
      el("button", { class: "icon-button", "aria-label": label, title: label, "aria-pressed": String((name === "grid") === this.#grid), onclick: () => this.#setLayout(name) }, icon(name));
    const chosen = choices.get("sort");
    this.sort = el("select", { class: "input sort", "aria-label": "Order" }, Object.entries(SORTS).map(([value, label]) => el("option", { value, text: label })));
    this.sort.value = chosen in SORTS ? chosen : "-time";
    this.sort.onchange = () => {
      choices.set("sort", this.sort.value);
      void this.#open();
    };
    this.layouts = { list: layout("list", "List"), grid: layout("grid", "Grid") };
    const upload = el("button", { class: "button primary upload-button", onclick: choose }, icon("upload"), el("span", { text: "Upload" }));
    const uploadFolder = el("button", { class: "button upload-folder", title: "Upload a folder", "aria-label": "Upload a folder", onclick: chooseFolder }, icon("folderUp"));
    const toolbar = el("div", { class: "toolbar" }, el("div", { class: "search" }, icon("search"), this.input), el("div", { class: "segmented", role: "group", "aria-label": "Layout" }, this.layouts.list, this.layouts.grid), el("div", { class: "upload-buttons-pair" }, upload, uploadFolder, createCameraButton(take), createAskButton(() => this.#folder)));
    const heading = el("h1", { class: "sr", text: "Files" });
    this.element = el("section", { class: "view" }, heading, el("div", { class: "files-head" }, this.#crumbs, toolbar), this.#tiles, el("div", { class: "list-bar" }, this.#count, this.sort, this.selection.element), this.#fresh, this.#list, this.#state);
    this.#rows = new WindowList(this.#list, {
      length: () => this.model.length,
      key: (index) => (this.model.at(index) ? pathOf(this.model.at(index)) : `at ${index}`),
      make: (index) => (this.model.at(index) ? createRow(this.model.at(index), this.#actions) : el("li", { class: "file loading", "aria-hidden": true })),
      update: (element, index) => this.#update(element, index),
      layout: (width) => this.#layout(width),
      shown: (first, last) => this.#shown(first, last),
      has: (key) => this.model.find(key) !== undefined,
      focus: (index) => this.#focus(index),
    });
    this.#list.addEventListener("keydown", (event) => this.#keys(event));
    this.#setLayout(this.#grid ? "grid" : "list");
  }

  #actions = {
    address: (file) => files.address(file),
    open: (file) => change({ play: pathOf(file), info: null }),
    details: (file) => change({ info: pathOf(file) }),
    remove: (file) => this.selection.remove([file]),
    failed: (error) => toast(words(error), { error: true }),
    select: (file, event) => this.selection.toggle(this.model.indexOf(pathOf(file)), (index) => this.model.at(index), event.shiftKey),
  };

  #listen() {
    const render = perFrame(() => this.#show());
    for (const type of ["file.created", "file.replaced", "file.deleted", "file.moved", "file.restored", "file.described"]) {
      events.on(type, (event) => {
        const atTop = scrollY < 80 && !this.#list.contains(document.activeElement);
        this.model.apply(event, atTop);
        if (type === "file.deleted") this.selection.forget(pathOf(event.data));
        render();
      });
    }
    // The first connection is no gap for a list that is just being read; it is read again where it was read before that.
    events.onGap(() => {
      if (!this.#opened) return;
      if (scrollY < 80 && this.selection.size === 0) void this.#open();
      else this.model.stale = true;
      render();
    });
    tokenListeners.add(() => this.#opened && this.#open());
  }

  async #open() {
    this.#list.setAttribute("aria-busy", "true");
    const scope = this.#search ? { search: this.#search } : this.#folder ? { folder: this.#folder } : {};
    this.folders.read().catch(() => {}); // the list tells what is wrong
    if (this.sort.value !== "-time") scope.sort = this.sort.value;
    await this.model.open(scope);
    this.#list.removeAttribute("aria-busy");
  }

  #showFresh() {
    if (this.model.stale || this.sort.value !== "-time") void this.#open();
    else this.model.showPending();
    scrollTo(0, 0);
    this.#show();
  }

  #show() {
    const { model } = this;
    const { length } = model;
    setText(this.#count, length ? (model.complete ? count(length, "file") : `${count(length, "file")} and more`) : "");
    this.#list.hidden = this.sort.hidden = length === 0;
    const fresh = model.pending.length;
    this.#fresh.hidden = !(fresh || model.stale) || length === 0;
    setText(this.#fresh, model.stale ? "The list has changed: show it anew" : `Show ${count(fresh, "new file")}`);
    if (fresh && length === 0 && !model.loading) model.showPending();
    this.#showState();
    this.#rows.render();
    this.onChanged?.();
  }

  #stateKey = "";
  #showState() {
    const { model } = this;
    const key = model.error ? `error ${model.error.message}` : model.loading && !model.length ? "loading" : model.length ? "" : `empty ${this.#folder} ${this.#search} ${this.folders.below(this.#folder).length}`;
    if (key === this.#stateKey) return;
    this.#stateKey = key;
    this.#state.replaceChildren(...this.#stateElements(key));
  }

  #stateElements(key) {
    if (key.startsWith("error")) {
      return [el("div", { class: "notice error", role: "alert" }, icon("warning"), el("span", { text: words(this.model.error) }), el("button", { class: "button small", text: "Try again", onclick: () => void this.model.retry() }))];
    }
    if (key === "loading") return Array.from({ length: 6 }, () => el("div", { class: "file loading still", "aria-hidden": true }));
    if (key === "") return [];
    if (this.#search) {
      return [empty("search", `Nothing is named like “${this.#search}”`, "Search looks at the names of files, in all folders. Try fewer letters."), el("p", { class: "center" }, el("a", { class: "button", href: link("files"), text: "Show all files" }))];
    }
    if (this.#folder && this.folders.below(this.#folder).length) return [el("p", { class: "soft center", text: "No files directly in this folder." })];
    return [empty("upload", this.#folder ? "This folder is empty" : "No files yet", "Drop files or folders anywhere on this page, paste a picture, or choose files. Large uploads survive a lost network and a reload."), this.#limit()];
  }

  #limit() {
    const text = el("p", { class: "soft small center" });
    void maxFileSize().then((most) => most < Infinity && setText(text, `Files of up to ${size(most)}, of any type.`));
    return text;
  }

  #showFolders() {
    const names = this.#search ? [] : this.folders.below(this.#folder);
    const showAll = () => {
      this.#allFolders = !this.#allFolders;
      this.#showFolders();
      this.#tiles.querySelector(".more")?.focus();
    };
    this.#tiles.hidden = Boolean(this.#search);
    const create = () => void askForNewFolder(this.#folder);
    this.#tiles.replaceChildren(...folderTiles(names, this.#folder, this.#allFolders, showAll, create));
    this.#show();
  }

  #removed(file) {
    const index = this.model.indexOf(pathOf(file));
    const had = this.#rows.element(pathOf(file))?.contains(document.activeElement);
    this.model.apply({ type: "file.deleted", data: { ...file, revision: file.revision } }, true);
    if (had || document.activeElement === document.body) this.#focus(Math.min(index, this.model.length - 1));
    this.#rows.render();
  }

  #layout(width) {
    if (!this.#grid) return { columns: 1, height: 64, gap: 0 };
    const gap = width < 500 ? 10 : 16;
    const columns = Math.max(2, Math.floor((width + gap) / (180 + gap)));
    const cell = (width - gap * (columns - 1)) / columns;
    return { columns, height: Math.round(cell * 0.68) + 66 + gap, gap };
  }

  #setLayout(name) {
    this.#grid = name === "grid";
    choices.set("layout", name);
    for (const [key, button] of Object.entries(this.layouts)) button.setAttribute("aria-pressed", String(key === name));
    this.#list.classList.toggle("grid", this.#grid);
    this.#rows?.render();
  }

  #update(element, index) {
    const file = this.model.at(index);
    if (!file || !element.file) return;
    updateRow(element, file, { selected: this.selection.has(pathOf(file)), showFolder: Boolean(this.#search) || !this.#folder, length: this.model.complete ? this.model.length : -1, index, grid: this.#grid, address: this.#actions.address });
  }

  #shown(first, last) {
    this.model.keepNear(Math.floor((first + last) / 2));
    if (last > this.model.length - AHEAD) void this.model.more();
  }

  /** Arrows move between files, Shift extends the selection, x selects, Delete deletes, i shows details. */
  #keys(event) {
    const row = event.target.closest(".file");
    if (!row?.file || event.ctrlKey || event.metaKey || event.altKey) return;
    const index = this.model.indexOf(pathOf(row.file));
    const { columns } = this.#rows;
    const steps = { ArrowDown: columns, ArrowUp: -columns, Home: -index, End: this.model.length - 1 - index };
    if (columns > 1) Object.assign(steps, { ArrowRight: 1, ArrowLeft: -1 });
    const chosen = [row.file];
    if (event.key in steps) {
      const target = Math.max(0, Math.min(this.model.length - 1, index + steps[event.key]));
      if (event.shiftKey && target !== index) this.selection.toggle(target, (place) => this.model.at(place), false);
      this.#focus(target);
    } else if (event.key === "x") this.selection.toggle(index, (place) => this.model.at(place), event.shiftKey);
    else if (event.key === "Delete") void (this.selection.size ? this.selection.deleting.click() : this.selection.remove(chosen));
    else if (event.key === "i") this.#actions.details(row.file);
    else return;
    event.preventDefault();
  }

  #focus(index) {
    const file = this.model.at(index);
    if (file) this.#rows.reveal(index, () => this.#rows.element(pathOf(file))?.querySelector(".file-open").focus());
  }
}

export function empty(name, title, text) {
  return el("div", { class: "empty" }, icon(name), el("strong", { text: title }), el("p", { text }));
}
