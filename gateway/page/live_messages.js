// The messages of a stream over its picture, when the player comes to each, and the line to write one that belongs to what is shown.
import { toast } from "./dialogs.js";
import { el, setText } from "./dom.js";
import { words } from "./format.js";
import { live } from "./live_studio.js";

const SHOWN = 4;
const STAYS = 12_000; // milliseconds
const MOST = 300; // characters of one message
const TYPE = "chat.said";

/** What is shown of a message: its text, or what it is. */
export function textOf({ type, data }) {
  const text = typeof data === "string" ? data : typeof data?.text === "string" ? data.text : data === null || data === undefined ? "" : JSON.stringify(data);
  const shown = type === TYPE ? text : `${type} ${text}`.trim();
  return shown.length > MOST ? `${shown.slice(0, MOST - 1)}…` : shown;
}

export class LiveMessages {
  #video;
  #stop = () => {};
  #id = "";

  constructor(video) {
    this.#video = video;
    this.list = el("ul", { class: "live-messages", "aria-label": "Messages", "aria-live": "polite" });
    this.input = el("input", { class: "input", type: "text", maxlength: MOST, "aria-label": "Message", placeholder: "Say something about this moment" });
    this.form = el("form", { class: "live-say", hidden: true, onsubmit: (event) => (event.preventDefault(), void this.#say()) }, this.input, el("button", { class: "button small", type: "submit", text: "Send" }));
    // Keys of the player are letters.
    this.form.addEventListener("keydown", (event) => event.stopPropagation());
  }

  /** Show the messages of a stream. `time`: where the player is, NaN while there is nothing to play. */
  open(id, time) {
    this.close();
    this.#id = id;
    this.#stop = live.onMessageAt(id, time, (message) => this.#show(message), { onSeek: () => this.list.replaceChildren() });
  }

  /** Whether something can be said: while the stream is live. */
  update({ state }) {
    this.form.hidden = state !== "live" && state !== "interrupted";
  }

  close() {
    this.#stop();
    this.#stop = () => {};
    this.list.replaceChildren();
    this.form.hidden = true;
  }

  #show(message) {
    const text = textOf(message);
    if (!text) return;
    const line = el("li");
    setText(line, text);
    this.list.append(line);
    while (this.list.children.length > SHOWN) this.list.firstElementChild.remove();
    setTimeout(() => line.remove(), STAYS);
  }

  async #say() {
    const text = this.input.value.trim();
    if (!text) return;
    try {
      await live.pushMessage(this.#id, TYPE, { text }, { at: this.#video.currentTime });
      this.input.value = "";
    } catch (error) {
      toast(error.status === 409 || error.status === 429 ? `${error.message}.` : words(error), { error: true });
    }
  }
}
