// Sends a stream from camera or screen: choosing and preview, then what the server has of it.
import { Live, chooseType } from "/client/live.js";
import { gridcast } from "./app.js";
import { confirm, copy, toast } from "./dialogs.js";
import { el, setText } from "./dom.js";
import { clock, size, words } from "./format.js";
import { icon } from "./icons.js";
import { link, pathOf } from "./router.js";

export const live = new Live(gridcast);

const VIDEO = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };
const BITS = { camera: 2_500_000, screen: 4_000_000 }; // per second
const field = (label, input) => el("label", { class: "field" }, el("span", { text: label }), input);

/** A name that sorts by time and is not taken. */
export function defaultName(now = new Date()) {
  const part = (value) => String(value).padStart(2, "0");
  return `Live ${now.getFullYear()}-${part(now.getMonth() + 1)}-${part(now.getDate())} ${part(now.getHours())}.${part(now.getMinutes())}.${part(now.getSeconds())}.mp4`;
}

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The command that sends a file, or a device in its place, to a stream. */
export function asFfmpeg({ media, publish_token: token }, origin = location.origin) {
  return `ffmpeg -re -i input.mp4 -c:v libx264 -preset veryfast -tune zerolatency -force_key_frames 'expr:gte(t,n_forced*2)' -c:a aac -f mp4 -movflags +frag_keyframe+empty_moov+default_base_moof -frag_duration 500000 -method POST -headers ${quote(`Authorization: Bearer ${token}`)} ${quote(`${origin}${media}?end=1`)}`;
}

export class LiveStudio {
  #media = null;
  #kind = "";
  #choice = 0; // counts choices: the answer to an older one is not taken
  #stream = null;
  #broadcast = null;
  #interrupted = false; // what the server says of the stream that is sent from here
  #busy = false;

  /** @param {{ changed: () => void }} options */
  constructor({ changed }) {
    this.changed = changed;
    const source = (kind, name, label) => el("button", { class: "button", type: "button", "aria-pressed": "false", data: { kind }, onclick: () => this.#choose(kind) }, icon(name), label);
    this.sources = el("div", { class: "studio-sources", role: "group", "aria-label": "Picture" }, source("camera", "video", "Camera"), source("screen", "screen", "Screen"));
    this.video = el("video", { muted: true, playsinline: true, "aria-label": "Preview" });
    this.video.muted = true;
    this.hint = el("p", { class: "studio-hint" }, icon("video"), el("span", { text: "Choose camera or screen. Nothing is sent before you start." }));
    this.preview = el("div", { class: "studio-preview" }, this.video, this.hint);
    this.cameras = el("select", { class: "input", onchange: () => this.#choose("camera") });
    this.microphones = el("select", { class: "input", onchange: () => this.#choose(this.#kind) }, el("option", { value: "default", text: "Default microphone" }), el("option", { value: "", text: "No sound" }));
    this.cameraField = field("Camera", this.cameras);
    this.cameraField.hidden = true;
    this.name = el("input", { class: "input", required: true, maxlength: 200, autocomplete: "off", spellcheck: false });
    this.folder = el("input", { class: "input", maxlength: 1024, placeholder: "none", autocomplete: "off", spellcheck: false });
    this.failed = el("p", { class: "notice error", role: "alert", hidden: true });
    this.startButton = el("button", { class: "button primary", disabled: true }, el("span", { class: "dot on-air" }), "Start");
    this.ffmpegButton = el("button", { class: "button", type: "button", onclick: () => this.#startFfmpeg() }, "Send with ffmpeg");
    this.form = el(
      "form",
      { class: "studio-form" },
      this.sources,
      this.cameraField,
      field("Sound", this.microphones),
      el("div", { class: "two" }, field("Name", this.name), field("Folder", this.folder)),
      el("div", { class: "studio-acts" }, this.startButton, this.ffmpegButton, el("button", { class: "button", type: "button", text: "Cancel", onclick: () => this.close() })),
    );
    this.form.onsubmit = (event) => {
      event.preventDefault();
      void this.#start();
    };
    this.elapsed = el("strong", { class: "studio-elapsed" });
    this.state = el("span", { class: "chip" }, el("span", { class: "dot" }), el("span"));
    this.durable = el("dd");
    this.waiting = el("dd");
    this.viewers = el("dd", { text: "0" });
    this.warning = el("p", { class: "notice", role: "status", hidden: true });
    this.acts = el("div", { class: "studio-acts" });
    this.command = el("div", { class: "copied" });
    this.onAir = el(
      "div",
      { class: "studio-air", hidden: true },
      el("div", { class: "studio-line" }, this.elapsed, this.state),
      el("dl", { class: "studio-facts" }, el("div", {}, el("dt", { text: "Stored" }), this.durable), el("div", {}, el("dt", { text: "Waiting" }), this.waiting), el("div", {}, el("dt", { text: "Viewers" }), this.viewers)),
      this.warning,
      this.command,
      this.acts,
    );
    this.title = el("h2", { id: "studio-title", text: "Go live" });
    this.element = el("section", { class: "card studio", "aria-labelledby": "studio-title", hidden: true }, this.title, this.failed, el("div", { class: "studio-grid" }, this.preview, this.form, this.onAir));
    addEventListener("beforeunload", (event) => this.isOnAir && event.preventDefault());
  }

  get isOnAir() {
    return Boolean(this.#broadcast) && !["ended", "failed", "cancelled"].includes(this.#broadcast.state);
  }

  /** The stream that is being sent from here. */
  get id() {
    return this.#stream?.id ?? "";
  }

  open() {
    if (!this.element.hidden) return;
    this.element.hidden = false;
    this.name.value ||= defaultName();
    this.#fail("");
    this.sources.firstElementChild.focus();
    this.changed();
  }

  close() {
    if (this.isOnAir) return;
    this.#reset();
    this.element.hidden = true;
    this.changed();
  }

  /** What viewers see of the stream that is being sent. */
  update(state) {
    setText(this.viewers, String(state.viewers ?? 0));
    this.#interrupted = state.state === "interrupted";
    if (this.#broadcast) return this.#show(this.#broadcast.snapshot);
    // ffmpeg sends it.
    setText(this.durable, size(state.segments ? state.bytes : 0)); // before, it is the reserved header
    this.waiting.parentElement.hidden = true;
    setText(this.elapsed, clock(state.duration ?? 0));
    this.#sayState(state.state === "live" ? "good" : "busy", { waiting: "Waits for ffmpeg", live: "On air", interrupted: "Interrupted", ended: "Ended" }[state.state] ?? state.state);
    if (state.state === "ended") this.close();
    return undefined;
  }

  #fail(text) {
    setText(this.failed, text);
    this.failed.hidden = !text;
  }

  async #choose(kind) {
    if (!kind) return;
    const choice = ++this.#choice;
    this.#fail("");
    let media = null;
    try {
      if (!navigator.mediaDevices?.getUserMedia) throw new Error("camera and screen need HTTPS, or localhost: open this page by such an address, or send with ffmpeg");
      media = await (kind === "camera" ? this.#camera() : this.#screen());
      chooseType({ video: media.getVideoTracks().length > 0, audio: media.getAudioTracks().length > 0 });
    } catch (error) {
      stop(media);
      if (choice === this.#choice) this.#fail(reason(error, kind));
      return;
    }
    if (choice !== this.#choice) return stop(media);
    stop(this.#media);
    [this.#media, this.#kind] = [media, kind];
    this.video.srcObject = media;
    this.video.classList.toggle("mirrored", kind === "camera");
    void this.video.play().catch(() => {});
    this.hint.hidden = true;
    this.startButton.disabled = false;
    for (const button of this.sources.children) button.setAttribute("aria-pressed", String(button.dataset.kind === kind));
    this.cameraField.hidden = kind !== "camera";
    await this.#listDevices();
    return undefined;
  }

  #sound() {
    const { value } = this.microphones;
    return value === "" ? false : value === "default" ? true : { deviceId: { exact: value } };
  }

  async #camera() {
    const chosen = this.cameras.value;
    return navigator.mediaDevices.getUserMedia({ video: chosen ? { ...VIDEO, deviceId: { exact: chosen } } : VIDEO, audio: this.#sound() });
  }

  /** The screen with its own sound, where the browser gives it, or with the microphone: one track, which is what is recorded. */
  async #screen() {
    if (!navigator.mediaDevices.getDisplayMedia) throw new Error("this browser cannot show its screen to others");
    const sound = this.#sound();
    const media = await navigator.mediaDevices.getDisplayMedia({ video: { frameRate: { ideal: 30 } }, audio: sound !== false });
    if (sound === false || media.getAudioTracks().length) return media;
    const microphone = await navigator.mediaDevices.getUserMedia({ audio: sound }).catch(() => null); // a screen without sound is still one
    for (const track of microphone?.getAudioTracks() ?? []) media.addTrack(track);
    return media;
  }

  /** A browser names the devices once one of them may be used. */
  async #listDevices() {
    const devices = await navigator.mediaDevices.enumerateDevices().catch(() => []);
    const fill = (select, kind, first) => {
      const chosen = select.value;
      const found = devices.filter((device) => device.kind === kind && device.deviceId && device.deviceId !== "default" && device.label);
      select.replaceChildren(...first, ...found.map(({ deviceId, label }) => el("option", { value: deviceId, text: label })));
      if ([...select.options].some(({ value }) => value === chosen)) select.value = chosen;
    };
    fill(this.microphones, "audioinput", [el("option", { value: "default", text: "Default microphone" }), el("option", { value: "", text: "No sound" })]);
    fill(this.cameras, "videoinput", [el("option", { value: "", text: "Default camera" })]);
  }

  async #create() {
    const filename = this.name.value.trim().replace(/(\.mp4)?$/i, ".mp4");
    return live.create({ filename, folder: this.folder.value.trim().replace(/^[/]+|[/]+$/g, ""), title: filename.replace(/\.mp4$/, "") });
  }

  async #attempt(action) {
    if (this.#busy) return;
    this.#busy = this.startButton.disabled = this.ffmpegButton.disabled = true;
    this.#fail("");
    try {
      await action();
    } catch (error) {
      this.#fail(words(error));
    }
    this.#busy = this.ffmpegButton.disabled = false;
    this.startButton.disabled = !this.#media;
  }

  #start() {
    return this.#attempt(async () => {
      this.#stream = await this.#create();
      try {
        this.#broadcast = live.publish(this.#stream, { mediaStream: this.#media, videoBitsPerSecond: BITS[this.#kind], audioBitsPerSecond: 96_000 });
      } catch (error) {
        await live.remove(this.#stream.id).catch(() => {});
        throw error;
      }
      const broadcast = this.#broadcast;
      broadcast.onChange((snapshot) => this.#show(snapshot));
      broadcast.done.then(
        (state) => this.#ended(broadcast, state),
        (error) => this.#lost(broadcast, error),
      );
      this.#air([
        el("button", { class: "button danger filled", type: "button", onclick: () => this.#end() }, "End the live"),
        el("button", { class: "button", type: "button", onclick: () => this.#copyAddress() }, icon("copy"), "Copy the address"),
        el("button", { class: "button danger", type: "button", onclick: () => this.#discard() }, icon("trash"), "Discard"),
      ]);
      this.#show(broadcast.snapshot);
    });
  }

  #startFfmpeg() {
    if (!this.form.reportValidity()) return undefined;
    return this.#attempt(async () => {
      this.#stream = await this.#create();
      stop(this.#media);
      this.#media = this.video.srcObject = null;
      const command = asFfmpeg(this.#stream);
      this.command.replaceChildren(el("span", { class: "small soft", text: "Run this where your video is. It contains the secret of this stream." }), el("code", { text: command }), el("button", { class: "icon-button", type: "button", "aria-label": "Copy the ffmpeg command", title: "Copy", onclick: () => copy(command, "Command") }, icon("copy")));
      this.#air([
        el("button", { class: "button", type: "button", onclick: () => this.#copyAddress() }, icon("copy"), "Copy the address"),
        el("button", { class: "button", type: "button", text: "Close", onclick: () => this.close() }),
      ]);
      this.preview.hidden = true;
      this.update({ state: "waiting" });
    });
  }

  #air(acts) {
    this.form.hidden = true;
    this.onAir.hidden = false;
    this.acts.replaceChildren(...acts);
    setText(this.title, this.name.value.trim());
    this.changed();
    acts[0].focus();
  }

  #sayState(colour, text) {
    this.state.firstElementChild.className = `dot ${colour}`;
    setText(this.state.lastElementChild, text);
  }

  #show({ state, elapsed, durable, buffered, behind, paused, stalled, error }) {
    if (!this.#broadcast) return;
    setText(this.elapsed, clock(elapsed / 1000));
    setText(this.durable, size(durable));
    this.waiting.parentElement.hidden = false;
    setText(this.waiting, buffered ? size(buffered) : "nothing");
    const [colour, text] = { starting: ["busy", "Starting"], sending: ["good", "On air"], retrying: ["bad", "Connection lost"], ending: ["busy", "Ending: sends the rest"], ended: ["good", "Ended"], failed: ["bad", "Failed"], cancelled: ["bad", "Stopped"] }[state];
    const unheard = this.#interrupted && state === "sending";
    const silent = stalled || unheard;
    this.#sayState(silent ? "bad" : colour, silent ? "Sending stopped" : text);
    const warning = stalled
      ? "Sending stopped: this page gets no picture any more. Bring its window to the front, and keep the computer awake."
      : paused
        ? "The network is too slow: recording pauses until it has caught up. Nothing that was recorded is lost."
        : state === "retrying"
          ? `${words(error)} What is recorded waits here, and follows.`
          : unheard
            ? "Sending stopped: the server gets nothing any more. What is recorded waits here, and follows."
            : behind
              ? "Sending is behind: the network is slower than the picture."
              : "";
    setText(this.warning, warning);
    this.warning.hidden = !warning;
  }

  async #end() {
    if (!(await confirm("End this live?", "Viewers see its end. What was sent is kept as a file, which anyone can seek in at once.", "End the live"))) return;
    this.acts.firstElementChild.disabled = true;
    void this.#broadcast?.stop().catch(() => {});
    stop(this.#media);
  }

  async #discard() {
    if (!(await confirm("Discard this live?", "It ends for its viewers, and what was recorded is deleted. This cannot be undone.", "Discard"))) return;
    const { id } = this.#stream;
    const broadcast = this.#broadcast;
    this.#reset();
    broadcast?.cancel();
    this.element.hidden = true;
    try {
      await live.remove(id);
      toast("The live was discarded.");
    } catch (error) {
      toast(words(error), { error: true });
    }
    this.changed();
  }

  #ended(broadcast, state) {
    if (broadcast !== this.#broadcast) return;
    const { error } = broadcast.snapshot;
    const { file } = state;
    this.#broadcast = null;
    this.close();
    const open = { label: "Open the file", run: () => (location.hash = link("files", file.folder, { play: pathOf(file) })) };
    if (!file) toast("The live has ended before anything was recorded.", { error: true });
    else toast(error ? "The live was ended. What was sent until then is a file." : "The live has ended, and is a file now.", { action: open });
  }

  #lost(broadcast, error) {
    if (broadcast !== this.#broadcast) return;
    this.#broadcast = null;
    this.#reset();
    this.#fail(`${words(error)} The live is interrupted; what was stored of it stays.`);
    this.changed();
  }

  #copyAddress() {
    void copy(new URL(link("live", this.#stream.id), location.href).href, "Address");
  }

  #reset() {
    this.#choice++;
    this.#interrupted = false;
    stop(this.#media);
    this.#media = this.#broadcast = this.#stream = this.video.srcObject = null;
    this.#kind = "";
    this.name.value = defaultName();
    this.hint.hidden = this.preview.hidden = this.form.hidden = false;
    this.onAir.hidden = this.warning.hidden = true;
    this.cameraField.hidden = this.startButton.disabled = true;
    this.command.replaceChildren();
    for (const button of this.sources.children) button.setAttribute("aria-pressed", "false");
    setText(this.title, "Go live");
  }
}

function stop(media) {
  for (const track of media?.getTracks() ?? []) track.stop();
}

function reason(error, kind) {
  if (error.name === "NotAllowedError") return `The browser was not allowed to use the ${kind}. Allow it beside the address, then choose again.`;
  if (error.name === "NotFoundError" || error.name === "OverconstrainedError") return `There is no such ${kind === "camera" ? "camera or microphone" : "screen"}. Connect one, or choose another.`;
  if (error.name === "NotReadableError") return `The ${kind} is used by another program. Close that, then choose again.`;
  return words(error);
}
