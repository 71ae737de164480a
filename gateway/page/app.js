// What all views share: the client, and the token it sends.
import { Gridcast } from "/client/index.js";

const KEY = "gridcast:token";

function remembered() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

let token = remembered();

export const gridcast = new Gridcast({ token: () => token, meta: { page: "Gridcast" } });
export const { events, files, links, sockets, uploads } = gridcast;

/** Called with the token after each change. @type {Set<(token: string) => void>} */
export const tokenListeners = new Set();
export const currentToken = () => token;

/** Use another token from now on; `keep` until the window is closed, otherwise until the page is left. */
export function setToken(value, keep) {
  token = value;
  try {
    if (keep && value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch {
    // forbidden: the token is in memory only
  }
  events.close(); // the handshake carries the token
  events.connect();
  for (const listener of tokenListeners) listener(value);
}

export const keepsToken = () => remembered() !== "";
