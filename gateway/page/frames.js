// Draws small pictures of videos and images in this browser.
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
    const scale = Math.min(1, edge / Math.max(video.videoWidth, video.videoHeight));
    const canvas = el("canvas", { width: Math.round(video.videoWidth * scale), height: Math.round(video.videoHeight * scale) });
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    return await new Promise((resolve) => canvas.toBlob(resolve, "image/webp", 0.8));
  } finally {
    video.removeAttribute("src");
    video.load();
  }
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
