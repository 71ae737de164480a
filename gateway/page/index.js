// Connects api.js and events.js to the elements of index.html. Text is set as text, never as HTML.

import { address, hasToken, list, objectUrl, remove, setToken, upload } from "./api.js";
import { Events } from "./events.js";

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
    const page = await list(more ? cursor : null);
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
  name.append(element("a", file.filename, { href: address(file), download: file.filename, onclick: (event) => download(event, file) }));
  const actions = document.createElement("td");
  if (PLAYABLE.test(file.content_type)) actions.append(element("button", "Play", { onclick: () => play(file) }));
  actions.append(element("button", "Delete", { onclick: () => confirmDelete(file) }));
  line.append(name, element("td", file.folder), element("td", size(file.length)), element("td", file.content_type), actions);
  return line;
}

async function confirmDelete(file) {
  if (!confirm(`Delete ${file.filename}?`)) return;
  const failure = await remove(file).then(() => null, (error) => error);
  await show(); // clears the status line, so the error is shown after it
  if (failure) at("files-result").textContent = failure.message;
}

async function play(file) {
  try {
    at("video").src = hasToken() ? await objectUrl(file) : address(file);
  } catch (error) {
    at("playing").textContent = error.message;
    return;
  }
  at("playing").textContent = file.filename;
  at("video").hidden = false;
  at("video").play().catch(() => {}); // autoplay may be blocked; the user has the controls
}

async function download(event, file) {
  if (!hasToken()) return; // the browser follows the link
  event.preventDefault();
  try {
    element("a", "", { href: await objectUrl(file), download: file.filename }).click();
  } catch (error) {
    at("files-result").textContent = error.message;
  }
}

at("token").onsubmit = (submitted) => {
  submitted.preventDefault();
  setToken(submitted.target.token.value.trim());
  events.renew(submitted.target.token.value.trim());
  show();
};

at("more").onclick = () => show(true);

// Upload.

let cancelling = null;

at("upload").onsubmit = async (submitted) => {
  submitted.preventDefault();
  cancelling = new AbortController();
  at("progress").hidden = at("cancel").hidden = false;
  at("upload-result").className = "";
  at("upload-result").textContent = "";
  // The folder goes before the file, so that a conflicting name is rejected before the bytes are sent.
  const form = new FormData();
  form.set("folder", submitted.target.folder.value);
  form.set("file", submitted.target.file.files[0]);
  try {
    const progress = (share) => (at("progress").value = share);
    const id = await upload(form, { sid: events.sid, progress, signal: cancelling.signal });
    at("upload-result").textContent = `Stored as ${id}.`;
    await show();
  } catch (error) {
    at("upload-result").className = "error";
    at("upload-result").textContent = error.message;
  } finally {
    at("progress").hidden = at("cancel").hidden = true;
    at("progress").value = 0;
  }
};

at("cancel").onclick = () => cancelling?.abort();

// Events.

const events = new Events();

events.addEventListener("state", ({ detail }) => (at("socket").textContent = detail));
events.addEventListener("fresh", () => show());
events.addEventListener("message", ({ detail: event }) => {
  const text = `${event.time ?? ""} ${event.type} ${JSON.stringify(event.data ?? null)}`;
  at("events").prepend(element("li", text));
  while (at("events").childElementCount > SHOWN_EVENTS) at("events").lastElementChild.remove();
  if (/^file\.(created|replaced|deleted)$/.test(event.type) || event.type === "socket.resync") show();
});

events.open();
show();
