// The links that were made for others in this window. A link is a credential, so its text is only in memory; what revokes it is kept until
// the window is closed, also over a reload.
const KEY = "gridcast:shares";
const MAX = 100;

export class Shares {
  #links;
  #storage;
  #now;
  /** @type {{ id: string, kind: "get" | "put", folder: string, filename: string, expires_at: number, address: string | null }[]} newest first */
  #made;

  /**
   * @param {import("/client/index.js").Links} links
   * @param {Pick<Storage, "getItem" | "setItem">} storage
   * @param {() => number} [now] seconds since 1970
   */
  constructor(links, storage, now = () => Date.now() / 1000) {
    this.#links = links;
    this.#storage = storage;
    this.#now = now;
    this.#made = this.#read();
  }

  /** Those that have not ended. */
  get all() {
    this.#made = this.#made.filter(({ expires_at }) => expires_at > this.#now());
    return this.#made;
  }

  /** Make one, and return it. `life` in seconds; `follow`: it reads later versions of the file, too. */
  async make({ folder, filename }, life, follow) {
    return this.#keep("get", { folder, filename, expiresIn: life, follow }, (link) => this.#links.address(link));
  }

  /**
   * Make one that uploads one file under this name.
   * @param {{ maxSize?: number, mediaTypes?: string[] }} limits
   * @param {(link: import("/client/index.js").FileLink) => string} addressOf where the page is that uploads by it
   */
  async ask({ folder, filename }, life, limits, addressOf) {
    return this.#keep("put", { kind: "put", folder, filename, expiresIn: life, ...limits }, addressOf);
  }

  async #keep(kind, wanted, addressOf) {
    const { folder, filename } = wanted;
    const [link] = await this.#links.make([wanted]);
    const { id, expires_at } = link;
    const made = { id, kind, folder, filename, expires_at, address: addressOf(link) };
    this.#made = [made, ...this.all].slice(0, MAX);
    this.#write();
    return made;
  }

  async revoke({ id }) {
    await this.#links.revoke({ id }).catch((error) => {
      if (error.status !== 404) throw error; // another subject's, or forgotten: there is nothing more to do
    });
    this.#made = this.#made.filter((one) => one.id !== id);
    this.#write();
  }

  #read() {
    try {
      const kept = JSON.parse(this.#storage.getItem(KEY) ?? "[]");
      return kept.map(({ id, kind = "get", folder, filename, expires_at }) => ({ id, kind, folder, filename, expires_at, address: null }));
    } catch {
      return [];
    }
  }

  #write() {
    try {
      this.#storage.setItem(KEY, JSON.stringify(this.#made.map(({ address, ...kept }) => kept)));
    } catch {
      // forbidden or full: they are known until the page is left
    }
  }
}
