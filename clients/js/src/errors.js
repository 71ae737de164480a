/** A request that failed. */
export class GridcastError extends Error {
  /**
   * @param {number} status the HTTP status, 0 where no response came
   * @param {string} detail what went wrong, in words that may be shown
   * @param {{ retryAfter?: number, requestId?: string | null, cause?: unknown }} [more]
   */
  constructor(status, detail, { retryAfter = 0, requestId = null, cause } = {}) {
    super(detail, { cause });
    this.name = "GridcastError";
    this.status = status;
    /** Milliseconds that the server asks to wait. */
    this.retryAfter = retryAfter;
    /** Finds the request in the server's logs. */
    this.requestId = requestId;
  }

  /** Whether the same request may succeed later. */
  get transient() {
    return [0, 408, 423, 425, 429, 500, 502, 503, 504].includes(this.status);
  }
}
