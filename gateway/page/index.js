// Puts the page together: the bar at the top, the views, what lies over them. Each module has one concern; app.js has the client.
import { events } from "./app.js";
import { Details } from "./details.js";
import { open } from "./dialogs.js";
import { choices, el, setText } from "./dom.js";
import { FilesView } from "./files_view.js";
import { span } from "./format.js";
import { icon } from "./icons.js";
import { createIntake } from "./intake.js";
import { OperationsView } from "./operations_view.js";
import { Player } from "./player.js";
import { LazyView } from "./lazy_view.js";
import { link, parse } from "./router.js";
import { SocketsView } from "./sockets_view.js";
import { createTokenButton } from "./token.js";
import { UploadPanel } from "./upload_panel.js";

const VIEWS = { files: "Files", live: "Live", sockets: "Sockets", operations: "Operations" };
const main = document.getElementById("main");

// What lies over the views.

const panel = new UploadPanel();
const present = () => {
  const { view, folder } = parse(location.hash);
  return view === "files" ? folder : "";
};
/** Whether this window is that of someone who was asked for a file, and has a link in place of a token. */
const isGuest = () => parse(location.hash).view === "send";
const intake = createIntake({
  folder: present,
  place: () => (isGuest() ? "" : ` to ${present() || "All files"}`),
  add: (entries) => (isGuest() ? sendView.take(entries) : panel.add(entries)),
});
const filesView = new FilesView(intake);
const liveView = new LazyView("Live", async () => new (await import("./live_view.js")).LiveView(), "/page/live.css");
const sendView = new LazyView("Send a file", async () => new (await import("./send_view.js")).SendView(intake), "/page/send.css");
const views = { files: filesView, live: liveView, sockets: new SocketsView(), operations: new OperationsView(), send: sendView };
const player = new Player({ find: (path) => filesView.model.find(path), neighbours: (path) => filesView.neighbours(path) });
filesView.onChanged = () => player.showNeighbours();
player.onClosed = (path) => [...document.querySelectorAll(".file")].find((row) => row.dataset.path === path)?.querySelector(".file-open").focus();
const details = new Details({ remove: (file) => filesView.selection.remove([file]) });
document.body.append(panel.element, intake.element);

// The bar.

const SHORTCUTS = [
  ["/", "Search"],
  ["u", "Upload"],
  ["g", "List or grid"],
  ["↑ ↓", "Between files; with Shift, select"],
  ["Enter", "Open"],
  ["x", "Select"],
  ["i", "Details"],
  ["Delete", "Delete what is selected"],
  ["n p", "In the player: next, previous"],
  ["Space ← →", "In the player: pause, 5 s back and on"],
  ["< >", "In the player: slower, faster"],
];

function showShortcuts() {
  const close = el("form", { method: "dialog", class: "dialog-actions" }, el("button", { class: "button", text: "Close" }));
  const rows = SHORTCUTS.flatMap(([keys, text]) => [el("dt", {}, keys.split(" ").map((key) => el("kbd", { text: key }))), el("dd", { text })]);
  open(el("dialog", { "aria-labelledby": "keys-title" }, el("h2", { id: "keys-title", text: "Keyboard" }), el("dl", { class: "keys" }, rows), close));
}

const tabs = Object.entries(VIEWS).map(([name, label]) => el("a", { href: link(name), data: { view: name } }, icon(name), el("span", { text: label })));
document.querySelector(".tabs").append(...tabs);
document.querySelector(".brand").append(icon("brand"), "Gridcast");

const dot = el("span", { class: "dot" });
const connection = el("button", { class: "chip connection", onclick: () => (location.hash = link("sockets")) }, dot, el("span", { text: "Connecting" }));
const themeButton = el("button", { class: "icon-button", onclick: () => setTheme(dark() ? "light" : "dark") });
const dark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

function setTheme(theme) {
  if (theme) {
    document.documentElement.dataset.theme = theme;
    choices.set("theme", theme);
  }
  const label = dark() ? "Light colours" : "Dark colours";
  themeButton.replaceChildren(icon(dark() ? "sun" : "moon"));
  themeButton.title = label;
  themeButton.setAttribute("aria-label", label);
}

setTheme(choices.get("theme"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme(""));
document.querySelector(".topbar-end").append(connection, createTokenButton(), themeButton, el("a", { class: "icon-button docs-link", href: "/docs", title: "API documentation", "aria-label": "API documentation" }, icon("book")));

const STATES = {
  connecting: () => ["busy", "Connecting"],
  connected: () => ["good", "Connected"],
  waiting: ({ retryIn, code, reason }) => ["bad", `Offline, tries again${retryIn > 1500 ? ` in ${span(retryIn / 1000)}` : ""}`, `closed with ${code} ${reason ?? ""}`],
  closed: ({ reason }) => ["bad", reason === "session resumed elsewhere" ? "Another tab has this session" : "Offline"],
};
events.onState((state) => {
  const [colour, text, more = ""] = STATES[state.state](state);
  dot.className = `dot ${colour}`;
  setText(connection.lastElementChild, text);
  connection.setAttribute("aria-label", `Connection: ${text}`);
  connection.title = state.state === "connected" ? `connected as ${state.sid}` : more;
  document.documentElement.dataset.connection = state.state;
});

// Routes.

let shown = null;

function route() {
  const asked = parse(location.hash);
  const name = asked.view in views ? asked.view : "files";
  const view = views[name];
  document.documentElement.classList.toggle("guest", name === "send");
  if (name !== "send") begin();
  if (shown !== view) {
    shown?.hide?.();
    main.replaceChildren(view.element);
    shown = view;
    for (const tab of tabs) {
      if (tab.dataset.view === name) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
  }
  view.show(asked);
  if (name === "files") {
    void player.show(asked.query.get("play"), Number(asked.query.get("t")) || 0);
    void details.show(asked.query.get("info"));
  } else {
    void player.show(null);
    void details.show(null);
  }
}

addEventListener("hashchange", route);

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, dialog")) return;
  if (isGuest() && event.key !== "u") return;
  const acts = {
    "/": () => ((location.hash = parse(location.hash).view === "files" ? location.hash : link("files")), filesView.focusSearch()),
    u: () => intake.choose(),
    g: () => filesView.layouts[choices.get("layout") === "grid" ? "list" : "grid"].click(),
    "?": showShortcuts,
  };
  if (!(event.key in acts)) return;
  event.preventDefault();
  acts[event.key]();
});

let begun = false;
/** What needs more rights than a link has. */
function begin() {
  if (begun) return;
  begun = true;
  events.connect();
  void panel.restore();
}

route();
