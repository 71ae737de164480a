// Pictures of files in the list: images themselves, and a frame of a video, which this browser draws. A few at a time, and only of what
// is on the screen; the last ones are remembered.
import { el } from "./dom.js";
import { isPicture, kindOf } from "./kinds.js";
import { sourceOf } from "./sources.js";

const MAX_IMAGE = 12 * 1024 * 1024; // bytes: larger ones would be fetched as a whole for a small picture
const AT_ONCE = 2;
const REMEMBERED = 300;
const WAIT = 6_000; // milliseconds for a frame
const EDGE = 400; // pixels

/** ETag and id → address of a picture, or null where there is none. @type {Map<string, Promise<string | null>>} */
const pictures = new Map();
let running = 0;
const waiting = [];

/** Put the picture of a file on its place, if there is one and the place still shows it. */
export async function showPicture(thumb, file, large) {
  const kind = kindOf(file);
  if (!(isPicture(file) && file.length <= MAX_IMAGE) && !(kind === "video" && large)) return;
  const row = thumb.closest(".file");
  const key = `${file.id} ${file.etag}`;
  thumb.dataset.picture = key;
  const address = await (pictures.get(key) ?? remember(key, () => draw(file, kind, () => row?.isConnected && thumb.dataset.picture === key)));
  if (!address || thumb.dataset.picture !== key) return;
  const image = el("img", { alt: "", src: address, decoding: "async" });
  image.onerror = () => image.remove();
  thumb.append(image);
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
  const { address, release } = await sourceOf(file);
  if (kind === "image") return address;
  const video = el("video", { muted: true, preload: "metadata", playsinline: true });
  try {
    await event(video, "loadedmetadata", () => (video.src = address));
    await event(video, "seeked", () => (video.currentTime = Math.min(3, (video.duration || 0) / 10)));
    const scale = Math.min(1, EDGE / Math.max(video.videoWidth, video.videoHeight, 1));
    const canvas = el("canvas", { width: Math.round(video.videoWidth * scale), height: Math.round(video.videoHeight * scale) });
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/webp", 0.8));
    return blob && URL.createObjectURL(blob);
  } finally {
    video.removeAttribute("src");
    video.load();
    release();
  }
}

function event(target, name, start) {
  return new Promise((resolve, reject) => {
    target.addEventListener(name, resolve, { once: true });
    target.addEventListener("error", reject, { once: true });
    setTimeout(reject, WAIT);
    start();
  });
}
