/** The bytes of one endless source that the server has not confirmed yet, by their place in it. */
export class SendBuffer {
  /** @type {{ blob: Blob, begin: number, at: number }[]} */
  #parts = [];
  #begin = 0;
  #end = 0;
  #closed = false;

  /** Where the first byte is that is still here. */
  get begin() {
    return this.#begin;
  }

  /** How many bytes the source has given. */
  get end() {
    return this.#end;
  }

  /** Bytes that are here. */
  get size() {
    return this.#end - this.#begin;
  }

  /** Whether the source has ended: `end` is then its length. */
  get closed() {
    return this.#closed;
  }

  /**
   * Append what the source gave.
   * @param {Blob} blob
   * @param {number} at milliseconds, by any clock
   */
  push(blob, at) {
    if (this.#closed) throw new TypeError("the source has ended");
    if (!blob.size) return;
    this.#parts.push({ blob, begin: this.#end, at });
    this.#end += blob.size;
  }

  /** The source has ended. */
  close() {
    this.#closed = true;
  }

  /**
   * The bytes from `offset` on, at most `most` of them. Throws RangeError where they are not here.
   * @param {number} offset
   * @param {number} most
   * @returns {Blob}
   */
  slice(offset, most) {
    if (!(offset >= this.#begin && offset <= this.#end)) throw new RangeError(`byte ${offset} is not in the buffer`);
    const last = Math.min(this.#end, offset + most);
    const chosen = this.#parts.filter(({ blob, begin }) => begin < last && begin + blob.size > offset);
    return new Blob(chosen.map(({ blob, begin }) => blob.slice(Math.max(0, offset - begin), last - begin)));
  }

  /**
   * Drop what is before `offset`: the server has it. Throws RangeError where it cannot have that.
   * @param {number} offset
   */
  confirm(offset) {
    if (!(offset >= this.#begin && offset <= this.#end)) throw new RangeError(`byte ${offset} is not in the buffer`);
    this.#begin = offset;
    while (this.#parts[0] && this.#parts[0].begin + this.#parts[0].blob.size <= offset) this.#parts.shift();
  }

  /**
   * How long the oldest byte has waited, in milliseconds; 0 where nothing waits.
   * @param {number} now
   */
  age(now) {
    return this.#parts[0] ? now - this.#parts[0].at : 0;
  }
}
