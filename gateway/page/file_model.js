// The files of one list, newest first, as far as they are needed: pages near the place that is looked at. Of the others only their
// cursor and their length are kept, so that memory has a bound however far one scrolls. Without elements.
import { pathOf } from "./router.js";

const PAGE = 200;
const KEPT = 4; // pages on each side of the one that is looked at
const MAX_PENDING = 500; // new files that are shown on request; more mean that the list is read again

export class FileModel {
  #files;
  #changed;
  #abort = new AbortController();
  #scope = {};
  /** @type {{ after: string | null, files: object[] | null, length: number, oldest: string, loading: boolean }[]} */
  #pages = [];
  #next = null;
  #known = new Map(); // path → file, of pages that are kept
  #generation = 0;

  /** Files that were stored since the list was read, and are not in it yet. */
  pending = [];
  /** Whether events may have been missed since. */
  stale = false;
  complete = false;
  loading = false;
  error = null;

  /**
   * @param {import("/client/index.js").Files} files
   * @param {() => void} changed
   */
  constructor(files, changed) {
    this.#files = files;
    this.#changed = changed;
  }

  /** How many files are known to be in the list. */
  get length() {
    return this.#pages.reduce((sum, page) => sum + page.length, 0);
  }

  /** Files held in memory. */
  get held() {
    return this.#known.size;
  }

  /**
   * Begin another list, or read this one again.
   * @param {{ folder?: string, search?: string, sort?: string }} scope sort: missing for the newest first
   */
  async open(scope = this.#scope) {
    this.#abort.abort();
    this.#abort = new AbortController();
    const generation = ++this.#generation;
    this.#scope = scope;
    this.loading = true;
    this.error = null;
    try {
      const { files, next } = await this.#files.list({ ...scope, limit: PAGE, signal: this.#abort.signal });
      if (generation !== this.#generation) return;
      this.#known.clear();
      this.pending = [];
      this.stale = false;
      this.#pages = [];
      this.#add(null, files, next);
    } catch (error) {
      if (generation !== this.#generation) return;
      this.error = error;
      this.#pages = [];
      this.#known.clear();
    }
    this.loading = false;
    this.#changed();
  }

  /** Read the next page, if there is one. */
  async more() {
    if (this.loading || this.complete || this.error) return;
    const generation = this.#generation;
    this.loading = true;
    try {
      const after = this.#next;
      const { files, next } = await this.#files.list({ ...this.#scope, after, limit: PAGE, signal: this.#abort.signal });
      if (generation !== this.#generation) return;
      this.#add(after, files, next);
    } catch (error) {
      if (generation !== this.#generation) return;
      this.error = error;
    }
    this.loading = false;
    this.#changed();
  }

  /** Try again what failed. */
  retry() {
    this.error = null;
    return this.#pages.length ? this.more() : this.open();
  }

  /** The file at a place, undefined where its page is being read. */
  at(index) {
    let first = 0;
    for (const page of this.#pages) {
      if (index < first + page.length) {
        if (page.files) return page.files[index - first];
        void this.#reload(page);
        return undefined;
      }
      first += page.length;
    }
    return undefined;
  }

  find(path) {
    return this.#known.get(path) ?? this.pending.find((file) => pathOf(file) === path);
  }

  /** The place of a file that is held, or -1. */
  indexOf(path) {
    let first = 0;
    for (const page of this.#pages) {
      const found = page.files?.findIndex((file) => pathOf(file) === path) ?? -1;
      if (found >= 0) return first + found;
      first += page.length;
    }
    return -1;
  }

  /** Forget the files far from a place. */
  keepNear(index) {
    let first = 0;
    const looked = this.#pages.findIndex((page) => index < (first += page.length));
    for (const [number, page] of this.#pages.entries()) {
      if (!page.files || number === 0 || Math.abs(number - looked) <= KEPT) continue;
      for (const file of page.files) this.#known.delete(pathOf(file));
      page.files = null;
    }
  }

  /**
   * Take an event `file.*`.
   * @param {{ type: string, data: object }} event
   * @param {boolean} atTop whether new files may be shown at once
   */
  apply({ type, data }, atTop) {
    const path = pathOf(data);
    if (type === "file.moved") this.#move(data, path);
    const known = this.find(path);
    const isOld = known && (known.revision > data.revision || (known.revision === data.revision && known.poster === data.poster));
    if (isOld && type !== "file.deleted") return;
    if (type === "file.deleted") {
      if (known && known.revision <= data.revision) this.#remove(path);
    } else if (known) {
      Object.assign(known, data);
    } else if (this.#includes(data)) {
      this.pending.unshift(data);
      if (atTop && this.#scope.sort) atTop = false; // its place in that order is the server's to say
      if (this.pending.length > MAX_PENDING) {
        this.pending = [];
        this.stale = true;
      } else if (atTop) this.showPending();
    } else return;
    this.#changed();
  }

  /** Take the new files into the list. */
  showPending() {
    const [first] = this.#pages;
    if (!first?.files) return;
    for (const file of this.pending) this.#known.set(pathOf(file), file);
    first.files.unshift(...this.pending);
    first.length = first.files.length;
    this.pending = [];
  }

  /** Whether a file that was stored belongs to this list. */
  #includes({ folder, filename }) {
    const { folder: wanted, search = "" } = this.#scope;
    return (wanted === undefined || wanted === folder) && filename.toLowerCase().includes(search.toLowerCase());
  }

  /** A file has another name: its row stays where it is, or leaves the list. Its id is the same. */
  #move(file, to) {
    for (const [from, known] of this.#known) {
      if (known.id !== file.id || from === to) continue;
      if (!this.#includes(file) || this.#known.has(to)) return this.#remove(from);
      this.#known.delete(from);
      this.#known.set(to, Object.assign(known, { folder: file.folder, filename: file.filename }));
      return;
    }
  }

  #remove(path) {
    this.#known.delete(path);
    this.pending = this.pending.filter((file) => pathOf(file) !== path);
    for (const page of this.#pages) {
      if (!page.files) continue;
      page.files = page.files.filter((file) => pathOf(file) !== path);
      page.length = page.files.length;
    }
  }

  #add(after, files, next) {
    const fresh = files.filter((file) => !this.#known.has(pathOf(file)));
    for (const file of fresh) this.#known.set(pathOf(file), file);
    this.#pages.push({ after, files: fresh, length: fresh.length, oldest: files.at(-1)?.uploaded_at ?? "", loading: false });
    this.#next = next;
    this.complete = next === null;
  }

  async #reload(page) {
    if (page.loading) return;
    page.loading = true;
    const generation = this.#generation;
    try {
      const { files } = await this.#files.list({ ...this.#scope, after: page.after, limit: PAGE, signal: this.#abort.signal });
      if (generation !== this.#generation) return;
      // Where files were deleted meanwhile, the answer has some of the next page.
      page.files = files.filter((file) => (this.#scope.sort || file.uploaded_at >= page.oldest) && !this.#known.has(pathOf(file)));
      page.length = page.files.length;
      for (const file of page.files) this.#known.set(pathOf(file), file);
    } catch (error) {
      if (generation === this.#generation) this.error = error;
    } finally {
      page.loading = false;
    }
    this.#changed();
  }
}
