// Shows one file over the page: video, audio, picture, text, PDF; keyboard, speed, link to a time, picture in picture, next and previous.
import { files } from "./app.js";
import { copy } from "./dialogs.js";
import { choices, el, setText } from "./dom.js";
import { clock, size, words } from "./format.js";
import { icon } from "./icons.js";
import { canPlay, iconOf, isPicture, kindOf } from "./kinds.js";
import { change, fileOf, link, pathOf } from "./router.js";
import { blobOf, leadTo, problemOf, sourceOf, textOf } from "./sources.js";
import { coverAddress } from "./thumbnails.js";

const SPEEDS = [0.5, 0.75, 1, 1.25, 1.5, 1.75, 2];
const STEP = 5; // seconds
const TEXT_BYTES = 256 * 1024;
const PDF_BYTES = 64 * 1024 * 1024; // read as a whole
const MIN_RENEWAL_INTERVAL = 10_000; // milliseconds: a link that was renewed and is refused again is no longer renewed

export class Player {
  #file = null;
  #path = "";
  #media = null;
  #release = () => {};
  #abort = new AbortController();

  /** @param {{ find: (path: string) => object | undefined, neighbours: (path: string) => { previous?: object, next?: object } }} list */
  constructor(list) {
    this.list = list;
    const button = (name, label, act) => el("button", { class: "icon-button", "aria-label": label, title: label, onclick: act }, icon(name));
    this.title = el("h2", { id: "player-title" });
    this.meta = el("p", { class: "small" });
    this.stage = el("div", { class: "stage" });
    this.speed = el("select", { class: "input speed", "aria-label": "Speed", title: "Speed" }, SPEEDS.map((speed) => el("option", { value: speed, text: `${speed}×` })));
    this.speed.onchange = () => this.#setSpeed(Number(this.speed.value));
    this.timeLink = button("link", "Copy a link to this time", () => this.#copyLink());
    this.pip = button("pip", "Picture in picture", () => this.#togglePip());
    this.previous = button("previous", "Previous file", () => this.#go("previous"));
    this.next = button("next", "Next file", () => this.#go("next"));
    this.download = el("a", { class: "icon-button", "aria-label": "Download", title: "Download" }, icon("download"));
    leadTo(this.download, () => this.#file, (error) => this.#fail(error));
    this.info = button("info", "Details", () => change({ info: this.#path }));
    this.close = button("close", "Close", () => this.element.close());
    this.element = el(
      "dialog",
      { class: "player", "aria-labelledby": "player-title" },
      el("header", {}, el("div", { class: "player-title" }, this.title, this.meta), el("div", { class: "player-tools" }, this.speed, this.timeLink, this.pip, this.download, this.info, this.close)),
      this.previous,
      this.stage,
      this.next,
    );
    this.element.addEventListener("close", () => this.#closed());
    this.element.addEventListener("keydown", (event) => this.#keys(event));
    this.element.addEventListener("click", (event) => event.target === this.stage && this.element.close());
    document.body.append(this.element);
  }

  /** Show the file of a path, or nothing where that is empty. `time` in seconds. */
  async show(path, time) {
    if ((path ?? "") === this.#path) return;
    this.#clear();
    this.#path = path ?? "";
    if (!path) {
      if (this.element.open) this.element.close();
      return;
    }
    if (!this.element.open) this.element.showModal();
    setText(this.title, fileOf(path).filename);
    const { signal } = this.#abort;
    try {
      // The list may have it; where the container's facts are missing, the server looks for them.
      const known = this.list.find(path);
      const file = known?.media_facts || (known && !["video", "audio"].includes(kindOf(known))) ? known : await files.info(fileOf(path), { signal });
      if (signal.aborted) return;
      this.#file = file;
      await this.#open(file, time, signal);
    } catch (error) {
      if (!signal.aborted) this.#fail(error);
    }
  }

  /** The list has changed: say whether there is a file before and after this one. */
  showNeighbours() {
    if (!this.#path) return;
    const { previous, next } = this.list.neighbours(this.#path);
    this.previous.disabled = !previous;
    this.next.disabled = !next;
  }

  async #open(file, time, signal) {
    const kind = kindOf(file);
    const { width, height, duration } = file.media_facts ?? {};
    setText(this.meta, [file.folder, size(file.length), width && height ? `${width} × ${height}` : "", duration ? clock(duration) : ""].filter(Boolean).join(" · "));
    this.download.href = files.address(file);
    this.download.setAttribute("download", file.filename);
    this.download.hidden = this.info.hidden = false;
    const timed = kind === "video" || kind === "audio";
    this.speed.hidden = this.timeLink.hidden = !timed;
    this.pip.hidden = kind !== "video" || !document.pictureInPictureEnabled;
    this.showNeighbours();
    if (!file.length || kind === "other" || (kind === "image" && !isPicture(file)) || !canPlay(file)) return this.#cannot(file, kind);
    if (kind === "text") {
      const text = await textOf(file, TEXT_BYTES, signal);
      const more = file.length > TEXT_BYTES ? el("p", { class: "small soft", text: `These are the first ${size(TEXT_BYTES)}. Download the file to see the rest.` }) : null;
      return this.stage.replaceChildren(el("div", { class: "paper" }, el("pre", { tabindex: 0, text }), more));
    }
    this.stage.replaceChildren(el("p", { class: "soft", role: "status", text: "Loading…" }));
    if (kind === "pdf") return this.#openPdf(file, signal);
    const { address, release, renew } = await sourceOf(file);
    if (signal.aborted) return release();
    this.#release = release;
    if (kind === "image") return this.stage.replaceChildren(el("img", { src: address, alt: file.filename, onerror: () => this.#failed(file, kind, signal) }));
    const media = el(kind, { controls: true, preload: "metadata", playsinline: true });
    let renewed = -Infinity;
    media.addEventListener("error", async () => {
      if (media !== this.#media) return;
      // A link that ended while the machine slept: it goes on where it was.
      const at = media.currentTime || time;
      const wasPlaying = !media.paused;
      if (performance.now() - renewed > MIN_RENEWAL_INTERVAL && (await renew()) && media === this.#media) {
        renewed = performance.now();
        time = at;
        media.load();
        if (wasPlaying) media.play().catch(() => {});
      } else if (media === this.#media) await this.#failed(file, kind, signal);
    });
    media.addEventListener("loadedmetadata", () => {
      if (time > 0) media.currentTime = time;
      // A container whose video codec is unknown here plays its sound only.
      if (kind === "video" && media.videoWidth === 0 && width > 0) this.#cannot(file, kind);
    });
    media.src = address;
    this.#media = media;
    this.#setSpeed(Number(choices.get("speed")) || 1);
    const picture = el("div", { class: "sound-picture" }, icon("audio"));
    if (kind === "audio") void this.#showCover(picture, file, signal);
    const sound = kind === "audio" ? el("div", { class: "sound" }, picture, el("strong", { text: file.media_facts?.tags?.title ?? file.filename }), el("span", { class: "soft", text: file.media_facts?.tags?.artist ?? "" }), media) : media;
    this.stage.replaceChildren(sound);
    media.focus();
    media.play().catch(() => {}); // autoplay may be blocked; the controls are there
  }

  async #showCover(place, file, signal) {
    const address = await coverAddress(file);
    if (address && !signal.aborted) place.append(el("img", { src: address, alt: "", onerror: ({ target }) => target.remove() }));
  }

  /** The server serves a PDF as an attachment, so the page makes it a document of its own where the browser has a viewer. */
  async #openPdf(file, signal) {
    if (!navigator.pdfViewerEnabled || file.length > PDF_BYTES) return this.#cannot(file, "pdf");
    const shown = URL.createObjectURL(new Blob([await blobOf(file, signal)], { type: "application/pdf" }));
    this.#release = () => URL.revokeObjectURL(shown);
    this.stage.replaceChildren(el("iframe", { class: "pdf", src: shown, title: file.filename }));
  }

  /** Say why something does not play: the server does not give it, or the browser does not know it. */
  async #failed(file, kind, signal) {
    const problem = await problemOf(file, signal);
    if (signal.aborted) return;
    if (problem) this.#fail(problem);
    else this.#cannot(file, kind);
  }

  #cannot(file, kind) {
    const what = { video: "This browser cannot play this video", audio: "This browser cannot play this sound", image: "This browser cannot show this picture", pdf: navigator.pdfViewerEnabled ? "This PDF is too large to be shown here" : "This browser has no viewer for PDF" }[kind] ?? "There is no preview for this type of file";
    const codecs = file.media_facts?.codecs?.join(", ");
    const type = `${file.content_type}${codecs ? ` (${codecs})` : ""}`;
    const advice = `Download it and open it with a program on your machine${kind === "video" || kind === "audio" ? ", mpv or VLC for example" : ""}.`;
    const link_ = el("a", { class: "button primary", href: files.address(file), download: file.filename }, icon("download"), `Download (${size(file.length)})`);
    leadTo(link_, () => file, (error) => this.#fail(error));
    this.#media = null;
    this.speed.hidden = this.timeLink.hidden = this.pip.hidden = true;
    const said = file.length ? [el("strong", { text: what }), el("p", { class: "soft", text: `${type}. ${advice}` })] : [el("strong", { text: "This file is empty" }), el("p", { class: "soft", text: `${type}.` })];
    this.stage.replaceChildren(el("div", { class: "cannot", role: "status" }, icon(iconOf(kind)), said, link_));
    link_.focus();
  }

  #fail(error) {
    this.#media = null;
    this.speed.hidden = this.timeLink.hidden = this.pip.hidden = true;
    this.download.hidden = this.info.hidden = !this.#file;
    this.stage.replaceChildren(el("div", { class: "cannot", role: "alert" }, icon("warning"), el("strong", { text: "This file cannot be shown" }), el("p", { class: "soft", text: words(error) })));
  }

  #setSpeed(speed) {
    choices.set("speed", speed);
    this.speed.value = String(speed);
    if (this.#media) this.#media.playbackRate = this.#media.defaultPlaybackRate = speed;
  }

  #copyLink() {
    const time = Math.floor(this.#media?.currentTime ?? 0);
    const address = new URL(link("files", fileOf(this.#path).folder, { play: this.#path, t: time || null }), location.href);
    void copy(address.href, time ? `Link to ${clock(time)}` : "Link");
  }

  async #togglePip() {
    if (document.pictureInPictureElement) await document.exitPictureInPicture();
    else await this.#media?.requestPictureInPicture?.().catch(() => {});
  }

  #go(side) {
    const file = this.list.neighbours(this.#path)[side];
    if (file) change({ play: pathOf(file), t: null }, { replace: true });
  }

  #keys(event) {
    const { target, key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || target.matches("select, input, textarea")) return;
    const media = this.#media;
    const acts = { n: () => this.#go("next"), p: () => this.#go("previous") };
    if (!media) Object.assign(acts, target.closest("pre") ? {} : { ArrowRight: () => this.#go("next"), ArrowLeft: () => this.#go("previous") });
    else {
      const index = SPEEDS.indexOf(media.playbackRate);
      const seek = (by) => (media.currentTime = Math.max(0, Math.min(media.duration || 0, media.currentTime + by)));
      Object.assign(acts, {
        ArrowRight: () => seek(STEP),
        ArrowLeft: () => seek(-STEP),
        ArrowUp: () => (media.volume = Math.min(1, media.volume + 0.1)),
        ArrowDown: () => (media.volume = Math.max(0, media.volume - 0.1)),
        k: () => (media.paused ? void media.play() : media.pause()),
        m: () => (media.muted = !media.muted),
        f: () => (document.fullscreenElement ? document.exitFullscreen() : media.requestFullscreen?.()),
        ">": () => this.#setSpeed(SPEEDS[Math.min(SPEEDS.length - 1, index + 1)]),
        "<": () => this.#setSpeed(SPEEDS[Math.max(0, index - 1)]),
      });
      if (!target.matches("button, a")) acts[" "] = acts.k;
    }
    if (!(key in acts)) return;
    event.preventDefault();
    acts[key]();
  }

  #clear() {
    this.#abort.abort();
    this.#abort = new AbortController();
    this.#media?.pause();
    this.#media?.removeAttribute("src");
    this.#media = null;
    this.#file = null;
    this.stage.replaceChildren();
    setText(this.meta, "");
    this.#release();
    this.#release = () => {};
  }

  #closed() {
    const path = this.#path;
    this.#clear();
    this.#path = "";
    if (path) change({ play: null, t: null });
    this.onClosed?.(path);
  }
}
