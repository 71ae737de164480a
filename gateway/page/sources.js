// The bytes of a file for elements of the page. These cannot send a token: with one, the page reads the file itself.
import { currentToken, files } from "./app.js";

const MAX_IN_MEMORY = 512 * 1024 * 1024; // bytes

/**
 * An address for an element, and what to call when it is no longer used.
 * @param {object} file
 * @param {AbortSignal} [signal]
 * @returns {Promise<{ address: string, release: () => void }>}
 */
export async function sourceOf(file, signal) {
  const address = files.address(file);
  if (!currentToken()) return { address, release() {} };
  const response = await request(file, signal);
  if (file.length > MAX_IN_MEMORY) {
    await response.body?.cancel();
    throw new Error("With a token this browser can show files of up to 512 MiB. Download it with curl: see the details.");
  }
  const url = URL.createObjectURL(await response.blob());
  return { address: url, release: () => URL.revokeObjectURL(url) };
}

/** The address of a file's poster for an element. */
export async function posterOf(file) {
  const address = files.posterAddress(file);
  if (!currentToken()) return address;
  const response = await fetch(address, { headers: { authorization: `Bearer ${currentToken()}` } });
  return response.ok ? URL.createObjectURL(await response.blob()) : null;
}

/** The first bytes of a file, as text. */
export async function textOf(file, bytes, signal) {
  const range = file.length > bytes ? { range: `bytes=0-${bytes - 1}` } : {};
  return new TextDecoder().decode(await (await request(file, signal, range)).arrayBuffer());
}

async function request(file, signal, headers = {}) {
  const token = currentToken();
  const authorization = token ? { authorization: `Bearer ${token}` } : {};
  const response = await fetch(files.address(file), { headers: { ...headers, ...authorization }, signal });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw Object.assign(new Error(problem.detail ?? `the server answered ${response.status}`), { status: response.status });
}

/** Follow a link to a file's bytes, also with a token. */
export async function download(event, file) {
  if (!currentToken()) return; // the browser follows the link
  event.preventDefault();
  const { address, release } = await sourceOf(file);
  const link = Object.assign(document.createElement("a"), { href: address, download: file.filename });
  link.click();
  setTimeout(release, 60_000); // the download has begun by then
}
