// Figures and times in people's words.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function size(bytes) {
  const power = Math.min(UNITS.length - 1, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  const value = bytes / 1024 ** power;
  return `${power === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[power]}`;
}

export const rate = (bytes) => `${size(bytes)}/s`;

export const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

/** Seconds as a clock: 1:02:03. */
export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  if (parts[0] === 0) parts.shift();
  return parts.map((part, index) => (index ? String(part).padStart(2, "0") : part)).join(":");
}

/** Seconds as a length of time: 40 s, 3 min, 2 h 10 min, 4 days. */
export function span(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
  return `${Math.round(minutes / 1440)} days`;
}

const TODAY = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", hour12: false });
const YEAR = new Intl.DateTimeFormat("en", { day: "numeric", month: "short" });
const LONG = new Intl.DateTimeFormat("en", { day: "numeric", month: "short", year: "numeric" });

/** A moment: the time today, otherwise the day. */
export function moment(date, now = new Date()) {
  if (date.toDateString() === now.toDateString()) return TODAY.format(date);
  return (date.getFullYear() === now.getFullYear() ? YEAR : LONG).format(date);
}

/** What went wrong, and what to do, in words for people. */
export function words(error) {
  switch (error.status) {
    case 0:
      return error.message === "the connection was lost" ? "The server cannot be reached. Check the network, then try again." : sentence(error.message);
    case 401:
      return "This needs a valid token. Set one with the key at the top.";
    case 403: {
      const right = /needs the right (\S+)/.exec(error.message)?.[1];
      return right ? `Your token lacks the right “${right}”. Ask for one that has it.` : `Your token does not allow this: ${error.message}.`;
    }
    case 404:
      return "This is no longer there. Someone may have deleted it.";
    case 409:
      return "A file of this name is already there.";
    case 412:
      return "Someone changed this in the meantime. Look at it again.";
    case 413:
      return `This is too large for this server: ${error.message}.`;
    case 429:
      return "Too much at once. Wait a moment, then try again.";
    case 507:
      return "The server has no space left. Delete something, or ask its operator.";
    case 502:
    case 503:
    case 504:
      return "The server is not ready at the moment. Try again soon.";
    default:
      return sentence(error.message ?? String(error));
  }
}

function sentence(text) {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}
