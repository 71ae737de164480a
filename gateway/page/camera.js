// A picture or a short clip of the camera, as a file for the queue. It is looked at before it is taken.
import { open } from "./dialogs.js";
import { el, setText } from "./dom.js";
import { clock } from "./format.js";
import { icon } from "./icons.js";

const SHOWN = { video: { width: { ideal: 1920 }, height: { ideal: 1080 } } };
const LONGEST = 120; // seconds of a clip: it is in memory until it is uploaded
const QUALITY = 0.92;
const TYPES = ["video/mp4;codecs=avc1,mp4a.40.2", "video/mp4;codecs=avc1,opus", "video/mp4", "video/webm"]; // the first plays everywhere

/** What a failure of the camera means, and what to do. */
export function reason({ name }) {
  if (name === "NotAllowedError" || name === "SecurityError") return "This page was not allowed to use the camera. Allow it beside the address, then try again.";
  if (name === "NotFoundError" || name === "OverconstrainedError") return "There is no camera. Connect one, then try again.";
  if (name === "NotReadableError" || name === "AbortError") return "The camera is used by another program. Close that, then try again.";
  return "The camera gives no picture. Try again, or choose a file instead.";
}

/** A name that sorts by time. */
export function nameOf(kind, type, now = new Date()) {
  const part = (value) => String(value).padStart(2, "0");
  const day = [now.getFullYear(), now.getMonth() + 1, now.getDate()].map(part).join("-");
  const extension = { "image/jpeg": "jpg", "video/mp4": "mp4" }[type] ?? "webm";
  return `${kind} ${day} ${[now.getHours(), now.getMinutes(), now.getSeconds()].map(part).join(".")}.${extension}`;
}

/** Open the camera. @param {(file: File) => void} take what the person has kept */
export function openCamera(take) {
  const camera = new Camera(take);
  open(camera.element);
  void camera.start();
}

class Camera {
  #take;
  #closed = false;
  /** @type {MediaStream | null} */
  #stream = null;
  /** @type {MediaRecorder | null} */
  #recorder = null;
  /** @type {File | null} */
  #file = null;
  #address = "";

  constructor(take) {
    this.#take = take;
    this.live = el("video", { autoplay: true, playsinline: true, "aria-label": "What the camera sees" });
    this.live.muted = true;
    this.made = el("div", { class: "camera-made" });
    this.time = el("span", { class: "chip camera-time", hidden: true });
    this.problem = el("p", { class: "notice error", role: "alert", hidden: true });
    this.hint = el("p", { class: "soft small", role: "status" });
    const button = (name, text, work, main = false) => el("button", { class: main ? "button primary" : "button", type: "button", hidden: true, onclick: work }, icon(name), text);
    this.buttons = {
      picture: button("camera", "Take a picture", () => void this.#shoot(), true),
      clip: button("video", "Record a clip", () => void this.#record()),
      stop: button("stop", "Stop", () => this.#recorder?.stop(), true),
      again: button("retry", "Try again", () => void this.start()),
      use: button("upload", "Upload it", () => this.#use(), true),
    };
    const close = el("button", { class: "button", type: "button", text: "Close", onclick: () => this.element.close() });
    const title = el("h2", { id: "camera-title", text: "Camera" });
    const stage = el("div", { class: "camera-stage" }, this.live, this.made, this.time);
    this.element = el("dialog", { class: "camera", "aria-labelledby": "camera-title" }, title, this.problem, stage, this.hint, el("div", { class: "dialog-actions" }, close, Object.values(this.buttons)));
    this.element.addEventListener("cancel", (event) => {
      if (this.#recorder?.state !== "recording") return;
      event.preventDefault(); // Escape ends the clip, and does not throw it away
      this.#recorder.stop();
    });
    this.element.addEventListener("close", () => {
      this.#closed = true;
      this.#end();
      this.#forget();
    });
  }

  /** Show what the camera sees; also after something that was not kept. */
  async start() {
    this.#forget();
    this.#say("Waits for the camera. Your browser may ask whether this page may use it.");
    this.#offer();
    try {
      if (!this.#stream?.active) this.#stream = await navigator.mediaDevices.getUserMedia(SHOWN);
    } catch (error) {
      return this.#fail(error);
    }
    if (this.#closed) return this.#end();
    for (const track of this.#stream.getVideoTracks()) track.onended = () => this.#lost();
    this.live.srcObject = this.#stream;
    await this.live.play().catch(() => {}); // closed in the meantime
    this.#say("Nothing is uploaded before you have seen it.");
    this.#offer("picture", ...(globalThis.MediaRecorder ? ["clip"] : []));
    return this.buttons.picture.focus();
  }

  async #shoot() {
    const { videoWidth: width, videoHeight: height } = this.live;
    if (!width) return;
    this.#offer(); // one picture for two clicks
    const canvas = el("canvas", { width, height });
    canvas.getContext("2d").drawImage(this.live, 0, 0);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
    if (this.#closed) return;
    if (blob) this.#review("Picture", blob);
    else this.#fail({ name: "" });
  }

  async #record() {
    this.#offer();
    const sound = await navigator.mediaDevices.getUserMedia({ audio: true }).catch(() => null);
    const tracks = [...this.#stream.getVideoTracks(), ...(sound?.getAudioTracks() ?? [])];
    const silence = () => sound?.getTracks().forEach((track) => track.stop());
    if (this.#closed) return silence();
    const parts = [];
    const begun = performance.now();
    const tick = () => {
      const seconds = (performance.now() - begun) / 1000;
      setText(this.time, `${clock(seconds)} of ${clock(LONGEST)}`);
      if (seconds >= LONGEST && this.#recorder.state === "recording") this.#recorder.stop();
    };
    let timer;
    const end = () => {
      clearInterval(timer);
      silence();
      this.time.hidden = true;
      this.#recorder = null;
    };
    try {
      this.#recorder = new MediaRecorder(new MediaStream(tracks), { mimeType: TYPES.find((type) => MediaRecorder.isTypeSupported(type)) });
      const { mimeType } = this.#recorder;
      this.#recorder.ondataavailable = ({ data }) => data.size && parts.push(data);
      this.#recorder.onstop = () => {
        end();
        if (this.#closed) return;
        if (parts.length) this.#review("Clip", new Blob(parts, { type: mimeType.split(";", 1)[0] || parts[0].type.split(";", 1)[0] }));
        else this.#fail({ name: "" });
      };
      this.#recorder.start(1000);
    } catch (error) {
      end();
      return this.#fail(error);
    }
    timer = setInterval(tick, 250);
    tick();
    this.time.hidden = false;
    this.#say(sound ? "" : "Without sound: there is no microphone, or this page was not allowed to use it.");
    this.#offer("stop");
    return this.buttons.stop.focus();
  }

  #review(kind, blob) {
    this.#file = new File([blob], nameOf(kind, blob.type), { type: blob.type, lastModified: Date.now() });
    this.#address = URL.createObjectURL(blob);
    const shown = kind === "Picture" ? el("img", { src: this.#address, alt: "The picture that was taken" }) : el("video", { src: this.#address, controls: true, playsinline: true, "aria-label": "The clip that was recorded" });
    this.made.replaceChildren(shown);
    this.live.hidden = true;
    this.#say("");
    this.#offer("again", "use");
    this.buttons.use.focus();
  }

  #use() {
    this.#take(this.#file);
    this.element.close();
  }

  #lost() {
    if (this.#recorder) this.#recorder.stop();
    else if (!this.#file) this.#fail({ name: "NotReadableError" });
  }

  #fail(error) {
    this.#end();
    if (this.#closed) return;
    this.problem.hidden = false;
    setText(this.problem, reason(error));
    this.#say("");
    this.#offer("again");
    this.buttons.again.focus();
  }

  #say(text) {
    setText(this.hint, text);
  }

  #offer(...names) {
    for (const [name, button] of Object.entries(this.buttons)) button.hidden = !names.includes(name);
  }

  /** Drop what was made. */
  #forget() {
    if (this.#address) URL.revokeObjectURL(this.#address);
    [this.#file, this.#address] = [null, ""];
    this.made.replaceChildren();
    this.live.hidden = false;
    this.problem.hidden = true;
  }

  /** Switch the camera off. */
  #end() {
    if (this.#recorder?.state === "recording") this.#recorder.stop();
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = this.live.srcObject = null;
  }
}
