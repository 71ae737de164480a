// Connects the client of clients/js to the elements of index.html. Text is set as text, never as HTML.

import { Gridcast } from "/client/index.js";
import { showWebhooks } from "./webhooks.js";

let token = ""; // kept in memory only
const { events, files, uploads } = new Gridcast({ token: () => token });
const SHOWN_EVENTS = 50;
const PLAYABLE = /^(video|audio)\//;
const at = (id) => document.getElementById(id);

function element(name, text, properties = {}) {
  return Object.assign(document.createElement(name), { textContent: text, ...properties });
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  return `${(bytes / 1024 ** power).toFixed(power ? 1 : 0)} ${units[power]}`;
}

// Files.

let cursor = null;

async function show(more = false) {
  try {
    const page = await files.list({ after: more ? cursor : null });
    const rows = page.files.map(row);
    if (more) at("files").append(...rows);
    else at("files").replaceChildren(...rows);
    cursor = page.next ?? null;
    at("more").hidden = cursor === null;
    at("files-result").textContent = at("files").childElementCount ? "" : "No files yet.";
  } catch (error) {
    at("files-result").textContent = error.message;
  }
}

function row(file) {
  const line = document.createElement("tr");
  const name = document.createElement("td");
  name.append(element("a", file.filename, { href: files.address(file), download: file.filename, onclick: (event) => download(event, file) }));
  const actions = document.createElement("td");
  if (PLAYABLE.test(file.content_type)) actions.append(element("button", "Play", { onclick: () => play(file) }));
  actions.append(element("button", "Delete", { onclick: () => confirmDelete(file) }));
  line.append(name, element("td", file.folder), element("td", size(file.length)), element("td", file.content_type), actions);
  return line;
}

async function confirmDelete(file) {
  if (!confirm(`Delete ${file.filename}?`)) return;
  const failure = await files.remove(file).then(() => null, (error) => error);
  await show(); // clears the status line, so the error is shown after it
  if (failure) at("files-result").textContent = failure.message;
}

/** Bytes of a file as a URL of this page: elements of a page cannot send a token. */
async function objectUrl(file) {
  const response = await fetch(files.address(file), { headers: { authorization: `Bearer ${token}` } });
  if (response.ok) return URL.createObjectURL(await response.blob());
  const problem = await response.json().catch(() => ({}));
  throw new Error(problem.detail ?? `the server answered ${response.status}`);
}

let played = ""; // what the player shows, where that must be released

async function play(file) {
  let source = files.address(file);
  try {
    if (token) source = await objectUrl(file);
  } catch (error) {
    at("playing").textContent = error.message;
    return;
  }
  at("playing").textContent = file.filename;
  at("video").hidden = false;
  at("video").src = source;
  URL.revokeObjectURL(played);
  played = source;
  at("video").play().catch(() => {}); // autoplay may be blocked; the user has the controls
}

async function download(event, file) {
  if (!token) return; // the browser follows the link
  event.preventDefault();
  try {
    const source = await objectUrl(file);
    element("a", "", { href: source, download: file.filename }).click();
    setTimeout(() => URL.revokeObjectURL(source), 60_000); // the download has begun by then
  } catch (error) {
    at("files-result").textContent = error.message;
  }
}

at("token").onsubmit = (submitted) => {
  submitted.preventDefault();
  token = submitted.target.token.value.trim();
  events.close(); // the handshake carries the token
  events.connect();
  show();
};

at("more").onclick = () => show(true);

// Upload.

let upload = null;

at("upload").onsubmit = async (submitted) => {
  submitted.preventDefault();
  at("progress").hidden = at("cancel").hidden = false;
  at("upload-result").className = "";
  at("upload-result").textContent = "";
  upload = uploads.add(submitted.target.file.files[0], { folder: submitted.target.folder.value });
  try {
    upload.onChange(({ sent, size }) => (at("progress").value = size ? sent / size : 1));
    await upload.done;
    at("upload-result").textContent = `Stored as ${upload.filename}.`;
    await show();
  } catch (error) {
    at("upload-result").className = "error";
    at("upload-result").textContent = error.message;
  } finally {
    at("progress").hidden = at("cancel").hidden = true;
    at("progress").value = 0;
  }
};

at("cancel").onclick = () => upload?.cancel();

// Events.

const STATES = {
  connecting: () => "connecting",
  connected: ({ sid }) => `connected as ${sid.slice(0, 8)}…`,
  waiting: ({ code }) => `not connected (${code})`,
  closed: ({ reason }) => `not connected: ${reason === "session resumed elsewhere" ? "another tab has resumed this session" : reason}`,
};

events.onState((state) => (at("socket").textContent = STATES[state.state](state)));
events.onGap(() => show());
events.onEvent((event) => {
  const text = `${event.time ?? ""} ${event.type} ${JSON.stringify(event.data ?? null)}`;
  at("events").prepend(element("li", text));
  while (at("events").childElementCount > SHOWN_EVENTS) at("events").lastElementChild.remove();
  if (/^file\.(created|replaced|deleted)$/.test(event.type)) show();
});

showWebhooks({ at, element, token: () => token });
events.connect();
show();
