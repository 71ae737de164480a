// Watches one stream: the HLS of the browser where that can go back and no token is needed, our own player otherwise. The controls are the same.
import { currentToken } from "./app.js";
import { choices, el, setAttribute, setText } from "./dom.js";
import { clock, span, words } from "./format.js";
import { HlsSource } from "./hls_source.js";
import { icon } from "./icons.js";

const EDGE = 3; // seconds behind the live edge that count as live
const STEP = 5; // seconds
const TICK = 250; // milliseconds
const HLS = "application/vnd.apple.mpegurl";

const hasMedia = () => "MediaSource" in globalThis || "ManagedMediaSource" in globalThis;
/** Safari, whose player goes back to the start of a live stream and sends it to a television. That of Chromium can only go on. */
const isWebKit = () => "WebKitPlaybackTargetAvailabilityEvent" in globalThis;

/** A native player's place of the stream: what it says can be reached. */
class NativeSource {
  #video;

  constructor(video, address, { failed, start }) {
    this.#video = video;
    this.address = address;
    video.onerror = () => failed(new Error("the player of this browser stopped"));
    video.onloadedmetadata = () => start !== undefined && (video.currentTime = start);
    video.src = address;
  }

  get range() {
    const { seekable, duration } = this.#video;
    if (!seekable.length) return null;
    return { start: seekable.start(0), end: seekable.end(seekable.length - 1), ended: Number.isFinite(duration) };
  }

  get edge() {
    return this.range?.end ?? 0;
  }

  restart() {} // it reloads its list by itself, and after an error there is another one

  close() {
    this.#video.onerror = this.#video.onloadedmetadata = null;
  }
}

export class LivePlayer {
  #source = null;
  #address = "";
  #timer;
  #ended = false;
  #since = null;

  constructor() {
    const button = (name, label, act, properties = {}) => el("button", { class: "icon-button", type: "button", "aria-label": label, title: label, onclick: act, ...properties }, icon(name));
    this.video = el("video", { playsinline: true, tabindex: 0, "aria-label": "Picture of the stream" });
    this.message = el("p", { class: "live-message", role: "status" });
    this.over = el("div", { class: "live-over" }); // what others show over the picture
    this.play = button("play", "Play", () => this.#toggle());
    this.start = button("rewind", "Back to the start", () => this.#to(this.#source?.range?.start ?? 0));
    this.mute = button("volume", "Mute", () => (this.video.muted = !this.video.muted));
    this.full = button("full", "Full screen", () => this.#fullscreen());
    this.place = el("input", { type: "range", class: "live-place", min: 0, max: 1, step: 0.1, "aria-label": "Place in the stream" });
    this.time = el("span", { class: "live-time" });
    this.live = el("button", { class: "live-button", type: "button", onclick: () => this.toEdge() }, el("span", { class: "dot" }), "Live");
    this.place.addEventListener("input", () => this.#to(Number(this.place.value)));
    this.controls = el("div", { class: "live-controls", role: "group", "aria-label": "Player" }, this.play, this.start, this.place, this.time, this.live, this.mute, this.full);
    this.element = el("div", { class: "live-player" }, el("div", { class: "live-stage" }, this.video, this.message, this.over), this.controls);
    for (const type of ["play", "pause", "volumechange", "timeupdate", "waiting", "playing"]) this.video.addEventListener(type, () => this.#show());
    this.video.addEventListener("click", () => this.#toggle());
    this.element.addEventListener("keydown", (event) => this.#keys(event));
    this.video.volume = Number(choices.get("volume") ?? 1);
    this.video.addEventListener("volumechange", () => choices.set("volume", this.video.volume));
  }

  get isOpen() {
    return this.#source !== null;
  }

  /** Where it is in the stream, in seconds; NaN while nothing can be played. */
  get position() {
    return this.#source?.range && this.video.readyState > 0 ? this.video.currentTime : NaN;
  }

  /** Say something in place of the picture. */
  say(text) {
    this.#say(text);
  }

  /** Play the stream of an address from the edge on, or from its start where it has ended. */
  open(address, { ended = false } = {}) {
    this.close();
    this.#address = address;
    this.#ended = ended;
    const native = !currentToken() && this.video.canPlayType(HLS) !== "" && (isWebKit() || !hasMedia());
    this.#begin(native, ended ? 0 : undefined);
    this.#timer = setInterval(() => this.#show(), TICK);
  }

  #begin(native, start) {
    this.#source?.close();
    this.#say("");
    const Source = native ? NativeSource : HlsSource;
    this.#source = new Source(this.video, this.#address, {
      start,
      headers: () => (currentToken() ? { authorization: `Bearer ${currentToken()}` } : {}),
      changed: () => this.#show(),
      failed: (error) => this.#failed(error, native),
    });
    this.video.play().catch((error) => {
      if (error.name !== "NotAllowedError") return;
      this.video.muted = true; // sound needs a click in most browsers
      this.video.play().catch(() => {});
    });
    this.#show();
  }

  #failed(error, native) {
    // A native player that gives up is replaced by our own, at the same place.
    if (native && hasMedia()) return this.#begin(false, this.video.currentTime || undefined);
    this.#say(error.status ? words(error) : `${error.message[0].toUpperCase()}${error.message.slice(1)}.`);
    return undefined;
  }

  /** The state of the stream has changed. */
  update({ state, since }, before) {
    this.#since = state === "interrupted" ? (since ?? before?.since ?? new Date().toISOString()) : null;
    this.#ended = state === "ended";
    if (before && before.state !== state && (state === "live" || state === "ended")) this.#source?.restart();
    this.#show();
  }

  toEdge() {
    if (this.#source) this.#to(this.#source.edge);
    void this.video.play().catch(() => {});
  }

  close() {
    clearInterval(this.#timer);
    this.#source?.close();
    this.#source = null;
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.load();
    this.#say("");
  }

  #to(time) {
    this.video.currentTime = time;
    this.#show();
  }

  #toggle() {
    if (this.video.paused) void this.video.play().catch(() => {});
    else this.video.pause();
  }

  #fullscreen() {
    if (document.fullscreenElement) void document.exitFullscreen();
    else if (this.element.requestFullscreen) void this.element.requestFullscreen().catch(() => {});
    else this.video.webkitEnterFullscreen?.();
  }

  #say(text) {
    setText(this.message, text);
    this.message.hidden = !text;
  }

  #show() {
    const { video } = this;
    const list = this.#source?.range;
    swap(this.play, video.paused ? "play" : "pause", video.paused ? "Play" : "Pause");
    swap(this.mute, video.muted ? "muted" : "volume", video.muted ? "Unmute" : "Mute");
    const [start, end, edge] = [list?.start ?? 0, list?.end ?? 0, this.#source?.edge ?? 0];
    const behind = Math.max(0, edge - video.currentTime);
    const over = this.#ended || Boolean(list?.ended);
    const atEdge = !over && Boolean(list) && behind < EDGE;
    this.place.disabled = this.start.disabled = !list;
    if (list && document.activeElement !== this.place) [this.place.min, this.place.max] = [start, end].map(String);
    else if (list) this.place.max = String(end);
    this.place.value = String(video.currentTime);
    this.place.style.setProperty("--done", `${end > start ? ((video.currentTime - start) / (end - start)) * 100 : 0}%`);
    const text = over ? `${clock(video.currentTime - start)} / ${clock(end - start)}` : atEdge || !list ? clock(video.currentTime - start) : `−${clock(behind)}`;
    setText(this.time, text);
    setAttribute(this.place, "aria-valuetext", over ? `${clock(video.currentTime - start)} of ${clock(end - start)}` : atEdge ? "live" : `${span(behind)} behind live`);
    this.live.hidden = over;
    this.live.dataset.live = String(atEdge);
    this.live.lastChild.textContent = atEdge ? "Live" : "Go live";
    setAttribute(this.live, "aria-pressed", atEdge);
    if (!this.#source) return;
    if (this.message.textContent && !this.message.dataset.passing) return; // an error stays
    const waits = !list ? (over ? "Loading…" : "Waits for the first seconds of the stream…") : this.#since && behind < EDGE && video.readyState < 3 ? "Interrupted. It goes on here as soon as the sender is back." : "";
    this.message.dataset.passing = "yes";
    this.#say(waits);
    if (!waits) delete this.message.dataset.passing;
  }

  #keys(event) {
    const { key, target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const list = this.#source?.range;
    const seek = (by) => list && this.#to(Math.max(list.start, Math.min(list.end, this.video.currentTime + by)));
    const acts = {
      k: () => this.#toggle(),
      m: () => (this.video.muted = !this.video.muted),
      f: () => this.#fullscreen(),
      l: () => this.toEdge(),
      ArrowLeft: () => seek(-STEP),
      ArrowRight: () => seek(STEP),
      Home: () => list && this.#to(list.start),
      End: () => this.toEdge(),
    };
    if (!target.matches("button")) acts[" "] = acts.k;
    if (!(key in acts)) return;
    event.preventDefault();
    event.stopPropagation();
    acts[key]();
  }
}

function swap(button, name, label) {
  if (button.title === label) return;
  button.replaceChildren(icon(name));
  button.title = label;
  button.setAttribute("aria-label", label);
}
