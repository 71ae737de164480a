import { GridcastError } from "./errors.js";

const STALL = 60_000; // milliseconds without a byte sent
const RESPONSE = 330_000; // milliseconds until a response: more than a gateway waits for a commit

/**
 * @typedef {{ status: number, text: string, header: (name: string) => string | null }} Answer
 * @typedef {{
 *   headers: Record<string, string>, body?: Blob | undefined, signal?: AbortSignal | undefined,
 *   onProgress?: (sent: number) => void,
 * }} Request
 */

/** Whether requests report how much of them was sent: not with fetch, which Node and workers of some browsers have alone. */
export const reportsProgress = () => typeof XMLHttpRequest !== "undefined";

/**
 * Send a request and wait for its response, of any status.
 * @param {string} method
 * @param {string} url
 * @param {Request} request
 * @returns {Promise<Answer>}
 * @throws {GridcastError} with status 0 where none came; the reason of `signal`, if that was aborted
 */
export async function send(method, url, request) {
  request.signal?.throwIfAborted();
  const { signal } = request;
  try {
    return await (reportsProgress() ? sendByXhr : sendByFetch)(method, url, request);
  } catch (cause) {
    signal?.throwIfAborted();
    throw new GridcastError(0, "the connection was lost", { cause });
  }
}

/** @type {typeof send} */
function sendByXhr(method, url, { headers, body, signal, onProgress }) {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    const abort = () => xhr.abort();
    /** @type {ReturnType<typeof setTimeout>} */
    let timer;
    const expect = (/** @type {number} */ milliseconds) => {
      clearTimeout(timer);
      timer = setTimeout(abort, milliseconds);
    };
    xhr.open(method, url);
    for (const [name, value] of Object.entries(headers)) xhr.setRequestHeader(name, value);
    if (body?.size) {
      xhr.upload.onprogress = ({ loaded }) => {
        expect(STALL);
        onProgress?.(loaded);
      };
      xhr.upload.onload = () => expect(RESPONSE);
    }
    xhr.onload = () => resolve({ status: xhr.status, text: xhr.responseText, header: (name) => xhr.getResponseHeader(name) });
    xhr.onerror = xhr.onabort = reject;
    xhr.onloadend = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      globalThis.removeEventListener("offline", abort);
    };
    signal?.addEventListener("abort", abort);
    globalThis.addEventListener("offline", abort); // a request that lost its network may hang, instead of failing
    expect(STALL);
    xhr.send(body ?? null);
  });
}

/** @type {typeof send} */
async function sendByFetch(method, url, { headers, body, signal, onProgress }) {
  const timeout = AbortSignal.timeout(RESPONSE);
  const either = signal ? AbortSignal.any([signal, timeout]) : timeout;
  const response = await fetch(url, { method, headers, body: body ?? null, signal: either, cache: "no-store", redirect: "error" });
  const text = await response.text();
  if (body) onProgress?.(body.size);
  return { status: response.status, text, header: (name) => response.headers.get(name) };
}
