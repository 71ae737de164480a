import { GridcastError } from "./errors.js";

export const KEY_FRAME_INTERVAL = 2000; // milliseconds: browsers make key frames rarely, and segments begin with them

/** What cannot be recorded, in words that may be shown. */
export const NO_MP4 =
  "this browser cannot record MP4 with a codec that HLS has; use a current Chrome, Edge or Safari, or send the stream with ffmpeg";

const VIDEO = ["avc3", "avc1"];
const AUDIO = ["mp4a.40.2", "opus"];
const VP9 = ["vp09.00.10.08", "vp9"]; // Chromium takes the short name alone

/**
 * The types to record, the best first: H.264 with AAC plays everywhere; avc3 keeps its parameter sets with the pictures, so that another
 * size of the picture needs no new beginning.
 * @param {{ video: boolean, audio: boolean }} tracks
 */
export function recordableTypes({ video, audio }) {
  if (!video) return AUDIO.map((codec) => `audio/mp4;codecs=${codec}`);
  if (!audio) return [...VIDEO, ...VP9].map((codec) => `video/mp4;codecs=${codec}`);
  const pairs = AUDIO.flatMap((sound) => VIDEO.map((codec) => `${codec},${sound}`));
  return [...pairs, ...VP9.flatMap((codec) => AUDIO.map((sound) => `${codec},${sound}`))].map((codecs) => `video/mp4;codecs=${codecs}`);
}

/**
 * The first type that this browser records.
 * @param {{ video: boolean, audio: boolean }} tracks
 * @param {(type: string) => boolean} [supports]
 * @returns {string}
 * @throws {GridcastError} with status 0 where it records none
 */
export function chooseType(tracks, supports = (type) => globalThis.MediaRecorder?.isTypeSupported(type) ?? false) {
  const found = recordableTypes(tracks).find(supports);
  if (found === undefined) throw new GridcastError(0, NO_MP4);
  return found;
}

/**
 * Record a MediaStream as fragmented MP4. The blobs are slices of one byte stream. `onEnd` comes after the last one: when it was
 * stopped, all tracks have ended, or it failed.
 * @param {MediaStream} mediaStream
 * @param {{ timeslice: number, videoBitsPerSecond?: number | undefined, audioBitsPerSecond?: number | undefined }} options
 * @param {{ onBlob: (blob: Blob) => void, onEnd: (error: Error | null) => void }} listeners
 */
export function record(mediaStream, { timeslice, videoBitsPerSecond, audioBitsPerSecond }, { onBlob, onEnd }) {
  const tracks = { video: mediaStream.getVideoTracks().length > 0, audio: mediaStream.getAudioTracks().length > 0 };
  const mimeType = chooseType(tracks);
  /** @type {MediaRecorderOptions & { videoKeyFrameIntervalDuration: number }} */
  const options = { mimeType, videoKeyFrameIntervalDuration: KEY_FRAME_INTERVAL };
  if (videoBitsPerSecond) options.videoBitsPerSecond = videoBitsPerSecond;
  if (audioBitsPerSecond) options.audioBitsPerSecond = audioBitsPerSecond;
  const recorder = new MediaRecorder(mediaStream, options);
  /** @type {Error | null} */
  let failure = null;
  recorder.ondataavailable = ({ data }) => onBlob(data);
  recorder.onerror = (event) => {
    failure = new GridcastError(0, "the browser stopped recording", { cause: /** @type {any} */ (event).error });
  };
  recorder.onstop = () => onEnd(failure);
  recorder.start(timeslice);
  return {
    mimeType,
    pause: () => recorder.state === "recording" && recorder.pause(),
    resume: () => recorder.state === "paused" && recorder.resume(),
    stop: () => recorder.state !== "inactive" && recorder.stop(),
  };
}
