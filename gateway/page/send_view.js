// The page for someone who was asked for a file: a link in place of a token, one file, and nothing else of this server.
import { Gridcast } from "/client/index.js";
import { toast } from "./dialogs.js";
import { el, perFrame, setAttribute, setText } from "./dom.js";
import { rate, size, span, words } from "./format.js";
import { icon } from "./icons.js";
import { isTaken, linkWords, readLink } from "./upload_link.js";

const ACTIVE = ["waiting", "sending", "retrying"];

export class SendView {
  #link = "";
  #asked = null;
  #file = null;
  #upload = null;
  #client = new Gridcast({ token: "" });

  /** @param {{ choose: () => void }} intake */
  constructor({ choose }) {
    const button = (text, work, main = false) => el("button", { class: main ? "button primary" : "button", type: "button", hidden: true, text, onclick: work });
    this.title = el("h1", { text: "Send a file" });
    this.text = el("p", { class: "soft" });
    this.limits = el("p", { class: "soft small" });
    this.name = el("strong", { class: "send-name" });
    this.state = el("p", { class: "send-state", role: "status" });
    this.bar = el("div", { class: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": "Upload", hidden: true }, el("i", { class: "bar-sent" }), el("i", { class: "bar-stored" }));
    this.buttons = {
      choose: button("Choose a file", choose, true),
      other: button("Choose another file", choose),
      send: button("Send it", () => this.#send(), true),
      pause: button("Pause", () => this.#upload.pause()),
      resume: button("Go on", () => this.#upload.resume(), true),
    };
    this.card = el("div", { class: "card send-card" }, icon("upload"), this.name, this.state, this.bar, el("div", { class: "inline" }, Object.values(this.buttons)));
    this.element = el("section", { class: "view send" }, this.title, this.text, this.limits, this.card);
    this.render = perFrame(() => this.#show());
    addEventListener("beforeunload", (event) => this.#isActive && event.preventDefault());
  }

  show({ query }) {
    const link = query.get("link") ?? "";
    document.title = "Send a file · Gridcast";
    if (link === this.#link && this.#asked) return;
    if (this.#isActive) this.#upload.pause(); // the address was changed: what was sent stays on the server
    [this.#link, this.#asked, this.#file, this.#upload] = [link, readLink(link), null, null];
    this.#show();
  }

  /** A file that was dropped, pasted or chosen: shown first, because the link works once. */
  take([{ file } = {}, ...more]) {
    if (!file || !this.#asked || (this.#upload && this.#upload.state !== "failed")) return;
    const { maxSize, types } = this.#asked;
    if (more.length) return toast("This link is for one file. Drop one.", { error: true });
    if (file.size > maxSize) return toast(`“${file.name}” is too large: files of up to ${size(maxSize)} were asked for.`, { error: true });
    if (!isTaken(file.type, types)) return toast(`“${file.name}” is of another type than was asked for.`, { error: true });
    [this.#file, this.#upload] = [file, null];
    this.#show();
    this.buttons.send.focus();
  }

  get #isActive() {
    return Boolean(this.#upload) && ACTIVE.includes(this.#upload.state);
  }

  #send() {
    const { folder, filename } = this.#asked;
    this.#upload = this.#client.uploads.add(this.#file, { folder, filename, link: this.#link });
    this.#upload.onChange(this.render);
    this.#show();
    this.buttons.pause.focus();
  }

  #show() {
    const asked = this.#asked;
    this.card.hidden = !asked;
    if (!asked) {
      setText(this.text, "This address is not complete, or is no link for an upload. Copy the whole link, or ask for another one.");
      setText(this.limits, "");
      return;
    }
    const left = asked.ends - Date.now() / 1000;
    setText(this.text, `You were asked for “${asked.filename}”. Your file is stored under this name. You need no account, and the link works once.`);
    const types = asked.types.map((type) => ({ "image/*": "pictures", "video/*": "videos", "audio/*": "sounds", "application/pdf": "PDF" })[type] ?? type).join(", ");
    setText(this.limits, [asked.maxSize < Infinity ? `Up to ${size(asked.maxSize)}` : "", types ? `only ${types}` : "", left > 0 ? `the link ends in ${span(left)}` : "the link may have ended"].filter(Boolean).join(" · "));
    setText(this.name, this.#file ? `${this.#file.name} · ${size(this.#file.size)}` : "");
    const snapshot = this.#upload?.snapshot;
    const state = snapshot?.state ?? (this.#file ? "ready" : "empty");
    this.card.dataset.state = state;
    this.#showBar(snapshot);
    const offered = { empty: ["choose"], ready: ["send", "other"], paused: ["resume"], failed: snapshot?.error?.status === 0 ? ["resume", "other"] : ["other"], stored: [] }[state] ?? ["pause"];
    for (const [name, button] of Object.entries(this.buttons)) button.hidden = !offered.includes(name);
    const texts = {
      empty: () => "Drop your file anywhere on this page, or choose it.",
      ready: () => "Is this the right file? It can be sent once.",
      waiting: () => "Begins",
      sending: () => [`${size(snapshot.sent)} of ${size(snapshot.size)}`, snapshot.rate ? rate(snapshot.rate) : "", snapshot.secondsLeft === null ? "" : `${span(snapshot.secondsLeft)} left`].filter(Boolean).join(" · "),
      retrying: () => "Waits for the network, then goes on. You can also come back later: open the link again and choose the same file.",
      paused: () => `Paused at ${size(snapshot.stored)} of ${size(snapshot.size)}.`,
      stored: () => "Your file has arrived. You can close this page.",
      failed: () => linkWords(snapshot.error, words),
    };
    setText(this.state, texts[state]?.() ?? "");
  }

  #showBar(snapshot) {
    this.bar.hidden = !snapshot || ["stored", "failed"].includes(snapshot.state);
    if (!snapshot) return;
    const part = (value) => (snapshot.size ? value / snapshot.size : 1);
    this.bar.firstElementChild.style.transform = `scaleX(${part(snapshot.sent)})`;
    this.bar.lastElementChild.style.transform = `scaleX(${part(snapshot.stored)})`;
    setAttribute(this.bar, "aria-valuenow", Math.floor(part(snapshot.sent) * 100));
  }
}
