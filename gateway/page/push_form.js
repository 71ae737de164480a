// Pushes an event to a socket, a topic or all, and shows the receipt.
import { sockets } from "./app.js";
import { el } from "./dom.js";
import { words } from "./format.js";
import { icon } from "./icons.js";

const ACK_WAIT = 5; // seconds
const REST = 400; // milliseconds: the second click of a double click
const MEANINGS = {
  delivered: "Delivered: the client has confirmed it.",
  sent: "Sent: the replica that holds the connection has it.",
  queued: "Queued: the client is away, and gets it when it comes back.",
};

export class PushForm {
  #busy = false;

  constructor() {
    const option = (value, text) => el("option", { value, text });
    this.kind = el("select", { class: "input" }, option("sid", "One socket"), option("topic", "A topic"), option("all", "All sockets"));
    this.target = el("input", { class: "input mono", autocomplete: "off", spellcheck: false, maxlength: 200 });
    this.type = el("input", { class: "input", value: "chat.message", required: true, maxlength: 128, pattern: "[A-Za-z0-9._\\-]+", title: "Letters, digits, dots, hyphens and underscores", autocomplete: "off", spellcheck: false });
    this.data = el("textarea", { class: "input", spellcheck: false });
    this.data.value = '{\n  "text": "Hello"\n}';
    this.ack = el("input", { type: "checkbox", class: "check" });
    this.button = el("button", { class: "button primary" }, icon("send"), el("span", { text: "Push" }));
    this.receipt = el("div", { class: "receipt", role: "status" });
    const field = (label, input) => el("label", { class: "field" }, el("span", { text: label }), input);
    this.targetField = field("Socket (sid)", this.target);
    this.ackField = el("label", { class: "inline small" }, this.ack, `Wait up to ${ACK_WAIT} s for the client's ack`);
    this.form = el("form", { class: "dialog-form" }, el("div", { class: "two" }, field("To", this.kind), field("Type", this.type)), this.targetField, field("Data (JSON)", this.data), this.ackField, el("div", { class: "inline" }, this.button), this.receipt);
    this.kind.onchange = () => this.#showKind();
    this.data.oninput = () => this.data.setCustomValidity("");
    this.form.onsubmit = (event) => {
      event.preventDefault();
      void this.#push();
    };
    this.element = el("section", { class: "card", "aria-labelledby": "push-title" }, el("h2", { id: "push-title", text: "Push an event" }), this.form);
    this.#showKind();
  }

  /** Make a socket the target. */
  aim(sid) {
    this.kind.value = "sid";
    this.target.value = sid;
    this.#showKind();
    this.form.scrollIntoView({ block: "center" });
    this.data.focus();
  }

  #showKind() {
    const kind = this.kind.value;
    this.targetField.hidden = kind === "all";
    this.target.required = kind !== "all";
    this.targetField.firstElementChild.textContent = kind === "topic" ? "Topic" : "Socket (sid)";
    this.target.placeholder = kind === "topic" ? "news" : "52 characters, or “Push” in the list";
    this.ackField.hidden = kind !== "sid";
  }

  async #push() {
    if (this.#busy) return; // no double submit
    let data;
    try {
      data = this.data.value.trim() ? JSON.parse(this.data.value) : null;
    } catch (error) {
      this.data.setCustomValidity(`This is no JSON: ${error.message}`);
      this.data.reportValidity();
      return;
    }
    this.#busy = this.button.disabled = true;
    const rest = new Promise((resolve) => setTimeout(resolve, REST));
    const message = { type: this.type.value.trim(), data };
    const target = this.target.value.trim();
    try {
      const kind = this.kind.value;
      const wait = kind === "sid" && this.ack.checked ? ACK_WAIT : 0;
      const receipt = await (kind === "sid" ? sockets.send(target, message, { wait }) : sockets.publish(message, kind === "topic" ? { topic: target } : {}));
      const late = wait && receipt.status === "sent" ? " It did not confirm in time." : "";
      const meaning = kind === "sid" ? `${MEANINGS[receipt.status] ?? ""}${late}` : "Sent to all replicas with subscribers.";
      this.receipt.replaceChildren(el("p", { class: "inline" }, el("span", { class: `dot ${receipt.status === "queued" || late ? "busy" : "good"}` }), el("strong", { text: receipt.status }), meaning), el("pre", { tabindex: 0, text: JSON.stringify(receipt, null, 2) }));
    } catch (error) {
      const text = error.status === 404 ? "There is no such socket: it has left, or the sid is misspelt." : words(error);
      this.receipt.replaceChildren(el("p", { class: "notice error", text }));
    } finally {
      await rest;
      this.#busy = this.button.disabled = false;
    }
  }
}
