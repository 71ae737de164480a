// The address of a view is in the hash, so that links, the back button and bookmarks work. Names are encoded by segment.
//
// #/files/demo/sub?q=cat&play=demo/clip.mp4&t=12

const encode = (path) => path.split("/").map(encodeURIComponent).join("/");

function decode(path) {
  try {
    return path.split("/").map(decodeURIComponent).join("/");
  } catch {
    return "";
  }
}

/** The path of a file in links: its folder and its name. */
export const pathOf = ({ folder, filename }) => (folder ? `${folder}/${filename}` : filename);

/** The opposite of `pathOf`. */
export function fileOf(path) {
  const cut = path.lastIndexOf("/");
  return { folder: path.slice(0, Math.max(0, cut)), filename: path.slice(cut + 1) };
}

/** The path address of a file: relative links resolve there. */
export function pathAddress(file) {
  return `${location.origin}/files/${pathOf(file).split("/").map(encodeURIComponent).join("/")}`;
}

/** @returns {{ view: string, folder: string, query: URLSearchParams }} */
export function parse(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [view, ...rest] = path.split("/");
  return { view: view || "files", folder: decode(rest.join("/")), query: new URLSearchParams(query) };
}

/** The hash of a view. Empty values of the query are left out. */
export function link(view, folder = "", query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return `#/${view}${folder ? `/${encode(folder)}` : ""}${given.length ? `?${new URLSearchParams(given)}` : ""}`;
}

/** Change members of the present query; `replace` leaves no step for the back button. */
export function change(members, { replace = false } = {}) {
  const { view, folder, query } = parse(location.hash);
  const hash = link(view, folder, { ...Object.fromEntries(query), ...members });
  if (!replace) location.hash = hash;
  else {
    history.replaceState(null, "", hash);
    dispatchEvent(new HashChangeEvent("hashchange"));
  }
}
