// Endpoints of webhooks with their queues, and dead letters, which can be sent again. Nothing is asked for until it is opened.
import { currentToken } from "./app.js";
import { el, setText } from "./dom.js";
import { span, words } from "./format.js";

const SHOWN_DELIVERIES = 50;

async function call(path, body) {
  const headers = currentToken() ? { authorization: `Bearer ${currentToken()}` } : {};
  if (body) headers["content-type"] = "application/json";
  const response = await fetch(`/webhooks/${path}`, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(10_000) });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(answer.detail ?? "no answer"), { status: response.status });
  return answer;
}

export class WebhooksPanel {
  constructor() {
    this.result = el("p", { class: "small soft", role: "status" });
    this.endpoints = el("ul", { class: "replicas" });
    this.dead = el("ul", { class: "replicas" });
    this.deadTitle = el("h3", { text: "Dead letters", hidden: true });
    this.element = el("details", { class: "card", ontoggle: () => this.element.open && this.#attempt(() => {}) }, el("summary", { text: "Webhooks" }), this.result, this.endpoints, this.deadTitle, this.dead);
  }

  /** Do something, then show what is there now, or the error. */
  async #attempt(action) {
    try {
      await action();
      const [endpoints, dead] = await Promise.all([call("endpoints"), call(`deliveries?state=dead&limit=${SHOWN_DELIVERIES}`)]);
      this.endpoints.replaceChildren(...endpoints.map((each) => this.#endpoint(each)));
      this.dead.replaceChildren(...dead.map((each) => this.#delivery(each)));
      this.deadTitle.hidden = !dead.length;
      setText(this.result, endpoints.length ? "" : "No endpoints.");
    } catch (error) {
      this.endpoints.replaceChildren();
      this.dead.replaceChildren();
      this.deadTitle.hidden = true;
      setText(this.result, error.status === 404 ? "Webhooks are off." : words(error));
    }
  }

  #endpoint({ id, url, ended, waiting, oldest_seconds: oldest, dead }) {
    const queue = `${waiting} waiting${waiting ? `, the oldest for ${span(oldest)}` : ""} · ${dead} dead`;
    const again = dead > 0 && this.#again("Send dead again", { endpoint: id, state: "dead" });
    return this.#line(ended || dead ? "bad" : "good", id, `${ended ? "ended" : url} · ${queue}`, again);
  }

  #delivery({ id, endpoint, type, status, error, created_at: at }) {
    return this.#line("bad", type, `to ${endpoint} · ${error || status} · ${at}`, this.#again("Send again", { id }));
  }

  #line(colour, name, text, button) {
    return el("li", {}, el("p", { class: "replica-head" }, el("span", { class: `dot ${colour}` }), el("code", { text: name }), el("span", { class: "small soft", text }), button));
  }

  #again(text, selection) {
    return el("button", { class: "button", text, onclick: () => this.#attempt(() => call("replays", selection)) });
  }
}
