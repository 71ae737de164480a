// The bytes of a file for elements of the page. These cannot send a token: where there is one, they get signed links.
import { currentToken, files, links, tokenListeners } from "./app.js";
import { LinkCache } from "./link_cache.js";
import { pathOf } from "./router.js";

const cache = new LinkCache(links);
tokenListeners.add(() => cache.clear());

/** The address of a file for an element. */
export async function addressOf(file) {
  return currentToken() ? links.address(await cache.get(pathOf(file), file)) : files.address(file);
}

/**
 * An address for what plays: it stays the same and stays valid until `release` is called. `renew` makes it valid again after its end,
 * which a machine that slept has missed; it tells whether that was of any use.
 * @returns {Promise<{ address: string, release: () => void, renew: () => Promise<boolean> }>}
 */
export async function sourceOf(file) {
  if (!currentToken()) return { address: files.address(file), release() {}, renew: async () => false };
  const path = pathOf(file);
  const link = await cache.get(path, file);
  const release = cache.keep(path, link);
  return { address: links.address(link), release, renew: () => cache.prolong(path, link).then(() => true, () => false) };
}

/** The address of a file's poster for an element. */
export async function posterOf(file) {
  return currentToken() ? links.posterAddress(await cache.get(pathOf(file), file), file.poster) : files.posterAddress(file);
}

/** The first bytes of a file, as text. */
export async function textOf(file, bytes, signal) {
  const range = file.length > bytes ? { range: `bytes=0-${bytes - 1}` } : {};
  return new TextDecoder().decode(await (await request(file, { signal, headers: range })).arrayBuffer());
}

/** A whole file, for what has no address of its own. */
export const blobOf = async (file, signal) => (await request(file, { signal })).blob();

/** A part of a file. */
export async function bytesOf(file, first, length, signal) {
  const response = await request(file, { signal, headers: { range: `bytes=${first}-${first + length - 1}` } });
  return new Uint8Array(await response.arrayBuffer());
}

/** Why a file cannot be read, or null where it can. */
export async function problemOf(file, signal) {
  try {
    await request(file, { signal, method: "HEAD" });
    return null;
  } catch (error) {
    return error;
  }
}

async function request(file, { headers = {}, method = "GET", signal } = {}) {
  const token = currentToken();
  const authorization = token ? { authorization: `Bearer ${token}` } : {};
  const response = await fetch(files.address(file), { method, headers: { ...headers, ...authorization }, signal }).catch((cause) => {
    signal?.throwIfAborted();
    throw Object.assign(new Error("the connection was lost", { cause }), { status: 0 });
  });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw Object.assign(new Error(problem.detail ?? `the server answered ${response.status}`), { status: response.status });
}

/**
 * Let an anchor lead to the bytes of a file, also in a new tab. Its link is made when someone is about to follow it.
 * @param {HTMLAnchorElement} anchor
 * @param {() => object} current the file
 * @param {(error: Error) => void} failed
 */
export function leadTo(anchor, current, failed) {
  const prepare = async () => {
    const file = current();
    const address = currentToken() && file && (await addressOf(file));
    if (address && current() === file) anchor.href = address;
  };
  const isReady = () => {
    const file = current();
    const link = file && cache.peek(pathOf(file));
    return Boolean(link) && anchor.href === new URL(links.address(link)).href;
  };
  const early = () => void prepare().catch(() => {}); // the click says what is wrong
  for (const type of ["pointerenter", "pointerdown", "focus"]) anchor.addEventListener(type, early);
  anchor.addEventListener("click", async (event) => {
    if (!currentToken() || isReady()) return; // the browser follows it
    event.preventDefault();
    try {
      await prepare();
      if (isReady()) anchor.click();
    } catch (error) {
      failed(error);
    }
  });
}
