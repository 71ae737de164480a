// Signed links for what the page itself loads: many are made with one request, and each is used until half of its life is over.
const AT_ONCE = 100; // links of one request, as the server limits it
const GATHER = 15; // milliseconds in which wishes are gathered
const KEPT = 500;
const RETRY = 5_000; // milliseconds, at least, after a link could not be prolonged

export class LinkCache {
  #links;
  #now;
  /** path → { link, until } */
  #made = new Map();
  /** path → a wish of the next request */
  #wanted = new Map();
  #due;

  /**
   * @param {import("/client/index.js").Links} links
   * @param {() => number} [now] milliseconds
   */
  constructor(links, now = () => performance.now()) {
    this.#links = links;
    this.#now = now;
  }

  /** A link that is good for some time, or undefined. */
  peek(path) {
    const found = this.#made.get(path);
    return found && found.until > this.#now() ? found.link : undefined;
  }

  /**
   * A link that reads a file.
   * @param {string} path
   * @param {{ folder: string, filename: string }} file
   * @returns {Promise<import("/client/index.js").FileLink>}
   */
  get(path, { folder, filename }) {
    const found = this.peek(path);
    if (found) return Promise.resolve(found);
    let wish = this.#wanted.get(path);
    if (!wish) {
      wish = { path, name: { folder, filename, follow: true } };
      wish.promise = new Promise((resolve, reject) => Object.assign(wish, { resolve, reject }));
      this.#wanted.set(path, wish);
      this.#due ??= setTimeout(() => this.#make(), GATHER);
    }
    return wish.promise;
  }

  /**
   * Prolong a link again and again before it ends, until the returned function is called. Its address stays the same.
   * @param {import("/client/index.js").FileLink} link
   * @returns {() => void}
   */
  keep(path, link) {
    let timer;
    const half = (link.life * 1000) / 2;
    const due = this.#made.get(path)?.until ?? this.#now(); // it may have been made some time ago
    let end = due + half;
    const later = (wait) => (timer = setTimeout(prolong, wait));
    const prolong = async () => {
      try {
        link = await this.prolong(path, link);
        end = this.#now() + link.life * 1000;
        if (timer !== null) later((link.life * 1000) / 2);
      } catch {
        // Tried again while there is hope. What plays says itself when it is over.
        const left = end - this.#now();
        if (timer !== null && left > 0) later(Math.max(RETRY, left / 4));
      }
    };
    later(Math.max(0, due - this.#now()));
    return () => {
      clearTimeout(timer);
      timer = null;
    };
  }

  /** Prolong a link, also one that has ended. */
  async prolong(path, link) {
    const longer = await this.#links.prolong(link);
    if (this.#made.get(path)?.link.id === longer.id) this.#remember(path, longer);
    return longer;
  }

  /** Forget all: they were made with another token. */
  clear() {
    this.#made.clear();
  }

  #make() {
    this.#due = undefined;
    const wishes = [...this.#wanted.values()];
    this.#wanted.clear();
    for (let from = 0; from < wishes.length; from += AT_ONCE) void this.#request(wishes.slice(from, from + AT_ONCE));
  }

  async #request(wishes) {
    try {
      const links = await this.#links.make(wishes.map(({ name }) => name));
      for (const [index, { path, resolve }] of wishes.entries()) {
        this.#remember(path, links[index]);
        resolve(links[index]);
      }
    } catch (error) {
      // All or none: where one of several folders may not be read, each folder is asked for by itself.
      const folders = new Set(wishes.map(({ name }) => name.folder));
      if (error.status !== 403 || folders.size === 1) for (const { reject } of wishes) reject(error);
      else for (const folder of folders) void this.#request(wishes.filter(({ name }) => name.folder === folder));
    }
  }

  #remember(path, link) {
    this.#made.delete(path);
    this.#made.set(path, { link, until: this.#now() + (link.life * 1000) / 2 });
    for (const oldest of this.#made.keys()) {
      if (this.#made.size <= KEPT) break;
      this.#made.delete(oldest);
    }
  }
}
