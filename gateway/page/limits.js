// What the server says that it takes.
import { currentToken } from "./app.js";

/** @type {Promise<number> | null} */
let asked = null;

/** The largest file in bytes that may be uploaded, Infinity while that is not known. Asked for once. */
export function maxFileSize() {
  asked ??= ask().catch(() => {
    asked = null;
    return Infinity;
  });
  return asked;
}

async function ask() {
  const token = currentToken();
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const response = await fetch("/file/tus", { method: "OPTIONS", headers, signal: AbortSignal.timeout(3000) });
  return Number(response.headers.get("tus-max-size")) || Infinity;
}
