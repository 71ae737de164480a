// Draws small pictures of videos and sounds in this browser.
import { coverOf } from "./covers.js";
import { el } from "./dom.js";

const WAIT = 6_000; // milliseconds for a frame

/**
 * A frame from the first tenth of a video.
 * @param {string} address
 * @param {number} edge of the picture at most, in pixels
 * @returns {Promise<Blob | null>} WebP
 */
export async function frameOf(address, edge) {
  const video = el("video", { muted: true, preload: "metadata", playsinline: true });
  try {
    await event(video, "loadedmetadata", () => (video.src = address));
    if (!video.videoWidth) return null;
    await event(video, "seeked", () => (video.currentTime = Math.min(3, (video.duration || 0) / 10)));
    return await scaled(video, video.videoWidth, video.videoHeight, edge);
  } finally {
    video.removeAttribute("src");
    video.load();
  }
}

/**
 * The cover of a sound, made smaller.
 * @param {(first: number, length: number) => Promise<Uint8Array>} read
 * @param {number} length of the file in bytes
 * @param {number} edge of the picture at most, in pixels
 * @returns {Promise<Blob | null>} WebP
 */
export async function smallCover(read, length, edge) {
  const cover = await coverOf(read, length);
  if (!cover) return null;
  const image = await createImageBitmap(new Blob([cover.bytes], { type: cover.type }));
  try {
    return await scaled(image, image.width, image.height, edge);
  } finally {
    image.close();
  }
}

function scaled(source, width, height, edge) {
  const scale = Math.min(1, edge / Math.max(width, height));
  const canvas = el("canvas", { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) });
  canvas.getContext("2d").drawImage(source, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/webp", 0.8));
}

function event(target, name, start) {
  return new Promise((resolve, reject) => {
    const failed = () => reject(new Error("no frame"));
    target.addEventListener(name, resolve, { once: true });
    target.addEventListener("error", failed, { once: true });
    setTimeout(failed, WAIT);
    start();
  });
}
