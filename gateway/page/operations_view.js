// Readiness, versions and live figures of every process, as the gateway gathers them.
import { gridcast, tokenListeners } from "./app.js";
import { el, setText } from "./dom.js";
import { rate, size, span, words } from "./format.js";
import { icon } from "./icons.js";
import { WebhooksPanel } from "./webhooks_panel.js";

const INTERVAL = 2_000; // milliseconds
const POINTS = 60;

const sum = (status, name, service) => {
  const chosen = service === "gateway" ? [status.gateway] : status.services.filter((one) => !service || one.service === service).flatMap((one) => one.replicas);
  return chosen.reduce((total, { figures }) => total + (figures[name] ?? 0), 0);
};

/** Figures at the top: `of` takes a status, `speed` means the growth per second. */
const TILES = [
  { name: "Requests", of: (status) => sum(status, "requests", "gateway"), speed: true, show: (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)}/s` },
  { name: "Received", of: (status) => sum(status, "received_bytes", "gateway"), speed: true, show: rate },
  { name: "Sent", of: (status) => sum(status, "sent_bytes", "gateway"), speed: true, show: rate },
  { name: "Sockets", of: (status) => sum(status, "sockets", "socket"), show: (value) => value.toLocaleString("en") },
  { name: "Cache hits", of: (status) => { const hits = sum(status, "cache_hits"); return hits ? (hits / (hits + sum(status, "cache_misses"))) * 100 : null; }, show: (value) => (value === null ? "none yet" : `${value.toFixed(0)} %`) },
  { name: "Server errors", of: (status) => sum(status, "server_errors", "gateway"), show: (value) => value.toLocaleString("en"), bad: (value) => value > 0 },
];

export class OperationsView {
  #shown = false;
  #timer;
  #reading = false;
  #before = null;
  #series = TILES.map(() => []);

  constructor() {
    this.overall = el("p", { class: "overall", role: "status" });
    this.state = el("div");
    this.tiles = el("dl", { class: "tiles" }, TILES.map(({ name }) => el("div", { class: "card tile" }, el("dt", { text: name }), el("dd", { text: "…" }), sparkline())));
    this.services = el("div", { class: "services" });
    this.element = el("section", { class: "view" }, el("div", { class: "view-head" }, el("h1", { text: "Operations" }), this.overall), this.state, this.tiles, this.services, new WebhooksPanel().element);
    tokenListeners.add(() => this.#shown && this.#read());
    document.addEventListener("visibilitychange", () => this.#schedule(0));
  }

  show() {
    document.title = "Operations · Gridcast";
    this.#shown = true;
    void this.#read();
  }

  hide() {
    this.#shown = false;
    clearTimeout(this.#timer);
  }

  #schedule(milliseconds) {
    clearTimeout(this.#timer);
    if (this.#shown && !document.hidden) this.#timer = setTimeout(() => this.#read(), milliseconds);
  }

  async #read() {
    if (this.#reading) return;
    this.#reading = true;
    try {
      const status = await gridcast.status(AbortSignal.timeout(10_000));
      this.state.replaceChildren();
      this.tiles.hidden = this.services.hidden = false;
      this.#show(status);
    } catch (error) {
      this.tiles.hidden = this.services.hidden = true;
      setText(this.overall, "");
      const text = error.status === 401 || error.status === 403 ? "This view needs a token with the right “admin”. Set one with the key at the top." : words(error);
      this.state.replaceChildren(el("p", { class: "notice error", role: "alert" }, icon("warning"), text));
    }
    this.#reading = false;
    this.#schedule(INTERVAL);
  }

  #show(status) {
    const now = performance.now() / 1000;
    const replicas = status.services.flatMap((service) => service.replicas);
    const down = replicas.filter(({ ready }) => !ready).length;
    const lost = status.services.filter(({ ready }) => !ready).map(({ service }) => service);
    this.overall.className = "overall inline";
    const text = lost.length ? `Not ready: ${lost.join(", ")}` : down ? `Works, but ${down} of ${replicas.length} replicas are not ready` : `All ${replicas.length} replicas are ready`;
    if (this.overall.dataset.text !== text) {
      this.overall.dataset.text = text;
      this.overall.replaceChildren(el("span", { class: `dot ${lost.length ? "bad" : down ? "busy" : "good"}` }), text);
    }
    for (const [index, { of, speed, show, bad }] of TILES.entries()) {
      const value = of(status);
      const before = this.#before && speed ? of(this.#before.status) : 0;
      const shown = speed ? (this.#before ? Math.max(0, value - before) / (now - this.#before.at) : null) : value;
      const tile = this.tiles.children[index];
      setText(tile.querySelector("dd"), shown === null && speed ? "…" : show(shown));
      tile.classList.toggle("bad", Boolean(bad?.(value)));
      const series = this.#series[index];
      if (shown !== null) series.push(shown);
      if (series.length > POINTS) series.shift();
      draw(tile.querySelector("svg"), series);
    }
    this.#before = { status, at: now };
    const all = [{ service: "gateway", ready: status.gateway.ready, replicas: [status.gateway] }, ...status.services];
    for (const service of all) this.#service(service);
  }

  #service({ service, ready, replicas }) {
    let card = this.services.querySelector(`[data-service="${service}"]`);
    if (!card) {
      card = el("section", { class: "card", "aria-labelledby": `service-${service}`, data: { service } }, el("h2", { id: `service-${service}` }, el("span", { class: "dot" }), el("span", { text: service }), el("span", { class: "chip" })), el("ul", { class: "replicas" }));
      this.services.append(card);
    }
    card.querySelector(".dot").className = `dot ${ready ? (replicas.every((one) => one.ready) ? "good" : "busy") : "bad"}`;
    setText(card.querySelector(".chip"), replicas.length === 1 ? "1 replica" : `${replicas.length} replicas`);
    const list = card.querySelector("ul");
    while (list.childElementCount > replicas.length) list.lastElementChild.remove();
    for (const [index, replica] of replicas.entries()) {
      const row = list.children[index] ?? list.appendChild(el("li", {}, el("p", { class: "replica-head" }), el("p", { class: "small replica-checks" }), el("dl", { class: "figures" })));
      const [head, checks, figures] = row.children;
      head.replaceChildren(el("span", { class: `dot ${replica.ready ? "good" : "bad"}` }), el("code", { text: replica.address.replace(/^https?:\/\//, "") }), el("span", { class: "small soft", text: [replica.version ? `version ${replica.version}` : "no answer", replica.uptime === null ? "" : `up ${span(replica.uptime)}`].filter(Boolean).join(" · ") }));
      const wrong = Object.entries(replica.checks).filter(([, result]) => result !== "ok");
      checks.classList.toggle("wrong", wrong.length > 0);
      setText(checks, wrong.length ? wrong.map(([name, result]) => `${name}: ${result}`).join(" · ") : Object.keys(replica.checks).length ? `${Object.keys(replica.checks).join(", ")}: ok` : "");
      const shown = Object.entries(replica.figures).filter(([name]) => FIGURES[name]);
      figures.replaceChildren(...shown.map(([name, value]) => el("div", {}, el("dt", { text: FIGURES[name][0] }), el("dd", { text: FIGURES[name][1](value) }))));
    }
  }
}

const number = (value) => value.toLocaleString("en");
const FIGURES = {
  requests: ["Requests", number],
  in_flight: ["In progress", number],
  server_errors: ["Server errors", number],
  received_bytes: ["Received", size],
  sent_bytes: ["Sent", size],
  stored_bytes: ["Stored", size],
  sockets: ["Sockets", number],
  tunnels: ["Tunnels", number],
  frames_sent: ["Frames sent", number],
  pushes: ["Pushes", number],
  cache_hits: ["Cache hits", number],
  cache_misses: ["Cache misses", number],
  cache_bytes: ["Cache", size],
  retries: ["Retries", number],
  ejections: ["Ejections", number],
  memory_bytes: ["Memory", size],
  cpu_seconds: ["CPU time", (value) => span(value)],
};

const SVG = "http://www.w3.org/2000/svg";

function sparkline() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 120 32");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "spark");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(SVG, "path"), document.createElementNS(SVG, "path"));
  return svg;
}

function draw(svg, values) {
  const top = Math.max(...values, 1e-9);
  const points = values.map((value, index) => `${(120 * (index + POINTS - values.length)) / (POINTS - 1)},${30 - (28 * (value ?? 0)) / top}`);
  const [area, line] = svg.children;
  const path = points.length > 1 ? `M${points.join("L")}` : "";
  line.setAttribute("d", path);
  area.setAttribute("d", path && `${path}L120,32L${points[0].split(",")[0]},32Z`);
}
