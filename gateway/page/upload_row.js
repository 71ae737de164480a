// One upload of the queue: its picture, name, buttons, bar, and what is known of it in words.
import { el, setAttribute, setText } from "./dom.js";
import { rate, size, span, words } from "./format.js";
import { icon } from "./icons.js";
import { isPicture } from "./kinds.js";
import { link, pathOf } from "./router.js";
import { canRename } from "./upload_name.js";

export const ACTIVE = ["waiting", "sending", "retrying"];
const ICONS = { rename: "rename", pause: "pause", resume: "play", retry: "retry", share: "link", cancel: "close" };
const MAX_PICTURE = 12 * 1024 * 1024; // bytes: a larger one is not decoded for a small picture

/** Whether it stopped because its name is taken, which is a question and no error. */
export const asks = ({ state, error }) => state === "failed" && error?.status === 409;

/**
 * @param {File} file
 * @param {{ rename: () => void, pause: () => void, resume: () => void, retry: () => void, share: () => void, cancel: () => void }} acts
 */
export function createUploadRow(file, acts) {
  const button = (name) => el("button", { class: "icon-button", hidden: true, data: { act: name } }, icon(ICONS[name]));
  const row = el(
    "li",
    { class: "upload" },
    el("div", { class: "upload-head" }, picture(file), el("span", { class: "upload-icon" }), el("a", { class: "upload-name" }), el("span", { class: "upload-buttons" }, Object.keys(ICONS).map(button))),
    el("div", { class: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, el("i", { class: "bar-sent" }), el("i", { class: "bar-stored" })),
    el("p", { class: "small soft upload-state" }),
  );
  for (const [name, act] of Object.entries(acts)) {
    row.querySelector(`[data-act=${name}]`).addEventListener("click", () => {
      act();
      if (name !== "rename") row.querySelector(".upload-buttons button:not([hidden])")?.focus();
    });
  }
  row.addEventListener("keydown", (event) => {
    if (event.key !== "F2") return;
    event.preventDefault();
    acts.rename();
  });
  return row;
}

function picture(file) {
  if (!isPicture({ content_type: file.type }) || file.size > MAX_PICTURE) return null;
  const address = URL.createObjectURL(file);
  const image = el("img", { class: "upload-picture", alt: "", src: address, decoding: "async" });
  image.onload = () => URL.revokeObjectURL(address);
  image.onerror = () => (URL.revokeObjectURL(address), image.remove());
  return image;
}

/**
 * Show the present state; changes only what differs.
 * @param {{ received: number, verifying: boolean, address: string, endNaming: (() => void) | null, keepBoth: () => void, rename: () => void }} more
 *   what the server has said, an address that plays before the end of the upload, what ends the renaming that is under way, and the
 *   answers to a taken name
 */
export function updateUploadRow(row, snapshot, { received, verifying, address, endNaming, keepBoth, rename }) {
  const { state, sent, stored, size: bytes, rate: speed, secondsLeft, error, folder, filename } = snapshot;
  const find = (selector) => row.querySelector(selector);
  const name = find(".upload-name");
  setText(name, filename);
  name.title = folder ? `${folder}/${filename}` : filename;
  const taken = asks(snapshot);
  if (row.dataset.state !== state) {
    row.dataset.state = state;
    setAttribute(name, "href", state === "stored" ? link("files", folder, { play: pathOf({ folder, filename }) }) : null);
    find(".upload-icon").replaceChildren(icon({ stored: "check", failed: "warning", cancelled: "close", paused: "pause" }[state] ?? "upload"));
    for (const [act, states] of [["pause", ACTIVE], ["resume", ["paused"]], ["retry", ["failed"]], ["cancel", [...ACTIVE, "paused", "failed"]]]) {
      const button = find(`[data-act=${act}]`);
      button.hidden = !states.includes(state) || (act === "retry" && taken);
      const label = act === "cancel" && taken ? "Skip" : `${act[0].toUpperCase()}${act.slice(1)}`;
      setAttribute(button, "aria-label", `${label} ${filename}`);
      button.title = label;
    }
  }
  const another = find("[data-act=rename]");
  another.hidden = taken || !canRename(snapshot);
  setAttribute(another, "aria-label", `Rename ${filename}`);
  another.title = "Rename (F2)";
  const share = find("[data-act=share]");
  share.hidden = state !== "stored" && (!address || ![...ACTIVE, "paused"].includes(state));
  setAttribute(share, "aria-label", state === "stored" ? `Share ${filename}` : `Copy a link that plays ${filename} already`);
  share.title = state === "stored" ? "Share" : "Copy a link that plays already";
  const has = Math.max(received, stored);
  const bar = find(".bar");
  bar.hidden = state === "stored" || state === "cancelled" || taken;
  const part = (value) => (bytes ? value / bytes : 1);
  find(".bar-sent").style.transform = `scaleX(${part(Math.max(sent, has))})`;
  find(".bar-stored").style.transform = `scaleX(${part(Math.min(has, bytes))})`;
  setAttribute(bar, "aria-valuenow", Math.floor(part(Math.max(sent, has)) * 100));
  setAttribute(bar, "aria-label", `Upload of ${filename}`);
  const place = folder ? ` in ${folder}` : "";
  const texts = {
    waiting: () => "Waits for the others",
    sending: () => (verifying ? `${size(bytes)} received, being stored safely` : [`${size(Math.max(sent, has))} of ${size(bytes)}`, speed ? rate(speed) : "", secondsLeft === null ? "" : `${span(secondsLeft)} left`].filter(Boolean).join(" · ")),
    retrying: () => `Waits for the network, then goes on. The server has ${size(has)} of ${size(bytes)}`,
    paused: () => (endNaming ? "Waits for its name" : `Paused. The server has ${size(has)} of ${size(bytes)}`),
    stored: () => `Stored${place} · ${size(bytes)}`,
    cancelled: () => "Cancelled",
    failed: () => (error ? words(error) : ""),
  };
  const shown = find(".upload-state");
  if (!taken) {
    delete shown.dataset.asks;
    setText(shown, texts[state]());
  } else if (!shown.dataset.asks) {
    shown.dataset.asks = "yes";
    shown.replaceChildren(`“${filename}” is already there${place}. `, el("button", { class: "link-button", text: "Keep both", onclick: keepBoth }), " ", el("button", { class: "link-button", text: "Rename", onclick: rename }), " ", el("a", { class: "small", href: link("files", folder, { info: pathOf({ folder, filename }) }), text: "Show it" }));
  }
}
