// Pictures of files in the list: posters, images themselves, covers of sounds, and a frame of a video, which this browser draws. A few at a
// time, and only of what is on the screen; the last ones are remembered.
import { mayHaveCover } from "./covers.js";
import { el } from "./dom.js";
import { isPicture, kindOf } from "./kinds.js";
import { frameOf, smallCover } from "./frames.js";
import { addressOf, bytesOf, posterOf } from "./sources.js";

const MAX_IMAGE = 12 * 1024 * 1024; // bytes: larger ones would be fetched as a whole for a small picture
const AT_ONCE = 2;
const REMEMBERED = 300;
const EDGE = 400; // pixels

/** ETag and id → address of a picture, or null where there is none. @type {Map<string, Promise<string | null>>} */
const pictures = new Map();
let running = 0;
const waiting = [];

/** Put the picture of a file on its place, if there is one and the place still shows it. */
export async function showPicture(thumb, file, large) {
  const kind = kindOf(file);
  const isDrawable = (isPicture(file) && file.length <= MAX_IMAGE) || (kind === "video" && large) || hasCover(file, kind);
  // A player asks for `bytes=0-`, which no range of an empty file satisfies (RFC 9110, 14.1.2): 416, and an error in the console.
  const has = file.poster || (isDrawable && file.length > 0);
  if (!has) return;
  const row = thumb.closest(".file");
  const key = keyOf(file);
  thumb.dataset.picture = key;
  const address = await pictureOf(file, kind, () => row?.isConnected && thumb.dataset.picture === key);
  if (!address || thumb.dataset.picture !== key) return;
  const image = el("img", { alt: "", src: address, decoding: "async" });
  image.onerror = () => image.remove();
  thumb.querySelector("img")?.remove(); // it may have been asked for twice
  thumb.append(image);
}

/** The address of the cover of a sound, or null where it has none. */
export async function coverAddress(file) {
  const kind = kindOf(file);
  return file.poster || hasCover(file, kind) ? pictureOf(file, kind, () => true) : null;
}

const keyOf = (file) => `${file.id} ${file.etag} ${file.poster ?? ""}`;
const hasCover = (file, kind) => kind === "audio" && mayHaveCover(file.content_type);

function pictureOf(file, kind, isWanted) {
  const key = keyOf(file);
  return pictures.get(key) ?? remember(key, () => draw(file, kind, isWanted));
}

function remember(key, make) {
  const promise = queued(make).catch(() => null);
  pictures.set(key, promise);
  void promise.then((address) => {
    if (address === undefined) pictures.delete(key); // it was scrolled away before its turn
  });
  for (const [oldest, old] of pictures) {
    if (pictures.size <= REMEMBERED) break;
    pictures.delete(oldest);
    void old.then((address) => address?.startsWith("blob:") && setTimeout(() => URL.revokeObjectURL(address), 1000));
  }
  return promise;
}

async function queued(work) {
  if (running >= AT_ONCE) await new Promise((resolve) => waiting.unshift(resolve)); // what came last is looked at
  running++;
  try {
    return await work();
  } finally {
    running--;
    waiting.shift()?.();
  }
}

async function draw(file, kind, isWanted) {
  await new Promise((resolve) => setTimeout(resolve, 60)); // of what is only scrolled over, nothing is read
  if (!isWanted()) return undefined;
  if (file.poster) return posterOf(file);
  if (kind === "image") return addressOf(file);
  const blob = await (kind === "audio" ? smallCover((first, length) => bytesOf(file, first, length), file.length, EDGE) : frameOf(await addressOf(file), EDGE));
  return blob && URL.createObjectURL(blob);
}
