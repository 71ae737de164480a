// What a file is to people, and what this browser can show of it.

/** video, audio, image, text, pdf or other. */
export function kindOf({ content_type: type, media_facts: facts }) {
  const kind = type.split("/", 1)[0];
  if (kind === "video" && facts?.kind === "audio") return "audio";
  if (["video", "audio", "image"].includes(kind)) return kind;
  if (/^application\/pdf\b/.test(type)) return "pdf";
  if (kind === "text" || /^application\/(json|xml|x-ndjson|yaml|javascript)\b|\+json\b|\+xml\b/.test(type)) return "text";
  return "other";
}

export const iconOf = (kind) => (kind === "pdf" ? "text" : kind);

/** Only these are shown as pictures: the server serves other images as attachments. */
export const isPicture = ({ content_type: type }) => /^image\/(png|apng|jpeg|jpg|gif|webp|avif)\b/.test(type);

/** Whether it is worth trying: what a type holds is known only when it plays. */
export function canPlay(file) {
  const kind = kindOf(file);
  if (kind !== "video" && kind !== "audio") return true;
  const type = file.content_type.split(";", 1)[0];
  const name = type === "video/quicktime" ? "video/mp4" : type === "video/x-matroska" ? "video/webm" : type;
  return document.createElement(kind).canPlayType(name) !== "";
}

/** "1920 × 1080, 1:02" or an empty text. */
export function factsLine(file, clock) {
  const { width, height, duration } = file.media_facts ?? {};
  return [width && height ? `${width} × ${height}` : "", duration ? clock(duration) : ""].filter(Boolean).join(" · ");
}
