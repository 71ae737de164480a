/**
 * The functions that hear of one thing. One that throws does not keep the others from hearing of it.
 * @template T
 */
export class Listeners {
  /** @type {Set<{ call: (value: T) => void }>} */
  #all = new Set();

  /**
   * @param {(value: T) => void} listener
   * @returns {() => void} removes it
   */
  add(listener) {
    const entry = { call: listener };
    this.#all.add(entry);
    return () => void this.#all.delete(entry);
  }

  get size() {
    return this.#all.size;
  }

  /** @param {T} value */
  tell(value) {
    for (const { call } of [...this.#all]) {
      try {
        call(value);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}
