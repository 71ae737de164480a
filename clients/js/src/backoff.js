const BASE = 500;
const LONGEST = 30_000;

/**
 * Milliseconds to wait before attempt number `tries` + 1: exponential with full jitter, and no less than the server asks for.
 * @param {number} tries
 * @param {number} [atLeast] milliseconds
 */
export function backoff(tries, atLeast = 0) {
  return atLeast + Math.random() * Math.min(LONGEST, BASE * 2 ** tries);
}

/**
 * The milliseconds that Retry-After asks for (RFC 9110, 10.2.3), at most ten minutes.
 * @param {string | null} text
 */
export function parseRetryAfter(text) {
  const wait = /^\d+$/.test(text ?? "") ? Number(text) * 1000 : Date.parse(text ?? "") - Date.now();
  return Math.min(Math.max(wait || 0, 0), 600_000);
}

/**
 * Resolve after a time, or as soon as the browser is online again; reject when `signal` is aborted.
 * @param {number} milliseconds
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
export function wait(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const ended = new AbortController();
    const end = () => {
      clearTimeout(timer);
      ended.abort();
      if (signal?.aborted) reject(signal.reason);
      else resolve();
    };
    const timer = setTimeout(end, milliseconds);
    signal?.addEventListener("abort", end, { signal: ended.signal });
    globalThis.addEventListener?.("online", end, { signal: ended.signal });
    if (signal?.aborted) end();
  });
}
