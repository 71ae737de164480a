// What a signed link that uploads says of itself. It is only shown: the server verifies.

/**
 * @param {string} text of the link
 * @returns {{ folder: string, filename: string, ends: number, maxSize: number, types: string[] } | null} null: it is no such link
 */
export function readLink(text) {
  try {
    const part = text.split(".")[2].replace(/-/g, "+").replace(/_/g, "/");
    const said = JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (letter) => letter.codePointAt(0))));
    if (said.k !== "put" || typeof said.n !== "string" || !said.n) return null;
    return { folder: said.d ?? "", filename: said.n, ends: Number(said.e), maxSize: said.m ?? Infinity, types: said.t ?? [] };
  } catch {
    return null;
  }
}

/** Whether a media type is among those that a link takes: none are all. */
export function isTaken(type, types) {
  const plain = type.split(";", 1)[0].trim().toLowerCase();
  return types.length === 0 || types.some((pattern) => (pattern.endsWith("/*") ? plain.startsWith(pattern.slice(0, -1).toLowerCase()) : plain === pattern.toLowerCase()));
}

/** What has become of an upload by a link, in words for someone who has nothing but the link. */
export function linkWords(error, words) {
  if (error.status === 403 || error.status === 401) return "This link has ended or was revoked. Ask for another one.";
  if (error.status === 409) return /link was used/.test(error.message) ? "This link was used already: it is for one upload. Ask for another one." : "There is a file of this name already. Ask for a link with another name.";
  if (error.status === 415) return "This type of file was not asked for. Choose another file.";
  return words(error);
}
